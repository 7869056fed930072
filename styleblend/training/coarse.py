"""Coarse style: a LoRA on the text encoder and the token <C> learn the layout that look-alikes share."""
from __future__ import annotations

from pathlib import Path
from typing import Iterator

import numpy as np

from styleblend.adapters import lora
from styleblend.files.captions import style_pictures
from styleblend.files.shipped import data_of
from styleblend.pipeline import Pipeline
from styleblend.machine.runtime import jt
from styleblend.settings import RunSettings
from styleblend.adapters.style import Applied, save_part
from styleblend.training.clip_filter import find_clip, nearest_look_alikes
from styleblend.training.latents import encode_pictures
from styleblend.training.loop import loss_curve, step_rng, train
from styleblend.training.noise_loss import noise_loss
from styleblend.training.picture_grids import grid_writer
from styleblend.training.prompts import prompt_ids
from styleblend.training.scores import scorer_for
from styleblend.training.look_alikes import make_look_alikes


def train_coarse(pipeline: Pipeline, name: str, settings: RunSettings) -> Iterator:
    """Learn the coarse part of style `name` from its folder in `settings.data`; writes its embedding and its LoRA.

    As in the published Jittor release: the loss is on the look-alikes with the prompt that holds <C>; <C> keeps the
    embedding of its initial token, only the LoRA learns. Uses the pipeline up: its VAE encoder is freed.
    """
    base, config, stage = pipeline.base, settings.training, settings.training.coarse
    folder = Path(settings.adapters) / name
    token = pipeline.tokenizer("styleblend").id_of(config.initial_coarse)
    pictures = style_pictures(data_of(settings.data, name))
    clip = find_clip(config.look_alikes)  # before the look-alikes are drawn, which takes long
    files = yield from make_look_alikes(pipeline, pictures, Path(settings.look_alikes) / name, config.look_alikes,
                                        settings.sampling, config.seed, settings.pictures)
    if clip:
        files = yield from nearest_look_alikes(pictures, files, config.look_alikes.chosen, clip,
                                               settings.pictures)
    owner = np.array([n for n, group in enumerate(files) for _ in group])
    cache = yield from encode_pictures(base, [path for group in files for path in group], settings.sampling.width,
                                       settings.sampling.height, stage.flip)
    if config.gradient_checkpointing:
        base.unet.enable_gradient_checkpointing()
    base.vae.encoder = None  # its work is cached; the decoder stays for the picture grids

    vector = base.text_encoder.text_model.embeddings.token_embedding.weight[token].float32().numpy().reshape(-1)
    placeholders = jt.array(np.stack([vector, vector]))
    loras = lora.new(base.text_encoder, lora.TEXT_TARGETS, stage.rank, step_rng(config.seed, "coarse init", 0),
                     init="kaiming")
    style = Applied({"<C>": placeholders[:1], "<F>": placeholders[1:]}, {"text_encoder": loras})
    ids = prompt_ids(pipeline.tokenizer("styleblend", style), "coarse", pictures)

    def loss_of(rng):
        index = rng.integers(0, len(cache), stage.batch)
        return noise_loss(base, cache, rng, index,
                          lambda index: base.text_encoder(ids[owner[index]], placeholders, loras))

    identity = (f"{base.fingerprint()} {cache.fingerprint} {owner.tolist()} {[p.phrase for p in pictures]} "
                f"{settings.pictures.fit} {config.initial_coarse}")
    scorer = scorer_for(settings, name, config.coarse_score)
    grids, curve = grid_writer(pipeline, settings, "coarse", lambda: style,
                               scorer=scorer), folder / "training" / "coarse-loss.png"
    yield from train("coarse", config, lora.parameters(base.text_encoder, loras), loss_of, folder / "training",
                     identity, grids, base.dtype, scorer.scored_by if scorer else "",
                     lambda log: loss_curve(curve, {"coarse": log}))
    metadata = {"base": base.fingerprint(), "style": name, "stage": "coarse"}
    save_part(folder, name, "coarse_embeds", {"<C>": vector}, metadata)
    # last, since a style with this file counts as trained
    save_part(folder, name, "text_lora", lora.arrays(base.text_encoder, loras), {**metadata, "rank": str(stage.rank)})
