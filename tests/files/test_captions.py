"""What a style picture shows: where it is read from, which source wins, and what is refused."""
from __future__ import annotations

import json
import os
import warnings

import pytest
from PIL import Image

from styleblend.files.captions import read_pictures, style_pictures
from styleblend.errors import StyleBlendError


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "dots" / "images"
    folder.mkdir(parents=True)
    for name in ("boat", "red_apple"):
        Image.new("RGB", (8, 8)).save(folder / f"{name}.png")
    return folder


def metadata(images, *lines) -> None:
    (images / "metadata.jsonl").write_text("\n".join(line if isinstance(line, str) else json.dumps(line)
                                                     for line in lines), encoding="utf-8")


def captions(images) -> dict:
    return {p.path.stem: p.caption for p in style_pictures(images.parent)}


def test_a_file_name_gets_an_article_and_a_written_caption_stands_as_it_is(images):
    assert [(p.caption, p.phrase) for p in style_pictures(images.parent)] == [
        ("boat", "A boat"), ("red apple", "A red apple")]
    (images / "boat.txt").write_text("  Two boats\nat   Night. \n")
    (images / "red_apple.txt").write_text("apples")
    assert [p.phrase for p in style_pictures(images.parent)] == ["Two boats at Night", "apples"]


def test_text_beats_metadata_beats_the_file_name(images):
    metadata(images, {"file_name": "boat.png", "text": "from metadata", "other": 1}, "",
             {"file_name": "red_apple.png", "text": "from metadata"})
    (images / "boat.txt").write_text("from text")
    assert captions(images) == {"boat": "from text", "red_apple": "from metadata"}


def test_a_picture_that_is_forgotten_is_remarked_on(images):
    (images / "boat.txt").write_text("a ship")
    assert captions(images) == {"boat": "a ship", "red_apple": "red apple"}
    assert read_pictures(images.parent).summary() == (
        "2 pictures, told by captions, by their names where there is none (red_apple.png)")


def test_a_caption_without_a_picture_is_remarked_on(images):
    (images / "boot.txt").write_text("a ship")
    assert read_pictures(images.parent).summary() == (
        "2 pictures, told by their names; left out: boot.txt, which has no picture of its name")


@pytest.mark.parametrize("text", ["\ufeffa cat", "猫 🐈‍⬛ café", "cafe\u0301"],
                         ids=["byte order mark", "emoji and CJK", "accent apart"])
def test_unicode(images, text):
    for name in ("boat", "red_apple"):
        (images / f"{name}.txt").write_text(text, encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert captions(images)["boat"] == {"\ufeffa cat": "a cat", "cafe\u0301": "caf\u00e9"}.get(text, text)


@pytest.mark.parametrize("content, words", [
    (b"", "boat.txt says nothing"), (b" \n.\n", "boat.txt says nothing"),
    ("a cat".encode("utf-16"), "boat.txt is UTF-16 text: save it as UTF-8"),
    (b"caf\xe9", r"boat.txt is not UTF-8 text \(byte 3 is 0xe9\)"),
    (b"a\x07cat", r"boat.txt holds the control character U\+0007"),
    (b"\x89PNG\r\n\x1a\n", "boat.txt is not UTF-8 text"), (b"x" * (1 << 20) + b"x", "boat.txt is larger than 1 MiB"),
    ("\u202etac".encode(), r"U\+202E"),
], ids=str)
def test_bad_caption_files(images, content, words):
    (images / "boat.txt").write_bytes(content)
    with pytest.raises(StyleBlendError, match=words):
        captions(images)


@pytest.mark.parametrize("line, words", [
    ("{", "is no JSON"), ("[" * 99_999, "nested too deep"), ("[]", "should be like"),
    ('{"file_name": "boat.png"}', "should be like"), ('{"file_name": "boat.png", "text": 3}', "should be like"),
    ('{"file_name": "boat.png", "text": "a", "text": "b"}', "twice"),
    ({"file_name": "ship.png", "text": "a"}, "names 'ship.png', which is no picture"),
    ({"file_name": "../boat.png", "text": "a"}, "names '../boat.png', which is no"),
    ({"file_name": "boat.png", "text": " "}, "text says nothing"),
    ({"file_name": "boat.png", "text": "a\u0000"}, r"U\+0000"),
    ({"file_name": "red_apple.png", "text": "again"}, "a second time"),
], ids=lambda x: str(x)[:40])
def test_a_bad_metadata_line_is_named(images, line, words):
    metadata(images, {"file_name": "red_apple.png", "text": "an apple"}, "", line)
    with pytest.raises(StyleBlendError, match="metadata.jsonl, line 3.*" + words):
        captions(images)


@pytest.mark.parametrize("name, words", [("_.png", "says nothing"), ("a\nb.png", r"U\+000A"),
                                         (b"a\xff.png", "U\\+DCFF")])
def test_names_that_are_no_captions(images, name, words):
    with open(os.path.join(os.fsencode(images), os.fsencode(name)), "wb"):
        pass
    with pytest.raises(StyleBlendError, match=words):
        captions(images)
