"""Writes what diffusers' ControlNet of Stable Diffusion 2.1's sizes answers, for tests/models/test_full_controlnet.py.

    python tests/reference/make_controlnet_reference.py OUT           364 million weights, all drawn here
    python tests/reference/make_controlnet_reference.py OUT --small   the sizes of the small UNet, to try the way out

Needs PyTorch and diffusers, and no Jittor.
"""
from __future__ import annotations

import argparse

import diffusers
import numpy as np
import torch

import seeded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    sizes = seeded.CONTROLNET if options.small else seeded.SD21_CONTROLNET
    with torch.device("meta"):  # no time is spent on weights that are replaced
        network = diffusers.ControlNetModel(**sizes)
    network = network.to_empty(device="cpu").eval()
    for name, parameter in network.named_parameters():
        parameter.copy_(torch.from_numpy(seeded.weight(f"controlnet/{name}", tuple(parameter.shape))))
    latents, text, picture = (torch.from_numpy(array) for array in seeded.controlnet_inputs(sizes))
    out = network(latents, torch.tensor(seeded.FULL_TIMES), text, picture, return_dict=False)
    found = {f"down/{number}": residual.numpy() for number, residual in enumerate(out[0])}
    np.savez(options.out, mid=out[1].numpy(), parameters=sum(p.numel() for p in network.parameters()), **found)


if __name__ == "__main__":
    main()
