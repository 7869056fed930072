"""Writes what transformers' CLAP hears and reads, for tests/context to compare with.

    python tests/reference/make_clap_references.py               writes tests/data/clap.npz (a small network)
    python tests/reference/make_clap_references.py --full OUT    writes to OUT what the published size says

Needs PyTorch and transformers, and no Jittor. All weights are made up, by the names under which transformers saves
them. The names are stored, too, and so are the texts of the config files and of tokenizer.json.
"""
from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

import seeded
from make_musicnn_references import clips

OUT = Path(__file__).parent.parent / "data" / "clap.npz"
RATE = 48_000


def sounds() -> dict:
    """name -> audio at 48 kHz: one of ten seconds, one that is repeated three times, one that is cut into two."""
    return {"pad": clips(RATE, 10.0)["pad"], "beat": clips(RATE, 3.3)["beat"], "saws": clips(RATE, 17.0)["saws"]}


def network(full: bool, found: dict):
    """A model that has read a folder with made-up weights, and what is in the folder."""
    config = transformers.ClapConfig(**({} if full else seeded.CLAP))
    with tempfile.TemporaryDirectory() as folder:
        transformers.ClapModel(config).save_pretrained(folder)
        path = f"{folder}/model.safetensors"
        tensors = {key: torch.from_numpy(seeded.clap_weight(f"clap/{key}", tuple(tensor.shape)))
                   if tensor.is_floating_point() else tensor for key, tensor in load_file(path).items()}
        save_file(tensors, path, {"format": "pt"})
        found["names"] = np.array("\n".join(f"{key} {'x'.join(map(str, tensor.shape))}"
                                            for key, tensor in tensors.items() if tensor.is_floating_point()))
        found["other names"] = np.array("\n".join(key for key, tensor in tensors.items()
                                                  if not tensor.is_floating_point()))
        found["config"] = np.array(Path(folder, "config.json").read_text())
        return transformers.ClapModel.from_pretrained(folder).eval()


def hear(model, found: dict) -> None:
    """The vector of a sound is the mean of those of its crops, of which the last one ends where it ends."""
    extractor = transformers.ClapFeatureExtractor(frequency_min=50, truncation="rand_trunc", padding="repeatpad")
    found["preprocessor"] = np.array(extractor.to_json_string())
    for name, sound in sounds().items():
        vectors = []
        for start in {0, max(0, len(sound) - 10 * RATE)}:
            crop = sound[start:start + 10 * RATE]
            features = extractor(crop, sampling_rate=RATE, return_tensors="pt")["input_features"]
            vectors.append(model.get_audio_features(input_features=features).pooler_output[0].numpy())
            found[f"{name}/{start}/features"] = features[0, 0, ::9].numpy()
        found[f"{name}/vector"] = np.mean(vectors, axis=0)
        print(name, found[f"{name}/vector"][:4])


def read(model, found: dict) -> None:
    with tempfile.TemporaryDirectory() as folder:
        seeded.write_roberta_tokenizer(Path(folder))
        tokenizer = transformers.RobertaTokenizer.from_pretrained(folder)
        for number, text in enumerate(seeded.FELT):
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            print(text, ids.tolist())
            found[f"text {number}/ids"] = ids[0].numpy()
            found[f"text {number}/vector"] = model.get_text_features(input_ids=ids).pooler_output[0].numpy()
        tokenizer.save_pretrained(folder)
        found["tokenizer"] = np.array(Path(folder, "tokenizer.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", metavar="OUT")
    args = parser.parse_args()
    found: dict = {}
    with torch.no_grad():
        model = network(bool(args.full), found)
        hear(model, found)
        read(model, found)
    np.savez_compressed(args.full or OUT, **found)


if __name__ == "__main__":
    main()
