"""How a picture lies in its file, as Exif or XMP say.

Pillow remarks on damaged Exif data by warnings that do not name the file, and catching those would catch the warnings
of other threads. So the one number is read here.
"""
from __future__ import annotations

import re
import struct
from typing import Optional, Tuple

from PIL import Image
from PIL.Image import Transpose

ORIENTATION = 0x0112  # the tag in Exif and TIFF
TURNS = {2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM, 5: Transpose.TRANSPOSE,
         6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_90}
NUMBERS = {3: "H", 4: "L", 8: "h", 9: "l"}  # the types that a whole number may have
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}  # bytes of one value, by type
KEPT = ("icc_profile", "transparency")  # what belongs to the pixels; the rest would say how the picture lay


def turned(image: Image.Image, number: int) -> Image.Image:
    """A loaded picture as it is to be seen, by its orientation (2 to 8)."""
    upright = image.transpose(TURNS[number])
    upright.info = {key: value for key, value in image.info.items() if key in KEPT}
    return upright


def orientation(image: Image.Image) -> Tuple[Optional[int], bool]:
    """The orientation of a loaded picture, and whether its Exif data are damaged.

    1 to 8 where the file is right; None where it has none.
    """
    try:
        number, damaged = in_exif(exif_data(image))
        if number is None and hasattr(image, "tag_v2"):  # TIFF: read when it was opened
            number = image.tag_v2.get(ORIENTATION)
        return in_xmp(image) if number is None else number, damaged
    except Exception:  # whatever a damaged file makes these and Pillow run into
        return None, True


def exif_data(image: Image.Image) -> bytes:
    """The Exif data as they are in the file, empty when there are none."""
    text = image.info.get("Raw profile type exif")  # of a PNG: a name and a length in lines, then hexadecimal digits
    data = image.info.get("exif")
    if data is None and text is not None:
        data = bytes.fromhex("".join(text.split("\n")[3:]))
    return re.sub(rb"\A(Exif\0\0){1,2}", b"", data or b"")


def in_exif(data: bytes) -> Tuple[Optional[int], bool]:
    """The orientation, and whether something lies outside of the data. KeyError, struct.error: it is no Exif data."""
    number, damaged = None, False
    if not data:
        return number, damaged
    order = {b"II*\0": "<", b"MM\0*": ">"}[data[:4]]
    start, = struct.unpack_from(order + "L", data, 4)
    count, = struct.unpack_from(order + "H", data, start)
    for place in range(start + 2, start + 2 + 12 * count, 12):
        if place + 12 > len(data):
            return number, True
        tag, kind, values, inline = struct.unpack_from(order + "HHL4s", data, place)
        size = values * SIZES.get(kind, 0)
        if size > 4 and struct.unpack(order + "L", inline)[0] + size > len(data):
            damaged = True
        if tag == ORIENTATION and kind in NUMBERS and values == 1:
            number, = struct.unpack_from(order + NUMBERS[kind], inline)
    return number, damaged


def in_xmp(image: Image.Image) -> Optional[int]:
    """The orientation in XMP, which some programs write instead."""
    text = image.info.get("XML:com.adobe.xmp") or image.info.get("xmp") or ""
    text = text if isinstance(text, str) else text.decode("latin-1")
    found = re.search(r'tiff:Orientation(="|>)([0-9])', text)
    return int(found[2]) if found else None
