"""How large a picture may be: each caller's own limit, whatever Pillow's is, and whatever other threads do."""
from __future__ import annotations

import re
import struct
import threading
import warnings
import zlib
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from styleblend.errors import StyleBlendError
from styleblend.files.pictures import load_picture, opened
from test_pictures import corners, frames, png16


def bomb(path, width: int, height: int):
    """A PNG of some 60 bytes that says it has that many pixels."""
    png16(path, 1, np.zeros((1, 1, 1)))
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    return path


def test_the_pixel_limit_is_read_from_the_header_and_can_be_raised(tmp_path):
    """60,000 x 60,000: not decoded, whatever the limit of Pillow itself."""
    large, small, before = bomb(tmp_path / "bomb.png", 60_000, 60_000), tmp_path / "a.png", Image.MAX_IMAGE_PIXELS
    with pytest.raises(StyleBlendError, match=r"bomb.png has 60000 x 60000 pixels, more than 64,000,000: make it "
                       r"smaller, or raise pictures.max_pixels in the config$"):  # no command's option: all have these
        load_picture(large)
    with opened(large, max_pixels=10**10) as image:  # above Pillow's limit, too
        assert image.size == (60_000, 60_000)
    with pytest.raises(StyleBlendError, match="cannot be read"):
        with opened(large, max_pixels=10**10):
            raise MemoryError
    corners(100).save(small)
    assert load_picture(small, max_pixels=10_000).size == (100, 100)
    with pytest.raises(StyleBlendError, match="100 x 100"):
        load_picture(small, max_pixels=9_999)
    assert Image.MAX_IMAGE_PIXELS == before


def huge_webp(path) -> None:
    """A header for 16,383 x 16,383 pixels, the most that WebP has."""
    chunk = b"VP8X" + struct.pack("<IB3x", 10, 0) + 2 * (16_382).to_bytes(3, "little")
    path.write_bytes(b"RIFF" + struct.pack("<I", len(chunk) + 4) + b"WEBP" + chunk)


def huge_gif(path) -> None:
    corners().save(path)
    data = bytearray(path.read_bytes())
    data[6:10] = struct.pack("<HH", 10_000, 10_000)
    path.write_bytes(data)


def huge_bmp(path) -> None:
    corners().save(path)
    data = bytearray(path.read_bytes())
    data[18:26] = struct.pack("<ii", 10_000, 10_000)
    path.write_bytes(data)


def huge_tiff(path) -> None:
    corners().save(path)
    data = path.read_bytes()
    for tag in (256, 257):  # width and height, as LONG
        data = data.replace(struct.pack("<HHLL", tag, 4, 1, 64), struct.pack("<HHLL", tag, 4, 1, 10_000))
    path.write_bytes(data)


def huge_jpeg(path) -> None:
    corners().save(path)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"\x08" + struct.pack(">HH", 64, 64), b"\x08" + struct.pack(">HH", 10_000, 10_000)))


@pytest.mark.parametrize("ending, write", [
    ("png", lambda p: bomb(p, 10_000, 10_000)), ("jpg", huge_jpeg), ("bmp", huge_bmp), ("gif", huge_gif),
    ("tif", huge_tiff)])
def test_a_picture_above_pillows_limit_is_refused_in_our_words_only(tmp_path, ending, write):
    """100 million pixels, of which Pillow would warn; what is read of the file is its header."""
    path = tmp_path / f"a.{ending}"
    write(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(StyleBlendError, match=f"a.{ending} has 10000 x 10000 pixels, more than 64,000,000"):
            load_picture(path)
        with opened(path, max_pixels=10**8) as image:
            assert image.size == (10_000, 10_000)


def test_the_largest_webp_is_refused(tmp_path):
    """Before any of it is decoded: by our limit, or by Pillow's reader, which looks at its own limit, too."""
    huge_webp(tmp_path / "a.webp")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(StyleBlendError, match="16383 x 16383|more pixels than are read from WEBP files|be read"):
            load_picture(tmp_path / "a.webp")


def in_threads(*works, times: int = 200) -> None:
    """Each of them often, all at the same time; the first failure is raised here."""
    failed = []

    def repeat(work):
        try:
            for _ in range(times):
                work()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=repeat, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for error in failed:
        raise error


def test_each_thread_has_its_own_limit(tmp_path):
    before = Image.MAX_IMAGE_PIXELS
    small, large = tmp_path / "small.png", bomb(tmp_path / "large.png", 60_000, 60_000)
    corners(100).save(small)

    def refused(path, limit):
        with pytest.raises(StyleBlendError, match=f"more than {limit:,}"):
            load_picture(path, limit)

    def taken():
        assert load_picture(small, 10_000).size == (100, 100)

    def looked_at():
        with opened(large, 10**10) as image:
            assert image.size == (60_000, 60_000)

    def others_use_pillow():
        assert Image.MAX_IMAGE_PIXELS == before
        with pytest.raises(Image.DecompressionBombError):
            Image.open(large)

    in_threads(lambda: refused(small, 9_999), lambda: refused(large, 64_000_000), taken, looked_at, others_use_pillow)


def test_threads_do_not_get_one_anothers_warnings(tmp_path):
    corners().save(tmp_path / "damaged.png", exif=b"Exif\0\0no tags")
    corners().save(tmp_path / "moving.gif", **frames())
    exif = Image.Exif()
    exif[0x0112] = 6
    corners().save(tmp_path / "turned.png", exif=exif)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        in_threads(*[lambda name=name: load_picture(tmp_path / name)
                     for name in ("damaged.png", "moving.gif", "turned.png")], times=100)
    found = Counter(re.sub(f"{tmp_path}/|: .*", "", str(warning.message)) for warning in said)
    assert found == {"moving.gif has 3 frames": 100, "the Exif data of damaged.png are damaged": 100}
