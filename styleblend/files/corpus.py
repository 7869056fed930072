"""A corpus: a folder of pictures with captions.json, as the extension of Style30k has it.

[{"image_path": "ink/fox.png", "caption": "A fox in the snow, in the style of sks."}, ...]
"""
from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Dict, List, NamedTuple, Optional, Tuple

from styleblend.errors import StyleBlendError, printable
from styleblend.files.limits import MAX_CAPTIONS, MAX_PIXELS
from styleblend.files.names import composed, control_character, entry
from styleblend.files.pictures import load_picture, opened

CAPTIONS = "captions.json"
FORM = '[{"image_path": "ink/fox.png", "caption": "A fox"}, ...]'
LONGEST = 255 - len(".safetensors")  # bytes of a name: file systems take 255, and that of a picture's tokens is longer
WORD = "sks"  # stands in captions where style tokens will
ENDING = re.compile(rf"\bin the style of {WORD}[.! ]*$", re.IGNORECASE)


class Entry(NamedTuple):
    """A picture of a corpus. `name` is its path from the corpus's folder; `style` is "" where it is not known."""

    name: str
    caption: str
    style: str


class Corpus(NamedTuple):
    """`entries` that can be trained on, and a sentence for each that was left out."""

    folder: Path
    entries: List[Entry]
    left_out: List[str]

    def path(self, picture: Entry) -> Path:
        return entry(self.folder, picture.name)

    def styles(self) -> Dict[str, int]:
        """How many pictures each style has, the largest first."""
        return dict(Counter(entry.style for entry in self.entries).most_common())


def read_corpus(folder: Path, whole: bool = False, max_pixels: int = MAX_PIXELS) -> Corpus:
    """The corpus in a folder.

    Entries whose picture is missing, unreadable, there twice or of too long a name are left out, which is said. The
    beginning of every picture is read, and with `whole` all of it. StyleBlendError where captions.json is not as
    FORM says, or no entry is left.
    """
    folder = Path(folder)
    kept, left_out = {}, []
    for number, (name, caption, style) in enumerate(read_entries(folder), 1):
        if name in kept:
            left_out.append(f"entry {number} names {printable(name)} a second time")
            continue
        fault = too_long(name) or fault_of(entry(folder, name), whole, max_pixels)
        if fault:
            left_out.append(fault)
        else:
            kept[name] = Entry(name, caption, style)
    if not kept:
        raise StyleBlendError(f"no entry of {folder / CAPTIONS} has a picture that can be read"
                              + (f"; the first: {left_out[0]}" if left_out else ": it is empty"))
    return Corpus(folder, list(kept.values()), left_out)


def too_long(name: str) -> Optional[str]:
    """That a picture's name, or one of its folders', is too long; None: it is not."""
    longest = max((len(part.encode("utf-8")) for part in PurePosixPath(name).parts), default=0)
    return (f"the picture {printable(name)} has a name of {longest} bytes, more than {LONGEST}: make it, or its "
            "folder's, shorter" if longest > LONGEST else None)


def fault_of(path: Path, whole: bool, max_pixels: int) -> Optional[str]:
    """What is wrong with a picture; None: nothing."""
    try:
        if whole:
            load_picture(path, max_pixels)
        else:
            with opened(path, max_pixels):
                pass
    except StyleBlendError as error:
        return str(error)
    return None


def read_entries(folder: Path) -> List[Tuple[str, str, str]]:
    """Name, caption and style of every entry. StyleBlendError for the first that is not as it should be."""
    path = folder / CAPTIONS
    try:
        if path.stat().st_size > MAX_CAPTIONS:
            raise StyleBlendError(f"{path} is larger than {MAX_CAPTIONS >> 20} MiB: split the corpus")
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise StyleBlendError(f"{path} is missing: a corpus is a folder of pictures with {FORM} in "
                              f"{CAPTIONS}") from None
    except OSError as error:
        raise StyleBlendError(f"{path} cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:
        raise StyleBlendError(f"{path} is no JSON ({printable(str(error))}): it should be {FORM}") from None
    if not isinstance(data, list):
        raise StyleBlendError(f"{path} should be a list: {FORM}")
    return [entry_of(item, f"{path}, entry {number}") for number, item in enumerate(data, 1)]


def entry_of(item: object, where: str) -> Tuple[str, str, str]:
    """Name, caption and style of one. The style is that of its key, else the folder that the picture is in."""
    texts = [item.get(key, "") for key in ("image_path", "caption", "style")] if isinstance(item, dict) else [None]
    if texts[1:] and texts[2] is None:  # a style that is not known
        texts[2] = ""
    if not all(isinstance(text, str) for text in texts) or not texts[0] or not without_ending(texts[1]):
        raise StyleBlendError(f"{where} should have an image_path and a caption that says what the picture shows: "
                              f"{FORM}")
    name, caption, style = (composed(text) for text in texts)
    place = PurePosixPath(name.replace("\\", "/"))
    if place.is_absolute() or ".." in place.parts or any(map(control_character, (name, caption, style))):
        raise StyleBlendError(f"{where} has an image_path, caption or style that is not taken ({printable(name)}): "
                              "paths lead from the corpus's folder into it, texts are one line without control "
                              "characters")
    return place.as_posix(), caption.strip(), style or (place.parts[0] if len(place.parts) > 1 else "")


def without_ending(caption: str) -> str:
    """A caption without ", in the style of sks.", whose comma or period may not be there, and a period of its own."""
    return ENDING.sub("", caption.strip()).rstrip("., ")
