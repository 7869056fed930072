"""Writes what transformers makes of pictures' depth, for tests/base/test_depth_estimators.py to compare with.

    python tests/reference/make_depth_references.py                  writes tests/data/depth.npz (small networks)
    python tests/reference/make_depth_references.py --full OUT NAME  writes to OUT what the published size of "dpt" or
                                                                     "depth_anything" makes of one picture

Needs PyTorch, transformers and Pillow, and no Jittor. All weights are made up, by the names under which transformers
saves them. The names are stored, too, and so are the texts of the config files.
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

OUT = Path(__file__).parent.parent / "data" / "depth.npz"
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
KINDS = {"depth_anything": (transformers.DepthAnythingForDepthEstimation, transformers.DepthAnythingConfig),
         "dpt": (transformers.DPTForDepthEstimation, transformers.DPTConfig)}
SIZES = {("depth_anything", False): seeded.DEPTH_ANYTHING, ("depth_anything", True): seeded.FULL_DEPTH_ANYTHING,
         ("dpt", False): seeded.DPT, ("dpt", True): seeded.FULL_DPT}


def estimator(name: str, full: bool, found: dict):
    """A model that has read a folder with made-up weights, its processor, and what is in the folder."""
    kind, config = KINDS[name]
    side = 518 if full else 70
    processor = transformers.DPTImageProcessorPil(
        size={"height": side, "width": side}, keep_aspect_ratio=True, ensure_multiple_of=14, image_mean=MEAN,
        image_std=DEVIATION)
    if name == "dpt":
        processor = transformers.DPTImageProcessorPil(size=dict.fromkeys(("height", "width"), 384 if full else 48))
    with tempfile.TemporaryDirectory() as folder:
        kind(config(**SIZES[name, full])).save_pretrained(folder)
        processor.save_pretrained(folder)
        path = f"{folder}/model.safetensors"
        tensors = {key: torch.from_numpy(seeded.weight(f"{name}/{key}", tuple(tensor.shape)))
                   for key, tensor in load_file(path).items()}
        save_file(tensors, path, {"format": "pt"})
        found[f"{name}/names"] = np.array("\n".join(f"{key} {'x'.join(map(str, tensor.shape))}"
                                                    for key, tensor in tensors.items()))
        for file in ("config", "preprocessor_config"):
            found[f"{name}/{file}"] = np.array(Path(folder, f"{file}.json").read_text())
        return kind.from_pretrained(folder).eval(), processor


def estimated(model, processor, picture) -> tuple:
    """The picture as it is read, the depth of the network's size, and the control picture."""
    inputs = processor(images=picture, return_tensors="pt")
    out = model(**inputs)
    depth = processor.post_process_depth_estimation(out, [(picture.height, picture.width)])[0]["predicted_depth"]
    scaled = (depth - depth.min()) / (depth.max() - depth.min())
    print(f"{picture.size}: {float((out.predicted_depth == 0).float().mean()):.0%} of the depth is 0, "
          f"mean {float(out.predicted_depth.mean()):.2f}, deviation {float(out.predicted_depth.std()):.2f}")
    return inputs["pixel_values"][0].numpy(), out.predicted_depth[0].numpy(), (scaled * 255).numpy().astype(np.uint8)


def make(sizes, full: bool, names) -> dict:
    found = {}
    for name in names:
        model, processor = estimator(name, full, found)
        for width, height in sizes:
            picture = Image.fromarray(seeded.pictures(f"depth/{width}", 1, width, height)[0])
            pixels, depth, control = estimated(model, processor, picture)
            found.update({f"{name}/{width}/read": pixels[:, ::7, ::7], f"{name}/{width}/depth": depth,
                          f"{name}/{width}/control": control})
    return found


def read_sizes() -> np.ndarray:
    """Width and height of what the processor of Depth Anything makes of pictures of READ_SIZES."""
    processor = transformers.DPTImageProcessorPil(size={"height": 518, "width": 518}, keep_aspect_ratio=True,
                                                  ensure_multiple_of=14)
    return np.array([processor(images=Image.new("RGB", size), return_tensors="np")["pixel_values"].shape[:1:-1]
                     for size in seeded.READ_SIZES])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", nargs=2, metavar=("OUT", "NAME"), help="only this network of published size")
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    transformers.logging.set_verbosity_error()
    if options.full:
        np.savez(options.full[0], **make([seeded.FULL_DEPTH_SIZE], True, [options.full[1]]))
        return
    np.savez_compressed(OUT, read_sizes=read_sizes(), **make(seeded.DEPTH_SIZES, False, KINDS))
    print(f"{OUT}: {OUT.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
