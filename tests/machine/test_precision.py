"""float16 and bfloat16: which numbers are kept in them, and how exactly layers compute.

And pictures and gradients against float32.
"""
from __future__ import annotations

import numpy as np
import pytest

from drawing import pictures, request, save_style, with_part
from reference import seeded
from styleblend import cli
from styleblend.adapters import lora
from styleblend.base import weights
from styleblend.base.base import load_base
from styleblend.errors import StyleBlendError
from styleblend.kernels import chunked, reference
from styleblend.models import layers
from styleblend.models.attention import AttentionContext
from styleblend.models.layers import Conv2d, Linear
from styleblend.models.rows import Rows
from styleblend.pipeline import Pipeline
from styleblend.machine.precision import added, cast, rounded
from styleblend.record import read_record
from styleblend.machine.runtime import jt
from styleblend.settings import SamplingSettings, StageSettings
from styleblend.training.optimiser import AdamW

HALVES = ("float16", "bfloat16")
EPS = {"float16": 2.0 ** -11, "bfloat16": 2.0 ** -8}  # half a step of the mantissa
SAMPLING = SamplingSettings(width=64, height=64, steps=4, guidance=3.0, saved_size=None)


@pytest.fixture(scope="module")
def halves(tiny_folder):
    return {dtype: load_base(tiny_folder, dtype) for dtype in HALVES}


def off(ours, theirs) -> float:
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


def filled(layer, dtype):
    """The layer with seeded weights of `dtype`; the same weights as float32 arrays."""
    tensors = {name: seeded.weight(name, tuple(p.shape)) for name, p in weights.parameters(layer).items()}
    weights.load(layer, dict(tensors), "here", dtype)
    return layer, {name: rounded(t, dtype if t.ndim > 1 else "float32").astype(np.float32)
                   for name, t in tensors.items()}


# ---------------------------------------------------------------- numbers and layers

def test_rounding_is_to_the_nearest_even():
    x = np.array([1 + 2 ** -8, 1 + 3 * 2 ** -8, 1 + 2 ** -8 + 2 ** -20, -1 - 3 * 2 ** -9, 3e38, 0, np.inf], np.float32)
    expected = np.array([1, 1 + 4 * 2 ** -8, 1 + 2 ** -7, -1 - 2 ** -7, 3.00405e38, 0, np.inf], np.float32)
    np.testing.assert_allclose(rounded(x, "bfloat16"), expected, rtol=1e-5)
    assert np.isnan(cast(jt.array(np.array([0x7FFFFFFF, 0xFFC00000], np.uint32).view(np.float32)),
                         "bfloat16").float32().numpy()).all()
    many = seeded.values("many", (3000,))
    for dtype in HALVES:
        assert np.array_equal(cast(jt.array(many), dtype).float32().numpy(), rounded(many, dtype).astype(np.float32))
        assert np.abs(rounded(many, dtype) - many).max() <= EPS[dtype] * np.abs(many).max()


@pytest.mark.parametrize("dtype", HALVES)
def test_sums_are_rounded_once(dtype):
    x, y = (rounded(seeded.values(name, (500,)), dtype).astype(np.float32) for name in "xy")
    total = added(cast(jt.array(x), dtype), cast(jt.array(y), dtype))
    assert total.dtype == dtype and np.array_equal(total.float32().numpy(), rounded(x + y, dtype).astype(np.float32))


#         of x, of y: alike, a number for the pixels of a channel, the same for all rows, and what plain operators add
SHAPES = [((2, 3, 4, 5), (2, 3, 4, 5)), ((2, 3, 4, 5), (2, 3, 1, 1)), ((2, 3, 4, 5), (1, 3, 1, 1)), ((2, 3), (3,)),
          ((2, 3), (1,)), ((1, 3), (1, 1)), ((2, 3, 4), (2, 1, 4)), ((1, 3, 4), (2, 3, 4)), ((2, 3, 4), (1, 3, 1))]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("shape, other", SHAPES, ids=str)
def test_sums_of_any_shapes_and_their_gradients(shape, other, dtype):
    x, y = (rounded(seeded.values(name, size), dtype).astype(np.float32) for name, size in (("x", shape), ("y", other)))
    given = [jt.array(one) for one in (x, y)]
    total = added(*(cast(one, dtype) for one in given))
    assert np.array_equal(total.float32().numpy(), rounded(x + y, dtype).astype(np.float32))
    direction = rounded(seeded.values("d", total.shape), dtype).astype(np.float32)
    for found, like in zip(jt.grad((total.float32() * jt.array(direction)).sum(), given), (x, y)):
        gone = tuple(range(direction.ndim - like.ndim))
        expected = direction.sum(gone) if gone else direction
        told = tuple(i for i, size in enumerate(like.shape) if size != expected.shape[i])
        expected = expected.sum(told, keepdims=True)
        assert found.shape == list(like.shape) and off(found.numpy(), expected) <= 2 * EPS[dtype]


@pytest.mark.parametrize("dtype", HALVES)
def test_products_add_up_in_float32(dtype):
    """A long product is off by its last rounding alone. Added up in bfloat16, 1,024 terms would leave no digit."""
    linear, array = filled(Linear(1024, 8), dtype)
    x = rounded(seeded.values("x", (3, 1024)), dtype).astype(np.float32)
    found = linear(cast(jt.array(x), dtype))
    assert (found.dtype == dtype
            and off(found.float32().numpy(), x.astype(np.float64) @ array["weight"].T + array["bias"]) <= EPS[dtype])
    conv, array = filled(Conv2d(64, 4, 3, padding=1), dtype)
    x = rounded(seeded.values("x", (1, 64, 5, 5)), dtype).astype(np.float32)
    exact = jt.nn.conv2d(jt.array(x), jt.array(array["weight"]), jt.array(array["bias"]), 1, 1).numpy()
    assert off(conv(cast(jt.array(x), dtype)).float32().numpy(), exact) <= EPS[dtype]


@pytest.mark.parametrize("dtype", HALVES)
def test_factors_of_a_product_on_a_gpu_have_one_type(dtype, monkeypatch):
    """There they are multiplied as they are kept, and a gradient of float32 beside a weight of float16 is refused.

    So the gradient of a product must come back in its type, past the float32 of a bias, a LoRA and a softmax.
    """
    real = jt.nn.bmm

    def bmm(a, b):
        assert a.dtype == b.dtype
        return real(a, b)

    monkeypatch.setattr(jt.nn, "bmm", bmm)
    for module in (layers, chunked):
        monkeypatch.setattr(module, "product_type", str)
    monkeypatch.setattr(layers, "multiplied", lambda kept: False)
    linear = Linear(6, 8)
    linear.weight = cast(jt.array(seeded.values("w", (8, 6))), dtype).stop_grad()
    x = cast(jt.array(seeded.values("x", (2, 5, 6))), dtype)
    added_to_it = lora.LoRA(seeded.values("down", (2, 6)), seeded.values("up", (8, 2)))
    for loras in (None, added_to_it):
        assert jt.grad(linear(x, loras).float32().sum(), x).dtype == dtype
    q, k, v = (cast(jt.array(seeded.values(name, (2, 5, 8))), dtype) for name in "qkv")
    weight = jt.array(seeded.values("weight", (2, 5, 8)))  # the gradient of what it multiplies is float32
    found = jt.grad((chunked.attention(q, k, v, 2) * weight).sum(), [q, k, v])
    assert [one.dtype for one in found] == [dtype] * 3


@pytest.mark.parametrize("dtype", HALVES)
def test_kernels_take_half_precision(dtype):
    """Each returns its input's type, no further from plain float32 than a rounding, also with scores of +-2000."""
    x = rounded(seeded.values("x", (2, 24, 64)), dtype).astype(np.float32)
    narrow, gain, shift = (cast(jt.array(x), dtype), jt.array(seeded.weight("weight", (64,))),
                           jt.array(seeded.weight("b", (64,))))
    squares = lambda x: x.reshape(2, 24, 8, 8)
    for core in (reference, __import__("styleblend.kernels").kernels):
        for run in (lambda x: core.layer_norm(x, gain, shift, 1e-5), core.geglu,
                    lambda x: core.group_norm(squares(x), gain[:24], shift[:24], 8, 1e-5, silu=True)):
            found = run(narrow)
            assert found.dtype == dtype and off(found.float32().numpy(), run(jt.array(x)).numpy()) <= EPS[dtype]
    for core in (chunked, __import__("styleblend.kernels").kernels):
        for size in (1, 1000):
            found = core.attention(narrow * size, narrow, narrow, 2)
            exact = reference.attention(jt.array(rounded(x * size, dtype).astype(np.float32)),
                                        jt.array(x), jt.array(x), 2).numpy()
            assert found.dtype == dtype and off(found.float32().numpy(), exact) <= (2 if size == 1 else 4) * EPS[dtype]


# ---------------------------------------------------------------- networks

@pytest.mark.parametrize("dtype", HALVES)
def test_what_is_kept_in_half_precision(halves, dtype):
    base = halves[dtype]
    for network, kept in ((base.unet, dtype), (base.text_encoder, dtype),
                          (base.vae, "float32" if dtype == "float16" else dtype)):
        for name, p in weights.parameters(network).items():
            wide = (len(p.shape) < 2
                    or name.startswith(("conv_in.", "conv_out.", "time_embedding.", "quant_conv", "post_quant_conv"))
                    or "coder.conv_out" in name)
            assert p.dtype == ("float32" if wide else kept), name


def test_all_copies_of_a_base_have_one_fingerprint(halves, tiny_base):
    assert {base.fingerprint() for base in halves.values()} == {tiny_base.fingerprint()}


@pytest.mark.parametrize("dtype, unet, picture, worst", [pytest.param("float16", 4e-3, 0.3, 3, marks=pytest.mark.slow),
                                                         ("bfloat16", 3e-2, 2.0, 16)])
def test_pictures_are_those_of_float32(halves, tiny_base, tiny_style, dtype, unet, picture, worst):
    """One call of the UNet (relative L2), a picture of both branches with swaps and LoRAs (1/255: mean, largest)."""
    drawn, calls = [], []
    for base in (tiny_base, halves[dtype]):
        pipeline = Pipeline(base)
        context = AttentionContext(Rows({"picture": 2}), loras=pipeline.applied(tiny_style).of("unet"))
        with jt.no_grad():
            out = base.unet(jt.array(seeded.values("x", (2, 4, 8, 8))), 500,
                            jt.array(seeded.values("text", (2, 77, 32))), context)
        assert out.dtype == "float32"
        calls.append(out.numpy())
        drawn.append(pictures(pipeline, request(["A cat", "An owl"], [1, 2], SAMPLING, tiny_style)).astype(int))
    assert off(calls[1], calls[0]) <= unet
    difference = np.abs(drawn[1] - drawn[0])
    assert drawn[0].std() > 10
    assert difference.mean() <= picture and difference.max() <= worst, (difference.mean(), difference.max())


# half a minute of compiling
@pytest.mark.parametrize("dtype", [pytest.param("float16", marks=pytest.mark.slow), "bfloat16"])
def test_gradients_are_those_of_float32(tiny_folder, tiny_base, dtype):
    """Of the LoRA, for a loss as small as a 768 px latent makes its share of each number.

    LoRA, gradient and moments are float32.
    """
    own = load_base(tiny_folder, dtype)  # its own: it gets checkpointing
    own.unet.enable_gradient_checkpointing()
    found = []
    for base in (tiny_base, own):
        loras = lora.new(base.unet, lora.UNET_TARGETS, 2, np.random.default_rng(0))
        trained, context = lora.parameters(base.unet, loras), AttentionContext(Rows({"picture": 2}), loras=loras)
        for name, p in trained.items():
            p.assign(jt.array(seeded.values(name, p.shape) * 0.2))
        optimiser = AdamW(trained, StageSettings(steps=1, lr=1e-3), 2.0 ** 14 if base.dtype == "float16" else 1.0)
        out = base.unet(jt.array(seeded.values("x", (2, 4, 8, 8))), 500, jt.array(seeded.values("text", (2, 77, 32))),
                        context)
        optimiser.update((out ** 2).sum() / 36864)
        assert {str(v.dtype) for group in (trained, optimiser.first, optimiser.second)
                for v in group.values()} == {"float32"}
        found.append(np.concatenate([m.numpy().ravel() for m in optimiser.first.values()]))
    assert off(found[1], found[0]) <= (1.5e-2 if dtype == "float16" else 0.15)


# ---------------------------------------------------------------- failures

def test_a_gradient_out_of_range_is_an_error():
    p = jt.array(np.ones(3, np.float32))
    optimiser = AdamW({"p": p}, StageSettings(steps=1, lr=1.0), 2.0 ** 14)
    with pytest.raises(StyleBlendError, match="--dtype bfloat16"):
        optimiser.update((cast(cast(p, "float16") * 4, "float32") * 1e4).sum())
    assert optimiser.step == 0 and p.numpy().tolist() == [1, 1, 1]


def test_a_weight_out_of_range_is_refused():
    with pytest.raises(StyleBlendError, match="float16's range in weight: use --dtype bfloat16 or float32"):
        weights.load(Linear(2, 2, bias=False), {"weight": np.full((2, 2), 7e4, np.float32)}, "here", "float16")


@pytest.mark.parametrize("dtype, cure", [("float16", "--dtype float32 or bfloat16"), ("bfloat16", "--dtype float32"),
                                         ("float32", "adapters do not fit")])
def test_a_picture_of_nan_names_the_cure(halves, tiny_base, dtype, cure):
    base = {**halves, "float32": tiny_base}[dtype]
    with pytest.raises(StyleBlendError) as caught:
        Pipeline(base).decode(jt.array(np.full((1, 4, 8, 8), np.nan, np.float32)))
    assert cure in str(caught.value)


def test_a_picture_says_its_precision_and_is_drawn_again_in_it(world, tiny_base, tiny_style, tmp_path):
    width = tiny_base.text_encoder.config.hidden_size
    nothing = np.zeros(width, np.float32)
    style = with_part(tiny_style, coarse_embeds=nothing, fine_embeds=nothing)
    save_style(tmp_path / "adapters" / "dots", "dots", style, {"base": tiny_base.fingerprint()})
    first, again, wide = (str(tmp_path / f"{n}.png") for n in ("first", "again", "wide"))
    draw = ["generate", "--config", str(world), "--style", "dots", "--prompt", "A cat"]
    assert cli.main(draw + ["--dtype", "bfloat16", "--output", first]) == 0
    assert cli.main(["generate", "--config", str(world), "--from", first, "--output", again]) == 0
    assert cli.main(draw + ["--output", wide]) == 0
    assert [read_record(path).dtype for path in (first, again, wide)] == ["bfloat16", "bfloat16", "float32"]
    assert open(first, "rb").read() == open(again, "rb").read()
