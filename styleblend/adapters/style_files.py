"""Which files a style's folder has: a file for each part, with the names of the published release, and `style.json`.

Nothing here needs Jittor: what is missing is said before it starts.
"""
from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence, Union

from styleblend.adapters.foreign_files import PICKLED, read_tensors
from styleblend.adapters.parts import PARTS, Part, part_named, part_of_single
from styleblend.errors import StyleBlendError, did_you_mean, printable
from styleblend.files import tensor_files
from styleblend.files.names import check_name, fault
from styleblend.files.shipped import adapters_of, holds_files, style_folders
from styleblend.settings import StyleSettings, read_style_settings, style_settings_from

ENDINGS = ("", ".safetensors", *PICKLED)  # of a part's file, in any case: what it holds tells what it is


def parts_of(settings: StyleSettings) -> Mapping[str, Part]:
    """The parts of a style of this method."""
    return PARTS[settings.method]


def part_file(folder: Path, name: str, part: str) -> Optional[Path]:
    """The file of a part, safetensors before pickles, then a file that holds a whole style; None when there is none."""
    stems = [f"{name}_{stem}" for stem in part_named(part).stems]
    for file in [f"{stem}{ending}" for ending in (".safetensors", ".bin") for stem in stems]:
        if (Path(folder) / file).is_file():
            return Path(folder) / file
    single = Path(folder) / f"{name}.safetensors"
    if single.is_file() and part_of_single(dict.fromkeys(tensor_files.read_names(single)), part):
        return single
    return otherwise_named(Path(folder), stems)


def otherwise_named(folder: Path, stems: Sequence[str]) -> Optional[Path]:
    """A file with one of these names whose ending is another one, in other case, or left away."""
    files = {path.name: path for path in (sorted(folder.iterdir()) if folder.is_dir() else ()) if path.is_file()}
    return next((path for stem in stems for name, path in files.items()
                 if name.startswith(stem) and name[len(stem):].lower() in ENDINGS), None)


def remove_part(folder: Path, name: str, part: str) -> None:
    """Remove a part, of whatever kind its file is; a file that holds a whole style loses that part alone."""
    for path in iter(lambda: part_file(folder, name, part), None):
        if path.name == f"{name}.safetensors":
            tensors = tensor_files.read_safetensors(path)
            gone = part_of_single(tensors, part)
            tensor_files.write_safetensors(path, {key: value for key, value in tensors.items() if key not in gone},
                                           tensor_files.read_metadata(path))
        else:
            path.unlink()


def adapter_hashes(folder: Path, name: str) -> Dict[str, str]:
    """The first 16 digits of the SHA-256 of each part's file, as sha256sum prints it."""
    files = {part: part_file(folder, name, part) for part in parts_of(settings_in(folder, name))}
    return {part: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for part, path in files.items() if path}


def missing_parts(folder: Path, name: str) -> list:
    """The parts that this style should have and that are not there yet."""
    settings = settings_in(folder, name)
    return [part for part in (parts_of(settings) if settings.parts is None else settings.parts)
            if part_file(folder, name, part) is None]


def read_part_file(path: Path, part: str, name: str) -> dict:
    """The tensors of one part of the style `name`, as its file names them."""
    tensors = read_tensors(path)
    return part_of_single(tensors, part) if path.name == f"{name}.safetensors" else tensors


def settings_in(folder: Path, name: str) -> StyleSettings:
    """What `style.json`, or else the header of a style in one file, says."""
    path, single = Path(folder) / "style.json", Path(folder) / f"{name}.safetensors"
    if single.is_file() and not path.is_file():
        return settings_in_header(single)
    return with_known_parts(read_style_settings(path).beside(Path(folder)), str(path))


def settings_in_header(path: Path) -> StyleSettings:
    """The settings that a style in one file carries; the defaults for any other file."""
    known = tensor_files.read_metadata(path)
    source, text = f"the header of {path}", known.get("settings", "{}") if "styleblend" in known else "{}"
    return with_known_parts(style_settings_from(text, source), source)


def with_known_parts(settings: StyleSettings, source: str) -> StyleSettings:
    """The same settings. StyleBlendError for a part that no style has."""
    known = parts_of(settings)
    wrong = [part for part in settings.parts or () if part not in known]
    if wrong:
        raise StyleBlendError(f"{source}: parts: a style has no {printable(wrong[0])!r}; there are {', '.join(known)}")
    return settings


# ---------------------------------------------------------------- which styles there are

def missing_part(folder: Path, name: str, part: str) -> StyleBlendError:
    """The sentence on a part that is not there."""
    about = part_named(part)
    stems = " or ".join(f"{name}_{stem}.safetensors" for stem in about.stems)
    again = f"train {about.training} --styles {name}" if about.training else f"encode PICTURE --name {name}"
    return StyleBlendError(f"style {name} has no {part.replace('_', ' ')} ({Path(folder) / stems}): "
                           f"python -m styleblend {again}")


def style_names_in(adapters: Union[str, Path]) -> List[str]:
    """The names of the styles that a folder of adapters has, with those that are shipped under the same path."""
    return [name for name in style_folders(adapters) if not fault(name) and holds_files(adapters_of(adapters, name))]


def find_style(adapters: Union[str, Path], name: str) -> Path:
    """The folder that a style is read from. StyleBlendError: there is none of this name, or a part is missing."""
    folder = adapters_of(adapters, check_name(name))
    if not holds_files(folder):
        raise StyleBlendError(f"there is no style {name} in {adapters}: {did_you_mean(name, style_names_in(adapters))}")
    for part in missing_parts(folder, name):
        raise missing_part(folder, name, part)
    return folder
