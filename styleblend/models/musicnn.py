"""MusiCNN (Pons and Serra 2019, arXiv 1909.06654): which of Last.fm's 50 commonest tags a piece of music has.

It is written in NumPy, not in Jittor: 0.8 million weights are a few matrix products, and whoever only asks what a piece
of music sounds like does not wait until Jittor has compiled itself. The weights come with the program; they were
learned on the Million Song Dataset (data/musicnn/LICENSE.txt).
"""
from __future__ import annotations

from pathlib import Path
from typing import Dict, Iterator, List, Optional

import numpy as np

from styleblend.files.tensor_files import read_metadata, read_safetensors
from styleblend.models.mel_spectrogram import mel_spectrogram

RATE, N_FFT, HOP, N_MELS = 16_000, 512, 256, 96
FRAMES = 187  # of a patch: three seconds
SHORTEST = (FRAMES - 1) * HOP  # samples of one patch
EPSILON = 1e-3  # of the batch norms
WEIGHTS = Path(__file__).parents[1] / "data" / "musicnn" / "musicnn.safetensors"
LARGEST = np.finfo(np.float16).max


class MusiCNN:
    """`tags`: the names of what it tells apart, in the order of its answers."""

    def __init__(self, path: Optional[Path] = None):
        path = Path(path or WEIGHTS)
        self.weights: Dict[str, np.ndarray] = read_safetensors(path)
        self.tags: List[str] = read_metadata(path)["tags"].split("\n")

    def tagged(self, audio: np.ndarray, most: int = 1 << 30) -> Iterator[np.ndarray]:
        """The probability of each tag, float32 (50,), of one patch after another.

        `audio`: float32 (samples,) at 16 kHz, from -1 to 1. What is shorter than a patch is repeated, as in its
        training; what is left over at the end is not heard. Of more than `most` patches, as many are heard, from the
        beginning to the end.
        """
        if len(audio) < SHORTEST:
            audio = np.tile(audio, -(-SHORTEST // len(audio)))[:SHORTEST]
        features = log_mel(audio)
        patches = len(features) // FRAMES
        for number in np.linspace(0, patches - 1, min(most, patches)).round().astype(int):
            yield self(features[number * FRAMES:(number + 1) * FRAMES])

    def __call__(self, patch: np.ndarray) -> np.ndarray:
        """The probability of each tag, float32 (50,). `patch`: log-mel bands over time, (187, 96)."""
        x = self.norm("input_norm", patch[:, :, None].astype(np.float32))[:, :, 0]
        front = np.concatenate([*(self.timbral(f"timbral.{n}", x) for n in range(2)),
                                *(self.temporal(f"temporal.{n}", x) for n in range(3))], axis=1)
        first = self.over_time("middle.0", front)
        second = first + self.over_time("middle.1", first)
        third = second + self.over_time("middle.2", second)
        features = np.concatenate([front, first, second, third], axis=1)
        # the published layout: the maximum and the mean of one channel stand side by side
        pooled = np.stack([features.max(0), features.mean(0)], axis=1).reshape(-1)
        hidden = relu(self.linear("dense.linear", self.norm("pool_norm", pooled)))
        logits = self.linear("output.linear", self.norm("dense.norm", hidden))
        return 1 / (1 + np.exp(-logits))

    # ---------------------------------------------------------------- layers

    def timbral(self, name: str, x: np.ndarray) -> np.ndarray:
        """Tall filters, each at the pitch at which it is loudest: (time, bands) -> (time, channels)."""
        kernel = self.weights[f"{name}.conv.weight"]  # (time, bands, channels)
        high, wide, channels = kernel.shape
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((high // 2, high // 2), (0, 0))), (high, wide))
        matrix = windows.reshape(-1, high * wide)
        y = relu(matrix @ kernel.reshape(-1, channels) + self.weights[f"{name}.conv.bias"])
        return self.norm(f"{name}.norm", y).reshape(len(x), -1, channels).max(1)

    def temporal(self, name: str, x: np.ndarray) -> np.ndarray:
        """Long filters of one band, each in the band where it is loudest: (time, bands) -> (time, channels)."""
        kernel = self.weights[f"{name}.conv.weight"][:, 0]  # (time, channels)
        long = len(kernel)
        before = (long - 1) // 2  # an even filter looks further ahead than back
        padded = np.pad(x, ((before, long - 1 - before), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, long, axis=0)
        y = relu(windows.reshape(-1, long) @ kernel + self.weights[f"{name}.conv.bias"])
        return self.norm(f"{name}.norm", y).reshape(*x.shape, -1).max(1)

    def over_time(self, name: str, x: np.ndarray) -> np.ndarray:
        """A convolution over time: (time, channels) -> (time, 64)."""
        kernel = self.weights[f"{name}.conv.weight"]  # (time, channels, out)
        high, _, out = kernel.shape
        padded = np.pad(x, ((high // 2, high // 2), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, high, axis=0).transpose(0, 2, 1)
        y = windows.reshape(len(x), -1) @ kernel.reshape(-1, out) + self.weights[f"{name}.conv.bias"]
        return self.norm(f"{name}.norm", relu(y))

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        return x @ self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def norm(self, name: str, x: np.ndarray) -> np.ndarray:
        """A batch norm over the last axis; here it stands behind the ReLU."""
        weight, bias, mean, variance = (self.weights[f"{name}.{part}"] for part in
                                        ("weight", "bias", "mean", "variance"))
        scale = weight / np.sqrt(variance + np.float32(EPSILON))
        return x * scale + (bias - mean * scale)


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def log_mel(audio: np.ndarray) -> np.ndarray:
    """What the network reads: log10(10000 x + 1) of a mel spectrogram, float32 (frames, 96).

    The spectrogram is rounded to float16 as published. The logarithm is not taken in float16: loud music is beyond its
    range there.
    """
    mel = mel_spectrogram(audio, RATE, N_FFT, HOP, N_MELS)
    return np.log10(10_000 * np.minimum(mel, LARGEST).astype(np.float16).astype(np.float32) + 1)
