"""Files of the page: what a browser names is opened only where an upload put it, and is checked as everywhere."""
import numpy as np
import pytest
from PIL import Image

from styleblend.errors import StyleBlendError
from styleblend.settings import read_settings
from styleblend.ui.folders import history, kept_references, new_style_pictures, uploaded


@pytest.fixture
def uploads(tmp_path):
    folder = tmp_path / "uploads" / "abc"
    folder.mkdir(parents=True)
    for number, name in enumerate(("red_apple", "boat")):
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (40, 40, 3), np.uint8)).save(
            folder / f"{name}.png")
    return tmp_path / "uploads"


def test_only_what_was_uploaded_is_opened(uploads, tmp_path):
    inside = str(uploads / "abc" / "boat.png")
    assert [path.name for path in uploaded([inside], uploads)] == ["boat.png"]
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    (uploads / "abc" / "link.png").symlink_to(secret)
    for path in (secret, "/etc/passwd", f"{uploads}/abc/../../secret.png", uploads / "abc" / "link.png", uploads,
                 uploads / "abc" / "none.png", ""):
        with pytest.raises(StyleBlendError, match="was not uploaded"):
            uploaded([str(path)], uploads)
    with pytest.raises(StyleBlendError, match="too many"):
        uploaded([inside] * 41, uploads)


@pytest.mark.parametrize("name", ["../other", "a/b", "..", "", " ", ".hidden", "con", "a\0b", "x" * 300, "/etc"])
def test_a_name_never_leads_out_of_the_data_folder(world, uploads, tmp_path, name):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StyleBlendError):
        new_style_pictures(name, uploaded([str(uploads / "abc" / "boat.png")], uploads), read_settings(world))
    assert sorted(tmp_path.rglob("*")) == before


def test_pictures_become_a_style(world, uploads):
    settings, files = read_settings(world), sorted((uploads / "abc").iterdir())
    found = new_style_pictures("new", files, settings)
    assert [path.name for path in found] == ["boat.png", "red_apple.png"]
    assert new_style_pictures("new", files[:1], settings) == found  # the same picture again
    other = uploads / "abc" / "other"
    other.mkdir()
    Image.new("RGB", (30, 30)).save(other / "boat.png")
    assert len(new_style_pictures("new", [other / "boat.png"], settings)) == 3


def test_a_hundred_megapixels_and_what_is_no_picture_are_refused(world, uploads):
    settings, bomb, fake = read_settings(world), uploads / "abc" / "bomb.png", uploads / "abc" / "fake.png"
    Image.new("1", (10_000, 10_000)).save(bomb)
    fake.write_bytes(b"\x80\x04\x95cos\nsystem\n.")
    for path, words in ((bomb, "more than 64,000,000"), (fake, "cannot be read")):
        for take in (lambda: kept_references([path], settings), lambda: new_style_pictures("new", [path], settings)):
            with pytest.raises(StyleBlendError, match=words):
                take()


def test_a_reference_is_kept_once_beside_the_pictures(world, uploads):
    settings, file = read_settings(world), uploads / "abc" / "boat.png"
    [kept] = kept_references([file], settings)
    assert kept_references([file], settings) == [kept] and kept.startswith(settings.output)


def test_the_history_is_what_was_drawn_here(world, tmp_path):
    from styleblend.cli import main
    for prompt in ("A red cat", "A blue boat"):
        assert main(["draw", "--config", str(world), "--prompt", prompt, "--output",
                     str(tmp_path / "result" / f"{prompt}.png")]) == 0
    Image.new("RGB", (8, 8)).save(tmp_path / "result" / "strange.png")
    (tmp_path / "result" / "broken.png").write_bytes(b"\x89PNG")
    settings = read_settings(world)
    assert [one.record.prompt for one in history(settings)] == ["A blue boat", "A red cat"]
    assert [one.record.prompt for one in history(settings, "CAT red")] == ["A red cat"]
    assert history(settings, "owl") == [] and history(settings, style="dots") == []
