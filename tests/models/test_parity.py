"""Our networks, samplers and gradients against what PyTorch, diffusers, transformers and peft computed.

The numbers are the same: `tests/reference/make_references.py` wrote the outputs; weights and inputs are drawn from
names on both sides (`seeded.py`). `pytest -rP tests/models/test_parity.py` prints the errors.
"""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from reference import seeded
from styleblend import cli
from styleblend.adapters import lora
from styleblend.base import weights
from styleblend.models.configs import ClipTextConfig, ClipVisionConfig, ScheduleConfig, UNetConfig, VaeConfig
from styleblend.diffusion.schedule import NoiseSchedule
from styleblend.models import attention, clip_text, clip_vision, layers, unet, vae
from styleblend.models.rows import Rows
from styleblend.machine.runtime import jt
from styleblend.diffusion.samplers import SAMPLERS

FOLDER = Path(__file__).parents[1]
UNET, TEXT, VAE = UNetConfig(**seeded.UNET), ClipTextConfig(**seeded.TEXT), VaeConfig(**seeded.VAE)
SELF, CROSS = attention.Site("self", 0, "self", 1), attention.Site("cross", 0, "cross", 1)


@pytest.fixture(scope="module")
def reference():
    """All stored outputs: reference["blocks"]["geglu/0"]."""
    return {path.stem: np.load(path) for path in (FOLDER / "data").glob("*.npz")}


def error(ours, theirs) -> float:
    """Relative L2 error."""
    ours = np.asarray(ours.numpy() if isinstance(ours, jt.Var) else ours, np.float64)
    assert ours.shape == theirs.shape
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs.astype(np.float64)))


def agree(name: str, ours, theirs, limit: float = 1e-5) -> None:
    found = error(ours, theirs)
    print(f"{name}: {found:.2e}")
    assert found <= limit


def filled(network, case: str):
    """The network with the weights of `case`, put in by the loader that real checkpoints take."""
    weights.load(network, {name: seeded.weight(f"{case}/{name}", tuple(p.shape))
                           for name, p in weights.parameters(network).items()}, case)
    return network


def inputs(case: str, *shapes) -> list:
    return [jt.array(seeded.values(f"{case}/input{i}", shape)) for i, shape in enumerate(shapes)]


def parameter_count(network) -> int:
    return sum(int(np.prod(p.shape)) for p in weights.parameters(network).values())


def test_both_sides_draw_the_same_numbers(reference):
    assert (seeded.values("check", (16,)) == reference["blocks"]["seeded"]).all()


# ---------------------------------------------------------------- blocks

def with_skips(block, x, *arguments):
    """A down block's output, then the skip connections that it adds."""
    skips = []
    return (block(x, *arguments, skips), *skips)


def transformer():
    return unet.Transformer2DModel(32, 2, UNET, SELF, CROSS)


def pairs(count: int) -> list:
    return [(SELF, CROSS)] * count


def down_block(x, time, text):
    return with_skips(filled(unet.DownBlock(16, 32, 64, UNET, 2, pairs(2), False), "down_block"), x, time, text, None)


def down_block_last(x, time):
    return with_skips(filled(unet.DownBlock(16, 32, 64, UNET, 2, None, True), "down_block_last"), x, time, None, None)


def up_block(x, time, text, *skips):
    block = filled(unet.UpBlock(32, [32, 32, 16], 32, 64, UNET, 2, pairs(3), False), "up_block")
    return block(x, time, text, None, [jt.zeros((2, 16, 5, 8)), *skips])  # the skip that stays gives the next size


def up_block_plain(x, time, *skips):
    block = filled(unet.UpBlock(32, [32, 32, 16], 32, 64, UNET, 2, None, False), "up_block_plain")
    return block(x, time, None, None, [jt.zeros((2, 16, 6, 8)), *skips])


# name of the case in make_references.py -> (our block, shapes of its inputs); a block is called with the inputs
BLOCKS = {
    "group_norm": (lambda x: filled(layers.GroupNorm(8, 32, 1e-5), "group_norm")(x * 0.1 + 3), (2, 32, 5, 6)),
    "layer_norm": (lambda x: filled(layers.LayerNorm(32), "layer_norm")(x * 0.1 + 3), (2, 7, 32)),
    "timesteps": (lambda: unet.timestep_embedding(jt.array(np.array([0, 1, 33.3, 500, 999], np.float32)), 320),),
    "timestep_embedding": (unet.TimestepEmbedding(16, 64), (3, 16)),
    "resnet_wider": (lambda x, t: filled(unet.ResnetBlock2D(16, 32, 8, 1e-5, 64), "resnet_wider")(x, layers.silu(t)),
                     (2, 16, 6, 5), (2, 64)),
    "resnet_same_width": (lambda x, t: filled(unet.ResnetBlock2D(32, 32, 8, 1e-5, 64), "resnet_same_width")(
        x, layers.silu(t)), (2, 32, 6, 5), (2, 64)),
    "resnet_without_time": (unet.ResnetBlock2D(32, 16, 8, 1e-6, None), (2, 32, 6, 5)),
    "geglu": (attention.GEGLU(32, 128), (2, 7, 32)),
    "feed_forward": (attention.FeedForward(32), (2, 7, 32)),
    "self_attention": (lambda x: filled(attention.Attention(32, 32, 2, SELF), "self_attention")(x, x), (2, 30, 32)),
    "cross_attention": (attention.Attention(32, 24, 4, CROSS), (2, 30, 32), (2, 77, 24)),
    "transformer_block": (attention.BasicTransformerBlock(32, 2, 32, SELF, CROSS), (2, 30, 32), (2, 77, 32)),
    "transformer": (transformer(), (2, 32, 6, 5), (2, 77, 32)),
    "downsample": (unet.Downsample2D(32), (2, 32, 6, 8)),
    "downsample_odd": (unet.Downsample2D(32), (2, 32, 7, 5)),
    "upsample": (lambda x: filled(unet.Upsample2D(32), "upsample")(x, (6, 8)), (2, 32, 3, 4)),
    "upsample_odd": (lambda x: filled(unet.Upsample2D(32), "upsample_odd")(x, (9, 13)), (2, 32, 5, 7)),
    "down_block": (lambda x, t, text: down_block(x, layers.silu(t), text), (2, 16, 6, 8), (2, 64), (2, 77, 32)),
    "down_block_last": (lambda x, t: down_block_last(x, layers.silu(t)), (2, 16, 6, 8), (2, 64)),
    "mid_block": (lambda x, t, text: filled(unet.MidBlock(32, 64, UNET, 2, pairs(1)), "mid_block")(
        x, layers.silu(t), text, None), (2, 32, 3, 4), (2, 64), (2, 77, 32)),
    "up_block": (lambda x, t, text, *skips: up_block(x, layers.silu(t), text, *skips),
                 (2, 32, 3, 4), (2, 64), (2, 77, 32), (2, 16, 3, 4), (2, 32, 3, 4), (2, 32, 3, 4)),
    "up_block_plain": (lambda x, t, *skips: up_block_plain(x, layers.silu(t), *skips),
                       (2, 32, 3, 4), (2, 64), (2, 16, 3, 4), (2, 32, 3, 4), (2, 32, 3, 4)),
    "vae_down_block": (vae.Level(16, 32, 2, 8, vae.Downsample2D, "downsamplers"), (1, 16, 6, 8)),
    "vae_up_block": (vae.Level(32, 16, 3, 8, vae.Upsample2D, "upsamplers"), (1, 32, 3, 4)),
    "vae_attention": (vae.AttentionBlock(32, 8), (2, 32, 3, 4)),
    "vae_mid_block": (vae.MidBlock(32, 8), (2, 32, 3, 4)),
    "text_embeddings": (lambda: filled(clip_text.CLIPTextEmbeddings(TEXT), "text_embeddings")(
        seeded.token_ids("text_embeddings/ids", 2, TEXT.vocab_size)),),
    "text_attention": (lambda x: filled(clip_text.CLIPEncoderLayer(TEXT).self_attn, "text_attention")(x, {}, None),
                       (2, 77, 32)),
    "text_mlp": (clip_text.CLIPMLP(TEXT), (2, 77, 32)),
    "text_layer": (lambda x: filled(clip_text.CLIPEncoderLayer(TEXT), "text_layer")(x), (2, 77, 32)),
}


def test_every_block_that_was_written_is_compared(reference):
    assert {key.split("/")[0] for key in reference["blocks"].files} - {"seeded"} == set(BLOCKS)


@pytest.mark.parametrize("case", BLOCKS)
def test_block(case, reference):
    block, *shapes = BLOCKS[case]
    with jt.no_grad():
        out = (filled(block, case) if isinstance(block, jt.nn.Module) else block)(*inputs(case, *shapes))
    outputs = out if isinstance(out, tuple) else (out,)
    assert f"{case}/{len(outputs)}" not in reference["blocks"]
    for i, output in enumerate(outputs):
        agree(f"{case} output {i}", output, reference["blocks"][f"{case}/{i}"])


@pytest.mark.parametrize("offset", [0, 5])
def test_group_norm_of_a_large_picture(offset):
    """A running fp32 sum over 768 x 768 pixels loses three digits; the norm must not."""
    x = seeded.values("large", (1, 4, 768, 768)) + np.float32(offset)
    exact = x.astype(np.float64)
    exact = (exact - exact.mean()) / np.sqrt(exact.var() + 1e-6)
    norm = layers.GroupNorm(1, 4, 1e-6)
    weights.load(norm, {"weight": np.ones(4, np.float32), "bias": np.zeros(4, np.float32)}, "ones")
    with jt.no_grad():
        agree(f"768 px, offset {offset}", norm(jt.array(x)), exact)


# ---------------------------------------------------------------- whole networks

@pytest.fixture(scope="module")
def small_unet():
    return filled(unet.UNet2DConditionModel(UNET), "unet")


@pytest.fixture(scope="module")
def small_vae():
    return filled(vae.AutoencoderKL(VAE), "vae")


@pytest.fixture(scope="module")
def small_text():
    return filled(clip_text.CLIPTextModel(TEXT), "text")


@pytest.mark.parametrize("size", seeded.UNET_SIZES)
def test_unet(size, small_unet, reference):
    rows, height, width = seeded.UNET_SIZES[size]
    latents, text = inputs(f"unet_{size}", (rows, 4, height, width), (rows, 77, 32))
    with jt.no_grad():
        out = small_unet(latents, jt.array(np.array(seeded.UNET_TIMES[:rows], np.float32)), text)
    agree(f"unet {size}", out, reference["networks"][f"unet/{size}"])


def test_vae_encode(small_vae, reference):
    with jt.no_grad():
        posterior = small_vae.encode(jt.array(seeded.values("vae/input0", (1, 3, *seeded.PICTURE))))
    agree("vae mean", posterior.mean, reference["networks"]["vae/mean"])
    agree("vae logvar", posterior.logvar, reference["networks"]["vae/logvar"])


def test_vae_decode(small_vae, reference):
    height, width = seeded.PICTURE
    with jt.no_grad():
        picture = small_vae.decode(jt.array(seeded.values("vae/input1", (1, 4, height // 8, width // 8))))
    agree("vae decoded", picture, reference["networks"]["vae/decoded"])


@pytest.mark.parametrize("output", ["last", "penultimate"])
def test_text_encoder(output, small_text, reference):
    with jt.no_grad():
        states = small_text(seeded.token_ids("text/ids", 2, TEXT.vocab_size), penultimate=output == "penultimate")
    agree(f"text encoder {output}", states, reference["networks"][f"text/{output}"])


def test_clip_image_encoder(reference):
    tower = filled(clip_vision.CLIPVisionModel(ClipVisionConfig(**seeded.VISION)), "vision")
    assert parameter_count(tower) == reference["vision"]["parameters"]
    with jt.no_grad():
        agree("CLIP image encoder",
              tower(*inputs("vision", (2, 3, seeded.VISION["image_size"], seeded.VISION["image_size"]))),
              reference["vision"]["last"])


def test_parameter_counts(small_unet, small_vae, small_text, reference):
    for name, network in (("unet", small_unet), ("vae", small_vae), ("text", small_text)):
        assert parameter_count(network) == reference["networks"][f"{name}/parameters"]


# ---------------------------------------------------------------- noise schedule and samplers

def schedule(prediction: str) -> NoiseSchedule:
    return NoiseSchedule(ScheduleConfig(**seeded.SCHEDULE, prediction_type=prediction))


def test_noise_schedule(reference):
    ours, x0, eps = (schedule("v_prediction"), *(jt.array(seeded.values(f"samplers/{name}", seeded.LATENTS))
                                                 for name in ("x0", "eps")))
    t = np.array([37, 911])
    agree("alphas_cumprod", ours.alphas_cumprod, reference["schedulers"]["alphas_cumprod"], 1e-6)
    agree("add_noise", ours.add_noise(x0, eps, t), reference["schedulers"]["add_noise"], 1e-6)
    agree("velocity", ours.velocity(x0, eps, t), reference["schedulers"]["velocity"], 1e-6)


def reached(step, sampler: str, ours: NoiseSchedule, steps: int) -> np.ndarray:
    """What the reference wrote after a step. diffusers' Euler keeps x_t / sqrt(abar_t), and we show the x_t that the
    model gets."""
    if sampler != "euler" or step.index == steps - 1:
        return step.x.numpy()
    time = SAMPLERS[sampler].timesteps(ours, steps)[step.index + 1]
    abar = ours.alphas_cumprod.astype(np.float64)
    sigma = np.interp(time, np.arange(len(ours)), np.sqrt((1 - abar) / abar))
    return step.x.numpy() * np.sqrt(sigma ** 2 + 1)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", seeded.STEP_COUNTS)
@pytest.mark.parametrize("sampler, eta", seeded.SAMPLERS)
def test_sampler(sampler, eta, steps, prediction, reference):
    expected = reference["schedulers"][f"{sampler}/{eta}/{prediction}/{steps}"]
    times, extra = [], {}
    if SAMPLERS[sampler].takes_noise:
        extra = dict(eta=eta, noise=lambda step: jt.array(seeded.values(f"samplers/noise{step}", seeded.LATENTS)))
    steps_of = SAMPLERS[sampler].run(lambda x, t, step: times.append(float(t)) or seeded.toy_model(x, float(t)),
                                     jt.array(seeded.values("samplers/x", seeded.LATENTS)), schedule(prediction),
                                     steps, **extra)
    path = [reached(step, sampler, schedule(prediction), steps) for step in steps_of]
    errors = [error(ours, theirs) for ours, theirs in zip(path, expected)]
    print(f"{sampler} eta {eta} {prediction} {steps} steps: worst step {max(errors):.2e}, last {errors[-1]:.2e}")
    # what the pipeline embeds before the first step
    wanted = [float(t) for t in SAMPLERS[sampler].timesteps(schedule(prediction), steps)]
    wanted = [*wanted[:2], *wanted[1:]] if sampler == "pndm" else wanted  # it makes its first step twice
    assert times == wanted and len(path) == len(expected) == len(wanted) and max(errors) <= 1e-5


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_times_are_embedded_once(sampler, small_unet):
    """What all steps add to the residual blocks, computed together, is what each step would compute again.

    So is the prediction. Not bit for bit: a product of more rows adds up in another order.
    """
    latents, text = inputs("times", (2, 4, 8, 8), (2, 77, 32))
    times = SAMPLERS[sampler].timesteps(schedule("v_prediction"), 30)
    with jt.no_grad():
        ready = small_unet.project_times(times)
        assert len(ready) == sum(isinstance(m, unet.ResnetBlock2D) for m in small_unet.modules())
        for step in (0, 1, 17, 29):
            for block, alone in small_unet.project_times(times[step:step + 1]).items():
                assert error(ready[block][step:step + 1], alone.numpy()) <= 1e-6
            rows = Rows({"picture": 2})
            once, again = (small_unet(latents, t, text, attention.AttentionContext(rows, step, 30, times=given)).numpy()
                           for t, given in ((None, ready), (float(times[step]), None)))
            agree(f"{sampler} step {step}", once, again, 2e-6)


# ---------------------------------------------------------------- the same seed, the same picture

def test_a_picture_depends_on_its_seed_alone(tmp_path):
    """The mini base with a style: batch 1 against batch 4, the whole against a third at a time, at most 1/255 apart."""
    mini = FOLDER.parent / "checkpoints" / "mini"
    if not (mini / "styles" / "fxemoji").is_dir():
        pytest.skip("checkpoints/mini is not there")
    settings = yaml.safe_load((FOLDER.parent / "configs" / "mini.yaml").read_text(encoding="utf-8"))
    settings.update(base=str(mini / "base"), data=str(FOLDER.parent / "data" / "mini"), adapters=str(mini / "styles"))
    settings["sampling"]["steps"] = 4
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    pictures = {}
    for name, batch, shards in (("whole", 4, ("1/1",)), ("one at a time", 1, ("1/1",)),
                                ("thirds", 4, ("1/3", "2/3", "3/3"))):
        for shard in shards:
            assert cli.main(["test", "--config", str(tmp_path / "config.yaml"), "--styles", "fxemoji",
                             "--prompts", "5", "--batch", str(batch), "--shard", shard,
                             "--output", str(tmp_path / name)]) == 0
        pictures[name] = {path.name: np.asarray(Image.open(path), int)
                          for path in (tmp_path / name / "fxemoji").glob("*.png")}
    assert len(pictures["whole"]) == 5 and np.std([p.mean() for p in pictures["whole"].values()]) > 0.1
    for name, found in pictures.items():
        assert set(found) == set(pictures["whole"]), name
        assert max(np.abs(found[file] - picture).max() for file, picture in pictures["whole"].items()) <= 1, name


# ---------------------------------------------------------------- gradients

@pytest.fixture(scope="module")
def gradients(small_unet, small_text, reference):
    """Loss and gradients of one training loss, keyed like the reference, in its order."""
    stored, rows = reference["gradients"], len(seeded.GRADIENT_TIMES)
    networks = {"unet": (small_unet, lora.UNET_TARGETS), "text": (small_text, lora.TEXT_TARGETS)}
    names = {part: [str(name) for name in stored[f"{part}/names"]] for part in networks}
    variables, loras = [jt.array(seeded.values("gradients/token", (1, TEXT.hidden_size)))], {}
    for part, (network, pattern) in networks.items():
        shapes = {}
        for path, linear in lora.targets(network, pattern):
            shapes[f"{path}.lora.down.weight"] = (seeded.RANK, linear.in_features)
            shapes[f"{path}.lora.up.weight"] = (linear.out_features, seeded.RANK)
        made_up = {name: seeded.weight(f"lora/{name}", shape) for name, shape in shapes.items()}
        loras[part] = lora.load(network, pattern, made_up, part)
        assert sorted(lora.parameters(network, loras[part])) == names[part]
        variables += [lora.parameters(network, loras[part])[name] for name in names[part]]
    ids = seeded.token_ids("gradients/ids", rows, TEXT.vocab_size)
    ids[:, 5] = TEXT.vocab_size
    x0, eps = inputs("gradients", (rows, 4, 16, 16), (rows, 4, 16, 16))
    t, ours = np.array(seeded.GRADIENT_TIMES), schedule("v_prediction")
    text = small_text(ids, placeholders=variables[0], loras=loras["text"])
    context = attention.AttentionContext(Rows({"picture": rows}), loras=loras["unet"])
    output = small_unet(ours.add_noise(x0, eps, t), jt.array(t.astype(np.float32)), text, context)
    loss = ours.loss(output, x0, eps, t)
    found = [g.numpy() for g in jt.grad(loss, variables)]
    count = 1 + len(names["unet"])
    return {"loss": loss.numpy(), "token": found[:1], "unet": found[1:count], "text": found[count:]}


def test_loss(gradients, reference):
    assert float(gradients["loss"][0]) == pytest.approx(float(reference["gradients"]["loss"]), rel=1e-5)


@pytest.mark.parametrize("part", ["token", "unet", "text"])
def test_gradients(part, gradients, reference):
    stored = reference["gradients"][part if part == "token" else f"{part}/gradients"]
    errors, start = [], 0
    for ours in gradients[part]:
        theirs = stored[start:start + ours.size].reshape(ours.shape)
        errors.append(error(ours, theirs))
        start += ours.size
    print(f"gradients of {part}: worst of {len(errors)} parameters {max(errors):.2e}")
    assert start == stored.size and max(errors) <= 1e-3


# ---------------------------------------------------------------- full size

@pytest.mark.full
@pytest.mark.parametrize("size", ["small", "full"])
def test_full_unet(size, tmp_path, peer):
    """The UNet of Stable Diffusion 2.1 with seeded random weights: 4 GB of memory for PyTorch, then 8 GB for us."""
    out = tmp_path / "full.npz"
    peer("make_references.py", "--full", out, *["--small"] * (size == "small"))
    expected = np.load(out)
    config = UNET if size == "small" else UNetConfig()
    network = unet.UNet2DConditionModel(config)
    if size == "full":
        assert parameter_count(network) == int(expected["parameters"]) == seeded.SD21_UNET_PARAMETERS
    for name, parameter in weights.parameters(network).items():  # one by one: all at once would need the memory twice
        parameter.assign(jt.array(seeded.weight(f"unet/{name}", tuple(parameter.shape))))
        parameter.sync()
    latents, text = inputs("full", seeded.FULL_LATENTS,
                           (len(seeded.FULL_TIMES), seeded.FULL_TOKENS, config.cross_attention_dim))
    with jt.no_grad():
        out = network(latents, jt.array(np.array(seeded.FULL_TIMES, np.float32)), text)
    agree(f"{size} unet", out, expected["output"], 1e-4)
