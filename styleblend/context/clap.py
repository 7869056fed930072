"""How well texts fit a sound, by CLAP, from a folder as transformers saves it."""
from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, Optional, Sequence

import numpy as np

from styleblend.context.language_models import (check_kind, load_weights, put_weights, read_roberta_tokenizer,
                                                read_weights, weight_file)
from styleblend.errors import StyleBlendError
from styleblend.files.caches import cache_folder
from styleblend.files.whole_files import write_bytes
from styleblend.machine.runtime import jt
from styleblend.models import clap_features
from styleblend.models.clap import AUDIO, NOT_WEIGHTS, ClapAudioModelWithProjection, ClapTextModelWithProjection
from styleblend.models.clap_configs import ClapConfig, read_clap
from styleblend.models.configs import read_config

# most of the network that reads texts (500 of 614 MB), which stays on the disk as long as there is nothing to read
LAYERS = ("text_model.embeddings.*", "text_model.encoder.*")


@dataclass(frozen=True)
class Preprocessing:
    """What a preprocessor_config.json may say: only what the models without fusion were trained with."""

    sampling_rate: int = clap_features.RATE
    max_length_s: int = clap_features.SECONDS
    fft_window_size: int = clap_features.N_FFT
    hop_length: int = clap_features.HOP
    feature_size: int = clap_features.N_MELS
    frequency_min: float = clap_features.LOWEST
    frequency_max: float = clap_features.HIGHEST
    truncation: str = "rand_trunc"
    padding: str = "repeatpad"

    family = "CLAP"
    file_defaults: Any = None
    accepted = {"sampling_rate": (clap_features.RATE,), "max_length_s": (clap_features.SECONDS,),
                "fft_window_size": (clap_features.N_FFT,), "hop_length": (clap_features.HOP,),
                "feature_size": (clap_features.N_MELS,), "frequency_min": (clap_features.LOWEST,),
                "frequency_max": (clap_features.HIGHEST,), "truncation": ("rand_trunc",), "padding": ("repeatpad",)}


class Clap:
    """Sounds and texts as vectors of length 1; the better they fit, the nearer to 1 is their product."""

    def __init__(self, folder: Path, config: ClapConfig, tokenizer):
        self.folder, self.config, self.tokenizer = folder, config, tokenizer
        self.name = folder.resolve().name
        tokenizer.enable_truncation(config.text.most_tokens)
        self.sounds = ClapAudioModelWithProjection(config)
        found = read_weights(folder, (*NOT_WEIGHTS, *LAYERS))
        self.behind_layers = {name: found.pop(name) for name in sorted(found) if name.startswith("text_")}
        put_weights(self.sounds, found, folder)

    def heard(self, audio: np.ndarray, most: int) -> Iterator[np.ndarray]:
        """The vector, float32 (projection_dim,), of one piece of ten seconds after another, `most` at most.

        `audio`: float32 (samples,) at 48 kHz, at least one sample, from -1 to 1.
        """
        for crop in clap_features.crops(audio, most):
            features = clap_features.log_mel(crop)
            with jt.no_grad():
                vector = self.sounds(jt.array(features[None])).numpy()[0]
            jt.gc()
            yield vector

    def read(self, texts: Sequence[str]) -> np.ndarray:
        """The vectors of texts, float32 (texts, projection_dim). The network that reads them is loaded for that."""
        network = ClapTextModelWithProjection(self.config)
        load_weights(network, self.folder, {}, (*NOT_WEIGHTS, *AUDIO))
        with jt.no_grad():
            # one at a time: texts of different length would need padding
            found = np.concatenate([network(np.array([self.tokenizer.encode(text).ids])).numpy() for text in texts])
        del network
        jt.gc()
        return found

    # ---------------------------------------------------------------- what was read before

    def vectors_of(self, texts: Sequence[str]) -> np.ndarray:
        """As `read`, but texts that this CLAP has read before are not read again."""
        path = cache_folder("clap") / f"{self.print_of(texts)}.npy"
        found = kept(path, (len(texts), self.config.projection.projection_dim))
        if found is None:
            found = self.read(texts)
            keep(path, found)
        return found

    def print_of(self, texts: Sequence[str]) -> str:
        """32 hex digits that are others for other texts, another tokenizer and another network that reads texts.

        Of the network those weights count that stand between its layers and its vectors, which any training changes.
        """
        parts = [repr((list(texts), self.config.text, weight_file(self.folder).stat().st_size)).encode(),
                 self.tokenizer.to_str().encode(),
                 *(np.ascontiguousarray(array).tobytes() for array in self.behind_layers.values())]
        return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:32]


def kept(path: Path, shape: tuple) -> Optional[np.ndarray]:
    """The vectors in a file, or None where it is not there, or holds something else: they are made again."""
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    whole = found.dtype == np.float32 and found.shape == shape and np.isfinite(found).all()
    return found if whole else None


def keep(path: Path, vectors: np.ndarray) -> None:
    """Keep vectors; that a folder cannot be written is no reason to have none."""
    file = io.BytesIO()
    np.save(file, vectors, allow_pickle=False)
    try:
        write_bytes(path, file.getvalue())
    except StyleBlendError:
        pass


def load_clap(folder: Path) -> Clap:
    """The CLAP in a folder. StyleBlendError for what is none, or is not whole."""
    config = read_clap(check_kind(folder, "clap", "CLAP"))
    if (folder / "preprocessor_config.json").is_file():
        read_config(Preprocessing, folder / "preprocessor_config.json")
    return Clap(folder, config, read_roberta_tokenizer(folder, config.text.vocab_size))
