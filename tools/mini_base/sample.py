"""Draw with the base in OUT: a grid, prompts down, seeds across -> OUT/sample.png, to look at.

    python tools/mini_base/sample.py --out OUT [--prompts "A cat.;A dog in the style of pixel art."]
"""
import argparse, pathlib

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

from base_folder import scheduler, tokens
from training import device

PROMPTS = ("A dog.;A pizza.;A whale.;A red apple.;A castle.;A guitar.;A mushroom in the style of noto.;"
           "A mushroom in the style of black and white.;A sailboat in the style of outlined openmoji.;"
           "A rocket in the style of pixel art.;"
           "A rose in the style of one ink, teal.;A tiger in the style of neon lights.")


class Painter:
    """The base folder's networks, and DDIM with guidance on them."""

    def __init__(self, base, steps, guidance):
        load = lambda kind, name: kind.from_pretrained(base / name, torch_dtype=torch.float32).to(device).eval()
        self.text, self.unet = load(CLIPTextModel, "text_encoder"), load(UNet2DConditionModel, "unet")
        self.vae, self.tok = load(AutoencoderKL, "vae"), CLIPTokenizer.from_pretrained(base / "tokenizer")
        self.scheduler, self.guidance = scheduler(), guidance
        self.scheduler.set_timesteps(steps)

    @torch.no_grad()
    def __call__(self, prompts, seed):
        """(N, side, side, 3) uint8: one picture for each prompt."""
        n = len(prompts)
        ctx = self.text(tokens(self.tok, [""] * n + list(prompts)).to(device))[0]
        z = torch.randn(n, 4, 16, 16, generator=torch.Generator().manual_seed(seed)).to(device)
        for t in self.scheduler.timesteps:
            u, c = self.unet(torch.cat([z, z]), t, ctx).sample.chunk(2)
            z = self.scheduler.step(u + self.guidance * (c - u), t, z).prev_sample
        image = self.vae.decode(z / self.vae.config.scaling_factor).sample
        return image.clamp(-1, 1).add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", type=pathlib.Path, required=True)
    ap.add_argument("--prompts", default=PROMPTS, help="separated by ;")
    ap.add_argument("--seeds", type=int, default=6)
    ap.add_argument("--steps", type=int, default=30)
    ap.add_argument("--guidance", type=float, default=3.0)
    ap.add_argument("--threads", type=int, default=0, help="0 = PyTorch's choice")
    args = ap.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    paint = Painter(args.out / "base", args.steps, args.guidance)
    rows = [np.concatenate(list(paint([p] * args.seeds, 0)), 1) for p in args.prompts.split(";")]
    Image.fromarray(np.concatenate(rows, 0)).save(args.out / "sample.png")
