"""DreamStyler: a token for each stage of the noise schedule learns a style, from one picture or several.

What a picture shows stands in its prompt (Ahn et al. 2024, section 3.2), so that only the style is left to learn.
"""
from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Dict, Iterator, List, Sequence

import numpy as np

from styleblend.adapters.stage_tokens import named_rows, stage_token
from styleblend.adapters.style import Applied, save_part
from styleblend.base.tokens import Tokenizer
from styleblend.files.captions import StylePicture, style_pictures
from styleblend.files.emphasis import escaped
from styleblend.files.shipped import data_of
from styleblend.files.whole_files import write_bytes
from styleblend.machine.runtime import jt, say
from styleblend.methods.dreamstyler import fitted_caption, stage_of
from styleblend.pipeline import Pipeline
from styleblend.settings import KINDS, DreamStylerSettings, RunSettings
from styleblend.settings.dreamstyler import PHRASE
from styleblend.training.latents import encode_pictures
from styleblend.training.loop import loss_curve, train
from styleblend.training.noise_loss import Noisy, loss_of_noise, noisy_pictures
from styleblend.training.picture_grids import grid_writer
from styleblend.training.scores import scorer_for
from styleblend.training.starting_tokens import starting_tokens

METHOD, PART = "dreamstyler", "stage_embeds"
SHOWN = 3  # prompts that are shown


def train_dreamstyler(pipeline: Pipeline, name: str, settings: RunSettings) -> Iterator:
    """Learn the tokens of style `name` from its folder in `settings.data`; writes them, and `style.json`.

    As published: AdamW on the rows of the tokens alone, each picture of a step under the token of its own time's stage.
    Latents are encoded once. Uses the pipeline up: its VAE encoder is freed.
    """
    base, config, stage = pipeline.base, settings.training, settings.training.dreamstyler
    folder, pictures = Path(settings.adapters) / name, style_pictures(data_of(settings.data, name))
    show_prompts(name, stage.template, pictures)
    cache = yield from encode_pictures(base, [p.path for p in pictures], settings.sampling.width,
                                       settings.sampling.height, stage.flip, settings.pictures)
    if config.gradient_checkpointing:
        base.unet.enable_gradient_checkpointing()
    base.vae.encoder = None  # its work is cached; the decoder stays for the picture grids
    start = starting_tokens(base, settings)
    rows = (starting_rows(pipeline, stage.initial, stage.stages) if start is None
            else jt.array(np.stack([start.mean(0)] * stage.stages)))

    def style() -> Applied:
        return applied_rows(rows.detach())

    ids = stage_ids(pipeline.tokenizer(METHOD, style()), stage.template, pictures, stage.stages)

    def loss_of(rng):
        index = rng.integers(0, len(cache), stage.batch)
        return stage_loss(base, noisy_pictures(base, cache, rng, index), ids, index, rows)

    identity = f"{base.fingerprint()} {cache.fingerprint} {[p.phrase for p in pictures]} {settings.pictures.fit}"
    if start is not None:
        identity += f" {hashlib.sha256(start.tobytes()).hexdigest()[:16]}"
    scorer = scorer_for(settings, name, config.dreamstyler_score)
    drawing = DreamStylerSettings(**own_template(stage.template))
    grids = grid_writer(pipeline, settings, None, style, scorer=scorer, method=METHOD, drawing=drawing)
    curve = folder / "training" / "dreamstyler-loss.png"
    yield from train(METHOD, config, {"rows": rows}, loss_of, folder / "training", identity, grids, base.dtype,
                     scorer.scored_by if scorer else "", lambda log: loss_curve(curve, {METHOD: log}))
    say_method(folder, stage.template)
    # last, since a style with this file counts as trained
    save_part(folder, name, PART, named_rows(name, rows.numpy()),
              {"base": base.fingerprint(), "style": name, "stage": METHOD})


def starting_rows(pipeline: Pipeline, word: str, stages: int):
    """The vectors that the tokens start from, (stages, width): all that of a word. StyleBlendError: it is several."""
    base = pipeline.base
    token = base.tokenizer().id_of(word)
    vector = base.text_encoder.text_model.embeddings.token_embedding.weight[token].float32().numpy().reshape(-1)
    return jt.array(np.stack([vector] * stages))


def applied_rows(rows) -> Applied:
    """The tokens (stages, width) as they are drawn with."""
    return Applied({stage_token(k): rows[k:k + 1] for k in range(rows.shape[0])})


def stage_ids(tokenizer: Tokenizer, template: str, pictures: Sequence[StylePicture], stages: int) -> np.ndarray:
    """(stages, pictures, 77) ids of what each picture is learned under in each stage."""
    tokenizer.refuse_reserved([escaped(picture.phrase) for picture in pictures])
    return np.stack([tokenizer.encode([fitted_caption(tokenizer, template, picture.phrase, stage_token(stage))
                                       for picture in pictures]) for stage in range(stages)])


def stage_loss(base, noisy: Noisy, ids: np.ndarray, index: np.ndarray, rows):
    """The loss of the pictures `index` (B,), each under the token of its time's stage: a number."""
    stages = np.array([stage_of(int(time), len(ids), len(base.schedule)) for time in noisy.t])
    return loss_of_noise(base, noisy, base.text_encoder(ids[stages, index], rows))


def show_prompts(name: str, template: str, pictures: List[StylePicture]) -> None:
    """Say what the pictures are learned under: to look at it, and mend it, is a part of the method."""
    for picture in pictures[:SHOWN]:
        whole = picture.phrase if "{}" in picture.phrase else template.replace(PHRASE, picture.phrase)
        say(f"{name}: {picture.file} is learned under {whole!r}")
    if len(pictures) > SHOWN:
        say(f"{name}: {len(pictures) - SHOWN} more in the same way")
    say(f"{name}: what a picture shows and its prompt does not say is learned as style: write it into "
        f"{pictures[0].path.with_suffix('.txt').name} beside it")
    bare = [picture for picture in pictures if not picture.written]
    if bare and PHRASE in template:
        say(f"{name}: {len(bare)} of {len(pictures)} pictures have no caption, and their names stand for it: "
            f"styleblend captions {name} writes captions to be edited")


def own_template(template: str) -> Dict[str, str]:
    """What a style that was learned under this template says of its prompts; nothing where that is the default."""
    usual = template == DreamStylerSettings().template or PHRASE not in template
    return {} if usual else {"template": template}


def say_method(folder: Path, template: str) -> None:
    """Write of which method the style is, unless it says so itself."""
    if not (folder / "style.json").is_file():
        own = KINDS[METHOD](dreamstyler=own_template(template))
        write_bytes(folder / "style.json", own.model_dump_json(exclude_defaults=True, indent=2).encode())
