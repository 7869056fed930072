"""MusiCNN in NumPy against the published network in TensorFlow (tests/reference/make_musicnn_references.py)."""
from pathlib import Path

import numpy as np
import pytest

from reference.make_musicnn_references import clips
from styleblend.models.mel_spectrogram import mel_spectrogram
from styleblend.models.musicnn import HOP, N_FFT, N_MELS, RATE, SHORTEST, MusiCNN, log_mel

REFERENCE = np.load(Path(__file__).parents[1] / "data" / "musicnn.npz")
CLIPS = clips()
# what the published network hears in each: the strongest tags, in their order
HEARD = {"pad": ["ambient", "electronic"], "beat": ["electronic", "electro", "dance"], "saws": ["electronic"]}


@pytest.fixture(scope="module")
def network():
    return MusiCNN()


def test_the_tags_are_the_published_ones(network):
    assert network.tags == REFERENCE["tags"].tolist()
    assert sum(value.size for value in network.weights.values()) == 792_079


@pytest.mark.parametrize("name", CLIPS)
def test_mel_spectrogram(name, report):
    """Against librosa 0.10.2, every sixth frame of three seconds."""
    found, wanted = mel_spectrogram(CLIPS[name], RATE, N_FFT, HOP, N_MELS)[:187:6], REFERENCE[f"{name}|mel"]
    apart = np.abs(found - wanted).max() / wanted.max()
    report(f"mel of {name}: {apart:.1e}")
    assert apart < 1e-5


@pytest.mark.parametrize("name", CLIPS)
def test_network(network, name, report):
    apart = np.abs(network(REFERENCE[f"{name}|patch"]) - REFERENCE[f"{name}|of patch"]).max()
    report(f"tags of a patch of {name}: {apart:.1e}")
    assert apart < 1e-5


@pytest.mark.parametrize("name", CLIPS)
def test_sound_to_tags(network, name, report):
    """Own mel, own network, mean over three patches: what the fact of a clip is."""
    tags = np.mean(list(network.tagged(CLIPS[name])), axis=0)
    apart = np.abs(tags - REFERENCE[f"{name}|tags"]).max()
    best = [network.tags[i] for i in tags.argsort()[::-1]]
    report(f"tags of {name}: {apart:.1e}, {best[0]} {tags.max():.2f}")
    assert apart < 1e-4
    assert best[:len(HEARD[name])] == HEARD[name]


def test_short_sound_is_repeated_and_loud_sound_is_finite(network):
    half = CLIPS["beat"][:RATE]
    [once] = network.tagged(half)
    [thrice] = network.tagged(np.tile(half, 3)[:SHORTEST])
    assert np.array_equal(once, thrice)
    assert np.isfinite(log_mel(np.sign(np.sin(np.arange(RATE) * 0.05)).astype(np.float32))).all()


def test_of_many_patches_some_are_heard_from_beginning_to_end(network):
    quick = CLIPS["pad"]
    first, *_, last = all_of_them = list(network.tagged(quick))
    some = list(network.tagged(quick, 2))
    assert len(all_of_them) == 3 and len(some) == 2
    assert np.array_equal(some[0], first) and np.array_equal(some[1], last)
