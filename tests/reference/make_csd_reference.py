"""Writes what CSD says of made-up pictures, for tests/metrics/test_csd.py: tests/data/csd.npz.

    python tests/reference/make_csd_reference.py

CSD is CLIP's image tower (first release) whose projection is replaced by two matrices, restated here in PyTorch's own
layers. A small network with made-up weights; the names of its tensors are those of the published checkpoint. Needs
PyTorch, and no Jittor.
"""
from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

import seeded

OUT = Path(__file__).parent.parent / "data" / "csd.npz"
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class QuickGELU(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, width // 64, batch_first=True)
        self.mlp = nn.Sequential(OrderedDict(c_fc=nn.Linear(width, 4 * width), gelu=QuickGELU(),
                                             c_proj=nn.Linear(4 * width, width)))

    def forward(self, x):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Tower(nn.Module):
    def __init__(self, width: int, layers: int, side: int, patch: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros((side // patch) ** 2 + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.Sequential(*(Block(width) for _ in range(layers)))

    def forward(self, x):
        x = self.conv1(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1) + self.positional_embedding
        return self.ln_post(self.transformer.resblocks(self.ln_pre(x))[:, 0])


class Restated(nn.Module):
    def __init__(self, width: int, layers: int, side: int, patch: int, out: int):
        super().__init__()
        self.backbone = Tower(width, layers, side, patch)
        self.last_layer_style, self.last_layer_content = (nn.Parameter(torch.zeros(width, out)) for _ in range(2))

    def forward(self, x):
        found = self.backbone(x)
        return [nn.functional.normalize(found @ head) for head in (self.last_layer_style, self.last_layer_content)]


def read(picture: Image.Image, side: int) -> torch.Tensor:
    """The shorter side resized to `side`, the middle square, normalised."""
    short = min(picture.size)
    picture = picture.resize([int(side * length / short) for length in picture.size], Image.BICUBIC)
    left, top = ((length - side) // 2 for length in picture.size)
    pixels = np.asarray(picture.crop((left, top, left + side, top + side)), np.float32) / 255
    return torch.from_numpy((pixels - np.float32(MEAN)) / np.float32(DEVIATION)).permute(2, 0, 1)


def main() -> None:
    torch.set_grad_enabled(False)
    network = Restated(**seeded.CSD).eval()
    tensors = {name: torch.from_numpy(seeded.weight(f"csd/{name}", tuple(tensor.shape)))
               for name, tensor in network.state_dict().items()}
    network.load_state_dict(tensors)
    side = seeded.CSD["side"]
    found = {"names/csd": np.array("\n".join(f"{name} {'x'.join(map(str, t.shape))}" for name, t in tensors.items()))}
    for name, count in (("drawn", 8), ("style", 3)):
        pictures = torch.stack([read(Image.fromarray(one), side) for one in seeded.pictures(name, count, 60, 44)])
        found[f"{name}/style"], found[f"{name}/content"] = (one.numpy() for one in network(pictures))
    np.savez_compressed(OUT, **found)
    print(f"{OUT}: {OUT.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
