"""`styleblend draw --reference` and `styleblend encode`: the style of a picture, at once or kept; what is refused."""
import json
import re
import shlex
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image

from styleblend.adapters.style import load_style
from styleblend.cli import main
from styleblend.files.tensor_files import read_safetensors, write_safetensors
from styleblend.pipeline import Pipeline
from styleblend.record import read_record
from styleblend.settings import StyleEncoderSettings, read_settings

BY_PICTURE = ("--method", "style_encoder", "--reference")


@pytest.fixture
def seen(trained, tmp_path, tiny_encoder):
    """The world with an encoder in its config and two pictures, a.png and b.png, to take a style from."""
    settings = yaml.safe_load(trained.read_text())
    trained.write_text(yaml.safe_dump({**settings, "encoder": str(tiny_encoder)}))
    rng = np.random.default_rng(5)
    for name, size in (("a", (40, 30)), ("b", (25, 60))):
        noise = rng.integers(0, 255, (4, 4, 3), np.uint8)
        Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(tmp_path / f"{name}.png")
    return trained


def drawn(config, tmp_path, *more, name="picture.png"):
    assert main(["draw", "--config", str(config), "--output", str(tmp_path / name), "--overwrite",
                 *map(str, more)]) == 0
    return np.asarray(Image.open(tmp_path / name), int)


def kept(config, tmp_path, name, *pictures):
    assert main(["encode", *(str(tmp_path / picture) for picture in pictures), "--name", name, "--config",
                 str(config)]) == 0
    return tmp_path / "adapters" / name


def test_a_reference_its_record_and_the_library(seen, tmp_path, tiny_base):
    found = drawn(seen, tmp_path, "--prompt", "A cat", *BY_PICTURE, tmp_path / "a.png")
    record = read_record(tmp_path / "picture.png")
    assert (record.method, record.style, list(record.adapters)) == ("style_encoder", "", ["encoder"])
    assert list(record.pictures) == [str(tmp_path / "a.png")]
    text = Image.open(tmp_path / "picture.png").info["parameters"]
    assert text.startswith("A cat in the style of <E>\n") and (
        f"StyleBlend method: style_encoder, StyleBlend references: {tmp_path / 'a.png'}, StyleBlend style guidance: 1"
        in text)
    assert np.array_equal(drawn(seen, tmp_path, "--from", tmp_path / "picture.png", name="again.png"), found)
    settings = StyleEncoderSettings(references=[{"picture": str(tmp_path / "a.png")}])
    [picture] = Pipeline(tiny_base, read_settings(seen)).pictures("A cat", settings=settings)
    assert np.array_equal(picture.pixels, found)
    assert (picture.record.adapters, picture.record.style_hash) == (record.adapters, record.style_hash)
    other = drawn(seen, tmp_path, "--prompt", "A cat", *BY_PICTURE, tmp_path / "b.png")
    assert np.abs(other - found).max() > 3


def test_max_memory_counts_the_encoder(seen, tmp_path, tiny_encoder, capsys):
    """Where it reads a picture: refused before a base is loaded, and named; a plain picture has none."""
    large = shutil.copytree(tiny_encoder, tmp_path / "large")
    write_safetensors(large / "model.safetensors", {**read_safetensors(large / "model.safetensors"),
                                                    "more": np.zeros(2 ** 24, np.float32)})
    command = ["draw", "--config", str(seen), "--prompt", "A cat", "--max-memory", "240MB", "--output",
               str(tmp_path / "p.png"), "--overwrite"]
    for fits in ((), (*BY_PICTURE, str(tmp_path / "a.png"))):
        assert main([*command, *fits]) == 0
    seen.write_text(yaml.safe_dump({**yaml.safe_load(seen.read_text()), "encoder": str(large)}))
    for refused in ([*command, *BY_PICTURE, str(tmp_path / "a.png")],
                    ["compare", "--config", str(seen), "--styles", "dots", "--methods", "style_encoder,plain",
                     "--max-memory", "240MB", "--output", str(tmp_path / "out")]):
        capsys.readouterr()
        assert main(refused) == 2
        said = capsys.readouterr().err
        assert "at the least, and --max-memory allows 229: try " in said and "a smaller style encoder" in said
    assert main(["memory", "--config", str(seen)]) == 0
    assert re.search(r"weights of the style encoder, where pictures are read +64 MiB", capsys.readouterr().out)


def test_an_encoder_whose_template_has_no_place(seen, tmp_path, tiny_encoder, capsys):
    """A sentence that names the encoder, wherever it is used."""
    encoder = shutil.copytree(tiny_encoder, tmp_path / "other")
    about = json.loads((encoder / "config.json").read_text())
    (encoder / "config.json").write_text(json.dumps({**about, "template": "no place"}))
    picture, more = str(tmp_path / "a.png"), ["--config", str(seen), "--encoder", str(encoder)]
    for command in (["draw", "--prompt", "A cat", *BY_PICTURE, picture, "--output", str(tmp_path / "p.png")],
                    ["encode", picture, "--name", "ink"]):
        assert main([*command, *more]) == 2
        said = capsys.readouterr().err
        assert str(encoder) in said and "template" in said and "Traceback" not in said


def test_tokens_that_are_kept_draw_what_the_picture_does(seen, tmp_path):
    one = drawn(seen, tmp_path, "--prompt", "A cat", *BY_PICTURE, tmp_path / "a.png")
    folder = kept(seen, tmp_path, "ink", "a.png")
    said = json.loads((folder / "style.json").read_text())
    assert (said["method"], said["source"]) == ("style_encoder", str(tmp_path / "a.png"))
    assert said["style_encoder"] == {"template": "{prompt} in the style of {}."}  # the encoder's own
    [tokens] = read_safetensors(folder / "ink_style_tokens.safetensors").values()
    assert tokens.shape == (8, 32)
    assert np.array_equal(drawn(seen, tmp_path, "--prompt", "A cat", "--style", "ink", name="ink.png"), one)
    record = read_record(tmp_path / "ink.png")
    assert (record.method, record.style, list(record.adapters)) == ("style_encoder", "ink", ["style_tokens"])
    assert np.array_equal(drawn(seen, tmp_path, "--from", tmp_path / "ink.png", name="again.png"), one)


def test_the_command_that_draws_in_it_is_one_for_a_shell(seen, tmp_path, capsys):
    kept(seen, tmp_path, "two words", "a.png")
    advice = capsys.readouterr().out.strip().split("draw with it: python -m styleblend ")[1]
    assert main([*shlex.split(advice), "--output", str(tmp_path / "picture.png")]) == 0
    assert read_record(tmp_path / "picture.png").style == "two words"


def test_several_references_are_a_weighted_mean(seen, tmp_path, tiny_base):
    """Weights are shares: one picture is its own mean, whatever its weight, and twice the same is once."""
    tokens = {}
    for name, pictures in (("a", ["a.png"]), ("b", ["b.png"]), ("heavy", ["a.png:7"]), ("twice", ["a.png", "a.png:3"]),
                           ("mixed", ["a.png:3", "b.png"]), ("without", ["a.png", "b.png:0"])):
        tokens[name] = load_style(kept(seen, tmp_path, name, *pictures), name, tiny_base).parts["style_tokens"]
    assert np.abs(tokens["a"] - tokens["b"]).max() > 0.01
    for name in ("heavy", "without"):
        assert np.array_equal(tokens[name], tokens["a"])
    np.testing.assert_allclose(tokens["twice"], tokens["a"], atol=1e-6)
    np.testing.assert_allclose(tokens["mixed"], 0.75 * tokens["a"] + 0.25 * tokens["b"], atol=1e-6)
    pictures = [drawn(seen, tmp_path, "--prompt", "A cat", "--style", "mixed"),
                drawn(seen, tmp_path, "--prompt", "A cat", *BY_PICTURE, f"{tmp_path / 'a.png'}:3",
                      "--reference", tmp_path / "b.png")]
    assert np.array_equal(*pictures)


def test_style_guidance(seen, tmp_path):
    """None of it is the plain picture of the prompt without the style; more of it is further from there."""
    for negative in ((), ("--negative", "blur")):  # the config's is of StyleBlend's branches, and of no plain picture
        plain = drawn(seen, tmp_path, "--prompt", "A cat", *negative)
        far = [np.abs(drawn(seen, tmp_path, "--prompt", "A cat", *BY_PICTURE, tmp_path / "a.png", *negative,
                            "--style-guidance", scale) - plain).mean() for scale in (0, 1, 4)]
        assert far[0] == 0 and 0 < far[1] < far[2]


def test_a_config_may_say_how_much_style(seen, tmp_path, capsys):
    asked = drawn(seen, tmp_path, "--prompt", "A cat", *BY_PICTURE, tmp_path / "a.png", "--style-guidance", 4)
    settings = yaml.safe_load(seen.read_text())
    seen.write_text(yaml.safe_dump({**settings, "style_encoder": {"style_guidance": 4}}))
    assert np.array_equal(drawn(seen, tmp_path, "--prompt", "A cat", *BY_PICTURE, tmp_path / "a.png"), asked)
    kept(seen, tmp_path, "ink", "a.png")
    assert np.array_equal(drawn(seen, tmp_path, "--prompt", "A cat", "--style", "ink"), asked)
    seen.write_text(yaml.safe_dump({**settings, "style_encoder": {"encoder": "somewhere"}}))
    assert "the config's own key: encoder: FOLDER" in refused(seen, tmp_path, capsys)


def test_several_seeds_and_a_control_picture(seen, tmp_path, tiny_controlnet):
    options = ("--prompt", "A cat", *BY_PICTURE, tmp_path / "a.png")
    free = drawn(seen, tmp_path, *options, "--seed", 3)
    assert main(["draw", "--config", str(seen), *map(str, options), "--seed", "2", "--count", "3", "--output",
                 str(tmp_path / "set.png")]) == 0
    among = np.asarray(Image.open(tmp_path / "set-3.png"), int)
    assert np.abs(among - free).max() <= 1  # drawn beside others
    held = drawn(seen, tmp_path, *options, "--seed", 3, "--control", "map", "--control-picture",
                 tmp_path / "b.png", "--controlnet", tiny_controlnet)
    assert np.abs(held - free).max() > 3


def test_a_kept_style_on_every_command(seen, tmp_path, capsys):
    kept(seen, tmp_path, "ink", "a.png")
    assert main(["styles", "--config", str(seen)]) == 0
    assert any("ink" in line and "style_encoder" in line for line in capsys.readouterr().out.splitlines())
    assert main(["inspect", str(tmp_path / "adapters" / "ink" / "ink_style_tokens.safetensors")]) == 0
    assert ["vectors", "8"] in [line.split() for line in capsys.readouterr().out.splitlines()]
    assert main(["board", "--config", str(seen), "--styles", "ink", "--prompts", "Cat"]) == 0
    assert (tmp_path / "result" / "ink" / "Cat.png").is_file()
    assert main(["grid", "ink", "--config", str(seen), "--prompts", "Cat", "--x", "style_guidance=0.5,2",
                 "--output", str(tmp_path / "grid.png")]) == 0
    assert main(["transfer", "--config", str(seen), "--style", "ink", "--content", str(tmp_path / "b.png"),
                 "--control", "none", "--output", str(tmp_path / "transferred")]) == 0
    assert (tmp_path / "transferred" / "b.png").is_file()


def test_kept_tokens_for_other_programs_and_for_a_branch_of_styleblend(seen, tmp_path, tiny_base, capsys):
    """An embedding of eight vectors; read again it is <F> of a style of StyleBlend, beside a UNet LoRA of another."""
    folder = kept(seen, tmp_path, "ink", "a.png")
    tokens = load_style(folder, "ink", tiny_base).parts["style_tokens"]
    for kind, file in (("diffusers", "ink_learned_embeds.safetensors"), ("kohya", "ink.safetensors"),
                       ("webui", "embeddings/ink.safetensors"), ("single", "ink.safetensors")):
        output = tmp_path / "out" / kind
        assert main(["export", str(folder), "--format", kind, "--output", str(output)]) == 0
        [(token, found)] = read_safetensors(output / file).items()
        assert np.array_equal(found, tokens)
        said = {"diffusers": "in diffusers write a painting of a fox in the style of <ink>.",
                "single": ""}.get(kind, "in A1111 write a painting of a fox in the style of ink.")
        assert said in capsys.readouterr().err and token == {"diffusers": "<ink>", "single": "emb.<E>"}.get(
            kind, "emb_params")
    assert main(["load", str(tmp_path / "out" / "single" / "ink.safetensors"), "--name", "again", "--config",
                 str(seen)]) == 0
    same = [drawn(seen, tmp_path, "--prompt", "A cat", "--style", name) for name in ("ink", "again")]
    assert np.array_equal(*same) and read_record(tmp_path / "picture.png").method == "style_encoder"
    lora = tmp_path / "adapters" / "dots" / "dots_unet_lora.safetensors"
    assert main(["load", str(tmp_path / "out" / "kohya" / "ink.safetensors"), str(lora), "--name", "both",
                 "--config", str(seen)]) == 0
    both = load_style(tmp_path / "adapters" / "both", "both", tiny_base)
    assert np.array_equal(both.parts["fine_embeds"], tokens) and both.has("unet_lora")
    drawn(seen, tmp_path, "--prompt", "A cat", "--style", "both")


def refused(config, tmp_path, capsys, *more):
    assert main(["draw", "--config", str(config), "--prompt", "A cat", "--output", str(tmp_path / "no.png"),
                 *map(str, more)]) == 2
    assert not (tmp_path / "no.png").exists()
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("options, words", [
    (["--reference", "a.png"], "--reference needs --method style_encoder"),
    (["--method", "style_encoder"], "there is no style to draw in: give a picture of it (--reference)"),
    (["--method", "style_encoder", "--reference", "aa.png"], "aa.png does not exist: did you mean a.png?"),
    (["--method", "style_encoder", "--reference", "words.png"], "words.png cannot be read"),
    (["--method", "style_encoder", "--reference", "https://example.org/a.png:0.5"],
     "https://example.org/a.png is an address, and pictures are files: download it"),
    (["--method", "style_encoder", "--reference", "a.png:much"], "behind a.png comes a weight, not 'much'"),
    (["--method", "style_encoder", "--reference", "a.png:0.5:2"],
     "--reference a.png:0.5:2: behind a.png comes a weight, and then another one"),
    (["--method", "style_encoder", "--reference", "a.png:nan"], "nan is no weight: give a number greater than"),
    (["--method", "style_encoder", "--reference", "a.png:0"], "all pictures have the weight 0"),
    (["--method", "style_encoder", "--reference", "a.png:-1"], "greater than or equal to 0"),
    (["--method", "style_encoder", "--style", "dots"], "--method has no effect on a style"),
    (["--method", "style_encoder", "--reference", "a.png", "--encoder", "none"], "there is no style encoder none"),
    (["--method", "style_encoder", "--reference", "a.png", "--encoder", "adapters"], "adapters is no style encoder"),
    (["--style", "dots", "--style-guidance", "2"], "--style-guidance has no effect on dots, a style of styleblend"),
    (["--style", "ink", "--encoder", "adapters"], "--encoder has no effect on ink, which has its tokens"),
    (["--style", "ink", "--strength", "2"], "--strength has no effect on ink"),
])
def test_what_is_refused(seen, tmp_path, capsys, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.png").write_text("no picture")
    if "ink" in options:
        kept(seen, tmp_path, "ink", "a.png")
    assert words in refused(seen, tmp_path, capsys, *options)


@pytest.mark.parametrize("options, words", [
    (["--from", "by.png", "--style", "dots"], "by.png was drawn without --style: leave it out, or leave out --from"),
    (["--from", "by.png", "--style", "ink"], "by.png was drawn without --style: leave it out, or leave out --from"),
    (["--from", "plain.png", "--style", "dots"], "plain.png was drawn without --style"),
    (["--from", "plain.png", "--method", "style_encoder", "--reference", "a.png"],
     "plain.png was not drawn by style_encoder: leave out --method, or leave out --from"),
    (["--from", "plain.png", "--reference", "a.png"], "--reference has no effect on a plain picture: leave it out"),
    (["--from", "ink.png", "--reference", "a.png"],
     "--reference has no effect on ink, which has its tokens: leave it out, or draw without the style"),
    (["--method", "style_encoder", "--reference", "a.png", "--sty-gamma", "1"],
     "--sty-gamma has no effect on a picture by style_encoder: leave it out, or name a --style of another method"),
])
def test_what_is_refused_names_what_was_given(seen, tmp_path, capsys, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    kept(seen, tmp_path, "ink", "a.png")
    for name, how in (("by", [*BY_PICTURE, "a.png"]), ("ink", ["--style", "ink"]), ("plain", [])):
        if f"{name}.png" in options:
            drawn(seen, tmp_path, "--prompt", "A cat", "--steps", 1, *how, name=f"{name}.png")
    assert words in refused(seen, tmp_path, capsys, *options)


def test_without_an_encoder_it_says_what_to_type(trained, tmp_path, capsys):
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    options = (*BY_PICTURE, tmp_path / "a.png")
    assert "no style encoder is known: name one with --encoder" in refused(trained, tmp_path, capsys, *options)
    settings = yaml.safe_load(trained.read_text())
    trained.write_text(yaml.safe_dump({**settings, "encoder": str(tmp_path / "encoder")}))
    assert "or train it with python -m styleblend train encoder" in refused(trained, tmp_path, capsys, *options)


def test_an_encoder_of_another_base_or_width(seen, tmp_path, capsys, tiny_encoder):
    options = (*BY_PICTURE, tmp_path / "a.png", "--encoder", tmp_path / "other")
    shutil.copytree(tiny_encoder, tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    for changes, words in (({"base": "0123456789abcdef"}, "was trained on another base (0123456789abcdef"),
                           ({"width": 64}, "writes tokens of the width 64, and the text of"),
                           ({"hidden_size": 64}, "does not fit its config.json"),
                           ({"fit": "stretch"}, "fit is 'stretch', but only 'squash' or 'crop' is supported")):
        (tmp_path / "other" / "config.json").write_text(json.dumps({**config, **changes}))
        assert words in refused(seen, tmp_path, capsys, *options)


def test_a_picture_is_not_drawn_again_by_another_reference_or_encoder(seen, tmp_path, capsys, tiny_encoder):
    drawn(seen, tmp_path, "--prompt", "A cat", *BY_PICTURE, tmp_path / "a.png")
    again = ["draw", "--config", str(seen), "--from", str(tmp_path / "picture.png"), "--output",
             str(tmp_path / "no.png")]
    settings = yaml.safe_load(seen.read_text())
    shutil.copytree(tiny_encoder, tmp_path / "other")
    weights = tmp_path / "other" / "model.safetensors"
    from styleblend.files.tensor_files import write_safetensors
    write_safetensors(weights, {name: value * 2 for name, value in read_safetensors(weights).items()})
    seen.write_text(yaml.safe_dump({**settings, "encoder": str(tmp_path / "other")}))
    assert main(again) == 2 and "drawn with another style encoder" in capsys.readouterr().err
    shutil.copytree(tiny_encoder, tmp_path / "other", dirs_exist_ok=True)
    about = json.loads((tiny_encoder / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps({**about, "template": "{prompt} by {}"}))
    assert main(again) == 2 and "drawn with another style encoder" in capsys.readouterr().err
    seen.write_text(yaml.safe_dump(settings))
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    assert main(again) == 2 and "drawn by another picture than" in capsys.readouterr().err
    (tmp_path / "a.png").unlink()
    assert main(again) == 2 and "a.png" in capsys.readouterr().err
    assert main([*again, "--reference", str(tmp_path / "b.png")]) == 0  # what is gone is not looked at any more


def test_a_prompt_that_is_too_long_is_cut_and_the_style_stays(seen, tmp_path, capsys):
    words = "A cat " + " ".join(["on a red boat"] * 30)
    found = [drawn(seen, tmp_path, "--prompt", words, *BY_PICTURE, tmp_path / name) for name in ("a.png", "b.png")]
    said = [line for line in capsys.readouterr().err.splitlines() if "more than the text encoder reads" in line]
    assert len(said) == 2 and "this is left out: 'on a red boat" in said[0]  # once a picture, not once a text
    assert np.abs(found[0] - found[1]).max() > 3


def test_a_name_that_is_taken(seen, tmp_path, capsys):
    def encode(name, *more):
        code = main(["encode", str(tmp_path / "a.png"), "--name", name, "--config", str(seen), *more])
        return code, capsys.readouterr().err

    assert encode("ink")[0] == 0
    assert encode("ink")[0] == 2 and encode("ink", "--overwrite")[0] == 0
    code, said = encode("dots", "--overwrite")
    assert code == 2 and "holds a style of styleblend already" in said
    code, said = encode("a/b")
    assert code == 2 and not (tmp_path / "adapters" / "a").exists()


def test_a_style_of_published_files_is_not_taken_over(seen, tmp_path, capsys):
    """One whose parts end in .bin and that has no style.json."""
    folder = tmp_path / "adapters" / "old"
    folder.mkdir()
    (folder / "old_unet_lora.bin").write_bytes(b"weights")
    for more in ((), ("--overwrite",)):
        assert main(["encode", str(tmp_path / "a.png"), "--name", "old", "--config", str(seen), *more]) == 2
        assert "old holds a style of styleblend already" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["old_unet_lora.bin"]


def test_another_picture_of_a_kept_style_leaves_its_settings(seen, tmp_path, tiny_encoder):
    """But for the template, where another encoder read it, and also where the tokens before it are torn."""
    def encode(*more):
        assert main(["encode", str(tmp_path / "b.png"), "--name", "ink", "--config", str(seen), "--overwrite",
                     *more]) == 0
        return json.loads(said.read_text())

    said = kept(seen, tmp_path, "ink", "a.png") / "style.json"
    own = {"method": "style_encoder", "guidance": 4.0, "seeds": {"Cat": 7},
           "style_encoder": {"style_guidance": 2.0, "template": "{}: {prompt}"}}
    said.write_text(json.dumps(own))
    assert encode() == {**own, "source": str(tmp_path / "b.png")}
    other = shutil.copytree(tiny_encoder, tmp_path / "other")
    about = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**about, "template": "{prompt} by {}"}))
    for torn in (False, True):
        if torn:
            (said.parent / "ink_style_tokens.safetensors").write_bytes(b"torn")
        now = encode("--encoder", str(other))
        assert now["style_encoder"] == {"style_guidance": 2.0, "template": "{prompt} by {}"} and now["guidance"] == 4
