"""Pictures in the format that their name says, each with texts that say how it was made.

A PNG has the texts as its text chunks. A JPEG and a WebP have them as Exif data: "parameters", which other programs
read, as the user's comment, and what this program reads as the description.
"""
from __future__ import annotations

import io
from pathlib import Path
from typing import Dict, Mapping, Tuple

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from styleblend.errors import StyleBlendError
from styleblend.files.output_files import free_path
from styleblend.files.whole_files import write_bytes

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}  # by the ending of a name
OPTIONS = {"PNG": {}, "JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}
LONGEST_SIDE = {"PNG": (1 << 31) - 1, "JPEG": 65_500, "WEBP": 16_383}  # pixels
PARAMETERS = "parameters"  # the text that other programs read
DESCRIPTION, EXIF_IFD, USER_COMMENT = 0x010E, 0x8769, 0x9286  # numbers of Exif fields
UNICODE = b"UNICODE\0"  # begins a user's comment in UTF-16
MOST_EXIF = 65_000  # bytes in a JPEG


def format_of(path: Path) -> str:
    """The format that a file's name says. StyleBlendError for none, and for one that is not written."""
    path = Path(path)
    if path.suffix.lower() in FORMATS:
        return FORMATS[path.suffix.lower()]
    what = f"pictures are not written as {path.suffix}" if path.suffix else "this name says no format"
    raise StyleBlendError(f"--output {path}: {what}: end it in .png, .jpg, .jpeg or .webp")


def exif_of(texts: Mapping[str, str]) -> bytes:
    """Texts as Exif data; besides "parameters" there is one at most, of this program."""
    exif = Image.Exif()
    for name, text in texts.items():
        if name == PARAMETERS:
            exif[EXIF_IFD] = {USER_COMMENT: UNICODE + text.encode("utf-16-be", "replace")}
        else:
            exif[DESCRIPTION] = f"{name}:{text.encode('unicode_escape').decode('ascii')}"
    return exif.tobytes()


def texts_of(image: Image.Image) -> Dict[str, str]:
    """The texts of a picture, by name: those of this program, whatever the format."""
    if image.format == "PNG":
        return {name: text for name, text in image.info.items() if isinstance(text, str)}
    description = image.getexif().get(DESCRIPTION)
    name, colon, text = description.partition(":") if isinstance(description, str) else ("", "", "")
    return {name: text.encode("ascii", "replace").decode("unicode_escape", "replace")} if colon else {}


def refuse_unsaved(path: Path, size: Tuple[int, int], texts: Mapping[str, str]) -> None:
    """StyleBlendError for a picture that the format of `path` cannot hold: asked before it is drawn."""
    kind = format_of(path)
    if max(size) > LONGEST_SIDE[kind]:
        raise StyleBlendError(f"{path}: {size[0]} x {size[1]} pixels are more than a {kind} file holds: name a .png")
    if kind != "PNG" and len(exif_of(texts)) > MOST_EXIF:
        raise StyleBlendError(f"{path}: its prompt is too long for what a {kind} file says of itself: name a .png")


def save_picture(path: Path, image: Image.Image, texts: Mapping[str, str] = {}, replace: bool = True) -> Path:
    """Write a picture whole or not at all; its file.

    Without `replace` a file that is there stays, also one that has come meanwhile: then it is the next free name.
    """
    kind, buffer = format_of(path), io.BytesIO()
    if kind == "PNG":
        info = PngInfo()
        for name, text in texts.items():
            info.add_text(name, text)
        image.save(buffer, kind, pnginfo=info)
    else:
        image.save(buffer, kind, exif=exif_of(texts), **OPTIONS[kind])
    while True:
        try:
            write_bytes(path, buffer.getvalue(), replace)
            return path
        except FileExistsError:
            path = free_path(path)
