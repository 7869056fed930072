"""Mel spectrograms in NumPy, as librosa makes them by default: Slaney's scale, each filter of the same area."""
from __future__ import annotations

from typing import Optional

import numpy as np

BREAK_HZ, BREAK_MEL, STEP = 1000.0, 15.0, np.log(6.4) / 27  # Slaney's scale: linear to 1000 Hz, logarithmic above


def hz_of(mel: np.ndarray) -> np.ndarray:
    """Slaney's mels as frequencies in Hz (Auditory Toolbox, 1998)."""
    return np.where(mel < BREAK_MEL, mel * BREAK_HZ / BREAK_MEL, BREAK_HZ * np.exp(STEP * (mel - BREAK_MEL)))


def mel_of(hz: float) -> float:
    """A frequency in Hz as Slaney's mels."""
    return float(hz * BREAK_MEL / BREAK_HZ if hz < BREAK_HZ else BREAK_MEL + np.log(hz / BREAK_HZ) / STEP)


def mel_filters(rate: int, n_fft: int, n_mels: int, lowest: float = 0.0,
                highest: Optional[float] = None) -> np.ndarray:
    """The triangles from `lowest` to `highest` Hz (None: half the sampling rate), float32 (n_fft / 2 + 1, n_mels)."""
    edges = hz_of(np.linspace(mel_of(lowest), mel_of(highest or rate / 2), n_mels + 2))
    bins = np.linspace(0, rate / 2, n_fft // 2 + 1)[:, None]
    up = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    down = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return (np.maximum(0, np.minimum(up, down)) * 2 / (edges[2:] - edges[:-2])).astype(np.float32)


def mel_spectrogram(audio: np.ndarray, rate: int, n_fft: int, hop: int, n_mels: int, lowest: float = 0.0,
                    highest: Optional[float] = None) -> np.ndarray:
    """Power in each band over time, float32 (frames, n_mels); the bands as in `mel_filters`.

    `audio`: float32 (samples,), more than n_fft / 2 of them. Frames are centred, under a Hann window; what lies before
    the beginning and behind the end is the sound mirrored.
    """
    padded = np.pad(np.asarray(audio, np.float32), n_fft // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop]
    # in float64, as the transform: float32 would add noise of its own to bands that are nearly silent
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    filters, found = mel_filters(rate, n_fft, n_mels, lowest, highest), []
    for begin in range(0, len(frames), 1024):  # a minute of sound would take a hundred megabytes at once
        power = np.abs(np.fft.rfft(frames[begin:begin + 1024] * window)).astype(np.float32) ** 2
        found.append(power @ filters)
    return np.concatenate(found)
