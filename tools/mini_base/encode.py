"""Encode the art: latents of every picture, their scaling factor, and the list of what the base is taught.

    python tools/mini_base/encode.py --art ART --out OUT [--subjects tools/mini_base/subjects.json]

Reads OUT/base/vae; writes OUT/latents.pt, and what the base is taught: OUT/base/subjects.json, OUT/base/looks.json.
The pictures of art.npz are encoded as they are and mirrored; those of looks.npz were mirrored and moved when drawn.
"""
import argparse, json, pathlib

import numpy as np
import torch
from diffusers import AutoencoderKL

from art import STYLE_WORDS, load_art
from training import amp, device, note, to_tensor

BATCH = 64


def views(art):
    """Rows of the pictures to encode, and whether each is mirrored."""
    still = np.flatnonzero(~art.moved)
    count = len(art.picture)
    return np.concatenate([np.arange(count), still]), np.repeat([False, True], [count, len(still)])


def seen(art, rows, mirrored):
    """The pictures as they are encoded, (N, 3, side, side) in -1..1."""
    pictures = [art.picture[r][:, ::-1] if m else art.picture[r] for r, m in zip(rows, mirrored)]
    return to_tensor(np.stack(pictures)).to(device)


@torch.no_grad()
def encode(args):
    art = load_art(args.art, json.loads(args.subjects.read_text()) if args.subjects else None)
    vae = AutoencoderKL.from_pretrained(args.out / "base" / "vae", torch_dtype=torch.float32).to(device).eval()
    vae.to(memory_format=torch.channels_last)
    (rows, mirrored), means, stds, errors = views(art), [], [], []
    for i in range(0, len(rows), BATCH):
        image = seen(art, rows[i:i + BATCH], mirrored[i:i + BATCH]).contiguous(memory_format=torch.channels_last)
        with amp():
            p = vae.encode(image).latent_dist
        means.append(p.mean.half().cpu().contiguous())
        stds.append(p.std.half().cpu().contiguous())
        if i // BATCH % 20 == 0:
            errors.append((vae.decode(p.mean.float()).sample.clamp(-1, 1) - image).pow(2).mean((1, 2, 3)).cpu())
            print(f"{i} of {len(rows)}", flush=True)
    mean, std = torch.cat(means), torch.cat(stds)
    scale = float(1 / mean.float().std())
    vae.register_to_config(scaling_factor=args.scale or scale)
    vae.save_pretrained(args.out / "base" / "vae")
    torch.save(dict(mean=mean, std=std, row=rows, mirrored=mirrored, subject=art.subject[rows], style=art.style[rows],
                    look=art.look[rows], scale=args.scale or scale, info=art.info), args.out / "latents.pt")
    taught = sorted(art.info["subjects"][i] for i in np.unique(art.subject))
    looks = [*STYLE_WORDS.values(), *sorted(art.info["looks"][i] for i in np.unique(art.look) if i)]
    for name, words in (("subjects", taught), ("looks", looks)):
        (args.out / "base" / f"{name}.json").write_text(json.dumps(words, indent=0) + "\n")
    psnr = f"{(-10 * torch.log10(torch.cat(errors) / 4)).mean():.1f} dB PSNR"
    print(f"{len(art.picture)} pictures of {len(taught)} subjects, {len(rows)} latents, scaling factor {scale:.4f}, "
          f"{psnr}")
    note(args, "encode", psnr)


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--art", type=pathlib.Path, required=True)
    ap.add_argument("--out", type=pathlib.Path, required=True)
    ap.add_argument("--subjects", type=pathlib.Path, help="JSON list of labels to teach; without it all not held out")
    ap.add_argument("--scale", type=float, help="keep this scaling factor: that of the UNet which is to go on")
    ap.add_argument("--threads", type=int, default=0, help="0 = PyTorch's choice")
    args = ap.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    encode(args)
