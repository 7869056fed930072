"""One step of a training: loss, gradient, AdamW. What learns is the UNet's LoRA (rank 16), as in the fine training, or
the six tokens of DreamStyler, whose gradient goes through the text encoder, too.
"""
import numpy as np

from benchmarks.harness import arguments, main
from benchmarks.unet_step import network, operations
from benchmarks.worker import numbers


TOKENS = 6


def build(args):
    from styleblend.machine.precision import loss_scale
    from styleblend.machine.runtime import jt
    from styleblend.settings import StageSettings
    from styleblend.training.optimiser import AdamW
    unet = network(args)
    if args.checkpointing:
        unet.enable_gradient_checkpointing()
    context, text_of, learned = {"lora": lora_job, "tokens": tokens_job}[args.learns](args, unet)
    optimiser = AdamW(learned, StageSettings(steps=1, lr=1e-4), loss_scale(args.dtype))
    x, target = (jt.array(numbers(name, (args.batch, 4, args.latent, args.latent))) for name in ("x", "target"))
    time = jt.array(np.full(args.batch, 500, np.float32))

    def run():
        loss = ((unet(x, time, text_of(), context) - target) ** 2).mean()
        optimiser.update(loss)
        loss.item()
        jt.sync_all(True)

    return run


def lora_job(args, unet):
    """What a step of the fine training gives the UNet, the text of a call, and what learns."""
    from styleblend.adapters import lora
    from styleblend.machine.runtime import jt
    from styleblend.models.attention import AttentionContext
    from styleblend.models.rows import Rows
    loras = lora.new(unet, lora.UNET_TARGETS, 16, np.random.default_rng(0))
    text = jt.array(numbers("text", (args.batch, 77, unet.config.cross_attention_dim)))
    context = AttentionContext(Rows({"picture": args.batch}), loras=loras)
    return context, lambda: text, lora.parameters(unet, loras)


def tokens_job(args, unet):
    """The same of a step of DreamStyler's training: each picture under one of the tokens, at the end of its text."""
    from styleblend.machine.runtime import jt
    encoder = text_encoder(args)
    config = encoder.config
    rows = jt.array(numbers("rows", (TOKENS, config.hidden_size)) * np.float32(0.02))
    ids = np.full((args.batch, 77), config.vocab_size - 1)
    ids[:, :8] = np.arange(1, 9)
    ids[:, 8] = config.vocab_size + np.arange(args.batch) % TOKENS
    return None, lambda: encoder(ids, rows), {"rows": rows}


def text_encoder(args):
    from styleblend.base.base import load_base
    from styleblend.base.weights import load, parameters
    from styleblend.models.clip_text import CLIPTextModel
    if args.base != "sd21":
        return load_base(args.base, args.dtype).text_encoder
    encoder = CLIPTextModel()
    load(encoder, {name: numbers(name, p.shape) * np.float32(0.02) for name, p in parameters(encoder).items()}, "sd21",
         args.dtype)
    return encoder


def flop(args) -> float:
    """Weights are frozen, so backward they are used once more; attention makes five more products.

    What checkpointing computes again is no work done, and the text encoder's share is small: it is left out.
    """
    of_weights, of_attention = operations(args, args.batch)
    return 2 * of_weights + 3.5 * of_attention


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--learns", choices=["lora", "tokens"], default="lora", help="the UNet's LoRA, or six tokens")
    parser.add_argument("--checkpointing", action="store_true",
                        help="gradient checkpointing: less memory, one more forward pass")
    main(build, parser, "benchmarks.train_step", flop)
