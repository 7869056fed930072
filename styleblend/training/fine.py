"""Fine style:

Textual Inversion learns the token <F> (Gal et al. 2022), then a LoRA on the UNet learns texture and colour.
"""
from __future__ import annotations

import hashlib
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
from styleblend.training.latents import encode_pictures
from styleblend.training.loop import loss_curve, step_rng, train
from styleblend.training.noise_loss import noise_loss
from styleblend.training.picture_grids import grid_writer
from styleblend.training.prompts import prompt_ids
from styleblend.training.scores import scorer_for
from styleblend.training.starting_tokens import starting_tokens
from styleblend.training.starting_words import starting_words


def rows_of_words(pipeline: Pipeline, words: str) -> np.ndarray:
    """The word embeddings of these words, (n, width).

    By way of an array, and with no name for the token table: either would keep it when the encoder is freed.
    """
    ids = jt.array(np.array(pipeline.tokenizer("styleblend").ids_of(words), np.int32))
    return pipeline.base.text_encoder.text_model.embeddings.token_embedding.weight[ids].float32().numpy()


def train_fine(pipeline: Pipeline, name: str, settings: RunSettings) -> Iterator:
    """Learn the fine part of style `name` from its folder in `settings.data`; writes its embedding and its LoRA.

    Latents are encoded once. Only the rows of <F> learn in the first stage, one for each token of the words that it
    starts from: the token table is no parameter. In the second the texts are encoded once too. Uses the pipeline up:
    its encoders are freed when their work is done.
    """
    base, config = pipeline.base, settings.training
    folder = Path(settings.adapters) / name
    pictures = style_pictures(data_of(settings.data, name))
    mirror = config.inversion.flip or config.lora.flip
    cache = yield from encode_pictures(base, [p.path for p in pictures], settings.sampling.width,
                                       settings.sampling.height, mirror, settings.pictures)
    if config.gradient_checkpointing:
        base.unet.enable_gradient_checkpointing()
    base.vae.encoder = None  # its work is cached; the decoder stays for the picture grids
    start = starting_tokens(base, settings)
    if start is None:
        words = yield from starting_words(pipeline, config.initial_fine, pictures, cache, config.seed,
                                          config.inversion.batch)
        start = rows_of_words(pipeline, words)
    begun = config.initial_fine if config.start is None else hashlib.sha256(start.tobytes()).hexdigest()[:16]
    identity = (f"{base.fingerprint()} {cache.fingerprint} {[p.phrase for p in pictures]} "
                f"{settings.pictures.fit} {begun}")
    rows = jt.array(start)
    above = jt.zeros((1, rows.shape[1]))  # <C> is not in these prompts; its row is there so that <F> keeps its place
    ids = prompt_ids(pipeline.tokenizer("styleblend", Applied({"<F>": rows})), "fine", pictures)
    scorer = scorer_for(settings, name, config.fine_score)
    scored_by, curve = scorer.scored_by if scorer else "", folder / "training" / "fine-loss.png"
    grids = grid_writer(pipeline, settings, "fine", lambda: Applied({"<F>": rows.detach()}), scorer=scorer)

    def loss_of(rng, stage, text_of, loras={}):
        return noise_loss(base, cache, rng, rng.integers(0, len(cache), stage.batch), text_of, loras)

    def inversion_text(index):
        return base.text_encoder(ids[index], jt.concat([above, rows]))

    inversion = yield from train("inversion", config, {"rows": rows},
                                 lambda rng: loss_of(rng, config.inversion, inversion_text), folder / "training",
                                 identity, grids, base.dtype, scored_by,
                                 lambda log: loss_curve(curve, {"inversion": log}))

    with jt.no_grad():
        texts = base.text_encoder(ids, jt.concat([above, rows]).detach()).numpy()
    loras = lora.new(base.unet, lora.UNET_TARGETS, config.lora.rank, step_rng(config.seed, "lora init", 0))
    style = Applied({"<F>": rows.detach()}, {"unet": loras})
    fine_grids = grid_writer(pipeline, settings, "fine", lambda: style, frozen_text=True, scorer=scorer)
    base.text_encoder = None  # every text of the second stage is encoded
    yield from train("lora", config, lora.parameters(base.unet, loras),
                     lambda rng: loss_of(rng, config.lora, lambda index: jt.array(texts[index]), loras),
                     folder / "training", identity, fine_grids, base.dtype, scored_by,
                     lambda log: loss_curve(curve, {"inversion": inversion, "lora": log}))
    metadata = {"base": base.fingerprint(), "style": name, "stage": "fine"}
    vectors = rows.numpy()
    save_part(folder, name, "fine_embeds", {"<F>": vectors if len(start) > 1 else vectors[0]}, metadata)
    # last, since a style with this file counts as trained
    save_part(folder, name, "unet_lora", lora.arrays(base.unet, loras), {**metadata, "rank": str(config.lora.rank)})
