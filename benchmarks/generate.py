"""A picture: prompts encoded, --steps steps of both branches with guidance, decoded. The peer draws two plain prompts: as many rows, no swaps."""
from benchmarks.harness import arguments, main


def build(args):
    from styleblend.base import load_base
    from styleblend.pipeline import COARSE, FINE, StyleBlendPipeline
    from styleblend.settings import SamplingSettings
    pipeline = StyleBlendPipeline(load_base(args.base))
    side = args.latent * pipeline.base.vae.config.downscale
    sampling = SamplingSettings(width=side, height=side, steps=args.steps, guidance=5.0, output=None)
    return lambda: pipeline.generate(["A dog"] * args.batch, list(range(args.batch)), sampling, branches=(COARSE, FINE))


if __name__ == "__main__":
    main(build, arguments(__doc__), "benchmarks.generate")
