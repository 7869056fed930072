"""A tiny base of Stable Diffusion 2.1's structure, with random weights.

Enough for every test of loading, control and sampling.
"""
from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image

from borrowed_tokenizer import tokenizer_folder
from reference import seeded

ROOT = Path(__file__).parent.parent
TEXT = {**seeded.TEXT, "vocab_size": 49408}


@pytest.fixture(scope="session")
def peer():
    """Runs a script of tests/reference with the Python that has PyTorch."""
    python = os.environ.get("STYLEBLEND_TORCH_PYTHON")
    if not python:
        pytest.skip("STYLEBLEND_TORCH_PYTHON does not name a Python with tests/reference/requirements.txt")
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return lambda script, *arguments: subprocess.run(
        [python, str(ROOT / "tests" / "reference" / script), *map(str, arguments)], check=True, env=clean)


def pytest_configure(config):
    """Tests in several processes share the cores: else each would start a thread for every core.

    And "auto" is float32 for them, as on most machines: what they compare is the same everywhere.
    """
    os.environ.setdefault("STYLEBLEND_DTYPE", "float32")
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    if hasattr(config, "workerinput"):  # in one of them
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // workers)))


@pytest.fixture
def report(record_property):
    """Says a line, such as how near a block comes to its reference, at the end of the tests."""
    return lambda line: record_property("reported", line)


def pytest_terminal_summary(terminalreporter):
    lines = [value for tests in (terminalreporter.stats.get(end, ()) for end in ("passed", "failed")) for test in tests
             for name, value in test.user_properties if name == "reported" and test.when == "call"]
    if lines:
        terminalreporter.section("measured")
    for line in lines:
        terminalreporter.write_line(line)


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_works():
    """A shell that starts the tests in the background makes them, and all that they start, ignore Ctrl-C.

    Some of them press it.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # the same by nohup
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    """A diffusers folder; tests that change it copy it first."""
    from styleblend.base import weights
    from styleblend.files import tensor_files
    from styleblend.models.configs import ClipTextConfig, UNetConfig, VaeConfig
    from styleblend.models.clip_text import CLIPTextModel
    from styleblend.models.unet import UNet2DConditionModel
    from styleblend.models.vae import AutoencoderKL

    folder = tmp_path_factory.mktemp("tiny") / "base"
    shutil.copytree(tokenizer_folder(), folder / "tokenizer")
    for part, name, config, network in (
            ("unet", "diffusion_pytorch_model", seeded.UNET, UNet2DConditionModel(UNetConfig(**seeded.UNET))),
            ("vae", "diffusion_pytorch_model", seeded.VAE, AutoencoderKL(VaeConfig(**seeded.VAE))),
            ("text_encoder", "model", TEXT, CLIPTextModel(ClipTextConfig(**TEXT)))):
        tensors = {key: seeded.weight(f"{part}/{key}", tuple(p.shape))
                   for key, p in weights.parameters(network).items()}
        tensor_files.write_safetensors(folder / part / f"{name}.safetensors", tensors)
        (folder / part / "config.json").write_text(json.dumps(config))
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(
        json.dumps({**seeded.SCHEDULE, "prediction_type": "v_prediction"}))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    return folder


@pytest.fixture(scope="session")
def tiny_base(tiny_folder):
    """The folder, loaded. No test changes it."""
    from styleblend.base.base import load_base

    return load_base(tiny_folder)


@pytest.fixture(scope="session")
def tiny_style(tiny_base):
    """Made-up adapters that change the tiny base's pictures."""
    from styleblend.adapters import lora
    from styleblend.adapters.style import Style

    def random_lora(network, pattern, rank=2):
        found = {}
        for path, linear in lora.targets(network, pattern):
            for end, shape in (("down", (rank, linear.in_features)), ("up", (linear.out_features, rank))):
                found[f"{path}.lora.{end}.weight"] = seeded.weight(f"style/{path}.{end}", shape) * np.float32(0.5)
        return found

    width = TEXT["hidden_size"]
    return Style("tiny", {"coarse_embeds": seeded.values("style/coarse", (width,)),
                          "fine_embeds": seeded.values("style/fine", (width,)),
                          "text_lora": random_lora(tiny_base.text_encoder, lora.TEXT_TARGETS),
                          "unet_lora": random_lora(tiny_base.unet, lora.UNET_TARGETS)})


@pytest.fixture(scope="session")
def tiny_controlnet(tiny_base, tmp_path_factory) -> Path:
    """A ControlNet with made-up weights for the tiny base, as a diffusers folder."""
    from styleblend.base.weights import parameters
    from styleblend.files.tensor_files import write_safetensors
    from styleblend.models.configs import ControlNetConfig
    from styleblend.models.controlnet import ControlNetModel

    sizes = {name: getattr(tiny_base.unet.config, name)
             for name in ("block_out_channels", "layers_per_block", "attention_head_dim", "cross_attention_dim",
                          "norm_num_groups", "down_block_types")}
    sizes["conditioning_embedding_out_channels"] = (4, 8, 8, 16)
    found, network = tmp_path_factory.mktemp("controlnet"), ControlNetModel(ControlNetConfig(**sizes))
    write_safetensors(found / "diffusion_pytorch_model.safetensors",
                      {name: seeded.values(f"controlnet/{name}", tuple(p.shape)) * np.float32(0.1)
                       for name, p in parameters(network).items()})
    (found / "config.json").write_text(json.dumps({"_class_name": "ControlNetModel", "use_linear_projection": True,
                                                   **sizes}))
    return found


@pytest.fixture(scope="session")
def tiny_encoder(tiny_base, tmp_path_factory) -> Path:
    """A style encoder with made-up weights for the tiny base, as a folder of ours."""
    from styleblend.adapters.style_encoders import save_style_encoder
    from styleblend.base.weights import parameters
    from styleblend.machine.runtime import jt
    from styleblend.models.configs import StyleEncoderConfig
    from styleblend.models.style_encoder import StyleEncoder

    sizes = {name: value for name, value in seeded.VISION.items() if name in StyleEncoderConfig.__dataclass_fields__}
    encoder = StyleEncoder(StyleEncoderConfig(**sizes, width=TEXT["hidden_size"], base=tiny_base.fingerprint(),
                                              template="{prompt} in the style of {}."))
    for name, parameter in parameters(encoder).items():
        parameter.assign(jt.array(seeded.weight(f"encoder/{name}", tuple(parameter.shape))))
    return save_style_encoder(tmp_path_factory.mktemp("encoder"), encoder, "# An encoder with made-up weights")


@pytest.fixture
def hub(monkeypatch):
    """In the hub's place: `has` are its models (id -> folder), `asked` is what was wanted of it (id and patterns)."""
    hub = SimpleNamespace(has={}, asked=[])

    def download(name, allow_patterns, local_files_only=False):
        hub.asked.append((name, allow_patterns))
        if name not in hub.has:
            raise OSError("there is no network")
        return str(hub.has[name])

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    return hub


@pytest.fixture
def world(tmp_path, tiny_base):
    """A config with a tiny base, one style with two pictures and two prompts, no adapters yet."""
    style = tmp_path / "data" / "dots"
    (style / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("red_apple", "boat"):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(style / "images" / f"{name}.png")
    (style / "prompt.json").write_text(json.dumps({"0": "Cat", "1": "Owl"}))
    settings = dict(base=str(tiny_base.folder), data=str(tmp_path / "data"), adapters=str(tmp_path / "adapters"),
                    look_alikes=str(tmp_path / "look"), output=str(tmp_path / "result"),
                    sampling=dict(steps=2, width=64, height=64, guidance=3.0, saved_size=None, batch=2),
                    training=dict(look_alikes=dict(steps=2, candidates=2, chosen=2),
                                  coarse=dict(steps=2, lr=1e-3, rank=2), inversion=dict(steps=2, lr=1e-2, flip=True),
                                  lora=dict(steps=2, lr=1e-3, rank=2, flip=True), sample_every=0))
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture
def trained(world, tmp_path, tiny_style):
    """The world of one style with made-up adapters."""
    from drawing import save_style

    save_style(tmp_path / "adapters" / "dots", "dots", tiny_style)
    return world
