"""diffusers and PEFT, in a process of their own, draw what we draw.

The base as it lies there, a style that leaves, and adapters that they save.
"""
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from drawing import last_latents, pictures, request, with_part
from styleblend.adapters import lora
from styleblend.base.base import load_base
from styleblend.cli import main
from styleblend.diffusion.schedule import seeded_noise
from styleblend.machine.runtime import jt
from styleblend.pipeline import Pipeline
from styleblend.settings import SamplingSettings
from styleblend.adapters.style import load_style

pytestmark = pytest.mark.full
ROOT = Path(__file__).parents[2]
MINI, SHIPPED = ROOT / "checkpoints" / "mini" / "base", ROOT / "checkpoints" / "mini" / "styles" / "fxemoji"
SAMPLING = SamplingSettings(width=128, height=128, guidance=5.0, saved_size=None)
NAME = "Ink Art"  # of a style: diffusers finds only the first vector of a token with capital letters
COARSE, FINE = 0.7, 0.6  # strengths that the style is exported with
OWN = 1.25  # how strong the style itself is drawn, which is in what leaves, too
# what is drawn: phrase, how the prompt goes on ({c}, {f}: the tokens), seed
PICTURES = (("A dog", " in the style of {c}.", 3), ("A castle", " in the style of {f}.", 4),
            ("A rabbit", " in the style of {c}, {f}.", 5))
SAVED = ("diffusers", "diffusers, pickle", "PEFT", "PEFT, table", "kohya")


@pytest.fixture(scope="module")
def base():
    return load_base(MINI)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The shipped style under another name, in every format: <format>/..."""
    out = tmp_path_factory.mktemp("exported")
    (out / NAME).mkdir()
    for path in SHIPPED.glob("*.safetensors"):
        shutil.copy(path, out / NAME / path.name.replace(SHIPPED.name, NAME))
    (out / NAME / "style.json").write_text(json.dumps({"blend": {"fine_scale": OWN}}))
    for kind in ("diffusers", "kohya", "webui", "single"):
        assert main(["export", str(out / NAME), "--format", kind, "--output", str(out / kind),
                     "--coarse-strength", str(COARSE), "--fine-strength", str(FINE)]) == 0
    return out


def noise(path: Path, *seeds: int) -> Path:
    np.save(path, np.concatenate([seeded_noise(seed, (1, 4, 16, 16)) for seed in seeds]))
    return path


@pytest.fixture(scope="module")
def theirs(peer, exported, tmp_path_factory):
    """The folder with what diffusers draws of the base and of each format, in one process, or says of it."""
    out = tmp_path_factory.mktemp("theirs")
    plain = {"name": "plain", "prompts": ["A dog.", "A castle in the style of noto."],
             "noise": str(noise(out / "plain-noise.npy", 1, 2))}
    drawn, jobs = str(noise(out / "noise.npy", *(seed for *_, seed in PICTURES))), [plain]
    own = f"<{NAME.lower()}-coarse>", f"<{NAME.lower()}-fine>"  # the tokens that are in the files of diffusers
    by_name = f"{NAME}-coarse".lower(), f"{NAME}-fine".lower()  # a file of kohya's has no token: the user gives one
    for name, weights, embeddings, tokens in (
            ("diffusers", "diffusers/pytorch_lora_weights",
             ("diffusers/coarse_learned_embeds", "diffusers/fine_learned_embeds"), own),
            ("kohya", f"kohya/{NAME}", (f"kohya/{NAME}-coarse", f"kohya/{NAME}-fine"), by_name),
            ("webui", f"webui/Lora/{NAME}", (f"webui/embeddings/{NAME}-coarse", f"webui/embeddings/{NAME}-fine"),
             by_name),
            ("single", f"single/{NAME}", (), own), ("parts of single", f"single/{NAME}", (), own)):
        c, f = tokens
        jobs.append({"name": name, "prompts": [phrase + rest.format(c=c, f=f) for phrase, rest, _ in PICTURES],
                     "noise": drawn, "lora": str(exported / f"{weights}.safetensors"),
                     "parts": dict(zip(("emb.<C>", "emb.<F>"), tokens)) if name.startswith("parts") else None,
                     "embeddings": {str(exported / f"{file}.safetensors"): None if name == "diffusers" else token
                                    for file, token in zip(embeddings, tokens)}})
    (out / "jobs.json").write_text(json.dumps(jobs))
    peer("draw_with_diffusers.py", MINI, out / "jobs.json", out)
    return out


def ordinary(base, style, text: str, seed: int) -> np.ndarray:
    """One branch with both LoRAs, as other programs draw: uint8 (H, W, 3)."""
    pipeline = Pipeline(base)
    applied = pipeline.applied(style)
    recipe = pipeline.recipe(request([""], [seed], SAMPLING, style, branches=("fine",), negative=""), applied)
    recipe = replace(recipe, texts=(("", text),), text_scale=None, lora_scale=None, out_scale=None)
    return pipeline.decode(jt.array(last_latents(pipeline, recipe, SAMPLING, applied)))[0]


def plain(base, prompt: str, seed: int) -> np.ndarray:
    """The base alone, without a negative prompt: uint8 (H, W, 3)."""
    return pictures(Pipeline(base), request([prompt], [seed], SAMPLING, negative=""))[0]


def scaled(lora: dict, strength: float) -> dict:
    return {key: value * np.float32(strength if key.endswith("up.weight") else 1) for key, value in lora.items()}


@pytest.fixture(scope="module")
def ours(base, exported):
    """Our pictures of the style as an ordinary LoRA.

    Of what we export by its strength here, with and without the style's own.
    """
    style = load_style(exported / NAME, NAME, base)

    def draw(own):
        strong = with_part(style, text_lora=scaled(style.parts["text_lora"], COARSE),
                           unet_lora=scaled(style.parts["unet_lora"], FINE * own))
        return np.stack([ordinary(base, strong, phrase + rest.format(c="<C>", f="<F>"), seed)
                         for phrase, rest, seed in PICTURES])
    return {"whole": draw(OWN), "single": draw(1.0)}


def compare(name: str, ours: np.ndarray, theirs: np.ndarray) -> None:
    """Of each picture the largest difference; ours are whole numbers, so half a unit is rounding."""
    difference = np.abs(ours - theirs * 255.0)
    print(f"{name}: largest difference {', '.join(f'{d:.2f}' for d in difference.max((1, 2, 3)))} of 255, "
          f"mean {difference.mean():.3f}")
    assert difference.max() <= 1


def test_the_base(theirs, base):
    ours = [plain(base, prompt, seed) for prompt, seed in (("A dog", 1), ("A castle in the style of noto", 2))]
    compare("base", np.stack(ours), np.load(theirs / "plain.npy"))


@pytest.mark.parametrize("kind", ["diffusers", "kohya", "webui"])
def test_a_style_that_leaves(kind, theirs, ours):
    """<C>, <F> (three vectors), and both in one prompt, with both LoRAs, each as strong as it was asked for."""
    compare(kind, ours["whole"], np.load(theirs / f"{kind}.npy"))


def test_a_style_in_one_file_is_for_this_program(theirs, ours):
    """diffusers refuses it as a whole.

    Its parts are good there: the LoRAs' tensors as they are, the embeddings under tokens of their own.
    """
    assert "Make sure all LoRA param names contain `'lora'`" in (theirs / "single.txt").read_text()
    compare("parts of single", ours["single"], np.load(theirs / "parts of single.npy"))


def test_strengths_can_be_seen(ours):
    """Else the tests above would not see a wrong one."""
    assert np.abs(ours["whole"].astype(float) - ours["single"]).max((1, 2, 3)).min() > 20


def test_kohyas_names_are_understood_to_the_last(exported, peer, base, tmp_path):
    """By the loader of safetensors and diffusers' converter, which ends with an error when a key is left over."""
    peer("convert_kohya.py", exported / "kohya" / f"{NAME}.safetensors", tmp_path / "out.safetensors")
    found, style = load_file(tmp_path / "out.safetensors"), load_style(exported / NAME, NAME, base)
    alphas = {key: float(found.pop(key)) for key in list(found) if key.endswith(".alpha")}
    unet_lora, text_lora = style.parts["unet_lora"], style.parts["text_lora"]
    for network, read, expected, strength in (("unet", lora.unet_lora, unet_lora, FINE * OWN),
                                              ("text_encoder", lora.text_lora, text_lora, COARSE)):
        converted = read(found, getattr(base, network), "converted")
        assert set(converted) == set(expected) and all(np.array_equal(converted[key], expected[key])
                                                       for key in expected)
        of_network = [value for key, value in alphas.items() if key.startswith(f"{network}.")]
        assert len(of_network) == len(expected) / 2
        np.testing.assert_allclose(of_network, 16 * strength, rtol=1e-6)
    assert len(found) == len(unet_lora) + len(text_lora)


# ---------------------------------------------------------------- the other way

@pytest.fixture(scope="module")
def saved(peer, tmp_path_factory):
    """<kind>/ with the files that diffusers and PEFT save, and <kind>.npy, the picture of the networks they saved."""
    out = tmp_path_factory.mktemp("saved")
    peer("save_with_diffusers.py", MINI, "A dog in the style of <ink-fine>.", noise(out / "noise.npy", 3), out, *SAVED)
    return out


@pytest.mark.parametrize("kind", SAVED)
def test_what_diffusers_and_peft_save(kind, saved, base, tmp_path):
    files = [str(path) for path in sorted((saved / kind).rglob("*")) if path.suffix in (".safetensors", ".bin")]
    assert len(files) == (3 if kind.startswith("PEFT") else 2)
    arguments = ["load", *files, "--name", "ink", "--output", str(tmp_path)]
    if kind == "PEFT, table":  # a token was added, and the whole table was saved beside the LoRA
        assert main(arguments) == 2
        arguments.append("--attention-only")
    assert main(arguments) == 0
    picture = ordinary(base, load_style(tmp_path / "ink", "ink", base), "A dog in the style of <F>.", 3)
    compare(kind, picture[None], np.load(saved / f"{kind}.npy"))
    assert np.abs(picture.astype(float) - plain(base, "A dog", 3)).mean() > 5  # the adapters are seen
