"""Fit the preview of the mini base: four factors and a bias by which latents become small pictures.

    python tools/mini_base/fit_latent_rgb.py --art ART --out OUT [--count 2000]
    python tools/mini_base/fit_latent_rgb.py --pictures data/mini --vae checkpoints/mini/base/vae

Least squares between scaled latents and the means of the 8 x 8 pixels that each stands for, of pictures of ART (a
sample of them, with their looks) or of all pictures below a folder. Writes latent_rgb.json beside the autoencoder's
weights. Fit again when the encoder has changed; a new decoder changes nothing.
"""
import argparse, json, pathlib

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image

from art import load_art
from training import to_tensor

BATCH, SIDE = 50, 128


def pictures_of(args):
    """(N, SIDE, SIDE, 3) uint8."""
    if args.art:
        art = load_art(args.art, None).picture
        rows = np.random.default_rng(0).permutation(len(art))[:args.count]
        return np.stack([art[row] for row in np.sort(rows)])
    files = [path for path in sorted(args.pictures.rglob("*")) if path.suffix in (".png", ".jpg", ".webp")]
    return np.stack([np.asarray(Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.LANCZOS))
                     for path in files])


@torch.no_grad()
def samples(vae, pictures):
    """(M, 4) scaled latents and the (M, 3) mean colours, -1..1, that they stand for."""
    latents, colours = [], []
    for i in range(0, len(pictures), BATCH):
        image = to_tensor(pictures[i:i + BATCH])
        found = vae.encode(image).latent_dist.mean * vae.config.scaling_factor
        latents.append(found.permute(0, 2, 3, 1).reshape(-1, found.shape[1]))
        small = torch.nn.functional.avg_pool2d(image, SIDE // found.shape[-1])
        colours.append(small.permute(0, 2, 3, 1).reshape(-1, 3))
    return torch.cat(latents).double().numpy(), torch.cat(colours).double().numpy()


def fit(latents, colours):
    """Factors (4, 3), bias (3,), and the share of the colours' variance that they explain."""
    found = np.linalg.lstsq(np.c_[latents, np.ones(len(latents))], colours, rcond=None)[0]
    left = colours - latents @ found[:-1] - found[-1]
    return found[:-1], found[-1], 1 - left.var(0).sum() / colours.var(0).sum()


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = ap.add_mutually_exclusive_group(required=True)
    source.add_argument("--art", type=pathlib.Path)
    source.add_argument("--pictures", type=pathlib.Path)
    ap.add_argument("--out", type=pathlib.Path, help="the autoencoder is OUT/base/vae")
    ap.add_argument("--vae", type=pathlib.Path, help="the autoencoder")
    ap.add_argument("--count", type=int, default=2000, help="pictures of ART that are taken")
    args = ap.parse_args()
    folder = args.vae or args.out / "base" / "vae"
    vae = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32).eval()
    factors, bias, explained = fit(*samples(vae, pictures_of(args)))
    text = {"factors": factors.round(4).tolist(), "bias": bias.round(4).tolist()}
    (folder / "latent_rgb.json").write_text(json.dumps(text) + "\n")
    print(f"{folder / 'latent_rgb.json'}: {explained:.1%} of the variance of the colours")
