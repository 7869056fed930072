"""What styles there are: by which method, with which parts, learned on which base and when."""
from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import List, Optional, Tuple

from styleblend.adapters.learned_from import changed_since
from styleblend.adapters.parts import PARTS
from styleblend.adapters.style_files import missing_parts, part_file, parts_of, settings_in
from styleblend.errors import StyleBlendError
from styleblend.files.claims import claim
from styleblend.files.names import check_name, fault
from styleblend.files.shipped import adapters_of, data_of, places, style_folders
from styleblend.files.tensor_files import read_metadata
from styleblend.settings import RunSettings


@dataclass(frozen=True)
class StyleFound:
    """One style. `base`: fingerprint of the base that it was learned on, None where its files do not say.

    `trained`: seconds since 1970, of the newest file. `problem`: why it cannot be drawn as it is; None: it can.
    `shipped`: it comes with the program, and is not in the config's own folder.
    """

    name: str
    method: str
    parts: Tuple[str, ...]
    missing: Tuple[str, ...]
    base: Optional[str]
    trained: Optional[float]
    problem: Optional[str] = None
    shipped: bool = False
    others: Optional[str] = None  # how its pictures have changed since


def found_style(folder: Path, name: str) -> Optional[StyleFound]:
    """The style in `folder`; None where there is no adapter. What is damaged is said, and the others are listed."""
    try:
        settings = settings_in(folder, name)
        files = {part: path for part in parts_of(settings) for path in [part_file(folder, name, part)] if path}
        if not files and (parts_of(settings) or not (folder / "style.json").is_file()):
            return None
        missing = tuple(missing_parts(folder, name))
        bases = {read_metadata(path).get("base") for path in files.values()} - {None}
    except StyleBlendError as error:
        return StyleFound(name, "", (), (), None, None, str(error))
    problem = f"its parts were trained on {len(bases)} bases" if len(bases) > 1 else None
    trained = max((path.stat().st_mtime for path in files.values()), default=None)
    return StyleFound(name, settings.method, tuple(files), missing,
                      min(bases) if bases else None, trained, problem)


def list_styles(settings: RunSettings) -> List[StyleFound]:
    """The styles in the config's folder of adapters and those that are shipped, by name.

    StyleBlendError where there is no such folder.
    """
    adapters = Path(settings.adapters)
    if not any(place.is_dir() for place in places(adapters)):
        raise StyleBlendError(f"the folder of adapters {adapters} does not exist: train a style first, or name another "
                              "--config")
    folders = {name: adapters_of(adapters, name) for name in style_folders(adapters) if not fault(name)}
    found = {name: found_style(folder, name) for name, folder in folders.items()}
    return [replace(style, shipped=folders[name] != adapters / name,
                    others=changed_since(adapters / name, data_of(settings.data, name)))
            for name, style in found.items() if style]


def delete_style(settings: RunSettings, name: str) -> Path:
    """Delete what was learned of a style, for ever; its pictures stay. The folder that is gone.

    StyleBlendError: there is none of this name, it comes with the program, or another process trains it now (Busy).
    """
    folder = Path(settings.adapters) / check_name(name)
    if not folder.is_dir():
        raise StyleBlendError(f"there is no style {name} in {settings.adapters}" + (
            ": it comes with the program, and stays" if adapters_of(settings.adapters, name) != folder else ""))
    if folder.is_symlink() or folder.resolve().parent != Path(settings.adapters).resolve():
        raise StyleBlendError(f"{folder} is a link to another place: remove it yourself")
    with contextlib.ExitStack() as claims:
        for training in sorted({part.training for parts in PARTS.values() for part in parts.values()} - {""}):
            claims.enter_context(claim(folder / "training", training))
        shutil.rmtree(folder)
    return folder
