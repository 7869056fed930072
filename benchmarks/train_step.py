"""One step of the fine training: loss, gradient of the UNet's LoRA (rank 16), AdamW."""
import numpy as np

from benchmarks.harness import arguments, main
from benchmarks.unet_step import network


def build(args):
    from styleblend import lora
    from styleblend.runtime import jt
    from styleblend.settings import StageSettings
    from styleblend.training.optimiser import AdamW
    unet, rng = network(args), np.random.default_rng(0)
    if args.checkpointing:
        unet.enable_gradient_checkpointing()
    lora.inject(unet, lora.UNET_TARGETS, 16, rng)
    optimiser = AdamW(lora.parameters(unet), StageSettings(steps=1, lr=1e-4))
    x, target = (jt.array(rng.standard_normal((args.batch, 4, args.latent, args.latent)).astype(np.float32)) for _ in range(2))
    text = jt.array(rng.standard_normal((args.batch, 77, unet.config.cross_attention_dim)).astype(np.float32))
    time = jt.array(np.full(args.batch, 500, np.float32))

    def run():
        loss = ((unet(x, time, text) - target) ** 2).mean()
        optimiser.update(loss)
        loss.item()
        jt.sync_all(True)

    return run


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing: less memory, one more forward pass")
    main(build, parser, "benchmarks.train_step")
