"""Every kind of picture file that people have, as training sees it: upright RGB of the right size, or one sentence."""
from __future__ import annotations

import os
import shutil
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from styleblend.files.captions import read_pictures, style_pictures
from styleblend.cli import main
from styleblend.errors import StyleBlendError
from styleblend.files.names import composed
from styleblend.jobs.events import result_of
from styleblend.files.pictures import check_picture, contact_sheet, is_whole, load_picture, to_array
from styleblend.settings import PictureSettings
from styleblend.training.latents import encode_pictures

SIZE = 32
RED, GREEN, BLUE, WHITE, BLACK, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255,) * 3, (0,) * 3, (128,) * 3
CORNERS = (RED, GREEN, BLUE, BLACK)  # of the test picture, in reading order


def corners(side: int = 64) -> Image.Image:
    """Four coloured quarters: their places and colours are told apart however the file was made."""
    return Image.fromarray(np.array(CORNERS, np.uint8).reshape(2, 2, 3).repeat(side // 2, 0).repeat(side // 2, 1))


def seen(path, fit: str = "crop") -> np.ndarray:
    """The picture as training gets it, (SIZE, SIZE, 3), back in 0..255."""
    array = to_array(load_picture(path), SIZE, SIZE, fit)
    assert array.shape == (3, SIZE, SIZE) and array.dtype == np.float32 and np.abs(array).max() <= 1
    return ((array.transpose(1, 2, 0) + 1) * 127.5).round().astype(int)


def assert_colours(path, expected, tolerance: int = 1) -> None:
    """The middles of the four quarters."""
    pixels, quarter = seen(path), SIZE // 4
    found = [tuple(pixels[y, x]) for y in (quarter, 3 * quarter) for x in (quarter, 3 * quarter)]
    assert np.abs(np.array(found) - expected).max() <= tolerance, found


def png16(path, channels: int, values: np.ndarray, chunks: bytes = b"") -> None:
    """A PNG of 16 bits a channel, which Pillow cannot write in colour. `values` (H, W, channels)."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    clear = chunk(b"tRNS", chunks) if chunks else b""
    data = chunk(b"IHDR", head) + clear + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)


def with_alpha(mode: str) -> Image.Image:
    """Corners whose upper right is clear, lower left half clear."""
    image = corners().convert(mode)
    alpha = np.full((64, 64), 255, np.uint8)
    alpha[:32, 32:], alpha[32:, :32] = 0, 128
    image.putalpha(Image.fromarray(alpha))
    return image


def swapped_profile() -> bytes:
    """sRGB with the tags of its red and green primaries exchanged, under another name: in it (255, 0, 0) is green."""
    data = SRGB
    for old, new in ((b"rXYZ", b"?XYZ"), (b"gXYZ", b"rXYZ"), (b"?XYZ", b"gXYZ"),
                     ("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be"))):
        data = data.replace(old, new)
    return data


def palette(clear=None):
    image = Image.new("P", (64, 64))
    image.putpalette([v for colour in CORNERS for v in colour])
    image.paste(1, (32, 0, 64, 32)), image.paste(2, (0, 32, 32, 64)), image.paste(3, (32, 32, 64, 64))
    return image, {} if clear is None else {"transparency": clear}


def frames():
    return dict(save_all=True, append_images=[Image.new("RGB", (64, 64), colour) for colour in ("white", "red")])


BITS = np.eye(2, dtype=np.uint8).repeat(32, 0).repeat(32, 1) * 255
GREYS = np.array([0, 0x4040, 0x8080, 0xFFFF]).reshape(2, 2, 1).repeat(32, 0).repeat(32, 1)
IN_GREY = [(0,) * 3, (0x40,) * 3, (0x80,) * 3, (255,) * 3]
CLEAR, OPAQUE = np.zeros_like(GREYS), np.full_like(GREYS, 0xFFFF)
COLOURS16 = np.array(corners()).astype(int) * 257
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
HALF_BLUE = (127, 127, 255)
TABLE = [  # what, file, how it is written, the four colours, tolerance
    ("RGB", "a.png", lambda p: corners().save(p), CORNERS, 0),
    ("JPEG", "a.jpg", lambda p: corners().save(p, quality=95), CORNERS, 8),
    ("WebP", "a.webp", lambda p: corners().save(p, lossless=True), CORNERS, 0),
    ("BMP", "a.bmp", lambda p: corners().save(p), CORNERS, 0),
    ("TIFF", "a.tif", lambda p: corners().save(p), CORNERS, 0),
    ("a JPEG whose ending says PNG", "a.png", lambda p: corners().save(p, "JPEG", quality=95), CORNERS, 8),
    ("alpha goes on white", "a.png", lambda p: with_alpha("RGB").save(p), (RED, WHITE, HALF_BLUE, BLACK), 1),
    ("alpha in WebP", "a.webp", lambda p: with_alpha("RGB").save(p, lossless=True), (RED, WHITE, HALF_BLUE, BLACK), 1),
    ("grey with alpha", "a.png", lambda p: with_alpha("L").save(p), ((76,) * 3, WHITE, (141,) * 3, BLACK), 2),
    ("grey", "a.png", lambda p: corners().convert("L").save(p), ((76,) * 3, (150,) * 3, (29,) * 3, BLACK), 1),
    ("black and white", "a.png", lambda p: Image.fromarray(BITS).convert("1").save(p), (WHITE, BLACK, BLACK, WHITE), 0),
    ("palette", "a.png", lambda p: palette()[0].save(p), CORNERS, 0),
    ("palette with a clear colour", "a.png",
     lambda p: palette()[0].save(p, transparency=1), (RED, WHITE, BLUE, BLACK), 0),
    ("palette with alpha for each colour", "a.png",
     lambda p: palette()[0].save(p, transparency=b"\xff\x00\x80\xff"), (RED, WHITE, HALF_BLUE, BLACK), 1),
    ("palette in GIF", "a.gif", lambda p: palette()[0].save(p, transparency=1), (RED, WHITE, BLUE, BLACK), 0),
    ("RGB with a clear colour", "a.png", lambda p: corners().save(p, transparency=GREEN), (RED, WHITE, BLUE, BLACK), 0),
    ("CMYK JPEG", "a.jpg", lambda p: corners().convert("CMYK").save(p, quality=95), CORNERS, 8),
    ("CMYK TIFF", "a.tiff", lambda p: corners().convert("CMYK").save(p), CORNERS, 1),
    ("16 bit grey", "a.png", lambda p: png16(p, 1, GREYS), IN_GREY, 0),
    ("16 bit grey with a clear value", "a.png",
     lambda p: png16(p, 1, GREYS, struct.pack(">H", 0x4040)), [BLACK, WHITE, GREY, WHITE], 0),
    ("16 bit grey TIFF", "a.tif", lambda p: Image.fromarray(GREYS[..., 0].astype(np.uint16)).save(p), IN_GREY, 0),
    ("16 bit grey with alpha", "a.png", lambda p: png16(p, 2, np.concatenate([GREYS, OPAQUE], 2)), IN_GREY, 0),
    ("16 bit RGB", "a.png", lambda p: png16(p, 3, COLOURS16), CORNERS, 0),
    ("16 bit RGBA", "a.png", lambda p: png16(p, 4, np.concatenate([COLOURS16, CLEAR], 2)), [WHITE] * 4, 0),
    ("a colour profile is used", "a.png",
     lambda p: corners().save(p, icc_profile=swapped_profile()), (GREEN, RED, BLUE, BLACK), 3),
    ("a colour profile with alpha", "a.png",
     lambda p: with_alpha("RGB").save(p, icc_profile=swapped_profile()), (GREEN, WHITE, HALF_BLUE, BLACK), 3),
    ("sRGB's own profile changes nothing", "a.png", lambda p: corners().save(p, icc_profile=SRGB), CORNERS, 0),
    ("1 x 1", "a.png", lambda p: Image.new("RGB", (1, 1), (10, 200, 30)).save(p), [(10, 200, 30)] * 4, 0),
    ("20,000 x 20", "a.png", lambda p: Image.new("RGB", (20_000, 20), GREEN).save(p), [GREEN] * 4, 0),
    ("20 x 20,000", "a.png", lambda p: Image.new("RGB", (20, 20_000), GREEN).save(p), [GREEN] * 4, 0),
]


@pytest.mark.parametrize("file, write, expected, tolerance", [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_a_picture_comes_out_as_rgb(tmp_path, file, write, expected, tolerance):
    write(tmp_path / file)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing to remark on any of these
        assert_colours(tmp_path / file, expected, tolerance)
    image = load_picture(tmp_path / file)
    assert image.mode == "RGB" and np.asarray(image).dtype == np.uint8


@pytest.mark.parametrize("ending", ["gif", "png", "webp", "tif"])
def test_of_an_animation_the_first_frame_is_used_and_that_is_said(tmp_path, ending):
    corners().save(tmp_path / f"a.{ending}", **frames(), **({"lossless": True} if ending == "webp" else {}))
    with pytest.warns(UserWarning, match="3 frames: the first is used"):
        assert_colours(tmp_path / f"a.{ending}", CORNERS, 0)


def test_a_damaged_profile_does_not_cost_the_picture(tmp_path):
    corners().save(tmp_path / "a.png", icc_profile=b"no profile")
    with pytest.warns(UserWarning, match="colour profile of .*a.png is damaged"):
        assert_colours(tmp_path / "a.png", CORNERS, 0)


# ---------------------------------------------------------------- size

def test_crop_takes_the_middle_and_pad_shows_the_whole(tmp_path):
    wide = Image.new("RGB", (96, 32), RED)
    wide.paste(GREEN, (32, 0, 64, 32))
    wide.save(tmp_path / "a.png")
    assert (seen(tmp_path / "a.png", "crop") == GREEN).all()
    pixels = seen(tmp_path / "a.png", "pad")
    assert (pixels[[0, 5, -6, -1]] == WHITE).all()
    assert tuple(pixels[16, 2]) == tuple(pixels[16, -3]) == RED and tuple(pixels[16, 16]) == GREEN
    Image.new("RGB", (20_000, 20), GREEN).save(tmp_path / "long.png")
    assert (seen(tmp_path / "long.png", "pad") != WHITE).any(2).sum() == SIZE  # a line of one pixel stays


def test_a_picture_of_next_to_no_pixels_is_remarked_on(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (20_000, 20)).save(path)
    with pytest.warns(UserWarning, match="enlarged 6 times for 128 x 128"):
        check_picture(path, 128, 128)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_picture(path, 128, 128, "pad")


# ---------------------------------------------------------------- what cannot be read

@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "bmp", "gif", "tif"])
def test_a_truncated_file_is_named(tmp_path, ending):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    whole, torn = tmp_path / f"whole.{ending}", tmp_path / f"torn.{ending}"
    noise.save(whole)
    for share in (0.02, 0.3, 0.9):
        torn.write_bytes(whole.read_bytes()[:int(share * whole.stat().st_size)])
        with pytest.raises(StyleBlendError, match=f"torn.{ending} cannot be read"):
            load_picture(torn)
        assert is_whole(whole) and not is_whole(torn)


CONTENTS = [
    (b"", "empty"), (b"\x89PNG\r\n\x1a\nrest", "damaged PNG"),
    (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"), (b"\0\0\0\x18ftypavif\0\0\0\0", "AVIF"),
    (b'<?xml version="1.0"?>\n<!-- drawn -->\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
    (b"%PDF-1.7", "PDF"), (b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript"),
    (b"<!DOCTYPE html><title>404</title>", "web page"), (b"PK\x03\x04", "ZIP"), (b"8BPS\0\1", "Photoshop"),
    (b"\xff\x0a\xff", "JPEG XL"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "Git LFS pointer"), (b"hello", "unknown kind"),
]


@pytest.mark.parametrize("content, kind", CONTENTS, ids=[kind for _, kind in CONTENTS])
def test_what_is_no_picture_is_said_to_be_what_it_is(tmp_path, content, kind):
    (tmp_path / "cat.png").write_bytes(content)
    with pytest.raises(StyleBlendError, match=f"cat.png cannot be read, it is .*{kind}"):
        load_picture(tmp_path / "cat.png")


def test_guessing_what_a_file_is_takes_no_time_on_a_hostile_one(tmp_path):
    (tmp_path / "a.png").write_bytes(b"<!>" * 341)  # a pattern that tries every way to split this never ends
    with pytest.raises(StyleBlendError, match="unknown kind"):
        load_picture(tmp_path / "a.png")


def test_32_bit_pictures_are_refused(tmp_path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(StyleBlendError, match="32 bits a channel"):
        load_picture(tmp_path / "a.tif")


# ---------------------------------------------------------------- the folder

@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "dots" / "images"
    folder.mkdir(parents=True)
    corners().save(folder / "red_apple.png")
    return folder


def test_what_systems_leave_behind_is_skipped(images):
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._red_apple.png", ".hidden.png"):
        (images / name).write_bytes(b"\0\5\26\7")
    (images / "old.png").mkdir()
    os.mkfifo(images / "pipe.png")  # opening it would wait for ever
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [p.path.name for p in style_pictures(images.parent)] == ["red_apple.png"]


@pytest.mark.parametrize("name, content, words", [
    ("boat.heic", b"\0\0\0\x18ftypheic", "boat.heic cannot be read here: save it as PNG"),
    ("boat.svg", b"<svg/>", "boat.svg cannot be read here"),
    ("boat.dat", b"<svg/>", "boat.dat is a SVG file, which cannot be read here"),
    ("boat.nef", b"II*\0", "boat.nef cannot be read here"),
    ("boat", b"\x89PNG\r\n\x1a\n", "boat is a PNG picture by its content: give it an ending"),
    ("red_apple.jpg", b"", "differ only in their endings"),
    ("Red_Apple.jpg", b"", "differ only in upper and lower case"),
])
def test_files_that_are_meant_as_pictures_are_not_passed_over(images, name, content, words):
    (images / name).write_bytes(content)
    with pytest.raises(StyleBlendError, match=words):
        style_pictures(images.parent)


def test_other_files_are_left_out_aloud(images):
    (images / "notes.md").write_text("from the museum")
    found = read_pictures(images.parent)
    assert len(found.pictures) == 1 and found.summary().endswith("; left out: notes.md")


def test_names_of_macos_are_found(images):
    """macOS writes a letter and its accent apart."""
    apart = "cafe\u0301"
    (images / "red_apple.png").rename(images / f"{apart}.png")
    (images / f"{composed(apart)}.txt").write_text("a small coffee house")
    assert [p.caption for p in style_pictures(images.parent)] == ["a small coffee house"]


# ---------------------------------------------------------------- contact sheets

def test_a_contact_sheet_takes_any_shape_and_label():
    cells = [("long " * 40, Image.new("RGB", (20_000, 20), RED)), ("猫 🐈 é", Image.new("RGB", (1, 1), GREEN))]
    sheet = np.asarray(contact_sheet([cells], cell=100, margin=8, line=16))
    assert (sheet[8:108, 8:108] == RED).all(2).sum() == 100 and (sheet[8:108, 116:216] == GREEN).all()
    assert (sheet[108:, 108:116] == 255).all()  # a long label stays in its own cell


# ---------------------------------------------------------------- in training

def refused(capsys, *argv) -> str:
    assert main([str(a) for a in argv]) == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_every_picture_is_read_to_its_end_before_the_first_training_begins(world, tmp_path, capsys):
    shutil.copytree(tmp_path / "data" / "dots", tmp_path / "data" / "zebra")
    torn = tmp_path / "data" / "zebra" / "images" / "boat.png"
    torn.write_bytes(torn.read_bytes()[:-500])
    assert "zebra/images/boat.png cannot be read" in refused(capsys, "train", "all", "--config", world)
    assert not (tmp_path / "adapters").exists() and not (tmp_path / "look").exists()


def test_fit_and_limit_are_settings_and_options(world, tmp_path, capsys):
    said = refused(capsys, "train", "fine", "--config", world, "--max-pixels", 1599)
    assert "40 x 40 pixels, more than 1,599" in said
    assert "--max-pixels: " in refused(capsys, "test", "--config", world, "--max-pixels", 0)
    settings = world.read_text()
    world.write_text(settings + "pictures: {max_pixels: 9}\n")
    assert "more than 9" in refused(capsys, "train", "fine", "--config", world)
    world.write_text(settings + "pictures: {fit: stretch}\n")
    assert "pictures.fit: " in refused(capsys, "train", "fine", "--config", world)
    world.write_text(settings)
    Image.new("RGB", (80, 40), RED).save(tmp_path / "data" / "dots" / "images" / "wide.png")
    assert main(["train", "fine", "--config", str(world), "--fit", "pad"]) == 0
    (tmp_path / "adapters" / "dots" / "dots_unet_lora.safetensors").unlink()
    assert "--overwrite" in refused(capsys, "train", "fine", "--config", world)  # a checkpoint of padded pictures


def test_the_latents_are_those_of_the_padded_picture(tiny_base, tmp_path):
    wide, square = Image.new("RGB", (64, 32), RED), Image.new("RGB", (64, 64), "white")
    square.paste(wide, (0, 16))
    wide.save(tmp_path / "wide.png"), square.save(tmp_path / "square.png")

    def latents(name, fit="crop"):
        return result_of(encode_pictures(tiny_base, [tmp_path / name], 64, 64, False, PictureSettings(fit=fit))).mean

    padded, cropped = latents("wide.png", "pad"), latents("wide.png")
    assert np.array_equal(padded, latents("square.png"))
    assert not np.allclose(padded, cropped)


def test_the_whole_way_with_pictures_captions_and_names_as_people_have_them(world, tmp_path, capsys):
    """A Mac's style folder, a press's JPEG, 16 bits, transparency; a caption with braces; a prompt that is no name."""
    folder = tmp_path / "data" / "cafe\u0301 noir"
    (tmp_path / "data" / "dots").rename(folder)
    for path in (folder / "images").iterdir():
        path.unlink()
    corners().convert("CMYK").save(folder / "images" / "red_apple.jpg")
    png16(folder / "images" / "猫.png", 1, GREYS)
    with_alpha("RGB").save(folder / "images" / "boat.png")
    (folder / "images" / "boat.txt").write_text("\ufeffa {boat}, at 50% of its speed", encoding="utf-8")
    (folder / "prompt.json").write_text('{"my-cat": "A cat: what else?", "1": "Owl"}')
    assert main(["train", "all", "--config", str(world), "--styles", "caf\u00e9 noir"]) == 0
    assert len(list((tmp_path / "look" / "caf\u00e9 noir").glob("*.png"))) == 6
    assert main(["test", "--config", str(world)]) == 0
    assert sorted(p.name for p in (tmp_path / "result" / "caf\u00e9 noir").iterdir()) == ["Owl.png", "my-cat.png"]
    assert "by their names where there is none (red_apple.jpg, 猫.png)" in capsys.readouterr().err
