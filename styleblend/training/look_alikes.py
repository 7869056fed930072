"""Look-alikes by SDEdit (Meng et al. 2022).

The subject and layout of a style picture, drawn by the base without the style.
"""
from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Dict, Generator, Iterator, List, Set, Tuple

import numpy as np
from PIL import Image

from styleblend.files.captions import StylePicture
from styleblend.files.emphasis import escaped
from styleblend.errors import StyleBlendError
from styleblend.files.whole_files import write_bytes
from styleblend.models.rows import Rows
from styleblend.files.pictures import is_whole, load_picture, save_png, to_array
from styleblend.diffusion.denoise import denoise
from styleblend.diffusion.recipe import Recipe, classifier_free
from styleblend.pipeline import Pipeline
from styleblend.machine.runtime import jt
from styleblend.diffusion.samplers import leading_timesteps
from styleblend.settings import LookAlikeSettings, PictureSettings, SamplingSettings
from styleblend.files.text import read_json
from styleblend.training.loop import step_rng
from styleblend.training.work import WorkDone

DRAWN_WITH = "drawn_with.json"  # beside the look-alikes


def sdedit(pipeline: Pipeline, latents, prompt: str, strength: float, settings: LookAlikeSettings, noise: np.ndarray):
    """Draw one clean latent (1, 4, h, w) again, once for each row of `noise` (N, 4, h, w).

    Of `settings.steps` DDIM steps the first are skipped: drawing starts at step n - int(strength * n) from the noised
    latent.
    """
    schedule, count = pipeline.base.schedule, len(noise)
    start = max(settings.steps - int(strength * settings.steps), 0)
    guidance, tokenizer = classifier_free(settings.guidance), pipeline.tokenizer("styleblend")
    tokenizer.refuse_reserved([escaped(prompt), escaped(settings.negative)])
    texts = {"negative": settings.negative, "full": tokenizer.fitted_caption("{prompt}", prompt)}
    first = int(leading_timesteps(schedule, settings.steps)[min(start, settings.steps - 1)])
    with jt.no_grad():
        state = pipeline.base.text_encoder(tokenizer.encode([texts[condition] for condition in guidance]))
        state = state[jt.array(np.repeat(np.arange(len(guidance), dtype=np.int32), count))]  # each text is encoded once
        x = schedule.add_noise(jt.concat([latents] * count), jt.array(noise), first)
        jt.sync([state, x])
    recipe = Recipe(Rows({"plain": count}, tuple(guidance)),
                    (tuple(texts[condition] for condition in guidance for _ in range(count)),), guidance,
                    {"plain": (0,) * count}, ("plain",), start={"plain": x}, first_step=start)
    for step in denoise(pipeline.base, recipe, [state], SamplingSettings(steps=settings.steps)):
        x = step.x
    return x


def refuse_other_settings(folder: Path, drawn_with: Dict[str, str]) -> None:
    """Refuse look-alikes in `folder` of another base, other settings or other pictures.

    Note what the new ones are drawn with. Pictures without a note, such as one's own, are taken as they are, and get
    none.
    """
    path = Path(folder) / DRAWN_WITH
    if path.is_file():
        before = read_json(path, "delete that folder, or train with --overwrite")
        before = before if isinstance(before, dict) else {}
        changed = [key for key in sorted({*before, *drawn_with}) if before.get(key) != drawn_with.get(key)]
        if changed:
            raise StyleBlendError(f"the look-alikes in {folder} were drawn with other settings ({', '.join(changed)}): "
                                  "delete that folder, or train with --overwrite")
    elif not any(Path(folder).glob("*.png")):
        write_bytes(path, (json.dumps(drawn_with, indent=1) + "\n").encode())


def facts_of(pipeline: Pipeline, pictures: List[StylePicture], settings: LookAlikeSettings,
             sampling: SamplingSettings, seed: int, reading: PictureSettings) -> Dict[str, str]:
    """What the look-alikes depend on, name -> text."""
    # these say which pictures there are, not what is in them
    kept = settings.model_dump(exclude={"candidates", "chosen", "batch", "clip", "clip_id"})
    return {"base": pipeline.base.fingerprint(), "dtype": pipeline.base.dtype,
            "size": f"{sampling.width} x {sampling.height}", "seed": str(seed), "fit": reading.fit,
            **{key: str(value) for key, value in kept.items()},
            **{f"{p.file}, {p.phrase}": hashlib.sha256(p.path.read_bytes()).hexdigest()[:16] for p in pictures}}


def draw_candidates(pipeline: Pipeline, pixels: np.ndarray, phrase: str, rngs: List[np.random.Generator],
                    settings: LookAlikeSettings, vae_strip: int, wanted: Set[int]) -> Iterator[Tuple[int, np.ndarray]]:
    """Number and pixels (H, W, 3) uint8 of each wanted candidate of one picture `pixels` (3, H, W).

    `rngs`: one for each candidate. The batches are those of an unbroken run, since the last bits of a picture depend on
    its batch: candidates that are not wanted are drawn along with the others of their batch.
    """
    strengths = [float(rng.choice(settings.strengths)) for rng in rngs]
    with jt.no_grad():
        latents = (pipeline.base.vae.encode(jt.array(pixels[None])).mean * pipeline.base.vae.scale).detach()
    noise = [rng.standard_normal(tuple(latents.shape[1:])).astype(np.float32) for rng in rngs]
    prompt = settings.prompt.format(prompt=phrase)
    for strength in sorted(set(strengths)):
        same = [i for i in range(len(rngs)) if strengths[i] == strength]
        for part in [same[i:i + settings.batch] for i in range(0, len(same), settings.batch)]:
            if not wanted & set(part):
                continue
            drawn = sdedit(pipeline, latents, prompt, strength, settings, np.stack([noise[i] for i in part]))
            for i, picture in zip(part, pipeline.decode(drawn, vae_strip)):
                if i in wanted:
                    yield i, picture
            jt.gc()


def make_look_alikes(pipeline: Pipeline, pictures: List[StylePicture], folder: Path, settings: LookAlikeSettings,
                     sampling: SamplingSettings, seed: int, reading: PictureSettings = PictureSettings()
                     ) -> Generator[WorkDone, None, List[List[Path]]]:
    """Write `<picture>-<i:03d>.png` look-alikes of every picture into `folder`; returns the files of each picture.

    Whole files that are there are kept, so a killed run goes on where it was.
    """
    pipeline.base.schedule.config.refuse_more_steps(settings.steps, "training.look_alikes.steps")
    refuse_other_settings(folder, facts_of(pipeline, pictures, settings, sampling, seed, reading))
    found, done, total = [], 0, len(pictures) * settings.candidates
    for number, picture in enumerate(pictures):
        files = [Path(folder) / f"{picture.name}-{i:03d}.png" for i in range(settings.candidates)]
        missing = {i for i, path in enumerate(files) if not is_whole(path)}
        done += settings.candidates - len(missing)
        yield WorkDone("look-alikes", done, total, "picture")
        if missing:
            # strength and noise of a candidate depend on its number alone, not on what is there already
            rngs = [step_rng(seed, f"look-alike {number}", i) for i in range(settings.candidates)]
            pixels = to_array(load_picture(picture.path, reading.max_pixels), sampling.width, sampling.height,
                              reading.fit)
            for i, drawn in draw_candidates(pipeline, pixels, picture.phrase, rngs, settings, sampling.vae_strip,
                                            missing):
                save_png(files[i], Image.fromarray(drawn))
                done += 1
                yield WorkDone("look-alikes", done, total, "picture")
        found.append(files)
    return found
