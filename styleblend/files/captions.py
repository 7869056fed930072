"""The pictures of a style and what they show.

That is said by `NAME.txt` or `NAME.caption` beside a picture, by `metadata.jsonl` or `captions.json`, or by its name.
"""
from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Mapping, NamedTuple

from styleblend.errors import StyleBlendError
from styleblend.files.layouts import KOHYA, TEXTS, Layout, layout_of, pointed, refuse_unreadable
from styleblend.files.nameless import says_nothing
from styleblend.files.names import check_distinct, composed, control_character
from styleblend.files.pictures import ENDINGS
from styleblend.files.prompts import article
from styleblend.files.text import parse_json, read_json, read_text
from styleblend.files.whole_files import write_bytes

ONE_FOLDER_EACH = "put one folder a style there, with images/*.png and prompt.json"
LINE = 'like {"file_name": "cat.png", "text": "a cat"}'
TABLE = 'like {"cat.png": "a cat"}'


class NoPictures(StyleBlendError):
    """A style has no pictures, as one has that was loaded: it can be drawn, and not trained."""


@dataclass(frozen=True)
class StylePicture:
    """A picture of a style. `caption` says what it shows; `phrase` is the same as the trainings' prompts have it.

    `file`: how it is called from the folder of the pictures; `name`: how what is made of it is called.
    """

    path: Path
    caption: str
    phrase: str
    file: str
    name: str
    written: bool = False  # its caption was


class StylePictures(NamedTuple):
    """The pictures of a style, and in words what was taken and what was left out."""

    pictures: List[StylePicture]
    taken: str
    left_out: List[str]

    def summary(self) -> str:
        some = ", ".join(self.left_out[:3]) + (f" and {len(self.left_out) - 3} more" if len(self.left_out) > 3 else "")
        return self.taken + (f"; left out: {some}" if some else "")


def style_names(data: Path) -> List[str]:
    """All style folders of a data folder, in order."""
    if not Path(data).is_dir():
        raise StyleBlendError(f"the data folder {data} does not exist: {ONE_FOLDER_EACH}")
    names = sorted(composed(p.name) for p in Path(data).iterdir() if p.is_dir() and not p.name.startswith("."))
    if not names:
        flat = any(p.suffix.lower() in ENDINGS for p in Path(data).iterdir())
        raise StyleBlendError(f"{data} holds no style folders: " + (
            f"to learn from the pictures in it, train --pictures {data} --name NAME" if flat else ONE_FOLDER_EACH))
    return names


def style_pictures(folder: Path) -> List[StylePicture]:
    """The pictures of one style, in order of their names: see `read_pictures`."""
    return read_pictures(folder).pictures


def read_pictures(folder: Path) -> StylePictures:
    """The pictures of one style, in order of their names; only names and captions are read.

    A caption is taken from `NAME.txt`, else `NAME.caption`, else `metadata.jsonl` or `captions.json`, else it is the
    file name with spaces for underscores. All but the last stand in the prompts as they are; a file name gets an
    article, as published ("A red apple"). StyleBlendError names the file that is wrong.
    """
    layout = layout_of(folder)
    for path in layout.others:
        refuse_unreadable(path)
    if not layout.pictures:
        where = layout.root if pointed(folder) == Path(folder) else pointed(folder)
        raise NoPictures(f"style {Path(folder).name} has no pictures: "
                         f"put 3 to 10 into {where}, named after what they show")
    names = names_of(layout)
    written = {**tables_of(layout), **texts_of(layout)}
    pictures = []
    for path in layout.pictures:
        caption, file = written.get(layout.name(path)), composed(layout.name(path))
        said = caption or checked(composed(path.stem).replace("_", " "), f"the name of {path}")
        pictures.append(StylePicture(path, said, caption or article(said), file, names[path], caption is not None))
    layout.left_out += [layout.name(path) for path in layout.others]
    return StylePictures(pictures, taken(layout, pictures), layout.left_out)


def shown_by(path: Path) -> StylePicture:
    """One picture that lies anywhere, with what it shows: by `NAME.txt` beside it, else by its name."""
    texts = [path.with_suffix(ending) for ending in TEXTS if path.with_suffix(ending).is_file()]
    caption = checked(read_text(texts[0]), str(texts[0])) if texts else None
    said = caption or checked(composed(path.stem).replace("_", " "), f"the name of {path}")
    return StylePicture(path, said, caption or article(said), path.name, composed(path.stem), caption is not None)


def write_caption(picture: StylePicture, text: str, overwrite: bool = False) -> Path:
    """Write what a picture shows into `NAME.txt` beside it, to be edited; the file.

    One that is there stays, with FileExistsError, but for `overwrite`.
    """
    path = picture.path.with_suffix(".txt")
    write_bytes(path, f"{text}\n".encode(), replace=overwrite)
    return path


def pictures_if_any(folder: Path) -> List[StylePicture]:
    """The pictures of one style; none where it has none, which only a training minds."""
    try:
        return style_pictures(folder)
    except NoPictures:
        return []


def taken(layout: Layout, pictures: List[StylePicture]) -> str:
    """How many pictures were found where, and what says what they show."""
    folders = layout.folders()
    some = [f"{count} in {name}/" for name, count in folders.items() if name]
    where = f" ({', '.join(some[:3])}{' ...' if len(some) > 3 else ''})" if some else ""
    repeats = any(KOHYA.fullmatch(part) for name in folders for part in Path(name).parts)
    unsaid = [picture.file for picture in pictures if not picture.written]
    said = "told by captions" if len(unsaid) < len(pictures) else "told by their names"
    if 0 < len(unsaid) < len(pictures):
        said += f", by their names where there is none ({', '.join(unsaid[:3])}{' ...' if len(unsaid) > 3 else ''})"
    return (f"{len(pictures)} picture{'s' * (len(pictures) != 1)}{where}, {said}"
            + ("; kohya's repeats in names of folders do not count" if repeats else ""))


def nameless(pictures: List[StylePicture], style: str) -> List[StylePicture]:
    """Those of which neither a caption nor their name says what they show."""
    return [picture for picture in pictures if not picture.written and says_nothing(composed(picture.path.stem), style)]


def refuse_nameless(pictures: List[StylePicture], style: str) -> None:
    """StyleBlendError that asks for captions, where a training would learn "An img 6003"."""
    found = nameless(pictures, style)
    if found:
        some, first = ", ".join(p.file for p in found[:3]) + (" ..." if len(found) > 3 else ""), found[0].path
        raise StyleBlendError(f"style {style}: {len(found)} names do not say what is in the pictures ({some}): write "
                              f"captions such as \"a red apple\" into {first.with_suffix('.txt').name}, or rename them")


def names_of(layout: Layout) -> Dict[Path, str]:
    """How what is made of each picture is called: by its name, with its folders in front where several share that.

    StyleBlendError for names that cannot be told apart, or that hold what does not print.
    """
    count, names = Counter(path.stem for path in layout.pictures), {}
    for path in layout.pictures:
        steering = control_character(layout.name(path))
        if steering:
            raise StyleBlendError(f"the name of {str(path)!r} holds the control character {steering}: rename it")
        parts = [*path.parent.relative_to(layout.root).parts, path.stem]
        names[path] = "-".join(parts) if count[path.stem] > 1 else path.stem
    known: Dict[str, Path] = {}
    for path, name in names.items():
        before = known.setdefault(name, path)
        if before is not path:
            raise StyleBlendError(f"{before} and {path.name} differ only in their endings, "
                                  "and what is made of a picture has its name: rename one")
    check_distinct(list(names.values()), str(layout.root))
    return {path: composed(name) for path, name in names.items()}


def checked(text: str, source: str) -> str:
    """A caption in one line and in composed form, without a full stop at its end."""
    caption = composed(" ".join(text.split())).rstrip(".").rstrip()
    if not caption:
        raise StyleBlendError(f"{source} says nothing: write what the picture shows")
    if control_character(caption):
        raise StyleBlendError(f"{source} holds the control character {control_character(caption)}: take it out")
    return caption


def texts_of(layout: Layout) -> Dict[str, str]:
    """{picture: caption} from `NAME.txt` and `NAME.caption` files; what has no picture is left out."""
    pictures = {stem_of(layout, path): layout.name(path) for path in layout.pictures}
    found: Dict[str, str] = {}
    for path in sorted(layout.texts, key=lambda path: TEXTS.index(path.suffix.lower())):
        name = pictures.get(stem_of(layout, path))
        if name is None:
            layout.left_out.append(f"{layout.name(path)}, which has no picture of its name")
        elif name in found:
            layout.left_out.append(f"{layout.name(path)}, since there is another caption")
        else:
            found[name] = checked(read_text(path), str(path))
    return found


def stem_of(layout: Layout, path: Path) -> str:
    return composed(layout.name(path.with_suffix("")))


def tables_of(layout: Layout) -> Dict[str, str]:
    """{picture: caption} from the tables of captions, each of the pictures in and below its folder."""
    found: Dict[str, str] = {}
    for table in sorted(layout.tables, key=lambda path: path.suffix != ".json"):  # lines count more
        below = {composed(path.relative_to(table.parent).as_posix()): layout.name(path)
                 for path in layout.pictures if table.parent in path.parents}
        rows = metadata_captions if table.suffix == ".jsonl" else json_captions
        found.update({below[name]: caption for name, caption in rows(table, below).items()})
    return found


def json_captions(path: Path, pictures: Mapping[str, str]) -> Dict[str, str]:
    """{picture: caption} from one object. The ending may be left out, and kohya's have {"caption": ...} as values."""
    data = read_json(path, f"it should be {TABLE}")
    if not isinstance(data, dict):
        raise StyleBlendError(f"{path} should be {TABLE}")
    stems, found = {name.rsplit(".", 1)[0]: name for name in pictures}, {}
    for key, value in data.items():
        name = composed(key) if composed(key) in pictures else stems.get(composed(key))
        text = value.get("caption") if isinstance(value, dict) else value
        if name is None or not isinstance(text, str):
            what = "which is no picture" if name is None else "whose caption is no text"
            raise StyleBlendError(f"{path} names {key[:80]!r}, {what}: it should be {TABLE}")
        found[name] = checked(text, f"{path}: {key[:80]!r}")
    return found


def metadata_captions(path: Path, pictures: Mapping[str, str]) -> Dict[str, str]:
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
