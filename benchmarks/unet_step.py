"""One call of the UNet with the four rows of two branches with guidance (times --batch).

`python -m benchmarks.unet_step --peer torch`
"""
import math
from pathlib import Path

import numpy as np

from benchmarks.harness import arguments, main
from benchmarks.worker import numbers


def network(args):
    from styleblend.base.base import load_base
    from styleblend.models.configs import UNetConfig
    from styleblend.models.unet import UNet2DConditionModel
    from styleblend.base.weights import load, parameters
    if args.base != "sd21":
        return load_base(args.base, args.dtype).unet
    unet = UNet2DConditionModel(UNetConfig())
    load(unet, {name: numbers(name, p.shape) * np.float32(0.02) for name, p in parameters(unet).items()}, "sd21",
         args.dtype)
    return unet


def operations(args, rows: int) -> tuple:
    """Floating-point operations of one call with so many rows: of the products with weights, and of attention's two."""
    from styleblend.base.base import read_configs
    from styleblend.models.configs import UNetConfig
    from styleblend.models.unet import UNet2DConditionModel
    from styleblend.base.weights import parameters
    config = UNetConfig() if args.base == "sd21" else read_configs(Path(args.base))["unet"]
    unet, levels, tokens = UNet2DConditionModel(config), len(config.block_out_channels), 77
    pixels = [math.ceil(args.latent / 2 ** level) ** 2 for level in range(levels)]
    of_weights = 0
    for name, p in parameters(unet).items():
        part, number = (name + ".0").split(".")[:2]
        level = {"down_blocks": lambda: int(number), "up_blocks": lambda: levels - 1 - int(number),
                 "mid_block": lambda: levels - 1}.get(part, lambda: 0)()
        # a resampling convolution works at its result's size
        level += ("downsamplers" in name) - ("upsamplers" in name)
        if len(p.shape) > 1 and "time_emb" not in name:
            of_weights += 2 * math.prod(p.shape) * (
                tokens if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")) else pixels[level])
    sites = [(int(math.log2(site.downscale)), site.kind) for site in unet.sites]
    of_attention = sum(4 * config.block_out_channels[level] * pixels[level]
                       * (pixels[level] if kind == "self" else tokens) for level, kind in sites)
    return rows * of_weights, rows * of_attention


def build(args):
    from styleblend.machine.runtime import jt
    from styleblend.diffusion.controls import shared_sites
    from styleblend.methods.exchange import exchange
    from styleblend.methods.style_aligned import controls_of
    from styleblend.models.attention import AttentionContext
    from styleblend.models.rows import Reference, Rows
    from styleblend.settings import PRESETS, AlignSettings, BlendSettings
    unet, rows = network(args), 4 * args.batch
    x, text = (jt.array(numbers(name, (rows, *shape))) for name, shape in (
        ("x", (4, args.latent, args.latent)), ("text", (77, unet.config.cross_attention_dim))))
    context = None
    if args.preset == "aligned":
        order = Rows({"reference": 1, "target": 2 * args.batch - 1}, ("negative", "full"))
        context = AttentionContext(order, 0, 30, controls_of(AlignSettings(), Reference(),
                                                             shared_sites(unet.sites, 0)))
    elif args.preset != "none":
        order = Rows({"coarse": args.batch, "fine": args.batch}, ("negative", "full"))
        context = AttentionContext(order, 0, 30, exchange(BlendSettings(**PRESETS[args.preset]), unet.sites))

    def run():
        with jt.no_grad():
            unet(x, 500, text, context).sync()
        jt.sync_all(True)

    return run


if __name__ == "__main__":
    parser = arguments(__doc__, int8=True)
    parser.add_argument("--preset", choices=["none", "balanced", "strong_layout", "aligned"], default="none",
                        help="with the swaps of a preset, as in the first step, or with the sharing of StyleAligned, "
                             "one reference among the rows; and without them in turns")
    main(build, parser, "benchmarks.unet_step", lambda a: sum(operations(a, 4 * a.batch)),
         lambda a: {"no_swaps": ["--preset", "none"]} if a.preset != "none" else {})
