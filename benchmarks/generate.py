"""A picture: prompts encoded, --steps steps of both branches with guidance, decoded.

The peer draws two plain prompts: as many rows, no swaps.
"""
from benchmarks.harness import arguments, main
from benchmarks.unet_step import operations


def build(args):
    from styleblend.base.base import load_base
    from styleblend.methods.method import Request
    from styleblend.pipeline import Pipeline
    from styleblend.settings import SamplingSettings
    pipeline = Pipeline(load_base(args.base, args.dtype))
    side = args.latent * pipeline.base.vae.config.downscale
    sampling = SamplingSettings(width=side, height=side, steps=args.steps, guidance=5.0, saved_size=None)
    request = Request(("A dog",) * args.batch, tuple(range(args.batch)), sampling, branches=("coarse", "fine"))
    return lambda: list(pipeline.draw(request))


if __name__ == "__main__":
    # of the UNet alone
    main(build, arguments(__doc__, sd21=False), "benchmarks.generate",
         lambda a: a.steps * sum(operations(a, 4 * a.batch)))
