"""Look-alikes by SDEdit (Meng et al. 2022): the subject and layout of a style picture, drawn by the base without the style."""
from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Dict, List

import numpy as np
from PIL import Image
from tqdm import tqdm

from styleblend.files.captions import StylePicture
from styleblend.errors import StyleBlendError
from styleblend.files.whole_files import write_bytes
from styleblend.models.attention import RowLayout
from styleblend.files.names import composed
from styleblend.files.pictures import is_whole, load_picture, save_png, to_array
from styleblend.pipeline import PLAIN, Branch, StyleBlendPipeline
from styleblend.machine.runtime import jt
from styleblend.diffusion.samplers import leading_timesteps
from styleblend.settings import BlendSettings, LookAlikeSettings, PictureSettings, SamplingSettings
from styleblend.files.text import read_json
from styleblend.training.loop import step_rng

DRAWN_WITH = "drawn_with.json"  # beside the look-alikes


def sdedit(pipeline: StyleBlendPipeline, latents, prompt: str, strength: float, settings: LookAlikeSettings, noise: np.ndarray):
    """Draw one clean latent (1, 4, h, w) again, once for each row of `noise` (N, 4, h, w).

    Of `settings.steps` DDIM steps the first are skipped: drawing starts at step n - int(strength * n) from the noised latent.
    """
    schedule, count = pipeline.base.schedule, len(noise)
    start = max(settings.steps - int(strength * settings.steps), 0)
    layout = RowLayout((PLAIN.name,), settings.guidance != 1, count)
    branch = Branch(PLAIN.name, "{prompt}", 0.0, 0.0)
    text = pipeline.encode([prompt], [branch], layout.guidance, {PLAIN.name: settings.negative})
    first = int(leading_timesteps(schedule, settings.steps)[min(start, settings.steps - 1)])
    with jt.no_grad():
        text = text[jt.array(np.repeat(np.arange(len(text), dtype=np.int32), count))]  # one prompt and one negative prompt, encoded once
        text.sync()
        x = schedule.add_noise(jt.concat([latents] * count), jt.array(noise), first)
        return pipeline.denoise(text, x, layout, [branch], SamplingSettings(steps=settings.steps, guidance=settings.guidance), BlendSettings(), start=start)[0]


def refuse_other_settings(folder: Path, drawn_with: Dict[str, str]) -> None:
    """Refuse look-alikes in `folder` of another base, other settings or other pictures; note what the new ones are drawn with.

    Pictures without a note, such as one's own, are taken as they are, and get none.
    """
    path = Path(folder) / DRAWN_WITH
    if path.is_file():
        before = read_json(path, "delete that folder, or train with --overwrite")
        before = before if isinstance(before, dict) else {}
        changed = [key for key in sorted({*before, *drawn_with}) if before.get(key) != drawn_with.get(key)]
        if changed:
            raise StyleBlendError(f"the look-alikes in {folder} were drawn with other settings ({', '.join(changed)}): delete that folder, or train with --overwrite")
    elif not any(Path(folder).glob("*.png")):
        write_bytes(path, (json.dumps(drawn_with, indent=1) + "\n").encode())


def make_look_alikes(pipeline: StyleBlendPipeline, pictures: List[StylePicture], folder: Path, settings: LookAlikeSettings,
                     sampling: SamplingSettings, seed: int, reading: PictureSettings = PictureSettings()) -> List[List[Path]]:
    """Write `<picture>-<i:03d>.png` look-alikes of every picture into `folder`; the files of each picture.

    Whole files that are there are kept, so a killed run goes on where it was. It draws the rest in the batches of an unbroken run,
    since the last bits of a picture depend on its batch. The pipeline must hold no style.
    """
    pipeline.base.schedule.config.refuse_more_steps(settings.steps, "training.look_alikes.steps")
    # these say which pictures there are, not what is in them
    kept = settings.model_dump(exclude={"candidates", "chosen", "batch", "clip", "clip_id"})
    refuse_other_settings(folder, {"base": pipeline.base.fingerprint(), "dtype": pipeline.base.dtype, "size": f"{sampling.width} x {sampling.height}", "seed": str(seed), "fit": reading.fit,
                                   **{key: str(value) for key, value in kept.items()},
                                   **{f"{p.path.name}, {p.phrase}": hashlib.sha256(p.path.read_bytes()).hexdigest()[:16] for p in pictures}})
    found = []
    total = len(pictures) * settings.candidates
    with tqdm(total=total, desc="look-alikes", unit="picture", dynamic_ncols=True) as bar:
        for number, picture in enumerate(pictures):
            files = [Path(folder) / f"{composed(picture.path.stem)}-{i:03d}.png" for i in range(settings.candidates)]
            # strength and noise of a candidate depend on its number alone, not on what is there already
            rngs = [step_rng(seed, f"look-alike {number}", i) for i in range(settings.candidates)]
            strengths = [float(rng.choice(settings.strengths)) for rng in rngs]
            todo = [i for i, path in enumerate(files) if not is_whole(path)]
            bar.update(settings.candidates - len(todo))
            if todo:
                pixels = to_array(load_picture(picture.path, reading.max_pixels), sampling.width, sampling.height, reading.fit)
                with jt.no_grad():
                    latents = (pipeline.base.vae.encode(jt.array(pixels[None])).mean * pipeline.base.vae.scale).detach()
                noise = [rng.standard_normal(tuple(latents.shape[1:])).astype(np.float32) for rng in rngs]
                prompt = settings.prompt.format(prompt=picture.phrase)
                for strength in sorted(set(strengths)):
                    same = [i for i in range(settings.candidates) if strengths[i] == strength]
                    for part in [same[i:i + settings.batch] for i in range(0, len(same), settings.batch)]:
                        missing = set(part) & set(todo)
                        if not missing:
                            continue
                        drawn = sdedit(pipeline, latents, prompt, strength, settings, np.stack([noise[i] for i in part]))
                        for i, pixels in zip(part, pipeline.decode(drawn, sampling.vae_strip)):
                            if i in missing:
                                save_png(files[i], Image.fromarray(pixels))
                                bar.update()
                        jt.gc()
            found.append(files)
    return found
