"""Train the mini base's autoencoder: a small AutoencoderKL of Stable Diffusion's architecture.

    python tools/mini_base/train_vae.py --art ART --out OUT --minutes 60 --crop 64 --batch 32 --lr 1e-3
    python tools/mini_base/train_vae.py --art ART --out OUT --minutes 20 --crop 64 --batch 32 --lr 5e-4 --anchor 1

Resumes from OUT/vae.pt and stops at --minutes, or on SIGTERM; what comes out is OUT/base/vae. Without OUT/vae.pt it
goes on from OUT/base/vae, and from random numbers without that. --anchor keeps the latents of untreated pictures as
they were in OUT/base/vae, so that a UNet which was trained on them stays valid, while the autoencoder learns new
looks.
"""
import copy, math, pathlib

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from art import load_art
from training import Clock, amp, checkpoint, device, learn, note, options, parsed, to_tensor


def new_vae(channels=(16, 32, 64, 128)):
    return AutoencoderKL(
        in_channels=3, out_channels=3, down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4, block_out_channels=channels, layers_per_block=1, latent_channels=4,
        norm_num_groups=16, sample_size=128)


def inked_crop(rng, picture, crop):
    """A random crop; of two, the one with more in it: most of an emoji picture is white paper."""
    y, x = rng.integers(0, picture.shape[0] - crop + 1, (2, 2))
    crops = [picture[b:b + crop, a:a + crop] for a, b in zip(x, y)]
    return max(crops, key=lambda c: c[::4, ::4].std()) if crop < picture.shape[0] else crops[0]


def colour_axes(pictures):
    """A 1x1 convolution (3, 3, 1, 1): RGB in -1..1 to the principal colour axes of the ink, each with spread 1."""
    pixel = torch.from_numpy(pictures[::7, ::8, ::8].reshape(-1, 3)).double().div(127.5).sub(1)
    spread, axis = torch.linalg.eigh(torch.cov(pixel[(pixel < 0.95).any(1)].T))
    return (axis / spread.sqrt()).T.float().view(3, 3, 1, 1)


def begin(args):
    """The autoencoder of OUT/base/vae, or a new one."""
    if (args.out / "base" / "vae").exists():
        return AutoencoderKL.from_pretrained(args.out / "base" / "vae", torch_dtype=torch.float32)
    vae = new_vae(tuple(args.vae_channels))
    # almost no noise: from a deviation of 1 the decoder learns to ignore the latent, and stays there
    with torch.no_grad():
        vae.quant_conv.bias[vae.config.latent_channels:] = -6
    return vae


class Anchor:
    """How far the latents of untreated pictures are from those of the autoencoder that the training began with."""

    def __init__(self, vae, weight):
        self.vae, self.weight = copy.deepcopy(vae).eval().requires_grad_(False), weight

    def __call__(self, image, mean):
        if not self.weight or not len(image):
            return mean.new_zeros(())
        with torch.no_grad(), amp():
            before = self.vae.encode(image).latent_dist.mean.float()
        return self.weight * F.mse_loss(mean, before)


@torch.no_grad()
def fit(probe, vae, image, axes):
    """Set the probe by least squares, so that it is no burden to an autoencoder that has learned already."""
    latent = vae.encode(image).latent_dist.mean.permute(0, 2, 3, 1).flatten(0, 2)
    colour = F.conv2d(F.avg_pool2d(image, 8), axes).permute(0, 2, 3, 1).flatten(0, 2)
    found = torch.linalg.lstsq(F.pad(latent, (0, 1), value=1.0), colour).solution
    probe.weight.copy_(found[:-1].T[..., None, None])
    probe.bias.copy_(found[-1])


def losses(vae, probe, image, axes, anchor, untreated):
    """Picture, edges, hues, and what the latent says of colour: the sum and the parts that the log shows.

    The last `untreated` pictures are those that `anchor` holds.

    The mean colour of every 8x8 patch must be readable from its latent by one linear layer (`probe`): else a short
    training finds shape and brightness, and no gradient leads it to the hues that it has left out. Colour axes count
    by their spread: green against magenta varies little in this art, and would be the last thing that the latent makes
    room for.
    """
    with amp():
        posterior = vae.encode(image).latent_dist
        out = vae.decode(posterior.mean + posterior.std * torch.randn_like(posterior.mean)).sample
    out, diff = out.float(), out.float() - image
    edges = sum((torch.diff(out, dim=d) - torch.diff(image, dim=d)).abs().mean() for d in (2, 3))
    read = F.mse_loss(probe(posterior.mean.float()), F.conv2d(F.avg_pool2d(image, 8), axes))
    hue, square = F.conv2d(diff, axes).abs().mean(), diff.pow(2).mean()
    drift = anchor(image[len(image) - untreated:], posterior.mean[len(image) - untreated:].float())
    whole = square + edges + hue + 0.5 * read + 1e-6 * posterior.kl().mean() + drift
    return whole, dict(hue=hue, read=read, square=square, drift=drift)


class Crops:
    """Batches of random crops, half of them mirrored; the last of each batch are untreated pictures."""

    def __init__(self, args, seed):
        self.art, self.rng, self.crop = load_art(args.art), np.random.default_rng(seed), args.crop
        self.pools = [np.flatnonzero(self.art.look), np.flatnonzero(self.art.look == 0)]
        treated = round(args.batch * args.treated) if len(self.pools[0]) else 0
        self.counts = [treated, args.batch - treated]

    def __call__(self):
        rows = np.concatenate([self.rng.choice(pool, n) for pool, n in zip(self.pools, self.counts) if n])
        crops = [inked_crop(self.rng, self.art.picture[r], self.crop) for r in rows]
        crops = [c[:, ::-1] if m else c for c, m in zip(crops, self.rng.integers(0, 2, len(rows)))]
        return to_tensor(np.stack(crops)).to(device).contiguous(memory_format=torch.channels_last)


def train(args):
    vae = begin(args).to(device).to(memory_format=torch.channels_last)
    anchor, probe = Anchor(vae, args.anchor), torch.nn.Conv2d(vae.config.latent_channels, 3, 1).to(device)
    opt = torch.optim.AdamW([*vae.parameters(), *probe.parameters()], args.lr, weight_decay=1e-4, fused=True)
    parts, state, step = dict(model=vae, probe=probe, opt=opt, anchor=anchor.vae), args.out / "vae.pt", 0
    if state.exists():
        kept = torch.load(state, map_location=device)
        for name, part in parts.items():
            part.load_state_dict(kept[name])
        step = kept["step"]

    def save():
        checkpoint(state, **{name: part.state_dict() for name, part in parts.items()}, step=step)

    first, crops, clock = step, Crops(args, step), Clock(args.minutes, args.lr, step)
    axes = colour_axes(crops.art.picture).to(device)
    if not first:
        fit(probe, vae, torch.cat([crops() for _ in range(8)]), axes)
    while not clock.done():
        loss, seen = losses(vae, probe, crops(), axes, anchor, crops.counts[1])
        learn(opt, loss, clock.lr(step), vae.parameters())
        step += 1
        if step % args.log == 0:
            psnr = -10 * math.log10(seen.pop("square").item() / 4)
            parts_of_loss = " ".join(f"{name} {value.item():.4f}" for name, value in seen.items())
            rate = f"lr {clock.lr(step):.1e}"
            print(f"vae step {step} loss {loss.item():.4f} {parts_of_loss} psnr {psnr:.2f} {rate}", flush=True)
        if step % (args.log * 10) == 0:
            save()
    save()
    vae.save_pretrained(args.out / "base" / "vae")
    batch = f"{args.batch} crops of {args.crop}"
    note(args, "vae", f"to step {step}", steps=step - first, batch=batch, minutes=clock.minutes())


if __name__ == "__main__":
    ap = options(__doc__, minutes=10, batch=64, lr=1e-3)
    ap.add_argument("--art", type=pathlib.Path, required=True)
    ap.add_argument("--crop", type=int, default=64)
    ap.add_argument("--treated", type=float, default=0.5, help="share of a batch that comes from treated pictures")
    ap.add_argument("--anchor", type=float, default=0, help="what a changed latent of an untreated picture costs")
    ap.add_argument("--vae-channels", type=int, nargs=4, default=[16, 32, 64, 128])
    args = parsed(ap)
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    train(args)
