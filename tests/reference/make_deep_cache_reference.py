"""Writes tests/data/deep_cache.npz: a drawing by diffusers whose UNet keeps deep features by the published program.

    pip install DeepCache==0.1.1
    python tests/reference/make_deep_cache_reference.py

Computed in float64 and stored in float32. Needs requirements.txt of this folder, and no Jittor.
"""
from types import SimpleNamespace

import diffusers
import numpy as np
import torch
from DeepCache.extension.deepcache import DeepCacheSDHelper

import seeded
from make_references import DATA, unet

STEPS, INTERVAL, GUIDANCE, SHAPE = 8, 3, 5.0, (4, 8, 8)


def drawn(network, branch: int) -> torch.Tensor:
    """The latents after each step, with deep features kept as far as this branch."""
    scheduler = diffusers.DDIMScheduler(**seeded.SCHEDULE, prediction_type="v_prediction")
    scheduler.set_timesteps(STEPS)
    texts, x = (torch.from_numpy(seeded.values(f"deep_cache/{name}", shape)).double() for name, shape in
                (("texts", (2, 77, seeded.UNET["cross_attention_dim"])), ("start", (1, *SHAPE))))
    helper = DeepCacheSDHelper(SimpleNamespace(unet=network, scheduler=scheduler))
    helper.set_params(cache_interval=INTERVAL, cache_branch_id=branch)
    helper.enable()
    path = []
    for t in scheduler.timesteps:
        negative, full = network(torch.cat([x, x]), t, texts).sample.chunk(2)
        x = scheduler.step(negative + GUIDANCE * (full - negative), t, x).prev_sample
        path.append(x)
    helper.disable()
    return torch.stack(path)


def main() -> None:
    torch.set_grad_enabled(False)
    network = unet().double()
    found = {str(branch): drawn(network, branch).numpy().astype(np.float32) for branch in (0, 1, 2, 3, 7)}
    np.savez_compressed(DATA / "deep_cache.npz", steps=STEPS, interval=INTERVAL, guidance=GUIDANCE, **found)


if __name__ == "__main__":
    main()
