"""One step of the fine training: loss, gradient of the UNet's LoRA (rank 16), AdamW."""
import numpy as np

from benchmarks.harness import arguments, main
from benchmarks.unet_step import network, operations
from benchmarks.worker import numbers


def build(args):
    from styleblend.adapters import lora
    from styleblend.machine.precision import loss_scale
    from styleblend.machine.runtime import jt
    from styleblend.models.attention import AttentionContext
    from styleblend.models.rows import Rows
    from styleblend.settings import StageSettings
    from styleblend.training.optimiser import AdamW
    unet = network(args)
    if args.checkpointing:
        unet.enable_gradient_checkpointing()
    loras = lora.new(unet, lora.UNET_TARGETS, 16, np.random.default_rng(0))
    context = AttentionContext(Rows({"picture": args.batch}), loras=loras)
    optimiser = AdamW(lora.parameters(unet, loras), StageSettings(steps=1, lr=1e-4), loss_scale(args.dtype))
    x, target = (jt.array(numbers(name, (args.batch, 4, args.latent, args.latent))) for name in ("x", "target"))
    text = jt.array(numbers("text", (args.batch, 77, unet.config.cross_attention_dim)))
    time = jt.array(np.full(args.batch, 500, np.float32))

    def run():
        loss = ((unet(x, time, text, context) - target) ** 2).mean()
        optimiser.update(loss)
        loss.item()
        jt.sync_all(True)

    return run


def flop(args) -> float:
    """Weights are frozen, so backward they are used once more; attention makes five more products.

    What checkpointing computes again is no work done.
    """
    of_weights, of_attention = operations(args, args.batch)
    return 2 * of_weights + 3.5 * of_attention


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--checkpointing", action="store_true",
                        help="gradient checkpointing: less memory, one more forward pass")
    main(build, parser, "benchmarks.train_step", flop)
