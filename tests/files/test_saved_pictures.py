"""A picture has the format that its name says, and says in each of them how it was made."""
import numpy as np
import pytest
from PIL import Image

from styleblend.errors import StyleBlendError
from styleblend.files.saved_pictures import format_of, refuse_unsaved, save_picture, texts_of

TEXTS = {"parameters": "A café, 兔子 🐰.\nSteps: 30", "styleblend": '{"prompt": "A \\"café\\", 兔子 🐰\\n", "seed": 7}'}


@pytest.fixture
def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8))


@pytest.mark.parametrize("name, kind", [("a.png", "PNG"), ("a.PNG", "PNG"), ("a.jpg", "JPEG"), ("a.JPeG", "JPEG"),
                                        ("a.b.webp", "WEBP")])
def test_the_format_is_that_of_the_name(tmp_path, picture, name, kind):
    path = save_picture(tmp_path / name, picture, TEXTS)
    with Image.open(path) as image:
        assert (path.name, image.format, image.size) == (name, kind, (32, 24))
        assert texts_of(image)["styleblend"] == TEXTS["styleblend"]
        difference = np.abs(np.asarray(image, int) - np.asarray(picture, int))
    assert difference.max() == 0 if kind != "JPEG" else difference.mean() < 8  # noise is the worst for a JPEG


@pytest.mark.parametrize("name", ["a.jpg", "a.webp"])
def test_other_programs_find_the_parameters_as_a_comment(tmp_path, picture, name):
    """As A1111 writes them: Exif's user comment, in UTF-16."""
    with Image.open(save_picture(tmp_path / name, picture, TEXTS)) as image:
        comment = image.getexif().get_ifd(0x8769)[0x9286]
    assert comment[:8] == b"UNICODE\0" and comment[8:].decode("utf-16-be") == TEXTS["parameters"]


@pytest.mark.parametrize("name", ["a", "a.bmp", "a.gif", "a.tif", "a.png.txt", "Mr. Fox", "a.", ".png", "a.heic"])
def test_a_name_that_says_another_format_or_none_is_refused(tmp_path, picture, name):
    with pytest.raises(StyleBlendError, match="end it in .png, .jpg, .jpeg or .webp"):
        save_picture(tmp_path / name, picture)
    assert not list(tmp_path.iterdir())


def test_what_a_format_cannot_hold_is_refused():
    for name in ("a.jpg", "a.webp", "a.png"):
        refuse_unsaved(name, (4096, 4096), TEXTS)
    refuse_unsaved("a.png", (1000, 700_000), {"styleblend": "long" * 100_000})
    with pytest.raises(StyleBlendError, match="more than a WEBP file holds: name a .png"):
        refuse_unsaved("a.webp", (1000, 20_000), {})
    with pytest.raises(StyleBlendError, match="more than a JPEG file holds"):
        refuse_unsaved("a.jpg", (1000, 70_000), {})
    with pytest.raises(StyleBlendError, match="prompt is too long"):
        refuse_unsaved("a.jpg", (64, 64), {"parameters": "long " * 10_000})


def test_a_name_that_was_taken_meanwhile_costs_no_picture(tmp_path, picture):
    first = save_picture(tmp_path / "a.png", picture, replace=False)
    second = save_picture(tmp_path / "a.png", picture.rotate(180), replace=False)
    assert (first.name, second.name) == ("a.png", "a-2.png")
    assert np.array_equal(np.asarray(Image.open(first)), np.asarray(picture))


@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.bmp"])
def test_pictures_of_others_have_no_texts_of_ours(tmp_path, picture, name):
    picture.save(tmp_path / name)
    exif = Image.Exif()
    exif[0x010E] = "a holiday"
    picture.save(tmp_path / "described.jpg", exif=exif)
    for path in (tmp_path / name, tmp_path / "described.jpg"):
        with Image.open(path) as image:
            assert texts_of(image) == {}
    assert format_of("x.jpg") == "JPEG"
