"""Music that is made of formulas: four instruments, slow or fast, dull or bright."""
from __future__ import annotations

import numpy as np

RATE, SECONDS = 16_000, 9.0
TEMPI = {"slow": 70, "fast": 140}  # beats a minute
CUTOFFS = {"dull": 800.0, "bright": 8000.0}  # Hz above which nothing is left
CHORDS = ((110.0, 130.81, 164.81), (87.31, 110.0, 130.81), (130.81, 164.81, 196.0), (98.0, 123.47, 146.83))


def low_passed(audio: np.ndarray, cutoff: float) -> np.ndarray:
    spectrum = np.fft.rfft(audio)
    spectrum[np.fft.rfftfreq(len(audio), 1 / RATE) > cutoff] = 0
    return np.fft.irfft(spectrum, len(audio))


def saw(frequency: np.ndarray, t: np.ndarray) -> np.ndarray:
    return (frequency * t) % 1 - 0.5


def pad(t, beat, rng):
    """Chords of detuned saws that swell, one for four beats."""
    chord = np.array(CHORDS)[(t / (4 * beat)).astype(int) % 4]
    swell = np.sin(np.pi * ((t / (4 * beat)) % 1)) ** 0.5
    return swell * sum(saw(chord[:, voice] * detuned, t) for voice in range(3) for detuned in (0.995, 1, 1.006))


def strings(t, beat, rng):
    """Plucked strings (Karplus and Strong 1983), a note each half beat."""
    step = int(beat / 2 * RATE)
    found = np.zeros(len(t) + 3 * step)
    for number, start in enumerate(range(0, len(t), step)):
        period = int(RATE / (2 * CHORDS[number // 8 % 4][number % 3]))
        string = rng.uniform(-1, 1, period)
        for place in range(start, start + 2 * step, period):
            found[place:place + period] += string
            string = 0.498 * (string + np.roll(string, 1))
    return found[:len(t)]


def beat(t, beat, rng):
    """A bass drum each beat, a hi-hat between, and a bass of squares."""
    step = t % beat
    kick = np.sin(2 * np.pi * (45 * step + 20 * (1 - np.exp(-step * 30)))) * np.exp(-step * 9)
    hat = rng.standard_normal(len(t)) * np.exp(-((t + beat / 2) % beat) * 60)
    return kick + 0.3 * hat + 0.4 * np.sign(np.sin(2 * np.pi * 55 * t)) * ((t * 4 / beat).astype(int) % 4 != 0)


def distortion(t, beat, rng):
    """Distorted power chords with a snare drum."""
    root = np.where((t / (4 * beat)) % 2 < 1, 82.41, 98.0)
    snare = rng.standard_normal(len(t)) * np.exp(-((t + beat) % (2 * beat)) * 18)
    return 0.7 * np.tanh(12 * sum(saw(root * ratio, t) for ratio in (1, 1.5, 2, 1.005))) + 0.8 * snare


INSTRUMENTS = {"pad": pad, "strings": strings, "beat": beat, "distortion": distortion}


def music(instrument: str, tempo: str, brightness: str) -> np.ndarray:
    """Nine seconds at 16 kHz, float32, of which the loudest sample is 0.5."""
    t, rng = np.arange(int(RATE * SECONDS)) / RATE, np.random.default_rng(7)
    audio = low_passed(INSTRUMENTS[instrument](t, 60 / TEMPI[tempo], rng), CUTOFFS[brightness])
    return (0.5 * audio / np.abs(audio).max()).astype(np.float32)
