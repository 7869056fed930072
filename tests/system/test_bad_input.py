"""Whatever a user gets wrong: one sentence on stderr, exit code 2, nothing half-written."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from styleblend.cli import main
from styleblend.base.weights import finite
from styleblend.files.tensor_files import read_safetensors, write_safetensors

ROOT = Path(__file__).parents[2]


def change(path, **changes):
    """Rewrite single settings; dots separate levels."""
    settings = yaml.safe_load(path.read_text())
    for key, value in changes.items():
        *groups, last = key.split("__")
        here = settings
        for group in groups:
            here = here[group]
        here[last] = value
    path.write_text(yaml.safe_dump(settings))


def refused(capsys, *argv):
    """Run a command that must be refused; its one sentence."""
    assert main([str(a) for a in argv]) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("styleblend: ") and len(message) < 600
    return message


@pytest.mark.parametrize("key, value, words", [
    ("sampling__stepz", 3, "did you mean steps?"),
    ("sampling__sampler", "ddpm", "sampler"),
    ("sampling__steps", 0, "steps"),
    ("training__lora__lr", "fast", "lr"),
    ("outptu", "x", "did you mean output?"),
])
def test_config(world, capsys, key, value, words):
    change(world, **{key: value})
    assert words in refused(capsys, "test", "--config", world)


def test_config_is_missing_or_no_yaml(world, capsys):
    assert "does not exist" in refused(capsys, "test", "--config", "nowhere.yaml")
    world.write_text("a: [1")
    assert "YAML" in refused(capsys, "test", "--config", world)


def test_missing_base_names_known_copies(world, capsys):
    change(world, base="nowhere")
    assert "sd2-community" in refused(capsys, "train", "fine", "--config", world)


def test_wrong_base(world, capsys, tmp_path):
    """Stable Diffusion 1.5: text width 768, no linear projections."""
    base = tmp_path / "sd15"
    shutil.copytree(yaml.safe_load(world.read_text())["base"], base)
    for part in ("unet", "text_encoder"):
        config = json.loads((base / part / "config.json").read_text())
        config.update(dict(cross_attention_dim=768) if part == "unet" else dict(hidden_size=768))
        (base / part / "config.json").write_text(json.dumps(config))
    change(world, base=str(base))
    assert "1.x" in refused(capsys, "train", "fine", "--config", world)


@pytest.mark.parametrize("part, file, value, kind", [
    ("unet", "diffusion_pytorch_model", np.nan, np.float32), ("vae", "diffusion_pytorch_model", -np.inf, np.float16),
    ("text_encoder", "model", 1e300, np.float64)])
def test_a_base_with_numbers_that_are_none(world, capsys, tmp_path, part, file, value, kind):
    """NaN, infinity, and what becomes infinite as float32: said with the tensor's name, before any training."""
    base = tmp_path / "base"
    shutil.copytree(yaml.safe_load(world.read_text())["base"], base)
    path = base / part / f"{file}.safetensors"
    tensors = {name: t.astype(kind) for name, t in read_safetensors(path).items()}
    name = sorted(tensors)[3]
    tensors[name].reshape(-1)[-1] = value
    write_safetensors(path, tensors)
    change(world, base=str(base))
    message = refused(capsys, "train", "fine", "--config", world)
    assert str(path) in message and f"NaN or infinity in {name}" in message


def test_large_weights_are_not_taken_for_infinite_ones():
    assert finite(np.full(9, 3e38, np.float32)) and not finite(np.array([1, np.inf, -np.inf], np.float16))


def test_style_without_pictures(world, capsys, tmp_path):
    for path in (tmp_path / "data" / "dots" / "images").iterdir():
        path.unlink()
    assert "no pictures" in refused(capsys, "train", "all", "--config", world)


def test_unreadable_picture_is_named(world, capsys, tmp_path):
    (tmp_path / "data" / "dots" / "images" / "boat.png").write_bytes(b"not a picture")
    assert "boat.png" in refused(capsys, "train", "fine", "--config", world)
    assert not list((tmp_path / "adapters").rglob("*.safetensors"))


@pytest.mark.parametrize("seeds", [{"Cat": "many"}, {"Cat": None}, {"Cat": 1.5}, {"Cat": -1}, {"Cat": 1 << 63}, [3]],
                         ids=str)
def test_seeds_of_a_style_that_are_none(trained, capsys, tmp_path, seeds):
    (tmp_path / "adapters" / "dots" / "style.json").write_text(json.dumps({"seeds": seeds}))
    assert "style.json: seeds" in refused(capsys, "test", "--config", trained)


@pytest.mark.parametrize("seed", [-2, 1 << 63, 10 ** 30])
def test_a_seed_that_is_none(trained, capsys, tmp_path, seed):
    assert "--seed" in refused(capsys, "generate", "--config", trained, "--style", "dots", "--prompt", "A cat",
                               "--seed", seed, "--output", tmp_path / "a.png")
    change(trained, sampling__seed=seed)
    assert "sampling.seed" in refused(capsys, "test", "--config", trained)


@pytest.mark.parametrize("prompt", ["a\ud800", "a\nb", "a\x1b[2J", "a\0"], ids=ascii)
def test_a_phrase_that_cannot_be_printed(trained, capsys, tmp_path, prompt):
    message = refused(capsys, "generate", "--config", trained, "--style", "dots", "--prompt", prompt,
                      "--output", tmp_path / "a.png")
    assert "control character" in message and message.isprintable() and not (tmp_path / "a.png").exists()


def test_words_beside_the_prompt_that_are_no_text(trained, capsys, tmp_path):
    """Bytes that no encoding has come from the command line as halves of characters."""
    for command, option in (("draw", "--negative"), ("align", "--look"), ("align", "--reference-prompt")):
        given = ("--prompt", "A cat") if command == "draw" else ("--prompts", "A cat")
        message = refused(capsys, command, "--config", trained, *given, option, "a\ud800", "--output",
                          tmp_path / "a.png")
        assert "bytes that are no text" in message and message.isprintable() and not (tmp_path / "a.png").exists()


@pytest.mark.parametrize("choice", ["\u00b3", "3\u00b2", "9" * 5000], ids=["superscript", "a power", "5000 digits"])
def test_a_number_of_prompts_that_is_none(trained, capsys, choice):
    """Not a count, so the name of a prompt: that of one that can be drawn, or a sentence."""
    assert main(["test", "--config", str(trained), "--prompts", choice]) == (2 if len(choice) > 190 else 0)


def test_no_prompt_json(trained, capsys, tmp_path):
    (tmp_path / "data" / "dots" / "prompt.json").unlink()
    assert "prompt.json" in refused(capsys, "test", "--config", trained, "--styles", "dots")


@pytest.mark.parametrize("name", ["../dots", "a/b", "..", ".hidden"])
def test_names_that_leave_their_folder(world, capsys, name):
    assert "name" in refused(capsys, "test", "--config", world, "--styles", name)
    assert "name" in refused(capsys, "train", "fine", "--config", world, "--styles", name)
    assert "name" in refused(capsys, "test", "--config", world, "--styles", "dots", "--prompts", f"Cat,{name}")


def test_untrained_style_says_what_to_type(world, capsys):
    assert "train" in refused(capsys, "test", "--config", world)
    said = refused(capsys, "test", "--config", world, "--styles", "dots")
    assert "python -m styleblend train all --styles dots" in said


@pytest.mark.parametrize("which", ["0/2", "3/2", "x", "1"])
def test_shard(world, capsys, which, tmp_path):
    assert "--shard" in refused(capsys, "test", "--config", world, "--styles", "dots", "--shard", which)


def test_full_disk_leaves_nothing_torn(tmp_path):
    """A file size limit stands in for a full disk: the same error, from the same call."""
    code = ("import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "from styleblend.files.tensor_files import write_safetensors\nimport numpy as np\n"
            "from styleblend.errors import StyleBlendError\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
            "try:\n    write_safetensors(sys.argv[1], {'a': np.zeros(9999, np.float32)})\n"
            "except StyleBlendError as error:\n    print(error); sys.exit(2)")
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.safetensors")], capture_output=True, text=True,
                         cwd=ROOT)
    assert run.returncode == 2 and "could not be written" in run.stdout, run.stderr
    assert os.listdir(tmp_path) == []


def test_long_prompt_is_cut_with_a_warning(tiny_base):
    from styleblend.base.tokens import Tokenizer
    tokenizer = Tokenizer(tiny_base.folder / "tokenizer")
    with pytest.warns(UserWarning, match="left out: 'word"):
        ids = tokenizer.encode(["word " * 90])
    assert ids.shape == (1, 77) and ids[0, -1] == tokenizer.ids("")[-1]


def test_it_is_said_in_the_programs_own_voice(trained, tmp_path, capfd):
    """A library would say "Token indices ... will result in indexing errors", which is not so."""
    assert main(["draw", "--config", str(trained), "--prompt", "word " * 90, "--output", str(tmp_path / "a.png")]) == 0
    said = capfd.readouterr().err
    assert "styleblend: the prompt has 90 tokens" in said and "indexing" not in said and "Token indices" not in said


def test_placeholder_that_is_a_word(tiny_base):
    from styleblend.errors import StyleBlendError
    from styleblend.base.tokens import Tokenizer
    with pytest.raises(StyleBlendError, match="already knows"):
        Tokenizer(tiny_base.folder / "tokenizer", ["cat</w>"])


@pytest.mark.parametrize("option", [("--prompts", "0"), ("--prompts", ","), ("--styles", ","), ("--prompts", "²")])
def test_a_choice_of_nothing_is_refused(trained, capsys, option):
    """"²" is a digit to Python and no number; so it is a prompt, which the tiny base draws as any other."""
    assert main(["test", "--config", str(trained), *option]) == (0 if option[1] == "²" else 2)
    assert option[1] == "²" or "nothing" in capsys.readouterr().err
