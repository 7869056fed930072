"""What styles there are: by which method, with which parts, learned on which base and when."""
from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import List, Optional, Tuple

from styleblend.adapters.learned_from import changed_since
from styleblend.adapters.style import missing_parts, part_file, parts_of, settings_in
from styleblend.errors import StyleBlendError
from styleblend.files.names import composed, entry, fault
from styleblend.files.tensor_files import read_metadata
from styleblend.settings import RunSettings


@dataclass(frozen=True)
class StyleFound:
    """One style. `base`: fingerprint of the base that it was learned on, None where its files do not say.

    `trained`: seconds since 1970, of the newest file. `problem`: why it cannot be drawn as it is; None: it can.
    """

    name: str
    method: str
    parts: Tuple[str, ...]
    missing: Tuple[str, ...]
    base: Optional[str]
    trained: Optional[float]
    problem: Optional[str] = None
    others: Optional[str] = None  # how its pictures have changed since


def find_style(folder: Path, name: str) -> Optional[StyleFound]:
    """The style in `folder`; None where there is no adapter. What is damaged is said, and the others are listed."""
    try:
        settings = settings_in(folder, name)
        files = {part: path for part in parts_of(settings) for path in [part_file(folder, name, part)] if path}
        if not files and (parts_of(settings) or not (folder / "style.json").is_file()):
            return None
        missing = tuple(missing_parts(folder, name))
        bases = {read_metadata(path).get("base") for path in files.values() if path.suffix == ".safetensors"} - {None}
    except StyleBlendError as error:
        return StyleFound(name, "", (), (), None, None, str(error))
    problem = f"its parts were trained on {len(bases)} bases" if len(bases) > 1 else None
    trained = max((path.stat().st_mtime for path in files.values()), default=None)
    return StyleFound(name, settings.method, tuple(files), missing,
                      min(bases) if bases else None, trained, problem)


def list_styles(settings: RunSettings) -> List[StyleFound]:
    """The styles in the config's folder of adapters, by name. StyleBlendError where there is no such folder."""
    adapters = Path(settings.adapters)
    if not adapters.is_dir():
        raise StyleBlendError(f"the folder of adapters {adapters} does not exist: train a style first, or name another "
                              "--config")
    names = sorted(composed(path.name) for path in adapters.iterdir() if path.is_dir()
                   and not fault(composed(path.name)))
    found = [style for style in (find_style(adapters / name, name) for name in names) if style]
    return [replace(style, others=changed_since(adapters / style.name, entry(settings.data, style.name)))
            for style in found]
