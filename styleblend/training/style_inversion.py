"""Style tokens of single pictures by inversion (Chang 2025, stage 1): several pictures side by side.

Any number of processes may work in one folder, on one machine or on several that share a file system with locks: each
claims the pictures that it works on. Pictures have nothing to do with each other, so no MPI is needed.
"""
from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Generator, Optional, Sequence

import numpy as np

from styleblend.base.base import Base
from styleblend.base.style_prompts import with_style_tokens
from styleblend.base.tokens import Tokenizer
from styleblend.errors import Busy, StyleBlendError
from styleblend.files.claims import claim_files, in_turn
from styleblend.files.corpus import Entry
from styleblend.files.tensor_files import read_safetensors, write_safetensors
from styleblend.files.text import read_json
from styleblend.files.whole_files import write_bytes
from styleblend.machine.precision import loss_scale
from styleblend.machine.runtime import jt
from styleblend.settings.style_encoder_training import InversionSettings
from styleblend.training.corpus_cache import CorpusCache
from styleblend.training.loop import step_rng
from styleblend.training.noise_loss import Noisy, loss_of_noise, noisy_pictures
from styleblend.training.optimiser import AdamW
from styleblend.training.work import WorkDone

STAGE, TENSOR = "tokens", "style_tokens"
MADE_OF = "made_of.json"  # beside the tokens: what all of them were learned with


def token_file(folder: Path, entry: Entry) -> Path:
    """Where the tokens of a picture lie."""
    return Path(folder) / f"{entry.name}.safetensors"


def invert_corpus(base: Base, cache: CorpusCache, entries: Sequence[Entry], settings: InversionSettings, count: int,
                  seed: int, folder: Path) -> Generator[WorkDone, None, int]:
    """Write `count` tokens of every picture that has none yet; returns how many this process wrote.

    Pictures are learned in groups of `settings.batch`, always the same ones: rounding differs with what stands beside a
    picture, and grows with the steps. So a group of which a killed process wrote a part is learned again, with the same
    result. Those that another process works on are left to it. Tokens of something else in the folder are refused, not
    mixed.
    """
    folder, tokenizer, written = Path(folder), base.tokenizer(), 0
    made_of = made_of_corpus(base, cache, settings, count, seed)
    refuse_others(folder, made_of)
    with ExitStack() as claims:
        while True:
            done = sum(token_file(folder, entry).is_file() for entry in entries)
            yield WorkDone("tokens", done, len(entries), "picture")
            # a group is let go when the next one is claimed: in between --overwrite would find nobody at work
            before = claims.pop_all()
            index = next_group(claims, folder, entries, settings.batch)
            before.close()
            if not len(index):
                return written
            refuse_others(folder, made_of)
            vectors = yield from inverted(base, tokenizer, cache, index, settings, count, seed)
            note(folder, made_of)
            for place, own in zip(index, vectors):
                write_safetensors(token_file(folder, entries[place]), {TENSOR: own})
            written += len(index)


def next_group(claims: ExitStack, folder: Path, entries: Sequence[Entry], batch: int) -> np.ndarray:
    """The places of the first group with a picture without tokens that no other process works on, claimed."""
    for begin in range(0, len(entries), batch):
        group = entries[begin:begin + batch]
        if has_tokens(folder, group):
            continue
        own = ExitStack()
        try:
            own.enter_context(claim_files(folder, STAGE, [entry.name for entry in group], "or leave it to that one"))
        except Busy:
            continue
        if has_tokens(folder, group):  # written between the two looks
            own.close()
        else:
            claims.push(own)
            return np.arange(begin, begin + len(group))
    return np.array([], int)


def has_tokens(folder: Path, entries: Sequence[Entry]) -> bool:
    """Whether all of these pictures have tokens."""
    return all(token_file(folder, entry).is_file() for entry in entries)


def inverted(base: Base, tokenizer: Tokenizer, cache: CorpusCache, index: np.ndarray, settings: InversionSettings,
             count: int, seed: int) -> Generator[WorkDone, None, np.ndarray]:
    """Tokens (B, count, width) of the pictures `index` after all steps."""
    width = base.text_encoder.config.hidden_size
    start = [step_rng(seed, f"tokens of {place}", 0).standard_normal((count, width)) for place in index]
    vectors = jt.array((np.stack(start) * settings.spread).astype(np.float32))
    optimiser = AdamW({TENSOR: vectors}, settings, loss_scale(base.dtype))
    ids, _ = with_style_tokens(tokenizer, cache.ids(index), count)
    for step in range(settings.steps):
        yield WorkDone("inversion", step, settings.steps, "step")
        loss = inversion_loss(base, own_noise(base, cache, index, seed, step), ids, vectors)
        optimiser.update(loss)
        value = float(loss.item())  # also cuts the graph
        if not np.isfinite(value):
            raise StyleBlendError(f"the loss of tokens became {value} at step {step}: lower "
                                  "encoder_training.tokens.lr in the config")
    yield WorkDone("inversion", settings.steps, settings.steps, "step")
    jt.gc()
    return vectors.numpy()


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


def made_of_corpus(base: Base, cache: CorpusCache, settings: InversionSettings, count: int, seed: int) -> dict:
    """All that `count` tokens of each picture depend on."""
    return {"corpus": cache.taught, "dtype": base.dtype, "tokens": count, "seed": seed,
            "settings": settings.model_dump()}


def made_of_tokens(folder: Path) -> Optional[dict]:
    """What the tokens in a folder were learned with, of which corpus; None where that is not said."""
    path = Path(folder) / MADE_OF
    return read_json(path, "learn the tokens again (--stage tokens --overwrite)") if path.is_file() else None


def refuse_others(folder: Path, made_of: dict) -> None:
    """StyleBlendError where the folder has tokens that were learned with something else."""
    said = made_of_tokens(folder)
    if said != made_of and (said or any(Path(folder).rglob("*.safetensors"))):
        raise StyleBlendError(f"the tokens in {folder} were learned with other settings, pictures or captions, or on "
                              "another base: choose another --name, or begin anew with --overwrite")


def note(folder: Path, made_of: dict) -> None:
    """Write down what the tokens are learned with, before the first ones lie in the folder."""
    with in_turn(folder):
        if made_of_tokens(folder) is None:
            write_bytes(folder / MADE_OF, (json.dumps(made_of, indent=1) + "\n").encode())
        refuse_others(folder, made_of)


def forget_tokens(folder: Path, entries: Sequence[Entry]) -> None:
    """Remove all tokens. Busy: a process learns some of these pictures."""
    with claim_files(folder, STAGE, [entry.name for entry in entries], "or leave out --overwrite to help it"):
        for path in [*folder.rglob("*.safetensors"), folder / MADE_OF]:
            path.unlink(missing_ok=True)


def read_tokens(folder: Path, entries: Sequence[Entry], count: int, width: int) -> np.ndarray:
    """The tokens (B, count, width) of these pictures. StyleBlendError: some are of another size."""
    found = [read_safetensors(token_file(folder, entry), [TENSOR])[TENSOR] for entry in entries]
    wrong = [entry.name for entry, own in zip(entries, found) if own.shape != (count, width)]
    if wrong:
        raise StyleBlendError(f"{token_file(folder, Entry(wrong[0], '', ''))} has not {count} tokens of {width} "
                              "numbers: learn the tokens again (--stage tokens --overwrite)")
    return np.stack(found)
