"""Train the mini base: a small AutoencoderKL, CLIP text encoder and UNet of Stable Diffusion 2.1's structure on emoji art.

    python train.py vae    --art ART --out OUT --minutes 8
    python train.py encode --art ART --out OUT
    python train.py unet   --art ART --out OUT --tokenizer TOK --minutes 20
    python train.py sample --art ART --out OUT --tokenizer TOK
    python train.py pack   --out OUT --max-mib 15        # shards for a transfer with a file limit

PyTorch and diffusers only make the weights, as they made Stable Diffusion's; the folder that comes out is an ordinary diffusers
folder. Every stage resumes from OUT and stops at --minutes. On a GPU it uses bf16; on a CPU with AMX too.
"""
import argparse, collections, copy, json, math, pathlib, shutil, time

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

HELD_OUT_STYLES = {"fluent-3d", "openmoji-black", "emojione-monotone", "fxemoji"}
STYLE_WORDS = {"noto": "noto", "noto-v1": "old noto", "twemoji": "twemoji", "fluent-emoji": "smooth gradient",
               "fluent-emoji-flat": "flat fluent", "fluent-emoji-high-contrast": "black and white", "openmoji": "outlined openmoji",
               "emojione": "emojione", "emojione-v1": "vintage emojione", "streamline-emojis": "pastel streamline"}
HELD_OUT_EVERY = 14  # every 14th subject (59 of 830) is never shown to the base

device = "cuda" if torch.cuda.is_available() else "cpu"
amp = lambda: torch.autocast(device, dtype=torch.bfloat16)


def load_art(folder, base_only=True):
    data, info = np.load(folder / "art.npz"), json.loads((folder / "art.json").read_text())
    subject, style = data["subject"].astype(int), data["style"].astype(int)
    keep = np.ones(len(subject), bool)
    if base_only:
        held = [i for i, s in enumerate(info["styles"]) if s in HELD_OUT_STYLES]
        keep = ~np.isin(style, held) & (subject % HELD_OUT_EVERY != HELD_OUT_EVERY - 1)
    return data["picture"][keep], subject[keep], style[keep], info


def to_tensor(pictures):
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def checkpoint(path, **state):
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def note(args, stage, result, **numbers):
    """One line of the training's history, for the model card (card.py)."""
    path = args.out / "training.json"
    history = json.loads(path.read_text()) if path.exists() else []
    name = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    history.append(dict(dict(stage=stage, steps="", batch="", minutes=""), **numbers, device=name, result=result))
    path.write_text(json.dumps(history, indent=1) + "\n")


class Clock:
    """Learning rate by elapsed share of the time budget: flat, then cosine to zero in the last 40 %; warm-up over 100 steps.

    Every run warms up, also one that goes on: at once at its peak it can diverge.
    """

    def __init__(self, minutes, peak, first):
        self.end, self.start, self.peak, self.first = minutes * 60, time.time(), peak, first

    def lr(self, step):
        share = min(1.0, (time.time() - self.start) / self.end)
        decay = 1.0 if share < 0.6 else 0.5 * (1 + math.cos(math.pi * (share - 0.6) / 0.4))
        return self.peak * min(1.0, (step - self.first + 1) / 100) * decay

    def done(self):
        return time.time() - self.start > self.end


def new_vae(channels=(16, 32, 64, 128)):
    return AutoencoderKL(in_channels=3, out_channels=3, down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
                         block_out_channels=channels, layers_per_block=1, latent_channels=4, norm_num_groups=16, sample_size=128)


def inked_crop(rng, picture, crop):
    """A random crop; of two, the one with more in it: most of an emoji picture is white paper."""
    y, x = rng.integers(0, picture.shape[0] - crop + 1, (2, 2))
    crops = [picture[b:b + crop, a:a + crop] for a, b in zip(x, y)]
    return max(crops, key=lambda c: c[::4, ::4].std()) if crop < picture.shape[0] else crops[0]


def colour_axes(pictures):
    """A 1x1 convolution (3, 3, 1, 1) that takes RGB in -1..1 to the principal colour axes of the inked pixels, each scaled to spread 1."""
    pixel = torch.from_numpy(pictures[::7, ::8, ::8].reshape(-1, 3)).double().div(127.5).sub(1)
    spread, axis = torch.linalg.eigh(torch.cov(pixel[(pixel < 0.95).any(1)].T))
    return (axis / spread.sqrt()).T.float().view(3, 3, 1, 1)


def train_vae(args):
    pictures, *_ = load_art(args.art)
    vae = new_vae(tuple(args.vae_channels)).to(device).to(memory_format=torch.channels_last)
    with torch.no_grad():  # begin almost without noise: from a deviation of 1 the decoder first learns to ignore the latent, and stays there
        vae.quant_conv.bias[vae.config.latent_channels:] = -6
    # the mean colour of every 8x8 patch must be readable from its latent by one linear layer: else a short training finds shape and
    # brightness, and no gradient leads it to the hues that it has left out. Colour axes count by their spread: green against magenta
    # varies little in this art, and would be the last thing that the latent makes room for
    axes = colour_axes(pictures).to(device)
    probe = torch.nn.Conv2d(vae.config.latent_channels, 3, 1).to(device)
    opt = torch.optim.AdamW([*vae.parameters(), *probe.parameters()], args.lr or 1e-3, weight_decay=1e-4, fused=True)
    state, step = args.out / "vae.pt", 0
    if state.exists():
        s = torch.load(state, map_location=device)
        vae.load_state_dict(s["model"]); probe.load_state_dict(s["probe"]); opt.load_state_dict(s["opt"]); step = s["step"]
    first = step
    rng, crop, clock = np.random.default_rng(step), args.crop, Clock(args.minutes, args.lr or 1e-3, step)
    while not clock.done():
        rows = rng.integers(0, len(pictures), args.batch)
        batch = np.stack([inked_crop(rng, pictures[r], crop) for r in rows])
        image = to_tensor(batch).to(device).contiguous(memory_format=torch.channels_last)
        if rng.random() < 0.5:
            image = image.flip(3)
        for g in opt.param_groups:
            g["lr"] = clock.lr(step)
        with amp():
            posterior = vae.encode(image).latent_dist
            out = vae.decode(posterior.mean + posterior.std * torch.randn_like(posterior.mean)).sample
        out, diff = out.float(), out.float() - image
        edges = sum((torch.diff(out, dim=d) - torch.diff(image, dim=d)).abs().mean() for d in (2, 3))
        read = F.mse_loss(probe(posterior.mean.float()), F.conv2d(F.avg_pool2d(image, 8), axes))
        hue = F.conv2d(diff, axes).abs().mean()
        loss = diff.pow(2).mean() + edges + hue + 0.5 * read + 1e-6 * posterior.kl().mean()
        opt.zero_grad(set_to_none=True); loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0); opt.step(); step += 1
        if step % args.log == 0:
            psnr = -10 * math.log10(diff.detach().pow(2).mean().item() / 4)
            print(f"vae step {step} loss {loss.item():.4f} hue {hue.item():.4f} read {read.item():.4f} psnr {psnr:.2f} lr {clock.lr(step):.1e}", flush=True)
        if step % (args.log * 10) == 0:
            checkpoint(state, model=vae.state_dict(), probe=probe.state_dict(), opt=opt.state_dict(), step=step)
    checkpoint(state, model=vae.state_dict(), probe=probe.state_dict(), opt=opt.state_dict(), step=step)
    vae.save_pretrained(args.out / "base" / "vae")
    note(args, "vae", f"to step {step}", steps=step - first, batch=f"{args.batch} crops of {crop}", minutes=args.minutes)


@torch.no_grad()
def encode(args):
    """Latents of every base picture and its mirror image (mean and deviation), and the scaling factor."""
    pictures, subject, style, info = load_art(args.art)
    vae = AutoencoderKL.from_pretrained(args.out / "base" / "vae").to(device).eval()
    means, stds, errors = [], [], []
    for i in range(0, len(pictures), 64):
        image = to_tensor(pictures[i:i + 64]).to(device)
        for view in (image, image.flip(3)):
            p = vae.encode(view).latent_dist
            means.append(p.mean.half().cpu()); stds.append(p.std.half().cpu())
        if i % 640 == 0:
            errors.append((vae.decode(p.mean).sample.clamp(-1, 1) - view).pow(2).mean((1, 2, 3)).cpu())
    n = [m.shape[0] for m in means]
    order = torch.cat([torch.arange(k) + sum(n[:j]) for j, k in enumerate(n)])
    plain = torch.cat([order[sum(n[:j]):sum(n[:j]) + n[j]] for j in range(0, len(n), 2)])
    mirror = torch.cat([order[sum(n[:j]):sum(n[:j]) + n[j]] for j in range(1, len(n), 2)])
    means, stds = torch.cat(means), torch.cat(stds)
    scale = float(1 / means.float().std())
    vae.register_to_config(scaling_factor=scale); vae.save_pretrained(args.out / "base" / "vae")
    torch.save(dict(mean=torch.stack([means[plain], means[mirror]]), std=torch.stack([stds[plain], stds[mirror]]), subject=subject, style=style,
                    scale=scale), args.out / "latents.pt")
    psnr = f"{(-10 * torch.log10(torch.cat(errors) / 4)).mean():.1f} dB PSNR"
    print(f"{len(plain)} pictures, scaling factor {scale:.4f}, {psnr}")
    note(args, "encode", psnr)


def caption(rng, info, subject, style):
    name = info["subjects"][subject]
    if info["keywords"][subject] and rng.random() < 0.15:
        name = info["keywords"][subject][rng.integers(len(info["keywords"][subject]))]
    name = name.lower()
    text = ("An " if name[0] in "aeiou" else "A ") + name
    words = STYLE_WORDS.get(info["styles"][style])
    return text + (f" in the style of {words}." if words and rng.random() < 0.85 else ".")


def new_models(args):
    text = CLIPTextModel(CLIPTextConfig(vocab_size=49408, hidden_size=128, intermediate_size=512, projection_dim=128, num_hidden_layers=4,
                                        num_attention_heads=4, max_position_embeddings=77, hidden_act="gelu", pad_token_id=0,
                                        bos_token_id=49406, eos_token_id=49407))
    ch = tuple(args.unet_channels)
    unet = UNet2DConditionModel(sample_size=16, in_channels=4, out_channels=4, block_out_channels=ch, layers_per_block=2, norm_num_groups=16,
                                cross_attention_dim=128, attention_head_dim=[max(1, c // 64) for c in ch], use_linear_projection=True,
                                down_block_types=["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
                                up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3)
    if device == "cpu":  # at these sizes the backward pass of the fused attention costs more than the scores
        text.set_attn_implementation("eager")
        unet.set_attn_processor(AttnProcessor())
    return text.to(device), unet.to(device, memory_format=torch.channels_last if device == "cuda" else torch.contiguous_format)


def scheduler():
    return DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
                         steps_offset=1, prediction_type="v_prediction")


MODEL_INDEX = {"_class_name": "StableDiffusionPipeline", "feature_extractor": [None, None], "image_encoder": [None, None],
               "requires_safety_checker": False, "safety_checker": [None, None], "scheduler": ["diffusers", "DDIMScheduler"],
               "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
               "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}


def save_text_encoder(text, folder):
    """With the `text_model.` prefix that every diffusers folder has: transformers 5 reads it, but no longer writes it."""
    text.config.save_pretrained(folder)
    state = {k if k.startswith("text_model.") else f"text_model.{k}": v.half().contiguous() for k, v in text.state_dict().items()
             if not k.endswith("position_ids")}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def save_tokenizer(source, folder):
    """The vocabulary as it is, with one pad token in both files: SD 2.x pads with "!" (id 0)."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("vocab.json", "merges.txt", "special_tokens_map.json"):
        shutil.copy(source / name, folder / name)
    config = json.loads((source / "tokenizer_config.json").read_text())
    config["pad_token"] = "!"
    config.pop("special_tokens_map_file", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def tokens(tok, texts):
    return tok(texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids


def train_unet(args):
    tok = CLIPTokenizer.from_pretrained(args.tokenizer)
    lat = torch.load(args.out / "latents.pt", weights_only=False)
    _, _, _, info = load_art(args.art)
    chosen = np.arange(len(lat["subject"]))
    if args.subjects:  # a smaller world for a slow machine: of the common words those that are drawn in most styles
        words = {w for group in json.loads((pathlib.Path(__file__).parent / "common_words.json").read_text()).values() for w in group}
        count = np.bincount(lat["subject"], minlength=len(info["subjects"])) * np.array([s in words for s in info["subjects"]])
        best = [i for i in np.argsort(-count, kind="stable")[:args.subjects] if count[i]]
        chosen = chosen[np.isin(lat["subject"], best)]
    taught = sorted(info["subjects"][i] for i in np.unique(lat["subject"][chosen]))  # the held-out ones have no latents
    (args.out / "base" / "subjects.json").write_text(json.dumps(taught, indent=0) + "\n")
    mean, std = lat["mean"][:, chosen].float().to(device), lat["std"][:, chosen].float().to(device)
    subject, style = lat["subject"][chosen], lat["style"][chosen]
    text, unet = new_models(args)
    params = list(text.parameters()) + list(unet.parameters())
    opt = torch.optim.AdamW(params, args.lr or 1e-3, betas=(0.9, 0.99), weight_decay=1e-2, fused=True)
    ema, state, step = [copy.deepcopy(m).eval().requires_grad_(False) for m in (text, unet)], args.out / "unet.pt", 0
    if state.exists():
        s = torch.load(state, map_location=device)
        for m, k in zip((text, unet, *ema), ("text", "unet", "ema_text", "ema_unet")):
            m.load_state_dict(s[k])
        opt.load_state_dict(dict(s["opt"], param_groups=opt.state_dict()["param_groups"])); step = s["step"]
    elif (args.out / "base" / "unet").exists():  # warm start from shipped weights: the optimiser state is too large to travel
        text.load_state_dict(CLIPTextModel.from_pretrained(args.out / "base" / "text_encoder", torch_dtype=torch.float32).state_dict())
        unet.load_state_dict(UNet2DConditionModel.from_pretrained(args.out / "base" / "unet", torch_dtype=torch.float32).state_dict())
        ema = [copy.deepcopy(m).eval().requires_grad_(False) for m in (text, unet)]

    def save():
        checkpoint(state, text=text.state_dict(), unet=unet.state_dict(), ema_text=ema[0].state_dict(), ema_unet=ema[1].state_dict(),
                   opt=opt.state_dict(), step=step)
        save_text_encoder(ema[0], args.out / "base" / "text_encoder")
        copy.deepcopy(ema[1]).half().save_pretrained(args.out / "base" / "unet")
        scheduler().save_pretrained(args.out / "base" / "scheduler")
        save_tokenizer(args.tokenizer, args.out / "base" / "tokenizer")
        (args.out / "base" / "model_index.json").write_text(json.dumps(MODEL_INDEX, indent=2) + "\n")

    abar = scheduler().alphas_cumprod.to(device)
    rng, clock, seen, t0 = np.random.default_rng(step), Clock(args.minutes, args.lr or 1e-3, step), 0, time.time()
    print(f"{len(chosen)} pictures, {sum(p.numel() for p in unet.parameters()) / 1e6:.1f} M UNet parameters, from step {step}", flush=True)
    run, recent, first = [], collections.deque(maxlen=200), step
    while not clock.done():
        rows = rng.integers(0, len(chosen), args.batch)
        texts = ["" if rng.random() < 0.1 else caption(rng, info, subject[r], style[r]) for r in rows]
        ids = tokens(tok, texts).to(device)
        view, r = torch.from_numpy(rng.integers(0, 2, args.batch)).to(device), torch.from_numpy(rows).to(device)
        z = (mean[view, r] + std[view, r] * torch.randn_like(mean[0, r])) * lat["scale"]
        t = torch.from_numpy(((np.arange(args.batch) + rng.random()) * 1000 / args.batch).astype(int)).to(device)  # evenly over the noise levels
        a = abar[t].view(-1, 1, 1, 1); noise = torch.randn_like(z)
        noisy, target = a.sqrt() * z + (1 - a).sqrt() * noise, a.sqrt() * noise - (1 - a).sqrt() * z
        for g in opt.param_groups:
            g["lr"] = clock.lr(step)
        with amp():
            pred = unet(noisy, t, text(ids)[0]).sample
        loss = F.mse_loss(pred.float(), target)
        opt.zero_grad(set_to_none=True); loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0); opt.step(); step += 1; seen += args.batch; run.append(loss.item()); recent.append(run[-1])
        decay = min(0.9995, 1 - 1 / (1 + step / 10))
        with torch.no_grad():
            for avg, m in zip(ema, (text, unet)):
                torch._foreach_lerp_(list(avg.parameters()), list(m.parameters()), 1 - decay)
        if step % args.log == 0:
            print(f"unet step {step} loss {np.mean(run):.4f} {seen / (time.time() - t0):.0f} samples/s lr {clock.lr(step):.1e}", flush=True); run = []
        if step % (args.log * 20) == 0:
            save()
    save()
    note(args, "unet", f"loss {np.mean(recent):.3f}, {len(chosen)} pictures", steps=step - first, batch=args.batch, minutes=args.minutes)


@torch.no_grad()
def sample(args):
    """A grid: prompts down, seeds across, to look at."""
    base = args.out / "base"
    tok, text = CLIPTokenizer.from_pretrained(args.tokenizer), CLIPTextModel.from_pretrained(base / "text_encoder", torch_dtype=torch.float32).to(device)
    unet = UNet2DConditionModel.from_pretrained(base / "unet", torch_dtype=torch.float32).to(device)
    vae, sched = AutoencoderKL.from_pretrained(base / "vae").to(device), scheduler()
    sched.set_timesteps(30)
    rows = []
    for p in args.prompts.split(";"):
        ctx = text(tokens(tok, [""] * 6 + [p] * 6).to(device))[0]
        z = torch.randn(6, 4, 16, 16, generator=torch.Generator().manual_seed(0)).to(device)
        for t in sched.timesteps:
            u, c = unet(torch.cat([z, z]), t, ctx).sample.chunk(2)
            z = sched.step(u + args.guidance * (c - u), t, z).prev_sample
        image = vae.decode(z / vae.config.scaling_factor).sample.clamp(-1, 1).add(1).mul(127.5).byte().permute(0, 2, 3, 1).cpu().numpy()
        rows.append(np.concatenate(list(image), 1))
    Image.fromarray(np.concatenate(rows, 0)).save(args.out / "sample.png")


def pack(args):
    """Split the base's safetensors, as fp16, into parts under --max-mib (parts.json says which file each belongs to)."""
    from safetensors.torch import load_file, save_file
    parts, out = {}, args.out / "parts"
    out.mkdir(exist_ok=True)
    for f in sorted((args.out / "base").rglob("*.safetensors")):
        part, size, k = {}, 0, 0
        for name, tensor in list(load_file(f).items()) + [(None, None)]:
            nbytes = 0 if tensor is None else tensor.numel() * 2
            if part and (tensor is None or size + nbytes > args.max_mib * 2**20):
                save_file(part, out / f"{f.parent.name}-{k}.safetensors"); parts[f"{f.parent.name}-{k}.safetensors"] = str(f.relative_to(args.out)); k += 1
                part, size = {}, 0
            if tensor is not None:
                part[name] = tensor.half().contiguous(); size += tensor.numel() * 2
    (out / "parts.json").write_text(json.dumps(parts, indent=1))


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("stage", choices=["vae", "encode", "unet", "sample", "pack"])
    ap.add_argument("--art", type=pathlib.Path); ap.add_argument("--out", type=pathlib.Path, required=True)
    ap.add_argument("--tokenizer", type=pathlib.Path)
    ap.add_argument("--minutes", type=float, default=10); ap.add_argument("--batch", type=int, default=64); ap.add_argument("--lr", type=float)
    ap.add_argument("--crop", type=int, default=64); ap.add_argument("--log", type=int, default=50)
    ap.add_argument("--subjects", type=int, default=0, help="0 = all; else only N common words (common_words.json)")
    ap.add_argument("--threads", type=int, default=0, help="0 = PyTorch's choice; 1 when other jobs share the cores (threads that spin cost ten-fold)")
    ap.add_argument("--vae-channels", type=int, nargs=4, default=[16, 32, 64, 128])
    ap.add_argument("--unet-channels", type=int, nargs=4, default=[64, 128, 192, 192])
    ap.add_argument("--guidance", type=float, default=5.0); ap.add_argument("--max-mib", type=float, default=15)
    ap.add_argument("--prompts", default="A cat.;A dog.;A pizza.;A whale.;A red apple.;A castle.;A guitar.;A mushroom in the style of noto.;"
                                         "A mushroom in the style of black and white.;A sailboat in the style of outlined openmoji.")
    args = ap.parse_args(); args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    if args.threads:
        torch.set_num_threads(args.threads)
    {"vae": train_vae, "encode": encode, "unet": train_unet, "sample": sample, "pack": pack}[args.stage](args)
