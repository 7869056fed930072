"""Memory by calculation: against measured peaks, and what `--max-memory` makes of it."""
from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from styleblend import cli
from styleblend.adapters.style_encoders import load_style_encoder
from styleblend.base import weights
from styleblend.base.base import load_base
from styleblend.base.controlnets import load_controlnet
from styleblend.models.configs import ClipTextConfig, ScheduleConfig, UNetConfig, VaeConfig
from styleblend.errors import StyleBlendError
from styleblend.files.tensor_files import read_safetensors, write_safetensors
from styleblend.jobs import memory
from styleblend.jobs.events import result_of
from styleblend.jobs.memory import (CONTEXT, MIB, PHASES, PROCESS, Beside, Sizes, beside, drawing, fitted, needed,
                                    parse_size)
from styleblend.machine.runtime import WORK_SPACE
from styleblend.settings import ControlSettings, SamplingSettings, read_settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def sd21(tmp_path_factory):
    """A folder with the sizes of Stable Diffusion 2.1 and no weights."""
    folder = tmp_path_factory.mktemp("sd21")
    for part, config in (("unet", UNetConfig()), ("vae", VaeConfig()), ("text_encoder", ClipTextConfig()),
                         ("scheduler", ScheduleConfig())):
        (folder / part).mkdir()
        (folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")).write_text(
            json.dumps(asdict(config)))
    return folder


# Peaks of the process in MiB: docs/benchmarks.md says how; the network alone was there. bfloat16 "by tiles" is
# multiplied as it is, else in copies.
MEASURED = [
    ("float32", "unet", lambda s: s.unet(4, 64, 64), 4365), ("float32", "unet", lambda s: s.unet(4, 32, 32), 3748),
    ("float32", "unet", lambda s: s.unet(2, 48, 48), 3788),
    ("bfloat16", "unet", lambda s: s.unet(4, 64, 64), 2573), ("bfloat16", "unet", lambda s: s.unet(2, 32, 32), 2358),
    ("float32", "unet", lambda s: s.unet_step(1, 64, 64, False), 6656),
    ("float32", "unet", lambda s: s.unet_step(1, 64, 64, True), 5157),
    ("bfloat16", "unet", lambda s: s.unet_step(1, 64, 64, True), 4718),
    ("bfloat16 by tiles", "unet", lambda s: s.unet(4, 64, 64), 2058),
    ("bfloat16 by tiles", "unet", lambda s: s.unet(2, 32, 32), 1882),
    ("bfloat16 by tiles", "unet", lambda s: s.unet_step(1, 64, 64, False), 3278),
    ("bfloat16 by tiles", "unet", lambda s: s.unet_step(1, 64, 64, True), 2958),
    ("int8-float32", "unet", lambda s: s.unet(4, 64, 64), 1722),
    ("int8-float32", "unet", lambda s: s.unet(4, 32, 32), 1413),
    ("int8-bfloat16 by tiles", "unet", lambda s: s.unet(4, 64, 64), 1220),
    ("float32", "vae", lambda s: s.vae(64, 64, 0), 1786), ("float32", "vae", lambda s: s.vae(96, 96, 0), 3691),
    ("float32", "vae", lambda s: s.vae(96, 96, 64), 1882)]


@pytest.mark.parametrize("dtype, part, of, measured", MEASURED)
def test_estimates_are_near_measured_peaks(sd21, dtype, part, of, measured, monkeypatch):
    monkeypatch.setattr(memory, "multiplied", lambda kept: kept in dtype and "tiles" in dtype)
    sizes = Sizes(sd21, dtype.split()[0])
    estimate = (PROCESS + sizes.weights[part] + of(sizes)) / MIB
    print(f"{dtype} {part}: estimate {estimate:.0f}, measured {measured}, {estimate / measured:.2f}")
    assert estimate == pytest.approx(measured, rel=0.25)


def test_a_card_has_its_own_program():
    """CUDA's context and cuDNN's work space in place of Python and Jittor; the networks are as large."""
    card, cpu = (Sizes(None, "float16", on_card) for on_card in (True, False))
    assert card.always - cpu.always == CONTEXT + WORK_SPACE - PROCESS
    assert card.unet(4, 96, 96) == cpu.unet(4, 96, 96)


def test_a_picture_takes_what_is_estimated(tmp_path):
    """The mini base, here and now: the peak of a process that draws one."""
    if not (ROOT / "checkpoints" / "mini" / "styles" / "fxemoji").is_dir():
        pytest.skip("checkpoints/mini is not there")
    code = ("import re, sys; from styleblend.cli import main; "
            "code = main(['generate', '--style', 'fxemoji', '--prompt', 'A cat', '--output', sys.argv[1]]); "
            "print(code, re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])")
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path / "cat.png")], cwd=ROOT, capture_output=True,
                         text=True)
    settings = read_settings(ROOT / "configs" / "mini.yaml")
    settings = settings.model_copy(update={"sampling": settings.sampling.model_copy(update={"batch": 1})})
    sizes = Sizes(ROOT / "checkpoints" / "mini" / "base", "float32")
    assert needed(sizes, settings, "drawing once") == pytest.approx(
        int(run.stdout.split()[-1]) * 1024, rel=0.25), run.stdout


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8-float32", "int8-bfloat16"])
def test_weights_are_counted_exactly(tiny_folder, dtype):
    base, sizes = load_base(tiny_folder, dtype), Sizes(tiny_folder, dtype)
    for part, size in sizes.weights.items():
        network = getattr(base, part)
        factors = [layer.int8.factors for _, layer in network.named_modules() if getattr(layer, "int8", None)]
        assert bool(factors) == (dtype.startswith("int8") and part != "vae")
        assert size == sum(p.nbytes for p in [*weights.parameters(network).values(), *factors])


def test_references_and_the_networks_of_control_pictures_are_counted(tiny_folder, tiny_base, tiny_controlnet):
    def unet_step(batch, more=Beside()):
        sampling = SamplingSettings(width=64, height=64, batch=batch)
        return drawing(sizes, mini.model_copy(update={"sampling": sampling}), more)["UNet step"]

    mini = read_settings(ROOT / "configs" / "mini.yaml")
    sizes, network = Sizes(tiny_folder, "float32"), load_controlnet(tiny_controlnet, tiny_base)
    assert unet_step(1, Beside(references=1)) == unet_step(1)  # one reference and one picture, or two branches
    assert unet_step(1, Beside(references=5)) == unet_step(3)
    of_network = sum(p.nbytes for p in weights.parameters(network).values())
    of_one, of_two = (unet_step(n, Beside(controlnets=(tiny_controlnet,))) - unet_step(n) - of_network for n in (1, 2))
    assert of_two == 2 * of_one > 0


@pytest.mark.parametrize("kind", ["drawing", "drawing once"])
def test_the_encoder_of_reference_pictures_is_counted(sd21, tiny_encoder, tmp_path, kind):
    """As it is in memory, where also the numbers of a file in half precision are float32."""
    size = sum(p.nbytes for p in weights.parameters(load_style_encoder(tiny_encoder)).values())
    tensors = read_safetensors(tiny_encoder / "model.safetensors")
    write_safetensors(tmp_path / "half.safetensors", {name: x.astype("float16") for name, x in tensors.items()})
    sizes, settings = Sizes(sd21, "float32"), read_settings(ROOT / "configs" / "sd21.yaml")
    for encoder in (tiny_encoder, tmp_path / "half.safetensors"):
        plain, read = (PHASES[kind](sizes, settings, more) for more in (Beside(), Beside(encoder=encoder)))
        assert {read[name] - plain[name] for name in plain} == {size}


def test_what_control_settings_bring(tiny_controlnet, tmp_path):
    """Each folder once; what is only named by the id of a hub is not here to be counted."""
    mini, picture = read_settings(ROOT / "configs" / "mini.yaml"), str(tiny_controlnet / "a.png")
    canny = ControlSettings(kind="canny", picture=picture, network=str(tiny_controlnet))
    depth = ControlSettings(kind="depth", picture=picture, network=str(tiny_controlnet), estimator=str(tmp_path))
    assert beside(mini, [canny, canny, depth], 3) == Beside(3, (tiny_controlnet,))
    (tmp_path / "config.json").write_text("{}")
    assert beside(mini, [depth]) == Beside(0, (tiny_controlnet,), (tmp_path,))


@pytest.mark.parametrize("kind", PHASES)
def test_what_is_leaner_takes_less(sd21, kind):
    settings = read_settings(ROOT / "configs" / "sd21.yaml")
    by_type = {dtype: needed(Sizes(sd21, dtype), settings, kind) for dtype in ("float32", "bfloat16", "float16")}
    assert by_type["bfloat16"] < by_type["float16"] < by_type["float32"]  # the VAE beside float16 is float32


def said_of(job, sentences):
    """The result of a job; its sentences are added to the list."""
    return result_of(job, lambda event: sentences.append(event.sentence))


def test_max_memory_changes_as_little_as_it_must(sd21):
    settings, said = read_settings(ROOT / "configs" / "sd21.yaml"), []
    assert said_of(fitted(settings, sd21, "drawing", "64GB"), said) == settings and len(said) == 1
    strips = said_of(fitted(settings, sd21, "drawing", "8GB"), said)
    assert strips.sampling == settings.sampling.model_copy(update={"vae_strip": 64}) and "strips" in said[-1]
    two = settings.model_copy(update={"sampling": settings.sampling.model_copy(update={"batch": 2})})
    assert said_of(fitted(two, sd21, "drawing", "8GB"), said) == strips and "one picture at a time" in said[-1]
    with pytest.raises(StyleBlendError, match="at the least, and --max-memory allows 3,815: "
                                              "try --dtype bfloat16 or int8, or a smaller"):
        said_of(fitted(settings, sd21, "drawing", "4GB"), said)


def test_training_is_checkpointed_first(sd21):
    settings = read_settings(ROOT / "configs" / "sd21.yaml")
    settings = settings.model_copy(
        update={"training": settings.training.model_copy(update={"gradient_checkpointing": False})})
    lean = said_of(fitted(settings, sd21, "training", "10GB"), [])
    assert lean.training.gradient_checkpointing and needed(Sizes(sd21, "float32"), lean, "training") <= 10e9


@pytest.mark.parametrize("text, size", [("8GB", 8e9), ("7.5 GiB", 7.5 * 2 ** 30), ("900M", 9e8), ("1024k", 1_024_000),
                                        ("3tb", 3e12), ("500 B", 500)])
def test_sizes_as_people_write_them(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "much", "8 apples", "-1GB", "0", "8GBB"])
def test_a_size_that_is_none(text):
    with pytest.raises(StyleBlendError, match="write 8GB, 7.5GiB or 900MB"):
        parse_size(text)


def test_the_commands(trained, capsys):
    assert cli.main(["memory", "--config", str(trained), "--dtype", "bfloat16"]) == 0
    out = capsys.readouterr().out
    assert ("weights of the text encoder" in out and "drawing: UNet step" in out
            and "drawing once: VAE decode" in out and "training: training step" in out)
    for command in (["test"], ["train", "all"], ["generate", "--style", "dots", "--prompt", "A cat"]):
        assert cli.main(command + ["--config", str(trained), "--max-memory", "50MB"]) == 2
        assert "at the least, and --max-memory allows 48" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["8", " 8 ", "16.5", "8000000000"])
def test_a_number_without_a_unit_is_refused(text):
    """It would be bytes, which nobody means."""
    with pytest.raises(StyleBlendError, match=f"has no unit: write {text.strip()}GB for gigabytes"):
        parse_size(text)


def test_an_estimate_needs_no_weights(sd21, tmp_path, capsys):
    """Of a base's folder its descriptions will do; of Stable Diffusion 2.1 nothing, and nothing is fetched."""
    text = (ROOT / "configs" / "sd21.yaml").read_text()
    assert "base: checkpoints/stable-diffusion-2-1" in text
    tables = {}
    for name, base in (("described", sd21), ("known", tmp_path / "nowhere" / "sd21")):
        config = tmp_path / f"{name}.yaml"
        config.write_text(text.replace("base: checkpoints/stable-diffusion-2-1", f"base: {base}"))
        assert cli.main(["memory", "--config", str(config)]) == 0
        tables[name], said = capsys.readouterr()
        assert ("known sizes of Stable Diffusion 2.1" in said) == (name == "known")
    assert tables["known"] == tables["described"] and "weights of the unet" in tables["known"]
    (sd21 / "unet" / "config.json").rename(tmp_path / "config.json")
    try:
        assert cli.main(["memory", "--config", str(tmp_path / "described.yaml")]) == 2
        assert "unet/config.json" in capsys.readouterr().err
    finally:
        (tmp_path / "config.json").rename(sd21 / "unet" / "config.json")
