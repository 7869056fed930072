"""The options that say how a picture is sampled: steps, guidance, sampler, size, or a level of quality."""
from __future__ import annotations

from typing import Dict

from styleblend.diffusion.quality import BEST, QUALITIES

OF_SAMPLING = ("steps", "guidance", "guidance_start", "guidance_end", "cache_interval", "cache_branch_id", "sampler",
               "width", "height")  # fields of it
NEGATIVE = "the config's (sampling.fine_negative), of a plain picture and by style_encoder nothing"


def add_sampling(drawing, negative: str = NEGATIVE) -> None:
    """The options that are fields of the sampling settings, and --negative with its default."""
    drawing.add_argument("--negative", metavar="TEXT", help=f"what the picture should not show; default: {negative}")
    drawing.add_argument("--quality", choices=QUALITIES, default=BEST,
                         help="{}; best: as the config has it; --steps and --sampler count more".format("; ".join(
                             f"{level}: {own['steps']} steps of {own['sampler']}" for level, own in QUALITIES.items()
                             if own)))
    drawing.add_argument("--steps", type=int, metavar="N",
                         help="denoising steps; default: the config's (sampling.steps)")
    drawing.add_argument("--guidance", type=float, metavar="SCALE",
                         help="how closely the prompt is followed (CFG scale); 1: off; default: the style's own, else "
                              "the config's (sampling.guidance)")
    drawing.add_argument("--guidance-start", type=float, metavar="SHARE",
                         help="share of the steps after which guidance sets in; a step without it is half the work; "
                              "default: the config's (sampling.guidance_start)")
    drawing.add_argument("--guidance-end", type=float, metavar="SHARE",
                         help="share of the steps after which it ends; default: the config's (sampling.guidance_end)")
    drawing.add_argument("--cache-interval", type=int, metavar="N",
                         help="compute the whole UNet in every Nth step, and keep its deep features in between "
                              "(DeepCache); default: the config's (sampling.cache_interval)")
    drawing.add_argument("--cache-branch-id", type=int, metavar="N",
                         help="how deep the steps between compute: down to this skip connection; default: the config's "
                              "(sampling.cache_branch_id)")
    drawing.add_argument("--sampler", metavar="NAME",
                         help="ddim, dpmpp_2m, euler, unipc or pndm; default: the config's (sampling.sampler)")
    drawing.add_argument("--width", type=int, metavar="PIXELS",
                         help="a multiple of 8; default: the config's (sampling.width)")
    drawing.add_argument("--height", type=int, metavar="PIXELS",
                         help="a multiple of 8; default: the config's (sampling.height)")


def sampling_of(args) -> Dict[str, object]:
    """What these options change of the sampling settings."""
    said = {name: getattr(args, name) for name in OF_SAMPLING if getattr(args, name) is not None}
    return {**QUALITIES[args.quality], **said}
