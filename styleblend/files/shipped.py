"""What comes with the program: the configs, the mini base, its styles and their pictures. It is read, never written to.

A relative path of a config is looked for in the current folder first, then in what is shipped. Whatever is made, such
as adapters, locks and states of trainings, is written below the current folder.
"""
from __future__ import annotations

from pathlib import Path
from typing import List, Union

from styleblend.errors import StyleBlendError, did_you_mean
from styleblend.files.names import check_name, composed, entry

CONFIGS = "configs"


def shipped_folder() -> Path:
    """The folder of what is shipped: `styleblend/shipped` of an installed wheel, else the clone that this lies in."""
    package = Path(__file__).resolve().parents[1]
    return package / "shipped" if (package / "shipped").is_dir() else package.parent


def places(folder: Union[str, Path]) -> List[Path]:
    """The folder itself, then the one that is shipped under the same relative path, where it is another one."""
    folder = Path(folder)
    shipped = shipped_folder() / folder
    within = not folder.is_absolute() and ".." not in folder.parts
    return [folder, shipped] if within and shipped.exists() and shipped != folder.resolve() else [folder]


def own_or_shipped(path: Union[str, Path]) -> Path:
    """A path as it is, or what is shipped under it where it is not there itself."""
    return next((place for place in places(path) if place.exists()), Path(path))


# ---------------------------------------------------------------- styles

def style_folders(folder: Union[str, Path]) -> List[str]:
    """The names of all folders of styles in a folder of data or adapters, its own and those that are shipped."""
    return sorted({name for place in places(folder) for name in folders_in(place)})


def folders_in(place: Path) -> List[str]:
    """The folders in one place, by name, without hidden ones."""
    if not place.is_dir():
        return []
    return sorted(composed(path.name) for path in place.iterdir() if path.is_dir() and not path.name.startswith("."))


def data_of(data: Union[str, Path], name: str) -> Path:
    """The folder with a style's pictures and prompts: one's own, else the shipped one."""
    name = check_name(name)
    return next((path for place in places(data) for path in [entry(place, name)] if path.is_dir()), entry(data, name))


def adapters_of(adapters: Union[str, Path], name: str) -> Path:
    """The folder that a style is read from: one's own if there is a file of it, else the shipped one."""
    found = [Path(place) / name for place in places(adapters)]
    return next((path for path in found if holds_files(path)), found[0])


def holds_files(folder: Path) -> bool:
    """Whether something of a style is in its folder: states of a training and of a search lie in folders of it."""
    return folder.is_dir() and any(path.is_file() and not path.name.startswith(".") and path.suffix != ".lock"
                                   for path in folder.iterdir())


# ---------------------------------------------------------------- configs

def config_names() -> List[str]:
    """The names of the configs in the current folder and of those that are shipped."""
    return sorted({path.stem for place in places(CONFIGS) if place.is_dir() for path in place.glob("*.yaml")})


def find_config(text: Union[str, Path]) -> Path:
    """A config by its file, or by its name: `configs/NAME.yaml` or `NAME.yaml` here, then the one that is shipped.

    StyleBlendError says which there are.
    """
    given = Path(text)
    if given.name == str(text) and not given.suffix:
        named, file = [Path(CONFIGS) / f"{given}.yaml", Path(f"{given}.yaml")], [given]
    else:
        named, file = [given, Path(CONFIGS) / given], []
    shipped = [place for path in named for place in places(path)[1:]]
    found = next((path for path in [*named, *shipped, *file] if path.is_file()), None)
    if found is None:
        known = config_names()
        raise StyleBlendError(f"the config {text} does not exist: {did_you_mean(given.stem, known)} "
                              f"(--config NAME), or give a file")
    return found
