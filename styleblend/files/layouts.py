"""Where the pictures of a style lie: in `images/`, flat, in sub-folders such as kohya's, or in a folder elsewhere."""
from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List

from styleblend.errors import StyleBlendError
from styleblend.files.pictures import ENDINGS, FORMATS, UNREADABLE, kind_of
from styleblend.files.text import read_json
from styleblend.files.whole_files import write_bytes

POINTER = "pictures.json"  # in a style's folder: {"folder": "/where/its/pictures/are"}
TEXTS = (".txt", ".caption")  # of two captions the first counts
TABLES = ("metadata.jsonl", "captions.json")
OWN = ("prompt.json", "style.json", POINTER)  # of a style, no picture and no caption
LEFT_BY_SYSTEMS = ("thumbs.db", "desktop.ini")
REGULAR = ("reg", "regularization", "regularisation")  # kohya's pictures that are not of the style
KOHYA = re.compile(r"(\d+)_(.+)")
DEEPEST = 8  # folders in folders


@dataclass
class Layout:
    """The files of a style's pictures. `root`: the folder that they are named from. `left_out`: in words."""

    root: Path
    pictures: List[Path] = field(default_factory=list)
    texts: List[Path] = field(default_factory=list)
    tables: List[Path] = field(default_factory=list)
    others: List[Path] = field(default_factory=list)
    left_out: List[str] = field(default_factory=list)

    def name(self, path: Path) -> str:
        """A file as it is called from the root: "cat.png", "10_ink/cat.png"."""
        return path.relative_to(self.root).as_posix()

    def folders(self) -> Dict[str, int]:
        """How many pictures each sub-folder has; "" is the root itself."""
        found: Dict[str, int] = {}
        for path in self.pictures:
            name = path.parent.relative_to(self.root).as_posix()
            found["" if name == "." else name] = found.get("" if name == "." else name, 0) + 1
        return found


def pointed(folder: Path) -> Path:
    """The folder that holds a style's pictures: itself, or another that `pictures.json` names."""
    path = Path(folder) / POINTER
    if not path.is_file():
        return Path(folder)
    expected = 'it should be like {"folder": "/where/the/pictures/are"}'
    data = read_json(path, expected)
    if not isinstance(data, dict) or not isinstance(data.get("folder"), str):
        raise StyleBlendError(f"{path} names no folder: {expected}")
    target = Path(folder) / data["folder"]
    if not target.is_dir():
        raise StyleBlendError(f"the pictures of {Path(folder).name} were in {target}, which is not there: put it back, "
                              f"or name another with train --pictures FOLDER --name {Path(folder).name}")
    return target


def point(folder: Path, pictures: Path) -> None:
    """Let the pictures of a style be those of another folder."""
    write_bytes(Path(folder) / POINTER, (json.dumps({"folder": str(Path(pictures).resolve())}, ensure_ascii=False)
                                         + "\n").encode("utf-8"))


def layout_of(folder: Path) -> Layout:
    """All files of a style's pictures, in order of their names: those in `images/` where it has some, else all."""
    folder = pointed(folder)
    images = walked(folder / "images")
    if images.pictures or images.others:
        beside = [path.name for path in people(folder) if path.is_file() and path.suffix.lower() in ENDINGS]
        images.left_out += [f"{name}, which is beside images/" for name in sorted(beside)]
        return images
    whole = walked(folder)
    return whole if whole.pictures or not images.root.is_dir() and whole.others else images


def walked(root: Path) -> Layout:
    """The files in a folder and its sub-folders."""
    found, seen = Layout(root), set()

    def walk(folder: Path, depth: int) -> None:
        if folder.resolve() in seen or depth > DEEPEST:  # a link to a folder above
            return
        seen.add(folder.resolve())
        for path in sorted(people(folder)):
            if path.is_dir() and path.name.lower() in REGULAR:
                found.left_out.append(f"{found.name(path)}/, which is for pictures that are not of the style")
            elif path.is_dir():
                walk(path, depth + 1)
            elif path.is_file():
                kind_of_file(found, path).append(path)

    if root.is_dir():
        walk(root, 0)
    found.pictures.sort(key=found.name)
    return found


def kind_of_file(found: Layout, path: Path) -> List[Path]:
    """The list of a layout that a file belongs into."""
    ending = path.suffix.lower()
    if ending in ENDINGS:
        return found.pictures
    if ending in TEXTS:
        return found.texts
    return found.tables if path.name in TABLES else [] if path.name in OWN else found.others


def people(folder: Path) -> List[Path]:
    """What is in a folder, without hidden things and those that systems leave behind."""
    return [p for p in folder.iterdir() if not p.name.startswith(".") and p.name.lower() not in LEFT_BY_SYSTEMS]


def refuse_unreadable(path: Path) -> None:
    """StyleBlendError for a file that seems to be meant as a picture and cannot be read as one."""
    kind = kind_of(path)
    if path.suffix.lower() in UNREADABLE:
        raise StyleBlendError(f"the picture {path} cannot be read here: save it as PNG or JPEG, or remove it")
    if kind in FORMATS:
        raise StyleBlendError(f"{path} is a {kind} picture by its content: "
                              "give it an ending that says so, or remove it")
    if kind in UNREADABLE.values():
        raise StyleBlendError(f"{path} is a {kind} file, which cannot be read here: "
                              "save it as PNG or JPEG, or remove it")
