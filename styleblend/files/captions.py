"""The pictures of a style and what they show.

That is said by `NAME.txt` beside a picture, by `metadata.jsonl`, or by the picture's name.
"""
from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List

from styleblend.errors import StyleBlendError
from styleblend.files.names import check_distinct, composed, control_character
from styleblend.files.pictures import ENDINGS, FORMATS, UNREADABLE, kind_of
from styleblend.files.prompts import article
from styleblend.files.text import parse_json, read_text

METADATA = "metadata.jsonl"
LEFT_BY_SYSTEMS = ("thumbs.db", "desktop.ini")
ONE_FOLDER_EACH = "put one folder a style there, with images/*.png and prompt.json"
LINE = 'like {"file_name": "cat.png", "text": "a cat"}'


class NoPictures(StyleBlendError):
    """A style has no pictures, as one has that was loaded: it can be drawn, and not trained."""


@dataclass(frozen=True)
class StylePicture:
    """A picture of a style. `caption` says what it shows; `phrase` is the same as the trainings' prompts have it."""

    path: Path
    caption: str
    phrase: str


def style_names(data: Path) -> List[str]:
    """All style folders of a data folder, in order."""
    if not Path(data).is_dir():
        raise StyleBlendError(f"the data folder {data} does not exist: {ONE_FOLDER_EACH}")
    names = sorted(composed(p.name) for p in Path(data).iterdir() if p.is_dir() and not p.name.startswith("."))
    if not names:
        raise StyleBlendError(f"{data} holds no style folders: {ONE_FOLDER_EACH}")
    return names


def style_pictures(folder: Path) -> List[StylePicture]:
    """The pictures of one style, in order of their names; only names and captions are read.

    A caption is taken from `NAME.txt`, else from `images/metadata.jsonl`, else it is the file name with spaces for
    underscores. The first two stand in the prompts as they are; a file name gets an article, as published ("A red
    apple"). StyleBlendError names the file that is wrong.
    """
    images = Path(folder) / "images"
    files = files_of_people(images)
    in_order = sorted(p for p in files if p.suffix.lower() in ENDINGS)
    for path in files:
        if path.suffix.lower() not in ENDINGS + (".txt",) and path.name != METADATA:
            leave_out(path)
    if not in_order:
        raise NoPictures(f"style {Path(folder).name} has no pictures: "
                         f"put 3 to 10 into {images}, named after what they show")
    check_names(in_order, images)
    pictures = {composed(p.name): p for p in in_order}
    written = metadata_captions(images / METADATA, list(pictures)) if (images / METADATA).is_file() else {}
    texts = [p for p in files if p.suffix.lower() == ".txt"]
    written.update(text_captions(texts, {composed(p.stem): name for name, p in pictures.items()}))
    found = []
    for name, path in pictures.items():
        caption = written.get(name) or checked(composed(path.stem).replace("_", " "), f"the name of {path}")
        if written and name not in written:
            warnings.warn(f"{path} has no written caption, though others have: its name is taken, {caption!r}")
        found.append(StylePicture(path, caption, caption if name in written else article(caption)))
    return found


def pictures_if_any(folder: Path) -> List[StylePicture]:
    """The pictures of one style; none where it has none, which only a training minds."""
    try:
        return style_pictures(folder)
    except NoPictures:
        return []


def files_of_people(folder: Path) -> List[Path]:
    """The files in a folder, without hidden ones and those that systems leave behind."""
    if not folder.is_dir():
        return []
    return [p for p in folder.iterdir()
            if not p.name.startswith(".") and p.name.lower() not in LEFT_BY_SYSTEMS and p.is_file()]


def check_names(in_order: List[Path], folder: Path) -> None:
    """Refuse pictures whose names cannot be those of what is made of them. They come sorted."""
    for before, path in zip([None] + in_order, in_order):
        if before and before.stem == path.stem:
            raise StyleBlendError(f"{before} and {path.name} differ only in their endings, "
                                  "and what is made of a picture has its name: rename one")
        steering = control_character(path.name)
        if steering:
            raise StyleBlendError(f"the name of {str(path)!r} holds the control character {steering}: rename it")
    check_distinct([p.stem for p in in_order], str(folder))


def leave_out(path: Path) -> None:
    """Say that a file of the pictures' folder is not used; StyleBlendError if it seems to be meant as a picture."""
    kind = kind_of(path)
    if path.suffix.lower() in UNREADABLE:
        raise StyleBlendError(f"the picture {path} cannot be read here: save it as PNG or JPEG, or remove it")
    if kind in FORMATS:
        raise StyleBlendError(f"{path} is a {kind} picture by its content: "
                              "give it an ending that says so, or remove it")
    if kind in UNREADABLE.values():
        raise StyleBlendError(f"{path} is a {kind} file, which cannot be read here: "
                              "save it as PNG or JPEG, or remove it")
    warnings.warn(f"{path} is neither a picture nor a caption and is left out")


def checked(text: str, source: str) -> str:
    """A caption in one line and in composed form, without a full stop at its end."""
    caption = composed(" ".join(text.split())).rstrip(".").rstrip()
    if not caption:
        raise StyleBlendError(f"{source} says nothing: write what the picture shows")
    if control_character(caption):
        raise StyleBlendError(f"{source} holds the control character {control_character(caption)}: take it out")
    return caption


def text_captions(files: List[Path], pictures: Dict[str, str]) -> Dict[str, str]:
    """{picture: caption} from `NAME.txt` files. `pictures`: name without ending -> name."""
    found = {}
    for path in files:
        name = pictures.get(composed(path.stem))
        if name is None:
            warnings.warn(f"{path} is left out: there is no picture of its name")
        else:
            found[name] = checked(read_text(path), str(path))
    return found


def metadata_captions(path: Path, pictures: List[str]) -> Dict[str, str]:
    """{picture: caption} from a file of lines as Hugging Face's imagefolder has them (LINE)."""
    found = {}
    for number, line in enumerate(read_text(path).split("\n"), 1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            data = parse_json(line)
        except ValueError as error:
            raise StyleBlendError(f"{where} is no JSON ({error}): it should be {LINE}") from None
        if not isinstance(data, dict) or not all(isinstance(data.get(key), str) for key in ("file_name", "text")):
            raise StyleBlendError(f"{where} should be {LINE}")
        name = composed(data["file_name"])
        if name not in pictures:
            raise StyleBlendError(f"{where} names {name[:80]!r}, which is no picture in {path.parent}: "
                                  "mend or remove the line")
        if name in found:
            raise StyleBlendError(f"{where} names {name!r} a second time: remove one of the lines")
        found[name] = checked(data["text"], f"{where}: text")
    return found
