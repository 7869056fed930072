"""A picture says how it was drawn, in words that other programs read, and is drawn again from that alone."""
import json

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from styleblend.cli import main
from styleblend.errors import StyleBlendError
from styleblend.record import CHUNK, Record, read_record
from styleblend.settings import BlendSettings, SamplingSettings
from styleblend.style import save_part

RECORD = Record("A cat, sitting", 7, "dots", "0123456789", "ab" * 8, SamplingSettings(steps=5), BlendSettings(c2f_sites=[4, 5]))


def test_a_picture_is_drawn_again(trained, tmp_path):
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    assert main(["generate", "--config", str(trained), "--style", "dots", "--prompt", "A cat, sitting", "--seed", "5", "--output", str(first)]) == 0
    trained.write_text(trained.read_text().replace("guidance: 3.0", "guidance: 5.0"))  # the picture's own settings count
    assert main(["generate", "--config", str(trained), "--from", str(first), "--output", str(second)]) == 0
    assert read_record(first) == read_record(second) and read_record(first).sampling.guidance == 3.0
    assert np.abs(np.asarray(Image.open(first), int) - np.asarray(Image.open(second), int)).max() <= 1
    assert main(["test", "--config", str(trained)]) == 0
    assert read_record(tmp_path / "result" / "dots" / "Cat.png").prompt == "A cat"


def test_another_style_or_base_is_refused(trained, tmp_path, tiny_style, capsys):
    picture = tmp_path / "first.png"
    assert main(["generate", "--config", str(trained), "--style", "dots", "--prompt", "A cat", "--output", str(picture)]) == 0
    save_part(tmp_path / "adapters" / "dots", "dots", "fine_embeds", {"<F>": tiny_style.fine + 1}, {})
    assert main(["generate", "--config", str(trained), "--from", str(picture), "--output", str(tmp_path / "no.png")]) == 2
    assert "another style" in capsys.readouterr().err and not (tmp_path / "no.png").exists()


def test_a1111_reads_the_last_line():
    """Prompt, negative prompt, then "key: value" pairs between commas; what holds a comma is quoted."""
    prompt, negative, last = RECORD.chunks()["parameters"].split("\n")
    assert prompt.startswith("A cat, sitting") and negative == "Negative prompt: blur"
    pairs = dict(pair.split(": ", 1) for pair in last.split(", "))
    assert (pairs["Steps"], pairs["Seed"], pairs["Size"], pairs["Sampler"], pairs["StyleBlend c2f"]) == ("5", "7", "768x768", "DDIM", "0.8 at 4 5")


@pytest.mark.parametrize("change", [dict(seed="x"), dict(extra=1), dict(dtype="float64"), dict(blend={"scalee": 1}), dict(sampling=None)])
def test_a_damaged_record_is_refused(change, tmp_path):
    data, info = json.loads(RECORD.chunks()[CHUNK]), PngInfo()
    info.add_text(CHUNK, json.dumps({**data, **change}))
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", pnginfo=info)
    with pytest.raises(StyleBlendError):
        read_record(tmp_path / "a.png")


def test_a_picture_without_record_is_refused(tmp_path, capsys):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    assert main(["generate", "--from", str(tmp_path / "a.png")]) == 2
    assert "does not say how it was drawn" in capsys.readouterr().err
    assert main(["generate"]) == 2
    assert "--style and --prompt" in capsys.readouterr().err
