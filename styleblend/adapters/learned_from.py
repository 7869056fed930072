"""From which pictures a style was learned, so that others in their place are noticed; and in how much time."""
from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Dict, List, Optional

from styleblend.adapters.parts import PARTS, trainings_of
from styleblend.errors import StyleBlendError
from styleblend.files.captions import StylePicture, style_pictures
from styleblend.files.text import parse_json
from styleblend.files.whole_files import write_bytes

TRAININGS = tuple(training for method in PARTS for training in trainings_of(method))


def note_of(folder: Path, part: str) -> Path:
    """The file beside a training's checkpoints, in the folder of the style's adapters."""
    return Path(folder) / "training" / f"{part}-pictures.json"


def facts(pictures: List[StylePicture]) -> Dict[str, str]:
    """What a training sees of each picture, as 16 digits: what is in the file, and what it is said to show."""
    return {p.file: hashlib.sha256(p.path.read_bytes() + p.phrase.encode("utf-8")).hexdigest()[:16] for p in pictures}


def note(folder: Path, part: str, pictures: List[StylePicture]) -> None:
    """Write down from which pictures a part is learned."""
    text = json.dumps(facts(pictures), ensure_ascii=False, indent=1) + "\n"
    write_bytes(note_of(folder, part), text.encode("utf-8"))


def time_of(folder: Path, part: str) -> Path:
    """The file with the seconds of a training, in the folder of the style's adapters."""
    return Path(folder) / "training" / f"{part}-seconds.txt"


def seconds(folder: Path, part: str) -> Optional[float]:
    """How long this machine has trained a part, all runs together; None: it is not known."""
    try:
        return float(time_of(folder, part).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def add_seconds(folder: Path, part: str, more: float) -> None:
    """Count the seconds of one run of a training, whether it came to its end or was stopped."""
    write_bytes(time_of(folder, part), f"{(seconds(folder, part) or 0) + more:.1f}\n".encode("ascii"))


def changed(folder: Path, part: str, pictures: List[StylePicture]) -> Optional[str]:
    """What is other than in the note: "dog.png is new, cat.png is gone". None: nothing is, or there is no note."""
    try:
        before = parse_json(note_of(folder, part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    now = facts(pictures)
    if not isinstance(before, dict) or before == now:
        return None
    words = [f"{file} is {'another' if file in before else 'new'}" for file in now if now[file] != before.get(file)]
    words += [f"{file} is gone" for file in before if file not in now]
    return ", ".join(words[:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "")


def changed_since(folder: Path, pictures: Path) -> Optional[str]:
    """The same of a whole style; `pictures` is its folder of the data. None also where that cannot be read."""
    try:
        found = style_pictures(pictures)
        return next((words for words in (changed(folder, part, found) for part in TRAININGS) if words), None)
    except (StyleBlendError, OSError):
        return None
