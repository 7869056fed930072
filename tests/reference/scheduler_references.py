"""What the schedulers of diffusers give for a model that is a formula: a part of make_references.py."""
from __future__ import annotations

import diffusers
import numpy as np
import torch

import seeded


def make_schedulers() -> dict:
    kinds = {"ddim": diffusers.DDIMScheduler, "dpmpp_2m": diffusers.DPMSolverMultistepScheduler,
             "euler": diffusers.EulerDiscreteScheduler, "pndm": diffusers.PNDMScheduler}
    start = torch.from_numpy(seeded.values("samplers/x", seeded.LATENTS))
    found = {}
    for prediction in ("epsilon", "v_prediction"):
        ddim = diffusers.DDIMScheduler(**seeded.SCHEDULE, prediction_type=prediction)
        for sampler, eta in seeded.SAMPLERS:
            for steps in seeded.STEP_COUNTS:
                own = {"skip_prk_steps": True} if sampler == "pndm" else {}
                scheduler = kinds[sampler].from_config(ddim.config, **own)
                scheduler.set_timesteps(steps)
                x, path = start * float(scheduler.init_noise_sigma), []
                for step, t in enumerate(scheduler.timesteps):
                    output = seeded.toy_model(scheduler.scale_model_input(x, t), float(t))
                    extra = {}
                    if eta:
                        extra = dict(eta=eta, variance_noise=torch.from_numpy(
                            seeded.values(f"samplers/noise{step}", seeded.LATENTS)))
                    x = scheduler.step(output, t, x, **extra).prev_sample
                    path.append(x.numpy())
                found[f"{sampler}/{eta}/{prediction}/{steps}"] = np.stack(path)
    x0, eps = (torch.from_numpy(seeded.values(f"samplers/{name}", seeded.LATENTS)) for name in ("x0", "eps"))
    t = torch.tensor([37, 911])
    found.update({"alphas_cumprod": ddim.alphas_cumprod.numpy(), "add_noise": ddim.add_noise(x0, eps, t).numpy(),
                  "velocity": ddim.get_velocity(x0, eps, t).numpy()})
    return found
