"""A style that leaves for another program: right names, right numbers, the same pictures there."""
import hashlib
import io
import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from drawing import save_style
from styleblend.adapters import formats
from styleblend.adapters.lora import text_lora, unet_lora
from styleblend.files import tensor_files
from styleblend.cli import main
from styleblend.errors import StyleBlendError
from styleblend.adapters.export import kohya_facts, model_facts
from styleblend.adapters.inspect import inspect
from styleblend.adapters.style import load_style, save_part


@pytest.fixture
def folder(tmp_path, tiny_style):
    """The made-up style's four files and a style.json."""
    found = tmp_path / "dots"
    save_style(found, "dots", tiny_style)
    save_part(found, "dots", "unet_lora", tiny_style.parts["unet_lora"], {"style": "dots"})
    (found / "style.json").write_text(json.dumps({"preset": "strong_layout", "seeds": {"Cat": 7}}))
    return found


def same_product(ours, theirs):
    """LoRAs are equal when every up @ down is."""
    assert set(ours) == set(theirs)
    for key in ours:
        if key.endswith("down.weight"):
            up = key.replace("down.weight", "up.weight")
            np.testing.assert_allclose(ours[up] @ ours[key], theirs[up] @ theirs[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind, lora, fine", [("diffusers", "pytorch_lora_weights", "fine_learned_embeds"),
                                              ("kohya", "dots", "dots-fine"),
                                              ("webui", "Lora/dots", "embeddings/dots-fine"),
                                              ("ldm", "dots", "dots-fine")])
def test_what_is_exported_is_read_again(kind, lora, fine, folder, tmp_path, tiny_base, tiny_style, capsys):
    assert main(["export", str(folder), "--format", kind, "--output", str(tmp_path / "out"),
                 "--fine-strength", "0.5"]) == 0
    assert "exchange of attention" in capsys.readouterr().err
    tensors = load_file(tmp_path / "out" / f"{lora}.safetensors")
    half = {key: value * (0.5 if key.endswith("up.weight") else 1)
            for key, value in tiny_style.parts["unet_lora"].items()}
    same_product(unet_lora(tensors, tiny_base.unet, "file"), half)
    same_product(text_lora(tensors, tiny_base.text_encoder, "file"), tiny_style.parts["text_lora"])
    _, vector = formats.embedding(load_file(tmp_path / "out" / f"{fine}.safetensors"),
                                  len(tiny_style.parts["fine_embeds"]), "file")
    np.testing.assert_array_equal(vector[0], tiny_style.parts["fine_embeds"])


def test_a_style_in_one_file_is_the_whole_style(folder, tmp_path, tiny_base, tiny_style):
    assert main(["export", str(folder), "--format", "single", "--output", str(tmp_path / "alone" / "dots")]) == 0
    style = load_style(tmp_path / "alone" / "dots", "dots", tiny_base)
    same_product(style.parts["unet_lora"], tiny_style.parts["unet_lora"])
    same_product(style.parts["text_lora"], tiny_style.parts["text_lora"])
    np.testing.assert_array_equal(style.parts["coarse_embeds"], tiny_style.parts["coarse_embeds"])
    np.testing.assert_array_equal(style.parts["fine_embeds"], tiny_style.parts["fine_embeds"])
    assert style.settings.preset == "strong_layout" and style.settings.seeds == {"Cat": 7}


@pytest.mark.parametrize("kind, file, words", [("kohya", "dots", ("LoRA (kohya)", "text encoder", "UNet")),
                                               ("kohya", "dots-fine", ("embedding (kohya)", "dots-fine")),
                                               ("ldm", "dots", ("original names", "text encoder", "UNet")),
                                               ("diffusers", "pytorch_lora_weights", ("LoRA (diffusers)",)),
                                               ("diffusers", "fine_learned_embeds", ("<dots-fine>",)),
                                               ("single", "dots", ("one file", "<C>", "<F>"))])
def test_inspect_says_what_it_is(kind, file, words, folder, tmp_path):
    main(["export", str(folder), "--format", kind, "--output", str(tmp_path / "out")])
    facts = " ".join(inspect(tmp_path / "out" / f"{file}.safetensors").values())
    assert all(word in facts for word in words), facts


def test_tokens_of_diffusers_have_no_capital_letters(folder, tmp_path):
    """Of <INK-fine> with several vectors diffusers would find the first alone."""
    for path in folder.glob("dots*"):
        path.rename(path.with_name(path.name.replace("dots", "INK")))
    main(["export", str(folder.rename(tmp_path / "INK")), "--format", "diffusers", "--output", str(tmp_path / "out")])
    assert list(load_file(tmp_path / "out" / "fine_learned_embeds.safetensors")) == ["<ink-fine>"]


def test_inspect_refuses_what_is_no_adapter(tmp_path, tiny_folder, capsys):
    tensor_files.write_safetensors(tmp_path / "full.safetensors", {"model.diffusion_model.x": np.zeros(1, np.float32)})
    tensor_files.write_safetensors(tmp_path / "xl.safetensors",
                                   {"lora_te2_x.lora_down.weight": np.zeros((1, 1), np.float32)})
    (tmp_path / "torn.safetensors").write_bytes(b"12345678{}")
    for path, words in ((tmp_path / "full.safetensors", "whole checkpoint"),
                        (tmp_path / "xl.safetensors", "Stable Diffusion XL"),
                        (tmp_path / "torn.safetensors", "no whole"), (tmp_path / "none.safetensors", "no file"),
                        (tiny_folder / "unet" / "diffusion_pytorch_model.safetensors", "network of a base")):
        assert main(["inspect", str(path)]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--fine-strength", "--coarse-strength"])
@pytest.mark.parametrize("strength", ["nan", "inf", "-inf", "1e38"])
def test_strengths_that_are_none(folder, tmp_path, capsys, option, strength):
    for kind in ("kohya", "diffusers", "single"):
        assert main(["export", str(folder), "--format", kind, "--output", str(tmp_path / "out"),
                     f"{option}={strength}"]) == 2
        said = capsys.readouterr().err
        assert "strength" in said and len(said.splitlines()) == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("part", ["fine_style_embeds", "unet_lora", "text_encoder_lora"])
def test_damaged_adapters_are_not_exported(folder, tmp_path, capsys, part):
    path = folder / f"dots_{part}.safetensors"
    tensors = load_file(path)
    tensors[sorted(tensors)[0]].reshape(-1)[0] = np.nan
    tensor_files.write_safetensors(path, tensors)
    assert main(["export", str(folder), "--output", str(tmp_path / "out")]) == 2
    assert f"{part}.safetensors holds NaN or infinity" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("here", [".", "../dots", "sub/.."])
def test_the_folder_may_be_named_from_within(folder, tmp_path, monkeypatch, here):
    (folder / "sub").mkdir()
    monkeypatch.chdir(folder)
    assert main(["export", here, "--output", str(tmp_path / "out")]) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["dots-coarse.safetensors",
                                                                    "dots-fine.safetensors", "dots.safetensors"]


def test_a_style_is_exported_by_its_name(trained, tmp_path, monkeypatch, capsys):
    """Without --output into a folder of its own."""
    monkeypatch.chdir(tmp_path)
    assert main(["export", "dots", "--config", str(trained)]) == 0
    assert capsys.readouterr().out.split() == [f"export/dots/dots{end}.safetensors" for end in ("", "-coarse", "-fine")]
    (tmp_path / "other" / "dots").mkdir(parents=True)  # a folder of that name that is no style
    monkeypatch.chdir(tmp_path / "other")
    assert main(["export", "dots", "--config", str(trained), "--output", "out", "--fine-strength", "0"]) == 0
    said = capsys.readouterr().err
    assert "--fine-strength 0 the UNet's LoRA changes nothing" in said and "--coarse-strength" not in said
    assert all(len(line) < 240 for line in said.splitlines())
    for name in ("dot", "sketch"):
        assert main(["export", name, "--config", str(trained)]) == 2
        said = capsys.readouterr().err
        assert "there is no style" in said and "dots" in said and len(said.splitlines()) == 1


@pytest.mark.parametrize("kind, lora", [("kohya", "dots"), ("ldm", "dots"), ("diffusers", "pytorch_lora_weights"),
                                        ("single", "dots")])
def test_the_styles_own_strength_leaves_with_it(kind, lora, folder, tmp_path, tiny_base, tiny_style, capsys):
    """In the numbers, for programs that read no style.json; in a style in one file as the setting that it is."""
    (folder / "style.json").write_text('{"blend": {"fine_scale": 1.5}}')
    assert main(["export", str(folder), "--format", kind, "--output", str(tmp_path / "out"),
                 "--fine-strength", "0.5"]) == 0
    factor = 0.5 if kind == "single" else 0.75
    tensors = {key: value for key, value in load_file(tmp_path / "out" / f"{lora}.safetensors").items()
               if not key.startswith("emb.")}
    same_product(unet_lora(tensors, tiny_base.unet, "file"),
                 {key: value * (factor if key.endswith("up.weight") else 1)
                  for key, value in tiny_style.parts["unet_lora"].items()})
    assert ("fine_scale, 1.5" in capsys.readouterr().err) == (kind != "single")


def test_what_guidance_does_with_the_style_stays_here(folder, tmp_path, capsys):
    (folder / "style.json").write_text('{"blend": {"negative_scale": 0.25}, "guidance": 2.5}')
    for kind in ("kohya", "diffusers", "webui", "single"):
        assert main(["export", str(folder), "--format", kind, "--output", str(tmp_path / kind)]) == 0
        said = capsys.readouterr().err
        assert (("here 0.25 of it (negative_scale)" in said) == ("a guidance (CFG scale) of 2.5" in said)
                == (kind != "single"))
    assert json.loads(tensor_files.read_metadata(
        tmp_path / "single" / "dots.safetensors")["settings"])["guidance"] == 2.5


def test_a_strength_of_the_style_beyond_all_measure(folder, tmp_path, capsys):
    (folder / "style.json").write_text('{"blend": {"fine_scale": 1e300}}')
    for kind in ("kohya", "diffusers"):
        assert main(["export", str(folder), "--format", kind, "--output", str(tmp_path / "out")]) == 2
        assert "numbers beyond float32" in capsys.readouterr().err and not (tmp_path / "out").exists()


def hashes_of_kohya(path):
    """As kohya's scripts and the web interface compute them: of a file with the training's fields alone."""
    kept = {key: value for key, value in tensor_files.read_metadata(path).items() if key.startswith("ss_")}
    file = io.BytesIO(save(load_file(path), kept))
    file.seek(int.from_bytes(file.read(8), "little") + 8)
    new = hashlib.sha256(file.read()).hexdigest()
    file.seek(0x100000)
    return new, hashlib.sha256(file.read(0x10000)).hexdigest()[:8]


def test_the_header_of_kohyas_file(folder, tmp_path, world, tiny_style):
    """What it says of rank and alpha is what its tensors say; the base's facts are there when the base is named."""
    path = tmp_path / "out" / "dots.safetensors"
    for strengths, alpha in ((["--fine-strength", "0.5"], "Dynamic"),
                             (["--fine-strength", "0.5", "--coarse-strength", "0.5"], "1"), ([], "2")):
        assert main(["export", str(folder), "--output", str(tmp_path / "out"), "--overwrite", *strengths]) == 0
        header, tensors = tensor_files.read_metadata(path), load_file(path)
        alphas = {float(value) for key, value in tensors.items() if key.endswith(".alpha")}
        assert (header["ss_network_dim"] == "2" and header["ss_network_alpha"] == alpha
                and (alpha == "Dynamic") == (len(alphas) > 1))
        assert alpha == "Dynamic" or alphas == {float(alpha)}
        assert (header["sshs_model_hash"], header["sshs_legacy_hash"]) == hashes_of_kohya(path)
        assert not any(key in header
                       for key in ("modelspec.architecture", "modelspec.prediction_type", "ss_base_model_version"))
    assert main(["export", str(folder), "--output", str(tmp_path / "out"), "--overwrite",
                 "--config", str(world)]) == 0
    header = tensor_files.read_metadata(path)
    assert ((header["modelspec.prediction_type"], header["modelspec.sai_model_spec"]) == ("v", "1.0.0")
            and "x" in header["modelspec.resolution"])
    assert "modelspec.prediction_type" in tensor_files.read_metadata(tmp_path / "out" / "dots-fine.safetensors")


@pytest.mark.parametrize("prediction, size, architecture, version", [("v_prediction", 96, "768-v", "sd_v2_v"),
                                                                     ("epsilon", 64, "512", "sd_v2")])
def test_a_style_of_stable_diffusion_names_its_base(prediction, size, architecture, version, tmp_path):
    """The files that a base of each kind has; the numbers are not needed for it."""
    base, vectors = tmp_path / "base", {"fine": np.ones((1, 1024), np.float32)}
    for part, name, config in (("unet", "config", {"sample_size": size, "use_linear_projection": True}),
                               ("vae", "config", {}),
                               ("scheduler", "scheduler_config", {"prediction_type": prediction})):
        (base / part).mkdir(parents=True)
        (base / part / f"{name}.json").write_text(json.dumps(config))
    facts = model_facts(base, vectors, "lora")
    assert facts == {"modelspec.sai_model_spec": "1.0.0", "modelspec.implementation": "diffusers",
                     "modelspec.resolution": f"{size * 8}x{size * 8}",
                     "modelspec.prediction_type": "v" if prediction.startswith("v") else "epsilon",
                     "modelspec.architecture": f"stable-diffusion-v2-{architecture}/lora"}
    assert kohya_facts("ink", {"x.alpha": np.array(4.0)}, facts, 1024)["ss_base_model_version"] == version
    with pytest.raises(StyleBlendError, match=r"text width 1024 .*, and the style 128 \(the mini base\)"):
        model_facts(base, {"fine": np.ones((1, 128), np.float32)}, "lora")


def test_export_of_an_empty_folder(tmp_path, capsys):
    assert main(["export", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "no trained style" in capsys.readouterr().err and not (tmp_path / "out").exists()
