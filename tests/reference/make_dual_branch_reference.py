"""Writes tests/data/dual_branch.npz: StyleBlend's two branches, sampled by diffusers with processors of our own.

    python tests/reference/make_dual_branch_reference.py --check GOLDEN

The processors are written from the method's description and share no code with `styleblend`. `--check` names a folder
with the published sampler's arrays (see tests/system/test_golden.py): they must come out first, or nothing is written.
Needs requirements.txt of this folder, and no Jittor.
"""
from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import diffusers
import numpy as np
import torch
from safetensors.torch import load_file

import seeded
from make_references import DATA, unet

STEPS, GUIDANCE, SHAPE = 8, 7.5, (4, 12, 16)  # steps that no ratio divides, latents that are not square
PRESETS = {
    "balanced": dict(c2f_sites=[4, 5, 6, 7, 8, 9], f2c_sites=[0, 1, 2, 3, 10, 11, 12, 13, 14, 15],
                     scale=0.3, c2f_ratio=0.8, f2c_ratio=0.6),
    "strong_layout": dict(c2f_sites=list(range(13)), f2c_sites=[0, 1, 13, 14, 15],
                          scale=0.5, c2f_ratio=0.9, f2c_ratio=0.6),
}
CHECKED = ("default__jittor", "blend_all__jittor")
# the rows of a batch: each branch with its negative prompt, then with its prompt
COARSE_NEGATIVE, FINE_NEGATIVE, COARSE, FINE = range(4)


@dataclass
class Run:
    """What all processors of one run read. `step` is set before each call of the UNet."""

    blend: dict
    steps: int
    lora: dict  # <path>.lora.down.weight and .lora.up.weight
    step: int = 0
    scale: torch.Tensor = field(init=False)

    def __post_init__(self):
        self.scale = torch.ones(4, 1, 1)
        self.scale[[COARSE_NEGATIVE, COARSE]] = self.blend["scale"]

    def active(self, ratio: str) -> bool:
        return self.step < int(self.blend[ratio] * self.steps)


class Exchange:
    """One attention layer: LoRA on its four projections, and in self-attention what the branches give one another."""

    def __init__(self, run: Run, path: str, site: int):
        self.run, self.path = run, path
        self.gives_q = site in run.blend["c2f_sites"] and path.endswith(".attn1")
        self.gives_kv = site in run.blend["f2c_sites"] and path.endswith(".attn1")

    def projected(self, layer, name: str, x, scale=1.0):
        down, up = (self.run.lora[f"{self.path}.{name}.lora.{end}.weight"] for end in ("down", "up"))
        return layer(x) + scale * (x @ down.T @ up.T)

    def exchanged(self, q, k, v):
        """q, k and v with the rows that are read in place of their own: those of a prompt, never of a negative one."""
        q_now = self.gives_q and self.run.active("c2f_ratio")
        # a site that gives both ways does so for as long as it gives queries
        kv_now = self.gives_kv and self.run.active("c2f_ratio" if self.gives_q else "f2c_ratio")
        if q_now:
            q = q[[COARSE_NEGATIVE, COARSE, COARSE, COARSE]]
        if kv_now:
            k, v = (x[[FINE, FINE_NEGATIVE, FINE, FINE]] for x in (k, v))
        return q, k, v

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        assert hidden_states.shape[0] == 4 and attention_mask is None
        source, scale = hidden_states if encoder_hidden_states is None else encoder_hidden_states, self.run.scale
        q = self.projected(attn.to_q, "to_q", hidden_states, scale)
        k, v = self.projected(attn.to_k, "to_k", source, scale), self.projected(attn.to_v, "to_v", source, scale)
        q, k, v = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in self.exchanged(q, k, v))
        weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
        return self.projected(attn.to_out[0], "to_out.0", (weights @ v).transpose(1, 2).flatten(2))


def install(network, run: Run) -> None:
    """A processor for each attention layer. A site is one transformer block, counted as the UNet runs through them."""
    names = [name.removesuffix(".processor") for name in network.attn_processors]
    names.sort(key=lambda name: ("down", "mid", "up").index(name.split("_")[0]))  # diffusers lists the middle last
    blocks = list(dict.fromkeys(name.rsplit(".", 1)[0] for name in names))
    network.set_attn_processor({f"{name}.processor": Exchange(run, name, blocks.index(name.rsplit(".", 1)[0]))
                                for name in names})


def sample(network, scheduler, run: Run, texts, start, guidance: float) -> tuple:
    """Latents of both branches after each step (steps, 2, 4, h, w), and each step's raw output (steps, 4, 4, h, w)."""
    install(network, run)
    scheduler.set_timesteps(run.steps)
    x, path, raw = torch.cat([start, start]), [], []
    for run.step, t in enumerate(scheduler.timesteps):
        raw.append(network(torch.cat([x, x]), t, texts).sample)
        negative, full = raw[-1].chunk(2)
        x = scheduler.step(negative + guidance * (full - negative), t, x).prev_sample
        path.append(x)
    return torch.stack(path).numpy(), torch.stack(raw).numpy()


# ---------------------------------------------------------------- against the published sampler

def relative(ours, theirs) -> float:
    """Relative L2 error."""
    return float(np.linalg.norm(ours.astype(np.float64) - theirs) / np.linalg.norm(theirs.astype(np.float64)))


def check(folder: Path) -> None:
    """SystemExit where the published sampler's arrays do not come out."""
    network = diffusers.UNet2DConditionModel.from_pretrained(folder / "base" / "unet").eval()
    scheduler = diffusers.DDIMScheduler.from_pretrained(folder / "base" / "scheduler")
    tensors = load_file(folder / "style" / "tiny_unet_lora.safetensors")
    lora = {key.removeprefix("unet."): tensor for key, tensor in tensors.items()}
    for name in CHECKED:
        case = np.load(folder / f"{name}.npz")
        meta = json.loads(str(case["meta"]))
        blend = dict(c2f_sites=meta["c2t"], f2c_sites=meta["t2c"], scale=meta["scale"],
                     c2f_ratio=meta["c2t_step_ratio"], f2c_ratio=meta["t2c_step_ratio"])
        texts = np.concatenate([case[f"{row}_emb"] for row in ("coarse_neg", "fine_neg", "coarse", "fine")])
        path, raw = sample(network, scheduler, Run(blend, meta["steps"], lora), torch.from_numpy(texts),
                           torch.from_numpy(case["latents_in"]), meta["guidance_scale"])
        assert path.shape == case["latents"].shape and (scheduler.timesteps.numpy() == case["timesteps"]).all()
        first, last = float(np.abs(path[0] - case["latents"][0]).max()), relative(path[-1], case["latents"][-1])
        output = relative(raw[0], case["v_pred_raw"][0])
        print(f"{name}: raw output {output:.1e}, latents after step 1 {first:.1e} (absolute), last {last:.1e}")
        if output > 1e-5 or first > 1e-5 or last > 1e-3:
            raise SystemExit(f"{name} does not come out: nothing was written")


# ---------------------------------------------------------------- the small case

def exact(name: str, shape) -> torch.Tensor:
    return torch.from_numpy(seeded.values(name, shape)).double()


def seeded_lora(network) -> dict:
    """A LoRA of every attention layer, drawn from its parameters' names."""
    found = {}
    for path, layer in network.named_modules():
        if path.endswith((".to_q", ".to_k", ".to_v", ".to_out.0")):
            for end, shape in (("down", (seeded.RANK, layer.in_features)), ("up", (layer.out_features, seeded.RANK))):
                key = f"{path}.lora.{end}.weight"
                found[key] = torch.from_numpy(seeded.weight(f"lora/{key}", shape)).double()
    return found


def make_case() -> dict:
    """Computed in float64 and stored in float32, so that all of an error is of the program that is compared."""
    network, scheduler = unet().double(), diffusers.DDIMScheduler(**seeded.SCHEDULE, prediction_type="v_prediction")
    texts = exact("dual_branch/texts", (4, 77, seeded.UNET["cross_attention_dim"]))
    start, lora = exact("dual_branch/start", (1, *SHAPE)), seeded_lora(network)
    found = {"meta": np.array(json.dumps(dict(steps=STEPS, guidance=GUIDANCE, shape=SHAPE, presets=PRESETS)))}
    for name, blend in PRESETS.items():
        path, raw = sample(network, scheduler, Run(blend, STEPS, lora), texts, start, GUIDANCE)
        found.update({f"{name}/latents": path.astype(np.float32), f"{name}/output": raw[0].astype(np.float32)})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", type=Path, metavar="GOLDEN", help="the folder with the published sampler's arrays")
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    if options.check:
        check(options.check)
    path = DATA / "dual_branch.npz"
    np.savez_compressed(path, **make_case())
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
