"""What CLAP hears of a sound: log-mel spectrograms of ten seconds, as transformers' ClapFeatureExtractor makes them.

Those of the models that were trained without fusion: Slaney's bands, short sounds repeated. Of a long sound the
published extractor takes ten seconds by chance; here fixed ones are taken, from the beginning to the end.
"""
from __future__ import annotations

from typing import Iterator

import numpy as np

from styleblend.models.mel_spectrogram import mel_spectrogram

RATE, N_FFT, HOP, N_MELS = 48_000, 1024, 480, 64
LOWEST, HIGHEST = 50.0, 14_000.0  # Hz
SECONDS = 10
SAMPLES = SECONDS * RATE  # of a crop
FRAMES = SAMPLES // HOP + 1
FLOOR = 1e-10  # power that counts as none


def crops(audio: np.ndarray, most: int) -> Iterator[np.ndarray]:
    """Pieces of ten seconds, float32 (480000,), of a sound at 48 kHz that has at least one sample.

    As few as hold all of it, evenly spread and overlapping, `most` at most. A shorter sound is repeated, as often as it
    fits whole, with zeros behind.
    """
    if len(audio) < SAMPLES:
        audio = np.tile(audio, SAMPLES // len(audio))
        audio = np.pad(audio, (0, SAMPLES - len(audio)))
    for start in np.linspace(0, len(audio) - SAMPLES, crop_count(len(audio), most)).round().astype(int):
        yield audio[start:start + SAMPLES]


def crop_count(samples: int, most: int) -> int:
    """How many pieces `crops` makes of so many samples."""
    return max(1, min(most, -(-samples // SAMPLES)))


def log_mel(crop: np.ndarray) -> np.ndarray:
    """Power in 64 bands over time in dB, float32 (1001, 64). `crop`: float32 (480000,) at 48 kHz, from -1 to 1."""
    power = mel_spectrogram(crop, RATE, N_FFT, HOP, N_MELS, LOWEST, HIGHEST)
    return 10 * np.log10(np.maximum(power, np.float32(FLOOR)))
