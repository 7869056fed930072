"""Writes what transformers' BLIP and T5 say, for tests/context to compare with.

    python tests/reference/make_language_references.py                  writes tests/data/language.npz (small networks)
    python tests/reference/make_language_references.py --full OUT NAME  writes to OUT what the published size of "blip"
                                                                        or "t5" says

Needs PyTorch, transformers and Pillow, and no Jittor. All weights are made up, by the names under which transformers
saves them. The names are stored, too, and so is the text of the config file.
"""
from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

import seeded

OUT = Path(__file__).parent.parent / "data" / "language.npz"
KINDS = {"blip": (transformers.BlipForConditionalGeneration, transformers.BlipConfig),
         "t5": (transformers.T5ForConditionalGeneration, transformers.T5Config)}
SIZES = {("blip", False): seeded.BLIP, ("blip", True): seeded.FULL_BLIP,
         ("t5", False): seeded.T5, ("t5", True): seeded.FULL_T5}


def network(name: str, full: bool, found: dict):
    """A model that has read a folder with made-up weights, and what is in the folder."""
    kind, config = KINDS[name]
    with tempfile.TemporaryDirectory() as folder:
        kind(config(**SIZES[name, full])).save_pretrained(folder)
        path = f"{folder}/model.safetensors"
        tensors = {key: torch.from_numpy(seeded.language_weight(f"{name}/{key}", tuple(tensor.shape)))
                   for key, tensor in load_file(path).items()}
        save_file(tensors, path, {"format": "pt"})
        found[f"{name}/names"] = np.array("\n".join(f"{key} {'x'.join(map(str, tensor.shape))}"
                                                    for key, tensor in tensors.items()))
        found[f"{name}/config"] = np.array(Path(folder, "config.json").read_text())
        return kind.from_pretrained(folder).eval()


def tokens(generated) -> np.ndarray:
    print(generated[0].tolist())
    return generated[0].numpy()


def blip(model, found: dict) -> None:
    side = model.config.vision_config.image_size
    processor = transformers.BlipImageProcessorPil(size={"height": side, "width": side})
    text = model.config.text_config
    said = torch.from_numpy(seeded.said_ids(text.bos_token_id, text.bos_token_id))
    for width, height in seeded.CAPTIONED:
        picture = Image.fromarray(seeded.pictures(f"caption/{width}", 1, width, height)[0])
        pixels = processor(images=picture, return_tensors="pt")["pixel_values"]
        states = model.vision_model(pixels)[0]
        logits = model.text_decoder(said, encoder_hidden_states=states.expand(2, -1, -1)).logits
        found[f"blip/{width}/read"] = pixels[0, :, ::7, ::7].numpy()
        found[f"blip/{width}/logits"] = logits[:, :, ::max(1, logits.shape[2] // 500)].numpy()
        for beams in (1, 3):
            found[f"blip/{width}/beams{beams}"] = tokens(model.generate(
                pixels, num_beams=beams, do_sample=False, max_length=seeded.LONGEST_CAPTION))


def t5(model, found: dict) -> None:
    vocabulary = model.config.vocab_size
    said = torch.from_numpy(seeded.said_ids(0, vocabulary))
    for count in seeded.SOURCES:
        source = torch.from_numpy(seeded.source_ids(count, vocabulary))
        logits = model(input_ids=source.expand(2, -1), decoder_input_ids=said).logits
        found[f"t5/{count}/logits"] = logits[:, :, ::max(1, logits.shape[2] // 500)].numpy()
        for case, how in (("beams1", dict(num_beams=1)), ("beams3", dict(num_beams=3)), ("summary", seeded.SUMMARY)):
            how = {"max_length": seeded.LONGEST_CAPTION, "do_sample": False, **how}
            found[f"t5/{count}/{case}"] = tokens(model.generate(source, **how))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", nargs=2, metavar=("OUT", "NAME"))
    args = parser.parse_args()
    found: dict = {}
    with torch.no_grad():
        for name in (args.full[1],) if args.full else KINDS:
            {"blip": blip, "t5": t5}[name](network(name, bool(args.full), found), found)
    np.savez_compressed(args.full[0] if args.full else OUT, **found)


if __name__ == "__main__":
    main()
