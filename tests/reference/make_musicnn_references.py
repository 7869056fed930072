"""The published MusiCNN, run by TensorFlow -> styleblend/data/musicnn/ and tests/data/musicnn.npz.

    python -m venv .venv-music
    .venv-music/bin/pip install tensorflow-cpu==2.15.1 librosa==0.10.2 "numpy<2" safetensors
    pip download --no-deps musicnn==0.1.0 && unzip musicnn-0.1.0-py3-none-any.whl -d musicnn-0.1.0
    .venv-music/bin/python tests/reference/make_musicnn_references.py musicnn-0.1.0

The package's own network is built and given its own weights; what is kept beside them is the optimiser's state, which
is left behind.
"""
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
RATE, SECONDS = 16000, 9.0
# the package's variables, in the order in which its graph makes them -> this project's names
LAYERS = ["timbral.0", "timbral.1", "temporal.0", "temporal.1", "temporal.2", "middle.0", "middle.1", "middle.2"]
NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "mean", "moving_variance": "variance"}


def clips(rate=RATE, seconds=SECONDS):
    """name -> float32 audio, made of formulas alone: a soft pad, a dance beat, distorted saws with drums."""
    t, rng = np.arange(int(rate * seconds)) / rate, np.random.default_rng(7)

    def saw(f):
        return ((f * t) % 1) - 0.5

    low = np.hanning(40) / np.hanning(40).sum()
    pad = sum(np.convolve((f * d * t + i * 0.3) % 1 - 0.5, low, "same") * (0.6 + 0.4 * np.sin(6.2832 * t / (5 + i) + i))
              for i, f in enumerate([55, 82.4, 110, 164.81, 220, 329.6]) for d in (0.995, 1, 1.006))
    step = t % (60 / 128)
    kick = np.sin(2 * np.pi * (45 * step + 20 * (1 - np.exp(-step * 30)))) * np.exp(-step * 9)
    hat = rng.standard_normal(len(t)) * np.exp(-((t + 30 / 128) % (60 / 128)) * 60)
    bass = np.sign(np.sin(2 * np.pi * 55 * t)) * ((t * 128 / 15).astype(int) % 4 != 0) * 0.4
    chord = np.where((t % 2) < 1, 82.41, 98.0)
    snare = rng.standard_normal(len(t)) * np.exp(-((t + 0.25) % 0.5) * 18)
    saws = 0.7 * np.tanh(12 * sum(saw(chord * ratio) for ratio in (1, 1.5, 2, 1.005))) + 0.8 * snare
    return {name: (0.5 * clip / np.abs(clip).max()).astype(np.float32)
            for name, clip in (("pad", pad), ("beat", kick + 0.3 * hat + bass), ("saws", saws))}


def weights(reader):
    """This project's name -> float32 array."""
    found = {}

    def norm(number, name):
        tf_name = f"batch_normalization_{number}" if number else "batch_normalization"
        found.update({f"{name}.{own}": reader.get_tensor(f"{tf_name}/{theirs}") for theirs, own in NORM.items()})

    norm(0, "input_norm")
    for number, name in enumerate(LAYERS):
        conv = f"conv2d_{number}" if number else "conv2d"
        kernel = reader.get_tensor(f"{conv}/kernel")
        # (time, frequency or channel, out): one of the two middle axes is 1
        found[f"{name}.conv.weight"] = kernel[:, :, 0]
        found[f"{name}.conv.bias"] = reader.get_tensor(f"{conv}/bias")
        norm(number + 1, f"{name}.norm")
    norm(9, "pool_norm")
    norm(10, "dense.norm")
    for theirs, own in (("dense", "dense.linear"), ("dense_1", "output.linear")):
        found[f"{own}.weight"] = reader.get_tensor(f"{theirs}/kernel")
        found[f"{own}.bias"] = reader.get_tensor(f"{theirs}/bias")
    return found


def main(package: Path) -> None:
    import librosa
    import tensorflow as tf
    from safetensors.numpy import save_file
    sys.path.insert(0, str(package))
    from musicnn import configuration, models

    v1 = tf.compat.v1
    v1.disable_eager_execution()
    with tempfile.TemporaryDirectory() as folder:
        for ending in ("index", "data-00000-of-00001"):  # the package's files have no name before their ending
            shutil.copy(package / "musicnn" / "MSD_musicnn" / f".{ending}", Path(folder) / f"model.{ending}")
        checkpoint = str(Path(folder) / "model")
        with v1.Session() as session:
            x = v1.placeholder(tf.float32, [None, 187, configuration.N_MELS])
            with v1.variable_scope(""):
                tags = tf.nn.sigmoid(models.define_model(x, False, "MSD_musicnn", 50)[0])
            v1.train.Saver().restore(session, checkpoint)
            kept = {"tags": np.array(configuration.MSD_LABELS)}
            for name, clip in clips().items():
                mel = librosa.feature.melspectrogram(y=clip, sr=RATE, hop_length=256, n_fft=512, n_mels=96,
                                                     pad_mode="reflect").T
                log = np.log10(10000 * mel.astype(np.float16).astype(np.float32) + 1)
                patches = np.stack([log[i:i + 187] for i in range(0, len(log) - 187 + 1, 187)])
                kept[f"{name}|mel"] = mel[:187:6].astype(np.float32)
                kept[f"{name}|patch"] = patches[0].astype(np.float16)
                kept[f"{name}|of patch"] = session.run(tags, {x: patches[:1].astype(np.float16)})[0]
                kept[f"{name}|tags"] = session.run(tags, {x: patches}).mean(0)
                order = kept[f"{name}|tags"].argsort()[::-1][:8]
                print(name, [(configuration.MSD_LABELS[i], round(float(kept[f"{name}|tags"][i]), 3)) for i in order])
        found = weights(v1.train.NewCheckpointReader(checkpoint))
    print(sum(value.size for value in found.values()), "numbers")
    about = {"tags": "\n".join(configuration.MSD_LABELS),
             "source": "musicnn 0.1.0, MSD_musicnn (ISC licence, see LICENSE.txt)"}
    save_file(found, ROOT / "styleblend" / "data" / "musicnn" / "musicnn.safetensors", about)
    np.savez_compressed(ROOT / "tests" / "data" / "musicnn.npz", **kept)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
