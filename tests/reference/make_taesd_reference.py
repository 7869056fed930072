"""Writes what diffusers' AutoencoderTiny decodes with made-up weights, for tests/base/test_previews.py to compare with.

    python tests/reference/make_taesd_reference.py                writes tests/data/taesd.npz

Needs PyTorch and diffusers, and no Jittor. The weights are made up by diffusers' names, which are stored.
"""
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny

import seeded

OUT = Path(__file__).parent.parent / "data" / "taesd.npz"


@torch.no_grad()
def main() -> None:
    network = AutoencoderTiny().eval()
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items() if name.startswith("decoder.")}
    network.load_state_dict({name: torch.from_numpy(seeded.weight(f"taesd/{name}", shape))
                             for name, shape in shapes.items()}, strict=False)
    latents = seeded.values("taesd/latents", (2, 4, 5, 7)) * np.float32(2)
    pictures = network.decode(torch.from_numpy(latents)).sample.numpy()
    names = "\n".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())
    print(f"{sum(np.prod(shape) for shape in shapes.values())} parameters; pictures from {pictures.min():.2f} to "
          f"{pictures.max():.2f}, deviation {pictures.std():.2f}")
    np.savez_compressed(OUT, names=np.array(names), pictures=pictures.astype(np.float32))


if __name__ == "__main__":
    main()
