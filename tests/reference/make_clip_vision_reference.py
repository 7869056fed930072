"""Writes what transformers' CLIP image encoders of published sizes answer, for tests/models/test_full_clip_vision.py.

    python tests/reference/make_clip_vision_reference.py OUT SIZE     SIZE: a name of seeded.CLIP_VISION, such as
                                                                      ViT-H/14 (632 million weights, all drawn here)

Needs PyTorch and transformers, and no Jittor.
"""
from __future__ import annotations

import argparse

import numpy as np
import torch
import transformers

import seeded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out")
    parser.add_argument("size", choices=seeded.CLIP_VISION)
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    sizes = seeded.CLIP_VISION[options.size]
    network = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**sizes, attn_implementation="eager")).eval()
    for name, parameter in network.named_parameters():
        name = name if name.startswith("vision_model.") else f"vision_model.{name}"  # transformers 5 leaves it out
        parameter.copy_(torch.from_numpy(seeded.weight(f"clip_vision/{name}", tuple(parameter.shape))))
    out = network(torch.from_numpy(seeded.clip_vision_pictures(sizes)))
    np.savez(options.out, last=out.last_hidden_state.numpy(), pooled=out.pooler_output.numpy(),
             parameters=sum(p.numel() for p in network.parameters()))


if __name__ == "__main__":
    main()
