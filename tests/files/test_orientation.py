"""Pictures that lie in their files otherwise than they are seen: Exif, XMP, and what is damaged."""
from __future__ import annotations

import struct
import warnings

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from styleblend.files.pictures import load_picture, save_png
from test_pictures import CORNERS, assert_colours, corners


@pytest.mark.parametrize("orientation, stored", [  # how a picture lies in the file that Exif says to turn in this way
    (1, None), (2, Image.FLIP_LEFT_RIGHT), (3, Image.ROTATE_180), (4, Image.FLIP_TOP_BOTTOM),
    (5, Image.TRANSPOSE), (6, Image.ROTATE_90), (7, Image.TRANSVERSE), (8, Image.ROTATE_270)])
@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_exif_turns_a_picture(tmp_path, orientation, stored, ending):
    exif = Image.Exif()
    exif[0x0112] = orientation
    lying = corners() if stored is None else corners().transpose(stored)
    lying.save(tmp_path / f"a.{ending}", exif=exif, quality=95)
    assert_colours(tmp_path / f"a.{ending}", CORNERS, 12)


def exif_of(order: str, *entries) -> bytes:
    """Exif data with these (tag, type, count, value as bytes of the length four)."""
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "LH", 8, len(entries))
    body = b"".join(struct.pack(order + "HHL", *entry[:3]) + entry[3] for entry in entries)
    return b"Exif\0\0" + head + body + bytes(4)


def test_exif_of_either_byte_order_and_number(tmp_path):
    """Damage to other tags, or the loss of later ones, is no reason to leave the picture on its side."""
    outside = (0x010E, 2, 99, b"\xff\xff\xff\x00")
    lying = corners().transpose(Image.ROTATE_90)
    for number, exif in enumerate([
            exif_of("<", (0x0112, 3, 1, b"\6\0\0\0")), exif_of(">", (0x0112, 3, 1, b"\0\6\0\0")),
            exif_of(">", (0x0112, 4, 1, b"\0\0\0\6")), exif_of("<", outside, (0x0112, 3, 1, b"\6\0\0\0")),
            exif_of("<", (0x0112, 3, 1, b"\6\0\0\0"), outside)[:-10]]):
        lying.save(tmp_path / f"{number}.png", exif=exif)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert_colours(tmp_path / f"{number}.png", CORNERS, 0)
    corners().save(tmp_path / "a.png", exif=exif_of("<", outside))
    with pytest.warns(UserWarning, match="Exif data of .*a.png are damaged"):
        assert_colours(tmp_path / "a.png", CORNERS, 0)


@pytest.mark.parametrize("text", ['<x tiff:Orientation="6"/>', "<tiff:Orientation>6</tiff:Orientation>"])
def test_xmp_turns_a_picture_that_has_no_exif(tmp_path, text):
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", text)
    corners().transpose(Image.ROTATE_90).save(tmp_path / "a.png", pnginfo=info)
    assert_colours(tmp_path / "a.png", CORNERS, 0)


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_a_picture_that_was_turned_is_saved_upright(tmp_path, ending):
    """What is saved again does not say a second time that it is to be turned."""
    exif = Image.Exif()
    exif[0x0112] = 6
    corners().transpose(Image.ROTATE_90).save(tmp_path / f"a.{ending}", exif=exif, quality=95)
    save_png(tmp_path / "b.png", load_picture(tmp_path / f"a.{ending}"))
    assert_colours(tmp_path / "b.png", CORNERS, 12)


def test_damaged_exif_data_do_not_cost_the_picture(tmp_path):
    for number, exif in enumerate((b"Exif\0\0no tags", b"Exif\0\0II*\0\xff\xff\xff\x7f")):
        corners().save(tmp_path / f"{number}.png", exif=exif)
        with pytest.warns(UserWarning, match=f"Exif data of .*{number}.png are damaged"):
            assert_colours(tmp_path / f"{number}.png", CORNERS, 0)
