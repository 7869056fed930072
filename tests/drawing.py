"""What many tests draw and save with: one step of the UNet; the pictures of a request, of all its branches.

And a made-up style as files.
"""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Mapping, Sequence

import numpy as np

from reference import seeded
from styleblend.adapters.parts import part_named
from styleblend.adapters.style import Applied, Style, save_part
from styleblend.base.base import NETWORKS
from styleblend.base.weights import parameters
from styleblend.diffusion.denoise import denoise
from styleblend.machine.runtime import jt
from styleblend.methods.method import Request
from styleblend.models.attention import AttentionContext
from styleblend.models.rows import Rows
from styleblend.pipeline import Picture, Pipeline
from styleblend.settings import FIRST_METHOD

GUIDED = ("negative", "full")
ROWS = Rows({"coarse": 1, "fine": 1}, GUIDED)


def unet_inputs(rows=4, height=8, width=8):
    """Made-up latents, a time and a made-up text: what the UNet takes."""
    return (jt.array(seeded.values("control/x", (rows, 4, height, width))), 700,
            jt.array(seeded.values("control/text", (rows, 77, 32))))


def run_unet(unet, controls=(), rows=ROWS, scale=None, step=0, steps=10, inputs=None, loras={}):
    """The UNet under a context, as an array."""
    context = AttentionContext(rows, step, steps, tuple(controls), loras, scale)
    with jt.no_grad():
        return unet(*(inputs or unet_inputs(rows.count)), context).numpy()


def request(prompts: Sequence[str], seeds: Sequence[int], sampling, style=None, **more) -> Request:
    """A request for these phrases with these settings as they stand."""
    return Request(tuple(prompts), tuple(seeds), sampling, style, **more)


def pictures(pipeline: Pipeline, asked: Request, **how) -> np.ndarray:
    """What the request shows, uint8 (n, H, W, 3)."""
    return np.stack([event.pixels for event in pipeline.draw(asked, **how) if isinstance(event, Picture)])


def last_latents(pipeline: Pipeline, recipe, sampling, style: Applied, texts=None,
                 method: str = "styleblend") -> np.ndarray:
    """What a recipe ends in: (latents, 4, h, w), branch by branch."""
    texts = pipeline.encode(recipe, method, style) if texts is None else texts
    step = None
    for step in denoise(pipeline.base, recipe, texts, sampling, style.of("unet")):
        pass
    return step.x.numpy()


def all_branches(pipeline: Pipeline, asked: Request) -> np.ndarray:
    """The pictures of every branch, uint8 (branches, n, H, W, 3), those that nobody is shown too."""
    style = pipeline.applied(asked.style)
    recipe = pipeline.recipe(asked, style)
    drawn = pipeline.decode(jt.array(last_latents(pipeline, recipe, asked.sampling, style)), asked.sampling.vae_strip)
    return drawn.reshape((len(recipe.rows.branches), len(asked.prompts)) + drawn.shape[1:])


def with_start(recipe, latents):
    """The recipe with these latents (n, 4, h, w) in every branch, in place of noise."""
    return replace(recipe, start=dict.fromkeys(recipe.rows.branches, latents))


def with_part(style: Style, **parts) -> Style:
    """The style with other parts in place of its own."""
    return replace(style, parts={**style.parts, **parts})


def save_style(folder: Path, name: str, style: Style, metadata: Mapping[str, str] = {}) -> Path:
    """Each part of the style in a file of its own in `folder`."""
    for part, found in style.parts.items():
        about = part_named(part)
        save_part(folder, name, part, {about.token: found} if about.kind == "embedding" else found, dict(metadata))
    if style.settings.method != FIRST_METHOD:
        (folder / "style.json").write_text(style.settings.model_dump_json(exclude_defaults=True))
    return folder


def present(base) -> set:
    """The networks of a base whose weights are there: of one that is offloaded each weight is one number."""
    weights = {part: parameters(getattr(base, part)).values() for part in NETWORKS}
    return {part for part, found in weights.items() if sum(p.numel() for p in found) > len(found)}
