"""Style tokens of single pictures by inversion (Chang 2025, stage 1): several pictures side by side.

Any number of processes may work in one folder, on one machine or on several that share a file system with locks: each
claims the pictures that it works on. Pictures have nothing to do with each other, so no MPI is needed.
"""
from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Generator, List, Sequence, Tuple

import numpy as np

from styleblend.base.base import Base
from styleblend.base.style_prompts import with_style_tokens
from styleblend.base.tokens import Tokenizer
from styleblend.errors import Busy, StyleBlendError
from styleblend.files.claims import claim_files
from styleblend.files.corpus import Entry
from styleblend.files.tensor_files import read_metadata, read_safetensors, write_safetensors
from styleblend.machine.precision import loss_scale
from styleblend.machine.runtime import jt
from styleblend.settings.style_encoder_training import InversionSettings
from styleblend.training.corpus_cache import CorpusCache
from styleblend.training.loop import step_rng
from styleblend.training.noise_loss import Noisy, loss_of_noise, noisy_pictures
from styleblend.training.optimiser import AdamW
from styleblend.training.work import WorkDone

STAGE, TENSOR = "tokens", "style_tokens"


def token_file(folder: Path, entry: Entry) -> Path:
    """Where the tokens of a picture lie."""
    return Path(folder) / f"{entry.name}.safetensors"


def invert_corpus(base: Base, cache: CorpusCache, entries: Sequence[Entry], settings: InversionSettings, count: int,
                  seed: int, folder: Path, identity: str) -> Generator[WorkDone, None, int]:
    """Write `count` tokens of every picture that has none yet; returns how many this process wrote.

    Those that another process works on are left to it. `identity` names what tokens depend on besides settings and
    seed: tokens of something else in the folder are refused, not mixed.
    """
    folder, tokenizer, written = Path(folder), base.tokenizer(), 0
    made_of = f"{identity} {seed} {settings.model_dump_json(exclude={'batch'})}"
    refuse_others(folder, entries, made_of)
    while True:
        done = sum(token_file(folder, entry).is_file() for entry in entries)
        yield WorkDone("tokens", done, len(entries), "picture")
        with ExitStack() as claims:
            index = next_pictures(claims, folder, entries, settings.batch)
            if not len(index):
                return written
            vectors, losses = yield from inverted(base, tokenizer, cache, index, settings, count, seed)
            for place, own, loss in zip(index, vectors, losses):
                write_safetensors(token_file(folder, entries[place]), {TENSOR: own},
                                  {"made_of": made_of, "loss": f"{loss:.6f}"})
            written += len(index)


def next_pictures(claims: ExitStack, folder: Path, entries: Sequence[Entry], batch: int) -> np.ndarray:
    """The places of the first pictures without tokens that no other process works on, claimed: `batch` at most."""
    found: List[int] = []
    for place, entry in enumerate(entries):
        if len(found) == batch:
            break
        if token_file(folder, entry).is_file():
            continue
        own = ExitStack()
        try:
            own.enter_context(claim_files(folder, STAGE, [entry.name], "or leave it to that one"))
        except Busy:
            continue
        if token_file(folder, entry).is_file():  # written between the two looks
            own.close()
        else:
            claims.push(own)
            found.append(place)
    return np.array(found, int)


def inverted(base: Base, tokenizer: Tokenizer, cache: CorpusCache, index: np.ndarray, settings: InversionSettings,
             count: int, seed: int) -> Generator[WorkDone, None, Tuple[np.ndarray, List[float]]]:
    """Tokens (B, count, width) of the pictures `index` after all steps, and the loss of the last steps (B,)."""
    width = base.text_encoder.config.hidden_size
    start = [step_rng(seed, f"tokens of {place}", 0).standard_normal((count, width)) for place in index]
    vectors = jt.array((np.stack(start) * settings.spread).astype(np.float32))
    optimiser = AdamW({TENSOR: vectors}, settings, loss_scale(base.dtype))
    ids, _ = with_style_tokens(tokenizer, cache.ids(index), count)
    losses = []
    for step in range(settings.steps):
        yield WorkDone("inversion", step, settings.steps, "step")
        loss = inversion_loss(base, own_noise(base, cache, index, seed, step), ids, vectors)
        optimiser.update(loss)
        losses.append(float(loss.item()))  # also cuts the graph
        if not np.isfinite(losses[-1]):
            raise StyleBlendError(f"the loss of tokens became {losses[-1]} at step {step}: lower "
                                  "encoder_training.tokens.lr in the config")
    yield WorkDone("inversion", settings.steps, settings.steps, "step")
    jt.gc()
    return vectors.numpy(), [float(np.mean(losses[-20:]))] * len(index)


def own_noise(base: Base, cache: CorpusCache, index: np.ndarray, seed: int, step: int) -> Noisy:
    """Noise of each picture from its own seed: it does not depend on those beside it."""
    each = [noisy_pictures(base, cache, step_rng(seed, f"tokens of {place}", step + 1), np.array([place]))
            for place in index]
    return Noisy(jt.concat([one.x0 for one in each]), jt.concat([one.eps for one in each]),
                 np.concatenate([one.t for one in each]))


def inversion_loss(base: Base, noisy: Noisy, ids: np.ndarray, vectors):
    """The noise loss under captions with the tokens `vectors` (B, count, width) in them: a number.

    `ids` (B, 77) as `with_style_tokens` writes them.
    """
    return loss_of_noise(base, noisy, base.text_encoder(ids, vectors.reshape(-1, vectors.shape[-1])))


def refuse_others(folder: Path, entries: Sequence[Entry], made_of: str) -> None:
    """StyleBlendError where the folder has tokens that were learned with other settings, on another base or corpus."""
    for entry in entries:
        path = token_file(folder, entry)
        if path.is_file():
            if read_metadata(path).get("made_of") != made_of:
                raise StyleBlendError(f"{path} was learned with other settings, captions or on another base: choose "
                                      "another --name, or begin anew with --overwrite")
            return


def read_tokens(folder: Path, entries: Sequence[Entry], count: int, width: int) -> np.ndarray:
    """The tokens (B, count, width) of these pictures. StyleBlendError: some are of another size."""
    found = [read_safetensors(token_file(folder, entry), [TENSOR])[TENSOR] for entry in entries]
    wrong = [entry.name for entry, own in zip(entries, found) if own.shape != (count, width)]
    if wrong:
        raise StyleBlendError(f"{token_file(folder, Entry(wrong[0], '', ''))} has not {count} tokens of {width} "
                              "numbers: learn the tokens again (--stage tokens --overwrite)")
    return np.stack(found)
