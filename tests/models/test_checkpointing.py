"""Gradient checkpointing: the same loss and the same gradients, with activations that are computed twice."""
import numpy as np

from reference import seeded
from styleblend.adapters import lora
from styleblend.base.base import load_base
from styleblend.machine.runtime import jt
from styleblend.models.attention import AttentionContext
from styleblend.models.rows import Rows


def test_gradients_are_the_same(tiny_folder):
    """Of the LoRA in every block, and of the text states that all blocks share."""
    unet = load_base(tiny_folder).unet  # its own: what is switched on stays on
    loras = lora.new(unet, lora.UNET_TARGETS, 2, np.random.default_rng(0))
    trained, context = lora.parameters(unet, loras), AttentionContext(Rows({"picture": 2}), loras=loras)
    for name, p in trained.items():
        p.assign(jt.array(seeded.values(name, p.shape) * 0.2))
    # 16 x 16: of 8 x 8 the middle block would see one pixel, and attention to one key has no gradient of q and k
    x, text = (jt.array(seeded.values("x", (2, 4, 16, 16))),
               jt.array(seeded.values("text", (2, 77, unet.config.cross_attention_dim))))

    def losses_and_gradients():
        loss = (unet(x, 500, text, context) ** 2).mean()
        return [loss.numpy()] + [g.numpy() for g in jt.grad(loss, [text, *trained.values()])]

    plain = losses_and_gradients()
    unet.enable_gradient_checkpointing()
    again = losses_and_gradients()
    assert plain[0] == again[0]
    for a, b in zip(plain[1:], again[1:]):
        assert np.linalg.norm(a) > 0 and np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(a)


def test_nothing_changes_without_gradients(tiny_folder):
    unet, x = load_base(tiny_folder).unet, jt.array(seeded.values("x", (1, 4, 8, 8)))
    text = jt.array(seeded.values("text", (1, 77, unet.config.cross_attention_dim)))
    with jt.no_grad():
        plain = unet(x, 3, text).numpy()
        unet.enable_gradient_checkpointing()
        assert np.array_equal(unet(x, 3, text).numpy(), plain)


def test_a_half_built_gradient_is_left_alone(tiny_folder):
    """A block's backward pass runs while the gradients of other branches are still being built.

    To run those, too, would unfold a convolution that is not fused yet with what follows it: rows x channels in x
    channels out x pixels x 9 numbers, 15 GB at the UNet's full size.
    """
    unet = load_base(tiny_folder).unet
    unet.enable_gradient_checkpointing()
    loras = lora.new(unet, lora.UNET_TARGETS, 2, np.random.default_rng(0))
    x, text = (jt.array(seeded.values("x", (1, 4, 16, 16))),
               jt.array(seeded.values("text", (1, 77, unet.config.cross_attention_dim))))
    trained = list(lora.parameters(unet, loras).values())
    loss = (unet(x, 500, text, AttentionContext(Rows({"picture": 1}), loras=loras)) ** 2).mean()
    with jt.profile_scope() as report:
        jt.sync(jt.grad(loss, trained))
    ran = [row[0] for row in report[1:] if float(row[2]) > 0]
    unfolded = [name for name in ran if "DIM=7" in name and "reduce" not in name]
    assert len(ran) > 10 and not unfolded, unfolded
