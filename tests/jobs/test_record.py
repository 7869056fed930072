"""A picture says how it was drawn, in words that other programs read, and is drawn again from that alone."""
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

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

RECORD = Record("A cat, sitting", 7, "dots", "0123456789", "ab" * 8, SamplingSettings(steps=5),
                BlendSettings(c2f_sites=[4, 5]))
DRAWN_BEFORE = Path(__file__).parents[1] / "data" / "same_pictures"  # by an earlier version
OLD_PICTURES = [path for path in sorted(DRAWN_BEFORE.glob("*.png")) if path.stem != "grid"]


def saved(path: Path, record: dict) -> Path:
    """A picture that says this of itself."""
    info = PngInfo()
    info.add_text(CHUNK, json.dumps(record))
    Image.new("RGB", (4, 4)).save(path, pnginfo=info)
    return path


def test_a_picture_is_drawn_again(trained, tmp_path):
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    generate = ["generate", "--config", str(trained)]
    new = ["--style", "dots", "--prompt", "A cat, sitting", "--seed", "5"]
    assert main([*generate, *new, "--output", str(first)]) == 0
    # the picture's own settings count
    trained.write_text(trained.read_text().replace("guidance: 3.0", "guidance: 5.0"))
    assert main([*generate, "--from", str(first), "--output", str(second)]) == 0
    assert read_record(first) == read_record(second) and read_record(first).sampling.guidance == 3.0
    assert np.abs(np.asarray(Image.open(first), int) - np.asarray(Image.open(second), int)).max() <= 1
    assert main(["test", "--config", str(trained)]) == 0
    assert read_record(tmp_path / "result" / "dots" / "Cat.png").prompt == "A cat"


def test_a_styles_own_guidance_draws_it(trained, tmp_path):
    """By test.py, generate and grid alike, as a config with that guidance would; an older picture is named."""
    drawn = tmp_path / "result" / "dots" / "Cat.png"
    generate = ["generate", "--config", str(trained), "--style", "dots", "--prompt", "A cat", "--output"]
    assert main(["test", "--config", str(trained), "--prompts", "1"]) == 0
    before = drawn.read_bytes()
    (tmp_path / "adapters" / "dots" / "style.json").write_text('{"guidance": 6}')
    assert main([*generate, str(tmp_path / "one.png")]) == 0
    assert main(["grid", "dots", "--config", str(trained), "--x", "seed=2024", "--prompts", "Cat",
                 "--output", str(tmp_path / "grid.png")]) == 0
    assert main(["test", "--config", str(trained), "--prompts", "1", "--overwrite"]) == 0
    after = np.asarray(Image.open(drawn), int)
    trained.write_text(trained.read_text().replace("guidance: 3.0", "guidance: 6.0"))
    (tmp_path / "adapters" / "dots" / "style.json").unlink()
    assert main([*generate, str(tmp_path / "two.png")]) == 0
    one, two = (np.asarray(Image.open(tmp_path / name), int) for name in ("one.png", "two.png"))
    assert np.array_equal(one, two) and np.abs(one - after).max() <= 1 and drawn.read_bytes() != before
    assert read_record(tmp_path / "one.png").sampling.guidance == read_record(drawn).sampling.guidance == 6
    sheet = np.asarray(Image.open(tmp_path / "grid.png").convert("RGB"), int)
    assert any(np.abs(sheet[y:y + 64, x:x + 64] - one).max() <= 1
               for y in range(sheet.shape[0] - 63) for x in range(sheet.shape[1] - 63))


def test_another_style_or_base_is_refused(trained, tmp_path, tiny_style, capsys):
    picture, generate = tmp_path / "first.png", ["generate", "--config", str(trained)]
    assert main([*generate, "--style", "dots", "--prompt", "A cat", "--output", str(picture)]) == 0
    save_part(tmp_path / "adapters" / "dots", "dots", "fine_embeds", {"<F>": tiny_style.parts["fine_embeds"] + 1}, {})
    assert main([*generate, "--from", str(picture), "--output", str(tmp_path / "no.png")]) == 2
    assert "another style" in capsys.readouterr().err and not (tmp_path / "no.png").exists()


def test_another_autoencoder_is_refused_too(trained, tmp_path, tiny_folder, capsys):
    """It fits the same adapters, and yet other pictures come out."""
    picture, base, generate = tmp_path / "first.png", tmp_path / "other-base", ["generate", "--config", str(trained)]
    assert main([*generate, "--style", "dots", "--prompt", "A cat", "--output", str(picture)]) == 0
    shutil.copytree(tiny_folder, base)
    path = base / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    write_safetensors(path, {**tensors, "decoder.conv_out.weight": tensors["decoder.conv_out.weight"] * 2})
    trained.write_text(json.dumps({**yaml.safe_load(trained.read_text()), "base": str(base)}))
    again = [*generate, "--from", str(picture), "--output", str(tmp_path / "no.png")]
    assert main(again) == 2
    assert "another autoencoder" in capsys.readouterr().err and not (tmp_path / "no.png").exists()
    write_safetensors(path, tensors)
    assert main(again) == 0


def test_a1111_reads_the_last_line():
    """Prompt, negative prompt, then "key: value" pairs between commas; what holds a comma is quoted."""
    prompt, negative, last = RECORD.chunks()["parameters"].split("\n")
    assert prompt.startswith("A cat, sitting") and negative == "Negative prompt: blur"
    pairs = dict(pair.split(": ", 1) for pair in last.split(", "))
    assert (pairs["Steps"], pairs["Seed"], pairs["Size"], pairs["Sampler"]) == ("5", "7", "768x768", "DDIM")
    assert pairs["StyleBlend c2f"] == "0.8 at 4 5"


@pytest.mark.parametrize("path", OLD_PICTURES, ids=lambda path: path.stem)
def test_a_picture_of_an_earlier_version_says_the_same_today(path):
    """It is read as one of StyleBlend, and written again it says to other programs what it said, to the letter."""
    info, record = Image.open(path).info, read_record(path)
    old, new = json.loads(info[CHUNK]), json.loads(record.chunks()[CHUNK])
    assert record.chunks()["parameters"] == info["parameters"]
    assert "method" not in old and (record.method, new.pop("method")) == ("styleblend", "styleblend")
    old["sampling"]["saved_size"] = old["sampling"].pop("output")
    # settings that came later: guidance in all steps, and all of the UNet
    old["sampling"].update(guidance_start=0.0, guidance_end=1.0, cache_interval=1, cache_branch_id=0)
    assert new == old and record.settings == BlendSettings(**old["blend"])
    assert "Sampler: Euler," in info["parameters"] or path.stem != "openmoji-euler"


def test_noise_that_an_old_picture_asked_for_in_vain(tmp_path):
    """Euler adds none and said nothing, so the picture is drawn again without; today it would be refused."""
    old = json.loads(Image.open(DRAWN_BEFORE / "openmoji-euler.png").info[CHUNK])
    old["sampling"]["eta"] = 0.5
    assert read_record(saved(tmp_path / "old.png", old)).sampling.eta == 0
    with pytest.raises(StyleBlendError, match="euler adds no noise"):
        read_record(saved(tmp_path / "new.png", {**old, "method": "styleblend"}))


def test_a_picture_of_a_method_that_is_not_known(tmp_path):
    data = {**json.loads(RECORD.chunks()[CHUNK]), "method": "dream"}
    with pytest.raises(StyleBlendError, match="was drawn by the method dream; this version knows styleblend"):
        read_record(saved(tmp_path / "a.png", data))


def test_a_site_that_the_base_does_not_have_is_refused(trained, tmp_path, capsys):
    """In a style's settings and in a picture's record alike, and nothing is written."""
    picture, generate = tmp_path / "first.png", ["generate", "--config", str(trained)]
    assert main([*generate, "--style", "dots", "--prompt", "A cat", "--output", str(picture)]) == 0
    record = read_record(picture)
    other = replace(record, settings=record.settings.model_copy(update={"f2c_sites": [0, 99]}))
    saved(picture, json.loads(other.chunks()[CHUNK]))
    words = "f2c_sites has site 99, and the UNet of this base has self-attention sites 0 to 15"
    assert main([*generate, "--from", str(picture), "--output", str(tmp_path / "no.png")]) == 2
    assert words in capsys.readouterr().err
    (tmp_path / "adapters" / "dots" / "style.json").write_text('{"blend": {"f2c_sites": [0, 99]}}')
    assert main(["test", "--config", str(trained)]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "no.png").exists() and not list((tmp_path / "result").glob("dots/*.png"))


@pytest.mark.parametrize("typed, drawn", [
    ("Wait...", "Wait..."), ("Wait.", "Wait"), (" A cat on a boat. ", "A cat on a boat")])
def test_generate_and_test_draw_the_same_of_a_prompt(trained, tmp_path, typed, drawn):
    """A full stop is put in behind the style; an ellipsis is text. Drawing again takes the phrase as it is."""
    one, again, generate = tmp_path / "one.png", tmp_path / "again.png", ["generate", "--config", str(trained)]
    (tmp_path / "data" / "dots" / "prompt.json").write_text(json.dumps({"it": typed}))
    assert main(["test", "--config", str(trained)]) == 0
    assert main([*generate, "--style", "dots", "--prompt", typed, "--output", str(one)]) == 0
    assert main([*generate, "--from", str(tmp_path / "result" / "dots" / "it.png"), "--output", str(again)]) == 0
    records = [read_record(path) for path in (tmp_path / "result" / "dots" / "it.png", one, again)]
    assert [record.prompt for record in records] == [drawn] * 3 and records[0] == records[1] == records[2]
    assert np.array_equal(*(np.asarray(Image.open(path)) for path in (one, again)))


def test_a_picture_names_what_it_was_drawn_with(trained, tmp_path):
    """The files as sha256sum prints them, the preset, and the libraries that its numbers come from."""
    folder = tmp_path / "adapters" / "dots"
    (folder / "style.json").write_text('{"preset": "strong_layout"}')
    assert main(["test", "--config", str(trained)]) == 0
    record = read_record(tmp_path / "result" / "dots" / "Cat.png")
    assert record.preset == "strong_layout" and {"jittor", "tokenizers"} <= set(record.libraries)
    files = {"coarse_embeds": "coarse_style_embeds", "fine_embeds": "fine_style_embeds",
             "text_lora": "text_encoder_lora", "unet_lora": "unet_lora"}
    assert record.adapters == {part: hashlib.sha256((folder / f"dots_{stem}.safetensors").read_bytes()).hexdigest()[:16]
                               for part, stem in files.items()}


def test_an_older_picture_says_less_and_is_drawn_again(trained, tmp_path, capsys):
    assert main(["test", "--config", str(trained), "--prompts", "Cat"]) == 0
    path = tmp_path / "result" / "dots" / "Cat.png"
    data, later = json.loads(Image.open(path).info[CHUNK]), ("method", "preset", "adapters", "libraries", "decoder")
    old = saved(tmp_path / "old.png", {key: value for key, value in data.items() if key not in later})
    new = tmp_path / "new.png"
    assert main(["generate", "--config", str(trained), "--from", str(old), "--output", str(new)]) == 0
    assert "does not say with which autoencoder" in capsys.readouterr().err
    assert read_record(new).adapters == read_record(path).adapters
    assert read_record(new).decoder == read_record(path).decoder


def test_drawing_again_with_changes_and_beside_the_picture(trained, tmp_path, monkeypatch, capsys):
    """Neither the default name nor --output takes the picture that is drawn again; options beside --from count."""
    monkeypatch.chdir(tmp_path)
    draw = ["generate", "--config", str(trained)]
    assert main([*draw, "--style", "dots", "--prompt", "A cat"]) == 0
    before = (tmp_path / "picture.png").read_bytes()
    assert read_record("picture.png").seed == 2024
    assert main([*draw, "--from", "picture.png"]) == 0
    assert (tmp_path / "picture.png").read_bytes() == before
    assert read_record("picture-again.png") == read_record("picture.png")
    assert main([*draw, "--from", "picture.png", "--output", "./picture.png"]) == 2
    assert "choose another --output" in capsys.readouterr().err and (tmp_path / "picture.png").read_bytes() == before
    changes = ["--seed", "5", "--prompt", "An owl", "--strength", "0.5"]
    assert main([*draw, "--from", "picture.png", *changes, "--output", "other.png"]) == 0
    other = read_record("other.png")
    assert (other.seed, other.prompt, other.settings.fine_scale) == (5, "An owl", 0.5)
    assert main([*draw, "--style", "dots", *changes, "--output", "same.png"]) == 0
    assert (tmp_path / "same.png").read_bytes() == (tmp_path / "other.png").read_bytes()


def test_old_pictures_of_a_board_are_named_with_the_cure(trained, tmp_path, capsys):
    """After another training, and with other settings; --batch makes no other picture."""
    def said(*more):
        capsys.readouterr()
        assert main(["test", "--config", str(trained), *more]) == 0
        return [line for line in capsys.readouterr().err.splitlines() if "kept, although" in line]

    def kept(what, names):
        return [f"styleblend: kept, although drawn with other {what} than now: {names}; "
                "--overwrite draws again what is there"]

    folder, drawn = tmp_path / "adapters" / "dots", tmp_path / "result" / "dots"
    assert said() == [] and said("--batch", "1") == []
    (folder / "style.json").write_text('{"blend": {"scale": 0.9}, "seeds": {"Owl": 3}}')
    assert said() == kept("blend settings, seeds", "dots/Cat.png, dots/Owl.png")
    assert said("--overwrite") == [] and said() == []
    weights = (folder / "dots_fine_style_embeds.safetensors").read_bytes()
    (folder / "dots_fine_style_embeds.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    (drawn / "Owl.png").unlink()
    assert said() == kept("adapters", "dots/Cat.png")
    (drawn / "Cat.png").write_bytes((tmp_path / "data" / "dots" / "images" / "boat.png").read_bytes())  # not drawn here
    assert said() == []


def test_an_overwrite_that_is_stopped_leaves_no_old_pictures(trained, tmp_path, monkeypatch, capsys):
    """So that the same command without --overwrite, as the sentence says, ends in new pictures alone."""
    trained.write_text(trained.read_text().replace("batch: 2", "batch: 1"))
    assert main(["test", "--config", str(trained)]) == 0
    (tmp_path / "adapters" / "dots" / "style.json").write_text('{"blend": {"scale": 0.9}}')
    draw = Pipeline.draw

    def stopped(self, request, **named):
        if request.prompts == ("An owl",):
            raise KeyboardInterrupt
        return draw(self, request, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "draw", stopped)
        assert main(["test", "--config", str(trained), "--overwrite"]) == 130
    assert "without --overwrite" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "result" / "dots").glob("*.png")] == ["Cat.png"]
    assert main(["test", "--config", str(trained)]) == 0
    assert "kept, although" not in capsys.readouterr().err
    assert all(read_record(p).settings.scale == 0.9 for p in (tmp_path / "result" / "dots").glob("*.png"))


def test_an_overwrite_that_cannot_begin_removes_nothing(trained, tmp_path, capsys):
    assert main(["test", "--config", str(trained)]) == 0
    (tmp_path / "adapters" / "dots" / "dots_unet_lora.safetensors").unlink()
    assert main(["test", "--config", str(trained), "--styles", "dots", "--overwrite"]) == 2
    assert "train fine" in capsys.readouterr().err
    assert len(list((tmp_path / "result" / "dots").glob("*.png"))) == 2


@pytest.mark.parametrize("change", [
    dict(seed=1 << 63), dict(seed=-1), dict(seed="x"), dict(prompt="a\u0007"), dict(prompt="\ud800"), dict(adapters=[]),
    dict(preset=3), dict(libraries=None), dict(extra=1), dict(dtype="float64"), dict(blend={"scalee": 1}),
    dict(blend=[]), dict(settings={}), dict(method=3), dict(method=["styleblend"]), dict(sampling=None),
    dict(sampling={"sampler": "x"}), dict(sampling={"sampler": ["ddim"]}), dict(sampling={"output": 10 ** 9}),
    *(dict(sampling={side: size}) for side, size in (("width", 1 << 20), ("width", 8192), ("height", 10 ** 9))),
    dict(sampling={"output": 64, "saved_size": 64})], ids=str)
def test_a_damaged_record_is_refused(change, tmp_path):
    path = saved(tmp_path / "a.png", {**json.loads(RECORD.chunks()[CHUNK]), **change})
    with pytest.raises(StyleBlendError) as error:
        read_record(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "[]", "3", '"method"', "null", "{}", "{", "[" * 9999], ids=lambda text: text[:9])
def test_a_record_that_is_none_is_refused(text, tmp_path):
    info = PngInfo()
    info.add_text(CHUNK, text)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", pnginfo=info)
    with pytest.raises(StyleBlendError, match="what it says of itself is damaged"):
        read_record(tmp_path / "a.png")


def test_a_picture_without_record_is_refused(tmp_path, capsys):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    assert main(["generate", "--from", str(tmp_path / "a.png")]) == 2
    assert "does not say how it was drawn" in capsys.readouterr().err
    assert main(["generate"]) == 2
    assert "--style and --prompt" in capsys.readouterr().err


def test_signs_of_a_prompt_were_text_to_earlier_versions(trained, tmp_path):
    """A picture of today draws its weights again, one of an earlier version its brackets as the text they were."""
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    command = ["draw", "--config", str(trained), "--style", "dots", "--prompt", "A (cat:1.3)", "--output", str(one)]
    assert main(command) == 0
    assert main(["draw", "--config", str(trained), "--from", str(one), "--output", str(two)]) == 0
    assert (np.asarray(Image.open(one)) == np.asarray(Image.open(two))).all()
    info = Image.open(one).info
    data = json.loads(info[CHUNK])
    assert data.pop("signs") is True and data["prompt"] == "A (cat:1.3)" and read_record(one).prompt == "A (cat:1.3)"
    assert read_record(saved(two, data)).prompt == r"A \(cat:1.3\)"
    assert main([*command[:6], "A cat", "--output", str(two), "--overwrite"]) == 0
    assert "signs" not in json.loads(Image.open(two).info[CHUNK])
