"""Pictures in and out: any of six formats as upright RGB, contact sheets, whole-or-nothing saving."""
from __future__ import annotations

import hashlib
import io
import re
import struct
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Dict, Iterable, Iterator, Optional, Sequence, Tuple

import numpy as np
from PIL import Image, ImageCms, ImageDraw, ImageOps, UnidentifiedImageError
# each enters its readers into Image.OPEN
from PIL import BmpImagePlugin, GifImagePlugin, JpegImagePlugin  # noqa: F401
from PIL import PngImagePlugin, TiffImagePlugin, WebPImagePlugin  # noqa: F401

from styleblend.errors import StyleBlendError, nearest
from styleblend.files.limits import MAX_PIXELS
from styleblend.files.orientation import TURNS, orientation, turned
from styleblend.files.whole_files import write_bytes

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
# All that Pillow may take a file for, by its content: one of its other readers starts another program (EPS).
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
# Pictures that cannot be read here; the camera formats have a TIFF inside that is only a preview.
UNREADABLE = {".heic": "HEIC", ".heif": "HEIC", ".avif": "AVIF", ".svg": "SVG", ".jxl": "JPEG XL", ".psd": "Photoshop",
              ".pdf": "PDF", ".eps": "PostScript",
              **{ending: "camera" for ending in (".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf")}}
BEGINNINGS = {  # of a file, and what it is then
    rb"\x89PNG": "PNG", rb"\xff\xd8\xff": "JPEG", rb"RIFF....WEBP": "WEBP", rb"BM....\0\0\0\0": "BMP", rb"GIF8": "GIF",
    rb"II\*\0|MM\0\*": "TIFF", rb"....ftyp(heic|heix|heim|hevc|mif1|msf1)": "HEIC", rb"....ftypavi[fs]": "AVIF",
    rb"....ftyp": "video", rb"\xff\x0a|\0\0\0\x0cJXL ": "JPEG XL", rb"8BPS": "Photoshop", rb"%PDF": "PDF",
    rb"%!PS": "PostScript", rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<![^>]*>\s*)*<svg": "SVG",
    rb"(?i)\s*(<!doctype html|<html)": "web page (HTML)", rb"PK\x03\x04": "ZIP",
    rb"version https://git-lfs": "Git LFS pointer",
}


def kind_of(path: Path) -> Optional[str]:
    """What a file is by its first bytes: one of FORMATS, another well-known kind, "empty", or None."""
    try:
        with open(path, "rb") as file:
            head = file.read(1024)
    except OSError:
        return None
    if not head:
        return "empty"
    return next((kind for beginning, kind in BEGINNINGS.items() if re.match(beginning, head, re.S)), None)


def identified(file: BinaryIO) -> Image.Image:
    """A picture by its content, of which only the header has been read.

    Not by `Image.open`, which warns and refuses by a limit that is set for the whole process: ours is an argument.
    """
    beginning = file.read(16)
    for name in FORMATS:
        read, fits = Image.OPEN[name]
        file.seek(0)
        try:
            if fits(beginning) is True:  # a text: what Pillow was built without
                return read(file, file.name)
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue  # as in `Image.open`: it begins as if it were of this format, and is not
    raise UnidentifiedImageError(file.name)


@contextmanager
def opened(path: Path, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """A picture of which only the header has been read.

    What is wrong with it, also if found while it is decoded, is a StyleBlendError.
    """
    try:
        with open(path, "rb") as file, identified(file) as image:
            if image.width * image.height > max_pixels:
                raise StyleBlendError(f"the picture {path} has {image.width} x {image.height} pixels, "
                                      f"more than {max_pixels:,}: make it smaller, "
                                      "or raise pictures.max_pixels in the config")
            yield image
    except StyleBlendError:
        raise
    except FileNotFoundError:
        address = re.match(r"(https?|ftp):/+", str(path))
        if address:  # of which a path has one slash left
            raise StyleBlendError(f"{address[1]}://{str(path)[address.end():]} is an address, and pictures are files: "
                                  "download it, and name the file") from None
        raise StyleBlendError(f"the picture {path} does not exist" + near_by(Path(path))) from None
    except IsADirectoryError:
        raise StyleBlendError(f"{path} is a folder: name a picture in it") from None
    except UnidentifiedImageError:
        raise StyleBlendError(f"the picture {path} cannot be read, it is {what_it_is(path)}: "
                              "save it again as PNG or JPEG, or remove it") from None
    except Image.DecompressionBombError:  # Pillow's readers of some formats look at its own limit, too
        raise StyleBlendError(f"the picture {path} has more pixels than are read from {kind_of(path)} files: "
                              "make it smaller, or save it as PNG") from None
    except Exception as error:  # Pillow's decoders let out whatever a damaged file makes them run into
        raise StyleBlendError(f"the picture {path} cannot be read ({str(error)[:120] or type(error).__name__}): "
                              "save it again as PNG, or remove it") from None


def near_by(path: Path) -> str:
    """What the sentence on a file that is not there ends with: the name of one beside it that is like it."""
    near = nearest(path.name, [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else [])
    return f": did you mean {path.parent / near}?" if near else ""


def what_it_is(path: Path) -> str:
    """In words, of a file that is no picture that can be read."""
    kind = kind_of(path)
    if kind is None or kind == "empty":
        return kind or "of an unknown kind"
    return f"a damaged {kind} file" if kind in FORMATS else f"a {kind} file"


def hashes_of(pictures: Iterable[str]) -> Dict[str, str]:
    """The beginning of the sha256 of each of these files that is there."""
    return {name: hashlib.sha256(Path(name).read_bytes()).hexdigest()[:10] for name in pictures if Path(name).is_file()}


def changed_at(path: Path) -> float:
    """When a file was last changed; 0: it is not there."""
    return path.stat().st_mtime if path.is_file() else 0.0


def load_picture(path: Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """A picture as upright RGB, 8 bits, in sRGB; transparency on white; the first of several frames."""
    with opened(path, max_pixels) as image:
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":  # MPO: a JPEG with a preview
            warnings.warn(f"{path} has {frames} frames: the first is used")
        if image.mode == "F" or image.mode == "I" and image.format == "TIFF":
            raise StyleBlendError(f"the picture {path} has 32 bits a channel, of which nobody says what is white: "
                                  "save it with 8 or 16")
        image.load()
        return on_white(in_srgb(eight_bits(upright(image, path)), path))


def upright(image: Image.Image, path: Path) -> Image.Image:
    """Turned as its Exif data say."""
    number, damaged = orientation(image)
    if number in TURNS:
        return turned(image, number)
    if damaged:
        warnings.warn(f"the Exif data of {path} are damaged: if it lies on its side, turn it and save it again")
    return image


def eight_bits(image: Image.Image) -> Image.Image:
    """A picture of 16 bit grey by its upper halves, as Pillow reads 16 bit colours; a palette as its colours."""
    if image.mode.startswith("I"):
        values, clear = np.asarray(image), image.info.get("transparency")
        grey = (values >> 8).astype(np.uint8)
        if clear is not None:
            grey[values == clear] = 255
        return Image.fromarray(grey)
    if "transparency" in image.info or image.mode in ("LA", "PA", "RGBa"):
        return image.convert("RGBA")
    return image if image.mode in ("RGB", "RGBA", "CMYK") else image.convert("RGB")


def in_srgb(image: Image.Image, path: Path) -> Image.Image:
    """Colours of another space (Adobe RGB, Display P3, a press) by the profile in the file.

    Grey pictures are taken as they are.
    """
    data, mode = image.info.get("icc_profile"), "RGBA" if image.mode == "RGBA" else "RGB"
    if data:
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
            space = profile.profile.xcolor_space.strip()
            if image.mode[:len(space)] == space and "sRGB" not in ImageCms.getProfileDescription(profile):
                return ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode=mode)
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            warnings.warn(f"the colour profile of {path} is damaged: its colours are taken as sRGB")
    return image


def on_white(image: Image.Image) -> Image.Image:
    """RGB, with white behind what is transparent."""
    if image.mode != "RGBA":
        return image.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def contained(image: Image.Image, width: int, height: int) -> Image.Image:
    """The whole picture, as large as fits; at least a pixel each way, however long and thin it is."""
    factor = min(width / image.width, height / image.height)
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    return image if image.size == size else image.resize(size, Image.LANCZOS)


def to_array(image: Image.Image, width: int, height: int, fit: str = "crop") -> np.ndarray:
    """(3, height, width) float32 in -1..1. Other proportions: "crop" takes the middle, "pad" puts white around."""
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.LANCZOS) if fit == "crop" else padded(image, width, height)
    return (np.asarray(image, np.float32) / 127.5 - 1).transpose(2, 0, 1)


def padded(image: Image.Image, width: int, height: int) -> Image.Image:
    """The whole picture in the middle of a white one."""
    inner, outer = contained(image, width, height), Image.new("RGB", (width, height), "white")
    outer.paste(inner, ((width - inner.width) // 2, (height - inner.height) // 2))
    return outer


def check_picture(path: Path, width: int, height: int, fit: str = "crop", max_pixels: int = MAX_PIXELS) -> None:
    """Read a style picture to its end before a training begins; warn if next to nothing is left of it.

    `fit` as in `to_array`.
    """
    image = load_picture(path, max_pixels)
    ratio = (max if fit == "crop" else min)(width / image.width, height / image.height)
    if ratio > 4:
        warnings.warn(f"{path} is only {image.width} x {image.height} pixels: "
                      f"it is enlarged {ratio:.0f} times for {width} x {height} and will be a blur")


def save_png(path: Path, pixels) -> None:
    """Write uint8 (H, W, 3) or an Image as a PNG, whole or not at all."""
    image, buffer = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels), io.BytesIO()
    image.save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())


def whole_picture(path: Path) -> Optional[Image.Image]:
    """A picture that was drawn here, decoded; None when it is not there or torn."""
    try:
        return load_picture(path)
    except StyleBlendError:
        return None


def is_whole(path: Path) -> bool:
    """Whether a picture is there and can be decoded to its end."""
    return whole_picture(path) is not None


def sheet_size(rows: int, columns: int, cell: int = 160, margin: int = 8, line: int = 16) -> Tuple[int, int]:
    """Width and height of a contact sheet."""
    return margin + columns * (cell + margin), margin + rows * (cell + line + margin)


def contact_sheet(rows: Sequence[Sequence[tuple]], cell: int = 160, margin: int = 8, line: int = 16) -> Image.Image:
    """Rows of (label, Image) cells on white, each picture fitted into `cell` pixels with its label below."""
    sheet = Image.new("RGB", sheet_size(len(rows), max(map(len, rows)), cell, margin, line), "white")
    draw = ImageDraw.Draw(sheet)
    for r, row in enumerate(rows):
        for c, (label, image) in enumerate(row):
            x, y = margin + c * (cell + margin), margin + r * (cell + line + margin)
            fitted = contained(image, cell, cell)
            sheet.paste(fitted, (x + (cell - fitted.width) // 2, y + (cell - fitted.height) // 2))
            draw.text((x + 2, y + cell + 2), shortened(label, cell - 4, draw), fill="black")
    return sheet


def shortened(label: str, width: int, draw: ImageDraw.ImageDraw, font=None) -> str:
    """As much of a label as fits into `width` pixels."""
    shown = label[:width]
    while draw.textlength(shown, font) > width:
        shown = shown[:-2] + "…"
    return shown
