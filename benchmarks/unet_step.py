"""One call of the UNet with the four rows of two branches with guidance (times --batch): `python -m benchmarks.unet_step --peer torch`."""
import numpy as np

from benchmarks.harness import arguments, main


def network(args):
    from styleblend.base import load_base
    from styleblend.config import UNetConfig
    from styleblend.models.unet import UNet2DConditionModel
    from styleblend.weights import load, parameters
    if args.base != "sd21":
        return load_base(args.base).unet
    unet, rng = UNet2DConditionModel(UNetConfig()), np.random.default_rng(0)
    load(unet, {name: rng.standard_normal(p.shape, np.float32) * np.float32(0.02) for name, p in parameters(unet).items()}, "sd21")
    return unet


def build(args):
    from styleblend.models.attention import AttentionContext, RowLayout
    from styleblend.runtime import jt
    from styleblend.settings import PRESETS, BlendSettings
    unet, rng, rows = network(args), np.random.default_rng(0), 4 * args.batch
    x = jt.array(rng.standard_normal((rows, 4, args.latent, args.latent)).astype(np.float32))
    text = jt.array(rng.standard_normal((rows, 77, unet.config.cross_attention_dim)).astype(np.float32))
    context = None
    if args.preset:
        layout = RowLayout(("coarse", "fine"), True, args.batch)
        context = AttentionContext(layout, 0, 30, BlendSettings(**PRESETS[args.preset]).controls())

    def run():
        with jt.no_grad():
            unet(x, 500, text, context).sync()
        jt.sync_all(True)

    return run


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--preset", choices=["balanced", "strong_layout"], help="with the swaps of a preset, as in the first step; default: none")
    main(build, parser, "benchmarks.unet_step")
