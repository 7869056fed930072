"""A picture says how it was drawn, in words that other programs read, and is drawn again from that alone."""
import hashlib
import json
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.numpy import load_file

from styleblend.cli import main
from styleblend.errors import StyleBlendError
from styleblend.pipeline import Pipeline
from styleblend.record import CHUNK, Record, read_record
from styleblend.settings import BlendSettings, SamplingSettings
from styleblend.adapters.style import save_part
from styleblend.files.tensor_files import write_safetensors

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


def test_a_styles_own_guidance_draws_it(trained, tmp_path):
    """By test.py, generate and grid alike, as a config with that guidance would; an older picture without it is named."""
    generate = ["generate", "--config", str(trained), "--style", "dots", "--prompt", "A cat", "--output"]
    assert main(["test", "--config", str(trained), "--prompts", "1"]) == 0
    before = (tmp_path / "result" / "dots" / "Cat.png").read_bytes()
    (tmp_path / "adapters" / "dots" / "style.json").write_text('{"guidance": 6}')
    assert main([*generate, str(tmp_path / "one.png")]) == 0
    assert main(["grid", "dots", "--config", str(trained), "--x", "seed=2024", "--prompts", "Cat", "--output", str(tmp_path / "grid.png")]) == 0
    assert main(["test", "--config", str(trained), "--prompts", "1", "--overwrite"]) == 0
    after = np.asarray(Image.open(tmp_path / "result" / "dots" / "Cat.png"), int)
    trained.write_text(trained.read_text().replace("guidance: 3.0", "guidance: 6.0"))
    (tmp_path / "adapters" / "dots" / "style.json").unlink()
    assert main([*generate, str(tmp_path / "two.png")]) == 0
    one, two = (np.asarray(Image.open(tmp_path / name), int) for name in ("one.png", "two.png"))
    assert np.array_equal(one, two) and np.abs(one - after).max() <= 1 and (tmp_path / "result" / "dots" / "Cat.png").read_bytes() != before
    assert read_record(tmp_path / "one.png").sampling.guidance == read_record(tmp_path / "result" / "dots" / "Cat.png").sampling.guidance == 6
    sheet = np.asarray(Image.open(tmp_path / "grid.png").convert("RGB"), int)
    assert any(np.abs(sheet[y:y + 64, x:x + 64] - one).max() <= 1 for y in range(sheet.shape[0] - 63) for x in range(sheet.shape[1] - 63))


def test_another_style_or_base_is_refused(trained, tmp_path, tiny_style, capsys):
    picture = tmp_path / "first.png"
    assert main(["generate", "--config", str(trained), "--style", "dots", "--prompt", "A cat", "--output", str(picture)]) == 0
    save_part(tmp_path / "adapters" / "dots", "dots", "fine_embeds", {"<F>": tiny_style.parts["fine_embeds"] + 1}, {})
    assert main(["generate", "--config", str(trained), "--from", str(picture), "--output", str(tmp_path / "no.png")]) == 2
    assert "another style" in capsys.readouterr().err and not (tmp_path / "no.png").exists()


def test_another_autoencoder_is_refused_too(trained, tmp_path, tiny_folder, capsys):
    """It fits the same adapters, and yet other pictures come out."""
    picture, base = tmp_path / "first.png", tmp_path / "other-base"
    assert main(["generate", "--config", str(trained), "--style", "dots", "--prompt", "A cat", "--output", str(picture)]) == 0
    shutil.copytree(tiny_folder, base)
    path = base / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    write_safetensors(path, {**tensors, "decoder.conv_out.weight": tensors["decoder.conv_out.weight"] * 2})
    trained.write_text(json.dumps({**yaml.safe_load(trained.read_text()), "base": str(base)}))
    again = ["generate", "--config", str(trained), "--from", str(picture), "--output", str(tmp_path / "no.png")]
    assert main(again) == 2
    assert "another autoencoder" in capsys.readouterr().err and not (tmp_path / "no.png").exists()
    write_safetensors(path, tensors)
    assert main(again) == 0


def test_a1111_reads_the_last_line():
    """Prompt, negative prompt, then "key: value" pairs between commas; what holds a comma is quoted."""
    prompt, negative, last = RECORD.chunks()["parameters"].split("\n")
    assert prompt.startswith("A cat, sitting") and negative == "Negative prompt: blur"
    pairs = dict(pair.split(": ", 1) for pair in last.split(", "))
    assert (pairs["Steps"], pairs["Seed"], pairs["Size"], pairs["Sampler"], pairs["StyleBlend c2f"]) == ("5", "7", "768x768", "DDIM", "0.8 at 4 5")


def test_a_picture_names_what_it_was_drawn_with(trained, tmp_path):
    """The files as sha256sum prints them, the preset, and the libraries that its numbers come from."""
    folder = tmp_path / "adapters" / "dots"
    (folder / "style.json").write_text('{"preset": "strong_layout"}')
    assert main(["test", "--config", str(trained)]) == 0
    record = read_record(tmp_path / "result" / "dots" / "Cat.png")
    assert record.preset == "strong_layout" and {"jittor", "transformers"} <= set(record.libraries)
    assert record.adapters == {part: hashlib.sha256((folder / f"dots_{stem}.safetensors").read_bytes()).hexdigest()[:16] for part, stem in (
        ("coarse_embeds", "coarse_style_embeds"), ("fine_embeds", "fine_style_embeds"), ("text_lora", "text_encoder_lora"), ("unet_lora", "unet_lora"))}


def test_an_older_picture_says_less_and_is_drawn_again(trained, tmp_path, capsys):
    assert main(["test", "--config", str(trained), "--prompts", "Cat"]) == 0
    path = tmp_path / "result" / "dots" / "Cat.png"
    data, info = json.loads(Image.open(path).info[CHUNK]), PngInfo()
    info.add_text(CHUNK, json.dumps({key: value for key, value in data.items() if key not in ("preset", "adapters", "libraries", "decoder")}))
    Image.open(path).save(tmp_path / "old.png", pnginfo=info)
    assert main(["generate", "--config", str(trained), "--from", str(tmp_path / "old.png"), "--output", str(tmp_path / "new.png")]) == 0
    assert read_record(tmp_path / "new.png").adapters == read_record(path).adapters
    assert "does not say with which autoencoder" in capsys.readouterr().err and read_record(tmp_path / "new.png").decoder == read_record(path).decoder


def test_drawing_again_with_changes_and_beside_the_picture(trained, tmp_path, monkeypatch, capsys):
    """Neither the default name nor --output takes the picture that is drawn again; what is asked for beside --from is done."""
    monkeypatch.chdir(tmp_path)
    draw = ["generate", "--config", str(trained)]
    assert main([*draw, "--style", "dots", "--prompt", "A cat"]) == 0
    before = (tmp_path / "picture.png").read_bytes()
    assert read_record("picture.png").seed == 2024
    assert main([*draw, "--from", "picture.png"]) == 0
    assert (tmp_path / "picture.png").read_bytes() == before and read_record("picture-again.png") == read_record("picture.png")
    assert main([*draw, "--from", "picture.png", "--output", "./picture.png"]) == 2
    assert "choose another --output" in capsys.readouterr().err and (tmp_path / "picture.png").read_bytes() == before
    assert main([*draw, "--from", "picture.png", "--seed", "5", "--prompt", "An owl", "--strength", "0.5", "--output", "other.png"]) == 0
    other = read_record("other.png")
    assert (other.seed, other.prompt, other.blend.fine_scale) == (5, "An owl", 0.5)
    assert main([*draw, "--style", "dots", "--prompt", "An owl", "--seed", "5", "--strength", "0.5", "--output", "same.png"]) == 0
    assert (tmp_path / "same.png").read_bytes() == (tmp_path / "other.png").read_bytes()


def test_old_pictures_of_a_board_are_named_with_the_cure(trained, tmp_path, capsys):
    """After another training, and with other settings; --batch makes no other picture."""
    def said(*more):
        capsys.readouterr()
        assert main(["test", "--config", str(trained), *more]) == 0
        return [line for line in capsys.readouterr().err.splitlines() if "kept, although" in line]

    folder = tmp_path / "adapters" / "dots"
    assert said() == [] and said("--batch", "1") == []
    (folder / "style.json").write_text('{"blend": {"scale": 0.9}, "seeds": {"Owl": 3}}')
    assert said() == ["styleblend: kept, although drawn with other blend settings, seeds than now: dots/Cat.png, dots/Owl.png; --overwrite draws again what is there"]
    assert said("--overwrite") == [] and said() == []
    weights = (folder / "dots_fine_style_embeds.safetensors").read_bytes()
    (folder / "dots_fine_style_embeds.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    (tmp_path / "result" / "dots" / "Owl.png").unlink()
    assert said() == ["styleblend: kept, although drawn with other adapters than now: dots/Cat.png; --overwrite draws again what is there"]
    (tmp_path / "result" / "dots" / "Cat.png").write_bytes((tmp_path / "data" / "dots" / "images" / "boat.png").read_bytes())  # not drawn here
    assert said() == []


def test_an_overwrite_that_is_stopped_leaves_no_old_pictures(trained, tmp_path, monkeypatch, capsys):
    """So that the same command without --overwrite, as the sentence says, ends in new pictures alone."""
    trained.write_text(trained.read_text().replace("batch: 2", "batch: 1"))
    assert main(["test", "--config", str(trained)]) == 0
    (tmp_path / "adapters" / "dots" / "style.json").write_text('{"blend": {"scale": 0.9}}')
    draw = Pipeline.draw

    def stopped(self, request, *more, **named):
        if request.prompts == ("An owl",):
            raise KeyboardInterrupt
        return draw(self, request, *more, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "draw", stopped)
        assert main(["test", "--config", str(trained), "--overwrite"]) == 130
    assert "without --overwrite" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "result" / "dots").glob("*.png")] == ["Cat.png"]
    assert main(["test", "--config", str(trained)]) == 0
    assert "kept, although" not in capsys.readouterr().err
    assert all(read_record(p).blend.scale == 0.9 for p in (tmp_path / "result" / "dots").glob("*.png"))


def test_an_overwrite_that_cannot_begin_removes_nothing(trained, tmp_path, capsys):
    assert main(["test", "--config", str(trained)]) == 0
    (tmp_path / "adapters" / "dots" / "dots_unet_lora.safetensors").unlink()
    assert main(["test", "--config", str(trained), "--styles", "dots", "--overwrite"]) == 2
    assert "train_fine_style.sh" in capsys.readouterr().err and len(list((tmp_path / "result" / "dots").glob("*.png"))) == 2


@pytest.mark.parametrize("change", [dict(seed=1 << 63), dict(seed=-1), dict(prompt="a\u0007"), dict(prompt="\ud800"), dict(adapters=[]), dict(preset=3), dict(libraries=None),
                                    *(dict(sampling={"width": size}) for size in (1 << 20, 8192)), dict(sampling={"height": 10 ** 9}), dict(sampling={"output": 10 ** 9}), dict(seed="x"), dict(extra=1), dict(dtype="float64"), dict(blend={"scalee": 1}), dict(sampling=None)])
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
