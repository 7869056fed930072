"""Weights in int8: how near they are to what was read, what computes with them, and who may ask for them."""
from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from drawing import pictures, request
from reference import seeded
from styleblend import cli
from styleblend.base import weights
from styleblend.base.base import load_base
from styleblend.base.controlnets import load_controlnet
from styleblend.cli.options import settings_of
from styleblend.errors import StyleBlendError
from styleblend.jobs.events import result_of
from styleblend.jobs.memory import fitted, table, within
from styleblend.kernels import dtypes, int8
from styleblend.machine.precision import rounded
from styleblend.machine.runtime import jt
from styleblend.models.layers import Conv2d, Linear
from styleblend.pipeline import Pipeline
from styleblend.record import changes, read_record
from styleblend.settings import ControlSettings, SamplingSettings, read_settings
from test_memory import sd21  # noqa: F401 (a fixture that works by being here)

MINI = Path(__file__).parents[2] / "checkpoints" / "mini" / "base"
SAMPLING = SamplingSettings(width=64, height=64, steps=3, guidance=3.0, saved_size=None)
COMPUTED = ("float32", "bfloat16")


def off(ours, theirs) -> float:
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


def of_each_channel(numbers, like):
    return numbers.reshape(-1, *[1] * (like.ndim - 1))


# ---------------------------------------------------------------- numbers and layers

@pytest.mark.parametrize("shape", [(5, 7), (32, 64), (3, 1), (1, 130), (6, 4, 3, 3), (0, 8)], ids=str)
def test_each_number_is_the_nearest_that_its_channel_has(shape):
    numbers = seeded.values("int8", shape) * np.logspace(-6, 6, max(shape[0], 1), dtype=np.float32)[:shape[0]].reshape(
        -1, *[1] * (len(shape) - 1))  # channels of very different size
    kept, factors = int8.narrowed(jt.array(numbers))
    assert kept.dtype == "int8" and factors.dtype == "float32" and kept.shape == list(shape)
    per = of_each_channel(factors.numpy(), numbers)
    assert (np.abs(kept.numpy() * per - numbers) <= 0.501 * per).all()
    if numbers.size:
        assert (np.abs(kept.numpy().reshape(shape[0], -1).astype(int)).max(1) == 127).all()
    for dtype in COMPUTED:
        wide = int8.widened(kept, factors, dtype, kept)
        assert wide.dtype == dtype
        assert np.array_equal(wide.float32().numpy(), rounded(kept.numpy() * per, dtype))


def test_a_channel_of_zeros_stays_zeros():
    """So does one whose factor would be less than float32 has."""
    numbers = np.stack([np.zeros(20), np.full(20, 1e-38), np.ones(20)]).astype(np.float32)
    kept, factors = int8.narrowed(jt.array(numbers))
    wide = int8.widened(kept, factors, "float32", kept).numpy()
    assert not wide[:2].any() and np.allclose(wide[2], 1, rtol=1e-6)


@pytest.mark.parametrize("computed", COMPUTED)
@pytest.mark.parametrize("layer, shape", [(Linear(40, 24), (3, 5, 40)), (Conv2d(6, 10, 3, 2, 1), (2, 6, 9, 8))],
                         ids=["linear", "convolution"])
def test_a_layer_computes_as_with_the_numbers_that_it_kept(layer, shape, computed):
    tensors = {name: seeded.weight(name, tuple(p.shape)) for name, p in weights.parameters(layer).items()}
    weights.load(layer, dict(tensors), "here", f"int8-{computed}")
    assert layer.weight.dtype == "int8" and layer.dtype() == computed
    wide = layer.weight.numpy() * of_each_channel(layer.int8.factors.numpy(), tensors["weight"])
    same = type(layer)(40, 24) if isinstance(layer, Linear) else Conv2d(6, 10, 3, 2, 1)
    weights.load(same, {**tensors, "weight": wide}, "here", computed)
    x = jt.array(seeded.values("x", shape))
    ours, theirs = layer(x), same(x)
    assert ours.dtype == theirs.dtype == computed
    assert np.array_equal(ours.float32().numpy(), theirs.float32().numpy())


def test_what_is_loaded_anew_is_no_longer_int8():
    layer, tensors = Linear(8, 4), {"weight": seeded.weight("weight", (4, 8)), "bias": seeded.weight("bias", (4,))}
    x = jt.array(seeded.values("x", (2, 8)))
    weights.load(layer, dict(tensors), "here", "int8-float32")
    assert layer.int8
    weights.load(layer, dict(tensors), "here")
    assert layer.int8 is None and np.allclose(layer(x).numpy(), x.numpy() @ tensors["weight"].T + tensors["bias"],
                                              atol=1e-6)


# ---------------------------------------------------------------- networks and pictures

@pytest.fixture(scope="module")
def wide():
    return load_base(MINI)


def test_what_becomes_int8(tiny_folder, tiny_base):
    """The matrices of layers in the UNet and the text encoder; no table of embeddings, nothing of the VAE."""
    base = load_base(tiny_folder, "int8-float32")
    kinds = {part: {name: str(p.dtype) for name, p in weights.parameters(getattr(base, part)).items()}
             for part in ("unet", "text_encoder", "vae")}
    assert set(kinds["vae"].values()) == {"float32"}
    assert kinds["text_encoder"]["text_model.embeddings.token_embedding.weight"] == "float32"
    assert {kinds["unet"][f"{part}.weight"] for part in ("conv_in", "conv_out", "time_embedding.linear_1")} == {
        "float32"}
    few = [name for part in ("unet", "text_encoder") for name, kind in kinds[part].items() if kind == "int8"]
    assert "down_blocks.0.resnets.0.conv1.weight" in few and "text_model.encoder.layers.0.mlp.fc1.weight" in few
    assert all(name.endswith(".weight") for name in few)
    assert base.fingerprint() == tiny_base.fingerprint()
    assert base.decoder_fingerprint() == tiny_base.decoder_fingerprint()


@pytest.mark.parametrize("computed", COMPUTED)
def test_networks_are_within_a_hundredth(wide, computed):
    """Of the mini base, whose weights are trained ones."""
    base = load_base(MINI, f"int8-{computed}")
    ids = base.tokenizer().encode(["A rabbit in pixel art"])
    x, text = (jt.array(seeded.values(name, shape)) for name, shape in (
        ("x", (2, 4, 16, 16)), ("text", (2, 77, base.unet.config.cross_attention_dim))))
    with jt.no_grad():
        calls = [lambda of: of.unet(x, 500, text, None), lambda of: of.text_encoder(ids)]
        differences = [off(*(call(of).float32().numpy() for of in (base, wide))) for call in calls]
    print(computed, differences)
    assert max(differences) <= 1e-2


@pytest.mark.parametrize("computed", COMPUTED)
def test_a_style_and_a_controlnet_beside_it(tiny_folder, tiny_base, tiny_style, tiny_controlnet, computed):
    """LoRAs of layers in int8, and a ControlNet, which is kept as its base is: near what float32 draws."""
    def shown(base) -> np.ndarray:
        pipeline = Pipeline(base)
        plain = pictures(pipeline, request(["A cat"], [1], SAMPLING))
        styled = pictures(pipeline, request(["A cat"], [1], SAMPLING, tiny_style))
        steered = pictures(pipeline, request(["A cat"], [1], SAMPLING, control=(edges,)))
        assert not np.array_equal(plain, styled) and not np.array_equal(plain, steered)
        return np.stack([plain, styled, steered]).astype(float)

    rng, path = np.random.default_rng(0), tiny_controlnet / "edges.png"
    Image.fromarray(rng.integers(0, 2, (64, 64), np.uint8) * 255).save(path)
    edges = ControlSettings(kind="canny", picture=str(path), network=str(tiny_controlnet))
    base = load_base(tiny_folder, f"int8-{computed}")
    assert "int8" in {str(p.dtype) for p in weights.parameters(load_controlnet(tiny_controlnet, base)).values()}
    ours, theirs = shown(base), shown(tiny_base)
    assert 0 < np.abs(ours - theirs).mean() < 4


def test_a_picture_says_it_and_is_drawn_again(world, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(dtypes.CHOICE, "float32")
    first, again, plain = (tmp_path / f"{name}.png" for name in ("first", "again", "plain"))
    draw = ["draw", "--config", str(world), "--prompt", "A cat"]
    assert cli.main([*draw, "--dtype", "int8", "--output", str(first)]) == 0
    assert "drawn in float32 with weights in int8 (--dtype int8)" in capsys.readouterr().err
    assert read_record(first).dtype == "int8-float32"
    assert cli.main(["draw", "--config", str(world), "--from", str(first), "--output", str(again)]) == 0
    assert first.read_bytes() == again.read_bytes()
    assert cli.main([*draw, "--dtype", "float32", "--output", str(plain)]) == 0
    assert changes(read_record(first), read_record(plain)) == ["precision"]


# ---------------------------------------------------------------- who may ask for it

@pytest.mark.parametrize("auto, dtype", [("float32", "int8-float32"), ("bfloat16", "int8-bfloat16"),
                                         ("float16", "int8-float32")])
def test_what_is_computed_beside_it_is_as_with_auto(monkeypatch, auto, dtype):
    """But for float16, which a CPU multiplies slowly."""
    monkeypatch.setenv(dtypes.CHOICE, auto)
    assert dtypes.drawn_as("int8") == dtypes.drawn_as(dtype) == dtype


def test_on_a_gpu_it_is_refused(monkeypatch):
    monkeypatch.setattr(dtypes, "jt", type("Jittor", (), {"flags": type("Flags", (), {"use_cuda": 1})}))
    for dtype in ("int8", "int8-float32"):
        with pytest.raises(StyleBlendError, match="on a GPU give --dtype float16"):
            dtypes.drawn_as(dtype)


@pytest.mark.parametrize("dtype", ["int4", "int8-", "int8-float16", "int8-int8", "half"])
def test_a_type_that_is_none(dtype):
    with pytest.raises(StyleBlendError, match="it is float32, float16, bfloat16, int8 or auto"):
        dtypes.drawn_as(dtype)


def test_a_config_with_another_type_is_told_which_there_are(world, tmp_path, capsys):
    config = tmp_path / "int4.yaml"
    config.write_text(f"{world.read_text()}\ndtype: int4\n")
    assert cli.main(["draw", "--config", str(config), "--prompt", "A cat"]) == 2
    said = capsys.readouterr().err
    assert said.count("'int8'") == said.count("'auto'") == 1 and "literal" not in said


def test_what_is_trained_is_float32(world, tmp_path, monkeypatch, capsys):
    """As with auto; a config for a small machine need not be changed for it. The option is for drawing alone."""
    monkeypatch.setenv(dtypes.CHOICE, "float32")
    settings = read_settings(world).model_copy(update={"dtype": "int8"})
    said = []
    assert result_of(within(settings, "training", None), said.append).dtype == "float32"
    assert [event.sentence for event in said] == ["trained in float32: weights in int8 are for drawing"]
    with pytest.raises(SystemExit):
        cli.main(["train", "--config", str(world), "--dtype", "int8"])


def test_an_estimate_names_the_types(world, monkeypatch):
    monkeypatch.setenv(dtypes.CHOICE, "float32")
    settings = read_settings(world)
    few, wide = (dict(table(Path(settings.base), settings.model_copy(update={"dtype": dtype})))
                 for dtype in ("int8", "float32"))
    assert few["weights of the unet, int8-float32"] < 0.5 * wide["weights of the unet"]
    assert few["training in float32: training step"] == wide["training: training step"]


def test_what_takes_more_is_not_advised(sd21, monkeypatch):  # noqa: F811
    """Without matrix tiles activations are float32 beside int8, and bfloat16 has half of them."""
    monkeypatch.setenv(dtypes.CHOICE, "float32")
    settings = read_settings("sd21").model_copy(update={"dtype": "bfloat16"})
    with pytest.raises(StyleBlendError, match="try --dtype int8, or a smaller"):
        result_of(fitted(settings, sd21, "drawing", "1GB"), lambda event: None)
    large = settings.sampling.model_copy(update={"width": 2048, "height": 2048})
    many = settings.model_copy(update={"sampling": large})
    with pytest.raises(StyleBlendError, match="try a smaller"):
        result_of(fitted(many, sd21, "drawing", "1GB"), lambda event: None)


def test_all_machines_of_a_cluster_compute_the_same(world, monkeypatch):
    monkeypatch.setenv(dtypes.CHOICE, "bfloat16")
    assert settings_of(SimpleNamespace(config=world, cluster="auto", dtype="int8")).dtype == "int8-float32"
