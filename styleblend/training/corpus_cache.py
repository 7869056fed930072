"""A corpus as it is trained on: latents, what the encoder reads, and text ids, in shards on disk.

Memory does not grow with the corpus: a step reads the rows that it needs.
"""
from __future__ import annotations

import hashlib
import json
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Generator, Iterator, List, Sequence

import numpy as np
from PIL import Image

from styleblend.base.base import Base
from styleblend.base.tokens import Tokenizer
from styleblend.errors import Busy
from styleblend.files.claims import claim
from styleblend.files.content import sha256_of
from styleblend.files.corpus import WORD, Corpus, Entry, without_ending
from styleblend.files.emphasis import escaped
from styleblend.files.pictures import load_picture
from styleblend.files.style_pictures import square
from styleblend.files.tensor_files import read_metadata, read_rows, read_safetensors, write_safetensors
from styleblend.files.whole_files import remove_unfinished
from styleblend.machine.runtime import jt
from styleblend.training.work import WorkDone

SHARD = 256  # pictures in a file
TITLE = "encoding the corpus"


@dataclass(frozen=True)
class Reading:
    """How pictures are read: the side and fit of the encoder's, and the size of those that latents are made of.

    `template` is that of the captions.
    """

    side: int
    fit: str
    width: int
    height: int
    max_pixels: int
    template: str


@dataclass(frozen=True)
class CorpusCache:
    """The shards of a corpus, and what each is made of; `scale` is the autoencoder's.

    `fingerprint` changes with all that they are made of, `taught` with latents and texts alone: how large the pictures
    are that an encoder reads does not count there.
    """

    shards: List[Path]
    count: int
    scale: float
    fingerprint: str
    taught: str = ""
    keys: Sequence[str] = ()

    def __len__(self) -> int:
        return self.count

    def rows(self, name: str, index: np.ndarray) -> np.ndarray:
        """Rows of the tensor `name` of the pictures `index` (B,), each shard opened once."""
        found: Dict[int, np.ndarray] = {}
        for shard in sorted({int(i) // SHARD for i in index}):
            own = [int(i) for i in index if int(i) // SHARD == shard]
            found.update(zip(own, read_rows(self.shards[shard], name, [i % SHARD for i in own])))
        return np.stack([found[int(i)] for i in index])

    def sample(self, rng: np.random.Generator, index: np.ndarray) -> np.ndarray:
        """Scaled latents (B, 4, h, w) of the pictures `index` (B,)."""
        mean = self.rows("mean", index)
        noise = rng.standard_normal(mean.shape)
        return ((mean + self.rows("deviation", index) * noise) * self.scale).astype(np.float32)

    def pictures(self, index: np.ndarray) -> np.ndarray:
        """(B, 3, side, side) float32 in -1..1, as the encoder reads them."""
        pixels = self.rows("pictures", index).astype(np.float32) / np.float32(255)
        return ((pixels - np.float32(0.5)) / np.float32(0.5)).transpose(0, 3, 1, 2)

    def all_rows(self, name: str) -> Iterator[np.ndarray]:
        """The whole tensor `name`, a shard at a time."""
        return (read_safetensors(shard, [name])[name] for shard in self.shards)

    def ids(self, index: np.ndarray) -> np.ndarray:
        """(B, 77) ids of the captions in their template, with a word where the tokens will stand."""
        return self.rows("ids", index)


def styled(caption: str, template: str) -> str:
    """A caption in the template, with a word where style tokens will stand."""
    return template.replace("{}", WORD).replace("{prompt}", without_ending(caption))


def refuse_reserved(tokenizer: Tokenizer, entries: Sequence[Entry], template: str) -> None:
    """StyleBlendError for a caption that holds the word that ends a text: tokens are placed by the first one."""
    tokenizer.refuse_reserved([escaped(styled(entry.caption, template)) for entry in entries])


def planned_cache(base: Base, corpus: Corpus, reading: Reading, folder: Path) -> Generator[WorkDone, None, CorpusCache]:
    """The cache as `cache_corpus` will write it. Pictures are read, for their hashes, but nothing is written."""
    parts, taught = parts_of(corpus), []
    shards = [Path(folder) / f"shard-{number:05d}.safetensors" for number in range(len(parts))]
    for number, part in enumerate(parts):
        yield WorkDone("reading the corpus", number * SHARD, len(corpus.entries), "picture")
        taught.append(taught_by(base, corpus, part, reading))
    keys = [hash_of([one, reading.side, reading.max_pixels]) for one in taught]
    return CorpusCache(shards, len(corpus.entries), base.vae.scale, hash_of(keys)[:16], hash_of(taught)[:16], keys)


def cache_corpus(base: Base, corpus: Corpus, reading: Reading, cache: CorpusCache) -> Generator[WorkDone, None, None]:
    """Write the shards that are not there yet, next to other processes that do so.

    A shard of other pictures, captions or settings than these is written anew. Needs the base's VAE encoder.
    """
    if cache.shards:
        remove_unfinished(cache.shards[0].parent)
    tokenizer, parts = base.tokenizer(), parts_of(corpus)
    for part, path, key in zip(parts, cache.shards, cache.keys):  # all, before hours go by
        if written(path) != key:
            refuse_reserved(tokenizer, part, reading.template)
    for wait in (False, True):  # first those that no other process writes
        for number, (part, path, key) in enumerate(zip(parts, cache.shards, cache.keys)):
            with suppress(Busy), claim(path.parent, path.stem, wait):
                if written(path) != key:
                    tensors = yield from encoded(base, corpus, part, reading, number * SHARD)
                    write_safetensors(path, tensors, {"made_of": key})


def parts_of(corpus: Corpus) -> List[Sequence[Entry]]:
    """The pictures of each shard."""
    return [corpus.entries[begin:begin + SHARD] for begin in range(0, len(corpus.entries), SHARD)]


def written(path: Path) -> str:
    """What a shard was made of; "" where there is none."""
    return read_metadata(path).get("made_of", "") if path.is_file() else ""


def taught_by(base: Base, corpus: Corpus, part: Sequence[Entry], reading: Reading) -> str:
    """Changes with all that latents and texts depend on. Pictures count by what is in them: a copied corpus is the same
    one."""
    pictures = [sha256_of(corpus.path(entry)) for entry in part]
    return hash_of([base.fingerprint(), base.vae.scale, reading.fit, reading.width, reading.height, reading.template,
                    pictures, [[entry.name, entry.caption] for entry in part]])


def hash_of(depends: list) -> str:
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:32]


def encoded(base: Base, corpus: Corpus, part: Sequence[Entry], reading: Reading, before: int) -> Generator:
    """The tensors of one shard. `before`: pictures in those before it."""
    means, deviations, pictures = [], [], []
    for number, entry in enumerate(part):
        yield WorkDone(TITLE, before + number, len(corpus.entries), "picture")
        image = load_picture(corpus.path(entry), reading.max_pixels)
        pictures.append(np.asarray(square(image, reading.side, reading.fit)))
        large = square(image, reading.width, reading.fit) if reading.width == reading.height else image.resize(
            (reading.width, reading.height), Image.Resampling.BILINEAR)
        pixels = (np.asarray(large, np.float32) / np.float32(127.5) - 1).transpose(2, 0, 1)
        with jt.no_grad():
            posterior = base.vae.encode(jt.array(pixels[None]))
            means.append(posterior.mean.numpy()[0])
            deviations.append(posterior.std.numpy()[0])
    yield WorkDone(TITLE, before + len(part), len(corpus.entries), "picture")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of cut captions, which are counted where the training begins
        ids = base.tokenizer().encode([styled(entry.caption, reading.template) for entry in part])
    return {"mean": np.stack(means), "deviation": np.stack(deviations), "pictures": np.stack(pictures),
            "ids": ids.astype(np.int32)}
