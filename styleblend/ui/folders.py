"""Files of the page: what a browser names is looked for in the project's folders alone, and uploads are checked."""
from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Iterable, List, NamedTuple, Optional, Sequence

from styleblend.errors import StyleBlendError
from styleblend.files.names import check_name, composed, entry, fault
from styleblend.files.pictures import ENDINGS, opened
from styleblend.files.saved_pictures import FORMATS, texts_of
from styleblend.files.shipped import data_of, places
from styleblend.files.whole_files import write_bytes
from styleblend.jobs.choices import ready_pictures
from styleblend.jobs.styles import StyleFound, list_styles
from styleblend.record import CHUNK, Record, read_record
from styleblend.settings import RunSettings
from styleblend.ui.requests import folder_of_pictures

MOST_UPLOADED = 64 << 20  # bytes of a file
MOST_PICTURES = 40  # of one upload
MOST_SHOWN = 60  # pictures of the history at a time
MOST_LOOKED_AT = 5000


def uploaded(files: Optional[Sequence[str]], upload_folder: Path) -> List[Path]:
    """The files of an upload. StyleBlendError for a path that no upload has made: a browser may send any."""
    if len(files or ()) > MOST_PICTURES:
        raise StyleBlendError(f"{len(files)} files are too many: {MOST_PICTURES} at a time")
    root = Path(os.path.realpath(upload_folder))
    try:
        found = [Path(os.path.realpath(file)) for file in files or ()]
        there = all(root in path.parents and path.is_file() for path in found)
    except (OSError, ValueError):  # too long, a zero in it, or half of a character
        there = False
    if not there:
        raise StyleBlendError("a file was named that was not uploaded: drop it into the page")
    for path in found:
        if path.stat().st_size > MOST_UPLOADED:
            raise StyleBlendError(f"{path.name[:60]} has more than {MOST_UPLOADED >> 20} MiB: make it smaller")
    return found


def kept_references(files: Sequence[Path], settings: RunSettings) -> List[str]:
    """Copies of reference pictures beside the pictures, named by what is in them, so that a picture can be drawn again
    when the upload is gone."""
    ready_pictures(settings, *map(str, files))
    kept = []
    for file in files:
        data = file.read_bytes()
        ending = file.suffix.lower() if file.suffix.lower() in ENDINGS else ".png"
        path = folder_of_pictures(settings) / "references" / f"{hashlib.sha256(data).hexdigest()[:16]}{ending}"
        if not path.exists():
            write_bytes(path, data)
        kept.append(str(path))
    return kept


def new_style_pictures(name: str, files: Sequence[Path], settings: RunSettings) -> List[Path]:
    """Put pictures into the data folder as those of the style `name`; all of its pictures.

    StyleBlendError for no picture, one that cannot be read, and a style that comes with the program.
    """
    name = check_name(name.strip())
    folder = entry(settings.data, name)
    if data_of(settings.data, name) != folder:
        raise StyleBlendError(f"the style {name} comes with the program: choose another name")
    ready_pictures(settings, *map(str, files))
    for file in files:
        stem, ending = composed(file.stem)[:80], file.suffix.lower()
        if ending not in ENDINGS:
            raise StyleBlendError(f"{file.name[:60]} has no ending of a picture: save it as PNG or JPEG")
        if fault(stem):
            stem = "picture " + hashlib.sha256(file.read_bytes()).hexdigest()[:8]
        path = folder / "images" / f"{stem}{ending}"
        data = file.read_bytes()
        if path.exists() and path.read_bytes() != data:
            path = path.with_name(f"{stem}-{hashlib.sha256(data).hexdigest()[:6]}{ending}")
        if not path.exists():
            write_bytes(path, data)
    images = folder / "images"
    return sorted(path for path in images.iterdir() if path.suffix.lower() in ENDINGS) if images.is_dir() else []


def styles_found(settings: RunSettings) -> List[StyleFound]:
    """The styles that there are; none where nothing was learned yet."""
    return list_styles(settings) if any(place.is_dir() for place in places(settings.adapters)) else []


# ---------------------------------------------------------------- history

class Remembered(NamedTuple):
    """A picture of the output folder that says how it was drawn."""

    path: Path
    record: Record


def history(settings: RunSettings, words: str = "", style: str = "", most: int = MOST_SHOWN) -> List[Remembered]:
    """The pictures of the output folder, the newest first: those whose prompt has all `words`, of this `style`."""
    wanted, found = words.lower().split(), []
    for path in newest_first(Path(settings.output)):
        record = record_in(path)
        if record is None or style and record.style != style:
            continue
        text = f"{record.prompt} {record.style} {record.method} {record.seed}".lower()
        if all(word in text for word in wanted):
            found.append(Remembered(path, record))
            if len(found) == most:
                break
    return found


def newest_first(folder: Path) -> Iterable[Path]:
    if not folder.is_dir():
        return []
    found = [path for path in folder.rglob("*") if path.suffix.lower() in FORMATS and path.is_file()
             and not path.is_symlink()]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)[:MOST_LOOKED_AT]


def record_in(path: Path) -> Optional[Record]:
    """What a picture says of itself; None where it says nothing that can be read."""
    try:
        with opened(path) as image:
            if CHUNK not in texts_of(image):
                return None
        return read_record(path)
    except (StyleBlendError, OSError):
        return None


def own_temporary_folder() -> Path:
    """A folder for uploads that only this user can read; the caller removes it."""
    return Path(tempfile.mkdtemp(prefix="styleblend-page-"))


def remove_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
