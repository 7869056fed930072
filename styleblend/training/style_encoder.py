"""Style Encoder's trainings of the network (Chang 2025): regression onto tokens, and through the frozen UNet."""
from __future__ import annotations

from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence

import numpy as np

from styleblend.base.base import Base
from styleblend.base.style_prompts import with_style_tokens
from styleblend.base.tokens import Tokenizer
from styleblend.files.corpus import Entry
from styleblend.machine.runtime import jt
from styleblend.models.attention import AttentionContext
from styleblend.models.resampling import linear_matrix, resized
from styleblend.models.rows import Rows
from styleblend.models.style_encoder import StyleEncoder
from styleblend.settings.style_encoder_training import FinetuneSettings, JointSettings
from styleblend.training.corpus_cache import CorpusCache
from styleblend.training.noise_loss import Noisy, loss_of_noise, noisy_pictures
from styleblend.training.style_inversion import read_tokens

GENERATED_AT = (0.4, 0.8)  # of the noise schedule: between them a one-step picture still takes on another style


def regression_loss(encoder: StyleEncoder, pictures, targets):
    """Mean squared error of the tokens of `pictures` (B, 3, side, side) against `targets` (B, count, width)."""
    difference = encoder(pictures) - targets
    return (difference * difference).mean()


def encoder_noise_loss(base: Base, encoder: StyleEncoder, noisy: Noisy, ids: np.ndarray, pictures):
    """The noise loss under captions with the encoder's tokens of `pictures` in them: a number.

    `ids` (B, 77) as `with_style_tokens` writes them. Unlike in the published program the tokens go through the text
    transformer.
    """
    return loss_of_noise(base, noisy, text_of(base, ids, encoder(pictures)))


def text_of(base: Base, ids: np.ndarray, vectors):
    """Text states (B, 77, width) of captions with the tokens `vectors` (B, count, width)."""
    return base.text_encoder(ids, vectors.reshape(-1, vectors.shape[-1]))


class JointBatch(NamedTuple):
    """One step of the joint training.

    `noisy` are the own pictures; `generated` says what one-step pictures start from: latents (B, 4, h, w) and one time
    step or one for each row.
    """

    noisy: Noisy
    ids: np.ndarray
    pictures: object
    others: object
    generated_from: object
    generated_at: object


def joint_terms(base: Base, encoder: StyleEncoder, frozen: StyleEncoder, batch: JointBatch) -> Dict[str, "jt.Var"]:
    """Noise, style and content terms, each a number, each with a gradient that reaches the encoder.

    A picture is generated in one step, from the own noisy latents under the style of another picture. `frozen`, the
    encoder as it was at the start, sees whether it has that style (its tokens) and still shows the same (its pooled
    output): a network in training could make both terms small by becoming blind.
    """
    text = text_of(base, batch.ids, encoder(batch.others))
    picture = one_step_picture(base, batch.generated_from, batch.generated_at, text, encoder.config.image_size)
    with jt.no_grad():
        style, content = frozen(batch.others).stop_grad(), frozen.pooled(batch.pictures).stop_grad()
    return {"noise": encoder_noise_loss(base, encoder, batch.noisy, batch.ids, batch.pictures),
            "style": mean_square(frozen(picture) - style), "content": 1 - cosine(frozen.pooled(picture), content)}


def published_terms(base: Base, encoder: StyleEncoder, batch: JointBatch,
                    projected: Optional[Callable] = None) -> Dict[str, "jt.Var"]:
    """The same as published, to compare.

    The generated picture is a constant, so the style term is about two given pictures, and content has no gradient at
    all. It is brought to -1..1 twice. `projected` maps pooled outputs to CLIP's common space (None: taken as they are).
    """
    projected = projected or (lambda pooled: pooled)
    own = encoder(batch.pictures)
    with jt.no_grad():
        text = text_of(base, batch.ids, encoder(batch.others))
        picture = one_step_picture(base, batch.generated_from, batch.generated_at, text, encoder.config.image_size)
        picture = (2 * picture - 1).stop_grad()
        content = 1 - cosine(projected(encoder.pooled(picture)), projected(encoder.pooled(batch.pictures)))
    return {"noise": loss_of_noise(base, batch.noisy, text_of(base, batch.ids, own)),
            "style": mean_square(encoder(picture) - encoder(batch.others)), "content": content.stop_grad()}


def one_step_latents(base: Base, latents, t, text):
    """The network's guess of the clean latents (B, 4, h, w), by one call. `t`: a time step, or one a row (B,)."""
    rows = latents.shape[0]
    times = np.broadcast_to(np.asarray(t, np.float32), (rows,)).copy()
    output = base.unet(latents, jt.array(times), text, AttentionContext(Rows({"picture": rows})))
    return base.schedule.split(output, latents, t).x0


def one_step_picture(base: Base, latents, t, text, side: int):
    """The same as pictures (B, 3, side, side) in about -1..1, for the encoder."""
    picture = base.vae.decode(one_step_latents(base, latents, t, text) / base.vae.scale)
    return resized(picture, side, side, linear_matrix)


def mean_square(difference):
    return (difference * difference).mean()


def cosine(a, b):
    """The mean cosine of the angles between rows of a and b (B, D)."""
    lengths = (jt.sqrt((a * a).sum(1)) * jt.sqrt((b * b).sum(1))).maximum(1e-8)
    return ((a * b).sum(1) / lengths).mean()


def partners(count: int, epoch: int) -> np.ndarray:
    """Another picture for each of `count`, by the published rule: a permutation whose seed is the epoch.

    One that would be its own partner changes places with the next. NumPy's RandomState gives the published numbers.
    """
    found = np.random.RandomState(epoch).permutation(count)
    for place in range(count):
        if found[place] == place:
            other = (place + 1) % count
            found[place], found[other] = found[other], found[place]
    return found


class Losses:
    """The loss of each stage as the training loop asks for it: of pictures and noise that `rng` draws."""

    def __init__(self, base: Base, tokenizer: Tokenizer, cache: CorpusCache, entries: Sequence[Entry],
                 encoder: StyleEncoder):
        self.base, self.tokenizer, self.cache, self.entries, self.encoder = base, tokenizer, cache, entries, encoder
        self.of_style: Dict[str, List[int]] = {}
        for place, entry in enumerate(entries):
            self.of_style.setdefault(entry.style, []).append(place)

    def regression(self, batch: int, tokens: Path) -> Callable:
        """`tokens`: the folder with those of stage tokens."""
        config = self.encoder.config

        def loss_of(rng):
            index = self.drawn(rng, batch)
            targets = read_tokens(tokens, [self.entries[i] for i in index], config.tokens, config.width)
            return regression_loss(self.encoder, self.pictures(index), jt.array(targets))
        return loss_of

    def finetune(self, settings: FinetuneSettings) -> Callable:
        def loss_of(rng):
            index = self.drawn(rng, settings.batch)
            noisy = noisy_pictures(self.base, self.cache, rng, index)
            read = self.read(rng, index, settings.reads)
            return encoder_noise_loss(self.base, self.encoder, noisy, self.ids(index), self.pictures(read))
        return loss_of

    def joint(self, settings: JointSettings, frozen: StyleEncoder) -> Callable:
        epochs = max(1, -(-settings.steps * settings.batch // len(self.cache)))

        def loss_of(rng):
            index = self.drawn(rng, settings.batch)
            if settings.as_published:
                others = partners(len(self.cache), int(rng.integers(epochs)))[index]
            else:
                others = (index + rng.integers(1, len(self.cache), len(index))) % len(self.cache)
            noisy = noisy_pictures(self.base, self.cache, rng, index)
            start, t = self.generated_from(rng, noisy, settings.as_published)
            read = self.read(rng, index, settings.reads)
            batch = JointBatch(noisy, self.ids(index), self.pictures(read), self.pictures(others), start, t)
            terms = (published_terms(self.base, self.encoder, batch) if settings.as_published
                     else joint_terms(self.base, self.encoder, frozen, batch))
            return terms["noise"] + settings.style * terms["style"] + settings.content * terms["content"]
        return loss_of

    def generated_from(self, rng: np.random.Generator, noisy: Noisy, as_published: bool) -> tuple:
        """Latents and time steps that one-step pictures start from; as published: pure noise at a middle time."""
        if as_published:
            return jt.array(rng.standard_normal(noisy.x0.shape).astype(np.float32)), int(noisy.t[0]) // 2
        first, last = (int(share * len(self.base.schedule)) for share in GENERATED_AT)
        times = rng.integers(first, last, len(noisy.t))
        return self.base.schedule.add_noise(noisy.x0, noisy.eps, times), times

    def drawn(self, rng: np.random.Generator, batch: int) -> np.ndarray:
        return rng.integers(0, len(self.cache), batch)

    def read(self, rng: np.random.Generator, index: np.ndarray, reads: str) -> np.ndarray:
        """The places of the pictures that the encoder reads for the pictures `index`."""
        if reads == "own":
            return index
        return np.array([rng.choice(self.of_style[self.entries[place].style]) for place in index])

    def pictures(self, index: np.ndarray):
        return jt.array(self.cache.pictures(index))

    def ids(self, index: np.ndarray) -> np.ndarray:
        return with_style_tokens(self.tokenizer, self.cache.ids(index), self.encoder.config.tokens)[0]
