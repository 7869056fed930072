"""Train the decoder of the mini base's autoencoder further, on latents as the UNet draws them: never quite those of a
picture.

    python train_decoder.py --art ART --out OUT --tokenizer TOK --minutes 60

A decoder that learned from exact latents alone makes grey specks and lost edges of an error of a fifth of their
spread. The encoder stays as it is, so all that was trained on its latents stays valid: the UNet, and every style.
Resumes from OUT/decoder.pt.
"""
import collections, copy, json, pathlib

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from art import caption, load_art
from base_folder import scheduler, tokens
from encode import seen
from train_vae import colour_axes
from training import Clock, amp, checkpoint, device, learn, note, options, parsed, to_tensor


class Guesses:
    """Latents as the UNet draws them: its guess of the clean picture at a random noise level, given the caption."""

    def __init__(self, args, latents):
        self.tok, base = CLIPTokenizer.from_pretrained(args.tokenizer), args.out / "base"
        self.text = CLIPTextModel.from_pretrained(base / "text_encoder", torch_dtype=torch.float32).to(device).eval()
        self.unet = UNet2DConditionModel.from_pretrained(base / "unet", torch_dtype=torch.float32).to(device).eval()
        self.abar, self.info = scheduler().alphas_cumprod.to(device), latents["info"]
        self.labels = np.stack([latents["subject"], latents["style"], latents["look"]], 1)

    @torch.no_grad()
    def __call__(self, rng, z, rows, last):
        t = torch.from_numpy(rng.integers(0, last, len(rows))).to(device)
        a, noise = self.abar[t].view(-1, 1, 1, 1), torch.randn_like(z)
        noisy = a.sqrt() * z + (1 - a).sqrt() * noise
        texts = [caption(rng, self.info, *self.labels[r]) for r in rows]
        with amp():
            v = self.unet(noisy, t, self.text(tokens(self.tok, texts).to(device))[0]).sample
        return a.sqrt() * noisy - (1 - a).sqrt() * v.float()


class PatchCritic(torch.nn.Module):
    """Real or decoded? A score for every patch (PatchGAN, Isola et al. 2017): without it a decoder in doubt draws
    blurred edges."""

    def __init__(self, channels=(32, 64, 128)):
        super().__init__()
        layers = [torch.nn.Conv2d(3, channels[0], 4, 2, 1), torch.nn.LeakyReLU(0.2)]
        for a, b in zip(channels, channels[1:]):
            layers += [torch.nn.Conv2d(a, b, 4, 2, 1), torch.nn.GroupNorm(8, b), torch.nn.LeakyReLU(0.2)]
        self.layers = torch.nn.Sequential(*layers, torch.nn.Conv2d(channels[-1], 1, 3, 1, 1))

    def forward(self, x):
        return self.layers(x)


def balance(loss, adversarial, weight):
    """What the adversarial loss counts, so that both pull alike at the last layer (VQGAN, Esser et al. 2021)."""
    of_loss, = torch.autograd.grad(loss, weight, retain_graph=True)
    of_adversarial, = torch.autograd.grad(adversarial, weight, retain_graph=True)
    return (of_loss.norm() / (of_adversarial.norm() + 1e-4)).clamp(0, 1e4).detach()


@torch.no_grad()
def psnr(vae, pictures):
    """How well whole pictures come back, in dB."""
    images = (to_tensor(pictures[i:i + 32]).to(device) for i in range(0, len(pictures), 32))
    again = lambda x: vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
    errors = [(again(x) - x).pow(2).mean((1, 2, 3)) for x in images]
    return -10 * torch.log10(torch.cat(errors) / 4).mean().item()


def train(args):
    """A third of every batch has noise, a third is drawn by the UNet, a third is exact. Nothing held out is in it."""
    art = load_art(args.art, json.loads((args.out / "base" / "subjects.json").read_text()))
    latents = torch.load(args.out / "latents.pt", weights_only=False)
    vae = AutoencoderKL.from_pretrained(args.out / "base" / "vae", torch_dtype=torch.float32).to(device)
    vae.to(memory_format=torch.channels_last)
    guesses, axes = Guesses(args, latents), colour_axes(art.picture).to(device)
    params = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    opt, state, step = torch.optim.AdamW(params, args.lr, weight_decay=1e-4, fused=True), args.out / "decoder.pt", 0
    critic, ema = PatchCritic().to(device), copy.deepcopy(vae).eval().requires_grad_(False)
    critic_opt = torch.optim.AdamW(critic.parameters(), 4e-4, betas=(0.5, 0.9), weight_decay=1e-4, fused=True)
    if state.exists():
        s = torch.load(state, map_location=device)
        for part, key in ((vae, "model"), (ema, "ema"), (opt, "opt"), (critic, "critic"), (critic_opt, "critic_opt")):
            part.load_state_dict(s[key])
        step = s["step"]

    def save():
        parts = dict(model=vae, ema=ema, opt=opt, critic=critic, critic_opt=critic_opt)
        checkpoint(state, **{name: part.state_dict() for name, part in parts.items()}, step=step)
        copy.deepcopy(ema).half().save_pretrained(args.out / "base" / "vae")

    rng, clock, first = np.random.default_rng(step), Clock(args.minutes, args.lr, step), step
    run, run_critic = collections.deque(maxlen=200), collections.deque(maxlen=50)
    while not clock.done():
        rows = rng.integers(0, len(latents["row"]), args.batch)
        image = seen(art, latents["row"][rows], latents["mirrored"][rows]).contiguous(memory_format=torch.channels_last)
        mean, std = latents["mean"][rows].float(), latents["std"][rows].float()
        z = (mean + std * torch.randn_like(mean)).to(device) * latents["scale"]
        third = args.batch // 3
        spread = torch.from_numpy(rng.uniform(0, args.noise, (third, 1, 1, 1)).astype(np.float32)).to(device)
        z[:third] += spread * torch.randn_like(z[:third])
        z[third:2 * third] = guesses(rng, z[third:2 * third], rows[third:2 * third], args.last)
        with amp():
            out = vae.decode(z / latents["scale"]).sample
        out, diff = out.float(), out.float() - image
        edges = sum((torch.diff(out, dim=d) - torch.diff(image, dim=d)).abs().mean() for d in (2, 3))
        loss = diff.pow(2).mean() + edges + F.conv2d(diff, axes).abs().mean()
        whole = loss
        if step >= args.warm:
            with amp():
                doubt = -critic(out).float().mean()
            whole = loss + args.adversarial * balance(loss, doubt, vae.decoder.conv_out.weight) * doubt
        learn(opt, whole, clock.lr(step), params)
        step += 1
        run.append(loss.item())
        with torch.no_grad():
            torch._foreach_lerp_(list(ema.parameters()), list(vae.parameters()), max(0.002, 1 / (1 + step / 10)))
        if step > args.warm - 100:
            with amp():
                real, made = critic(image).float(), critic(out.detach()).float()
            critic_loss = F.relu(1 - real).mean() + F.relu(1 + made).mean()
            critic_opt.zero_grad(set_to_none=True); critic_loss.backward(); critic_opt.step()
            run_critic.append(critic_loss.item())
        if step % args.log == 0:
            noise, drawn, exact = (diff[i:i + third].detach().abs().mean().item() for i in (0, third, 2 * third))
            print(f"decoder step {step} loss {np.mean(run):.4f} noise {noise:.4f} drawn {drawn:.4f} exact {exact:.4f} "
                  f"critic {np.mean(run_critic or [0]):.3f} lr {clock.lr(step):.1e}", flush=True)
        if step % (args.log * 4) == 0:
            save()
    save()
    result = f"{psnr(ema, art.picture[::10]):.1f} dB PSNR"
    note(args, "decoder", result, steps=step - first, batch=args.batch, minutes=clock.minutes())


if __name__ == "__main__":
    ap = options(__doc__, minutes=60, batch=12, lr=5e-4)
    ap.add_argument("--art", type=pathlib.Path, required=True)
    ap.add_argument("--tokenizer", type=pathlib.Path, required=True)
    ap.add_argument("--noise", type=float, default=0.35, help="the most noise in a latent, of its spread")
    ap.add_argument("--last", type=int, default=350, help="the highest noise level at which the UNet draws a latent")
    ap.add_argument("--warm", type=int, default=600, help="steps before the critic joins")
    ap.add_argument("--adversarial", type=float, default=0.1,
                    help="what the critic counts, beside the distance to the picture; at 0.4 it took over")
    args = parsed(ap)
    torch.manual_seed(0)
    train(args)
