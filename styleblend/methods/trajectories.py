"""Reference pictures on their way through the noise levels: encoded, blended, inverted, and kept for the next time."""
from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Iterator, List, Optional, Sequence

import numpy as np

from styleblend.diffusion.blends import blended
from styleblend.diffusion.inversion import invert, noised, trajectory
from styleblend.diffusion.recipe import Recipe, classifier_free
from styleblend.diffusion.samplers import Step
from styleblend.diffusion.schedule import seeded_noise
from styleblend.errors import StyleBlendError
from styleblend.files.caches import cache_folder
from styleblend.files.pictures import load_picture, to_array
from styleblend.files.tensor_files import read_metadata, read_safetensors, write_safetensors
from styleblend.machine.runtime import jt, say
from styleblend.methods.method import Progress, Request
from styleblend.models.rows import Rows
from styleblend.settings import AlignSettings
from styleblend.settings.style_aligned import BY_ATTENTION

KEPT = 100  # trajectories on the disk: of 50 steps at 768 px each has 7 MB


def trajectory_of(pipeline, request: Request, settings: AlignSettings, texts: Sequence[str]) -> Iterator[Progress]:
    """Yields the steps of the inversion; returns what is passed: steps + 1 of (references, 4, h, w), noisiest first.

    `texts`: what each reference row shows. One that was inverted before is read from the disk.
    """
    base, sampling = pipeline.base, request.sampling
    clean = clean_latents(base, settings, sampling)
    if settings.follow == "noise":
        seed = sampling.seed if settings.reference_seed is None else settings.reference_seed
        noise = jt.array(np.concatenate([seeded_noise(seed, (1, *clean.shape[1:]))] * clean.shape[0]))
        return noised(clean, noise, base.schedule, sampling.sampler, sampling.steps)
    guidance = classifier_free(settings.inversion_guidance)
    rows = Rows({"reference": len(texts)}, tuple(guidance))
    by_condition = {"negative": [""] * len(texts), "full": texts}
    recipe = Recipe(rows, (tuple(text for name in rows.conditions for text in by_condition[name]),), guidance,
                    {"reference": (0,) * len(texts)}, ("reference",))
    states = pipeline.encode(recipe, request.method, pipeline.applied(None))
    key = digest(clean.numpy(), states[0].numpy(), base.fingerprint(), base.dtype, settings.inversion_guidance,
                 sampling.steps)
    kept = read_kept(key, (sampling.steps + 1, *clean.shape))
    if kept is not None:
        return [jt.array(one) for one in kept]
    steps = yield from inverted(base, recipe, states, clean, sampling.steps, "inverting the reference")
    path = trajectory(clean, steps)
    keep(key, np.stack([one.numpy() for one in path]))
    return path


def inverted(base, recipe: Recipe, states: Sequence, clean, count: int, what: str) -> Iterator[Progress]:
    """Yields the progress of an inversion of `count` steps under the texts `states`; returns its steps."""
    steps: List[Step] = []
    for step in invert(base, recipe, states, clean, count):
        steps.append(step)
        yield Progress(len(steps), step.count, step.x0, what)
    return steps


def clean_latents(base, settings: AlignSettings, sampling):
    """The references' scaled latents, (references, 4, h, w): of each, or of the one that they become."""
    found = [encoded(base, one.picture, sampling) for one in settings.counted()]
    if settings.blend == BY_ATTENTION:
        return jt.array(np.concatenate(found))
    return jt.array(blended(settings.blend, found, settings.weights()))


def encoded(base, picture: str, sampling) -> np.ndarray:
    """The scaled mean of the encoder for one picture, (1, 4, h, w); of other proportions its middle is taken."""
    pixels = to_array(load_picture(Path(picture)), sampling.width, sampling.height)
    with jt.no_grad(), base.at_work("vae"):
        return (base.vae.encode(jt.array(pixels[None])).mean * base.vae.scale).numpy()


def digest(*parts) -> str:
    """A name for what a trajectory depends on."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part.tobytes() if isinstance(part, np.ndarray) else f"|{part}|".encode())
    return found.hexdigest()[:32]


def folder() -> Path:
    """Where trajectories are kept: they can be deleted at any time."""
    return cache_folder("trajectories")


def read_kept(key: str, shape: Sequence[int]) -> Optional[np.ndarray]:
    """A trajectory that was kept, of this shape; None: there is none, or it is damaged, so that it is written again."""
    path = folder() / f"{key}.safetensors"
    if not path.is_file():
        return None
    try:
        latents, said = read_safetensors(path)["latents"], read_metadata(path).get("sha256")
    except (StyleBlendError, KeyError):
        return None
    return latents if latents.shape == tuple(shape) and said == digest(latents) else None


def keep(key: str, latents: np.ndarray) -> None:
    """Write a trajectory, and delete the oldest where there are many."""
    try:
        folder().mkdir(parents=True, exist_ok=True)
        write_safetensors(folder() / f"{key}.safetensors", {"latents": latents}, {"sha256": digest(latents)})
        there = sorted(folder().glob("*.safetensors"), key=lambda path: path.stat().st_mtime)
        for path in there[:-KEPT]:
            path.unlink()
    except (OSError, StyleBlendError, RuntimeError) as error:
        say(f"the inverted reference is not kept for the next time ({error})")
