"""Fine style: Textual Inversion learns the token <F> (Gal et al. 2022), then a LoRA on the UNet learns texture and colour."""
from __future__ import annotations

from pathlib import Path

import numpy as np

from styleblend.adapters import lora
from styleblend.files.captions import style_pictures
from styleblend.files.names import entry
from styleblend.pipeline import FINE, StyleBlendPipeline
from styleblend.machine.runtime import jt
from styleblend.settings import RunSettings
from styleblend.adapters.style import save_part
from styleblend.training.latents import LatentCache
from styleblend.training.loop import loss_curve, step_rng, train
from styleblend.training.picture_grids import grid_writer
from styleblend.training.scores import scorer_for
from styleblend.training.starting_words import starting_words


def train_fine(pipeline: StyleBlendPipeline, name: str, settings: RunSettings) -> None:
    """Learn the fine part of style `name` from its folder in `settings.data`; writes its embedding and its LoRA.

    Latents are encoded once. Only the rows of <F> learn in the first stage, one for each token of the words that it starts from:
    the token table is no parameter. In the second the texts are encoded once too. Uses the pipeline up: its encoders are freed when their work is done.
    """
    base, config = pipeline.base, settings.training
    folder = Path(settings.adapters) / name
    pictures = style_pictures(entry(settings.data, name))
    pipeline.set_style(None)
    mirror = config.inversion.flip or config.lora.flip
    cache = LatentCache(base, [p.path for p in pictures], settings.sampling.width, settings.sampling.height, mirror, settings.pictures)
    if config.gradient_checkpointing:
        base.unet.enable_gradient_checkpointing()
    base.vae.encoder = None  # its work is cached; the decoder stays for the picture grids
    words = starting_words(pipeline, config.initial_fine, pictures, cache, config.seed, config.inversion.batch)
    start = pipeline.tokenizer.ids_of(words)
    pipeline.tokenizer.spread((1, len(start)))
    ids = pipeline.tokenizer.encode(pipeline.texts([p.phrase for p in pictures], FINE))
    identity = f"{base.fingerprint()} {cache.fingerprint} {[p.phrase for p in pictures]} {settings.pictures.fit} {config.initial_fine}"

    # by way of an array, and with no name for the token table: either would keep it when the encoder is freed
    rows = jt.array(base.text_encoder.text_model.embeddings.token_embedding.weight[jt.array(np.array(start, np.int32))].float32().numpy())
    above = jt.zeros((1, rows.shape[1]))  # <C> is not in these prompts; its row is there so that <F> keeps its place
    scorer = scorer_for(settings, name, config.fine_score)
    scored_by, curve = scorer.scored_by if scorer else "", folder / "training" / "fine-loss.png"
    grids = grid_writer(pipeline, settings, (FINE,), scorer=scorer)

    def diffusion_loss(rng, stage, text_of):
        index = rng.integers(0, len(cache), stage.batch)
        x0 = jt.array(cache.sample(rng, index))
        eps = jt.array(rng.standard_normal(x0.shape).astype(np.float32))
        t = rng.integers(0, len(base.schedule), stage.batch)
        output = base.unet(base.schedule.add_noise(x0, eps, t), jt.array(t.astype(np.float32)), text_of(index))
        return base.schedule.loss(output, x0, eps, t)

    def inversion_text(index):
        return base.text_encoder(ids[index], jt.concat([above, rows]))

    def inversion_grid(path):
        pipeline.placeholders = jt.concat([above, rows]).detach()
        return grids(path)

    inversion = train("inversion", config, {"rows": rows}, lambda rng: diffusion_loss(rng, config.inversion, inversion_text),
                      folder / "training", identity, inversion_grid, base.dtype, scored_by, lambda log: loss_curve(curve, {"inversion": log}))

    pipeline.placeholders = jt.concat([above, rows]).detach()
    with jt.no_grad():
        texts = base.text_encoder(ids, pipeline.placeholders).numpy()
    fine_grids = grid_writer(pipeline, settings, (FINE,), frozen_text=True, scorer=scorer)
    base.text_encoder = None  # every text of the second stage is encoded
    lora.inject(base.unet, lora.UNET_TARGETS, config.lora.rank, step_rng(config.seed, "lora init", 0))
    train("lora", config, lora.parameters(base.unet), lambda rng: diffusion_loss(rng, config.lora, lambda index: jt.array(texts[index])),
          folder / "training", identity, fine_grids, base.dtype, scored_by, lambda log: loss_curve(curve, {"inversion": inversion, "lora": log}))
    metadata = {"base": base.fingerprint(), "style": name, "stage": "fine"}
    save_part(folder, name, "fine_embeds", {"<F>": rows.numpy() if len(start) > 1 else rows.numpy()[0]}, metadata)
    # last, since a style with this file counts as trained
    save_part(folder, name, "unet_lora", lora.extract(base.unet), {**metadata, "rank": str(config.lora.rank)})
    lora.remove(base.unet)
