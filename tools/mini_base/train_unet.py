"""Train the text encoder and the UNet of the mini base on the latents that encode.py made.

    python tools/mini_base/train_unet.py --out OUT --tokenizer checkpoints/mini/base/tokenizer --minutes 240 --lr 5e-4

Goes on from OUT/unet.pt, without it from OUT/base/ (its optimiser's state is too large to travel), without that from
random numbers. The state is saved every --save minutes, at the end, and on SIGTERM; the learning rate falls to zero
over the last 40 % of --minutes.
"""
import copy, pathlib

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from art import caption
from base_folder import save_base, scheduler, tokens
from training import amp, checkpoint, device, follow, learn, options, parsed, run, saved_often

PARTS = ("text", "unet", "ema_text", "ema_unet")


def new_models(channels):
    text = CLIPTextModel(CLIPTextConfig(
        vocab_size=49408, hidden_size=128, intermediate_size=512, projection_dim=128, num_hidden_layers=4,
        num_attention_heads=4, max_position_embeddings=77, hidden_act="gelu", pad_token_id=0, bos_token_id=49406,
        eos_token_id=49407))
    unet = UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=channels, layers_per_block=2,
        norm_num_groups=16, cross_attention_dim=128, attention_head_dim=[max(1, c // 64) for c in channels],
        use_linear_projection=True, down_block_types=["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3)
    if device == "cpu":  # at these sizes the backward pass of the fused attention costs more than the scores
        text.set_attn_implementation("eager")
        unet.set_attn_processor(AttnProcessor())
    layout = torch.channels_last if device == "cuda" else torch.contiguous_format
    return text.to(device), unet.to(device, memory_format=layout)


class Networks:
    """Text encoder, UNet, their running means and the optimiser: how they begin, are kept, and go on."""

    def __init__(self, args):
        self.out, self.state, self.tokenizer, self.step = args.out, args.out / "unet.pt", args.tokenizer, 0
        self.text, self.unet = new_models(tuple(args.unet_channels))
        self.params = [*self.text.parameters(), *self.unet.parameters()]
        if not self.state.exists() and (self.out / "base" / "unet").exists():
            for model, name in ((self.text, "text_encoder"), (self.unet, "unet")):
                shipped = type(model).from_pretrained(self.out / "base" / name, torch_dtype=torch.float32)
                model.load_state_dict(shipped.state_dict())
        self.ema_text, self.ema_unet = (copy.deepcopy(m).eval().requires_grad_(False) for m in (self.text, self.unet))
        self.opt = torch.optim.AdamW(self.params, args.lr, betas=(0.9, 0.99), weight_decay=1e-2, fused=True)
        if self.state.exists():
            kept = torch.load(self.state, map_location=device)
            for name in PARTS:
                getattr(self, name).load_state_dict(kept[name])
            self.opt.load_state_dict(dict(kept["opt"], param_groups=self.opt.state_dict()["param_groups"]))
            self.step = kept["step"]

    def save(self):
        parts = {name: getattr(self, name).state_dict() for name in PARTS}
        checkpoint(self.state, **parts, opt=self.opt.state_dict(), step=self.step)
        save_base(self.out / "base", self.ema_text, self.ema_unet, self.tokenizer)

    def update(self, loss, lr, longest):
        """One step of the optimiser, and of the running means: over the last `longest` steps at most."""
        learn(self.opt, loss, lr, self.params)
        self.step += 1
        for mean, model in ((self.ema_text, self.text), (self.ema_unet, self.unet)):
            follow(mean, model, self.step, longest)


class Batches:
    """Noised latents, noise levels, token ids and v-prediction targets, drawn anew at every call."""

    unnamed = 0.1  # share of the pictures whose caption is left out, for guidance

    def __init__(self, args, step):
        self.rng, self.args = np.random.default_rng(step), args
        torch.manual_seed(step)
        kept = torch.load(args.out / "latents.pt", weights_only=False)
        self.mean, self.std = kept["mean"].to(device), kept["std"].to(device)
        self.scale, self.info = kept["scale"], kept["info"]
        self.labels = np.stack([kept["subject"], kept["style"], kept["look"]], 1)
        self.own, self.treated = np.flatnonzero(kept["look"] == 0), np.flatnonzero(kept["look"])
        self.tok, self.abar = CLIPTokenizer.from_pretrained(args.tokenizer), scheduler().alphas_cumprod.to(device)

    def levels(self, n):
        """Noise levels 0..999, evenly over their distribution: uniform, or a normal one of log(t / (1000 - t))."""
        share = torch.from_numpy((np.arange(n) + self.rng.random()) / n)
        if self.args.levels:
            centre, spread = self.args.levels
            share = torch.sigmoid(centre + spread * torch.special.ndtri(share))
        return (share * 1000).long().clamp(0, 999).to(device)

    def rows(self, n):
        treated = round(n * self.args.treated) if len(self.treated) else 0
        return np.concatenate([self.rng.choice(self.treated, treated), self.rng.choice(self.own, n - treated)])

    def __call__(self, n):
        return self.of(self.rng.permutation(self.rows(n)))  # the levels are in order

    def of(self, rows):
        """The batch of these rows of the latents."""
        texts = ["" if self.rng.random() < self.unnamed else caption(self.rng, self.info, *self.labels[r])
                 for r in rows]
        at = torch.from_numpy(rows).to(device)
        mean, std, t = self.mean[at].float(), self.std[at].float(), self.levels(len(rows))
        z = (mean + std * torch.randn_like(mean)) * self.scale
        a, noise = self.abar[t].view(-1, 1, 1, 1), torch.randn_like(z)
        return (a.sqrt() * z + (1 - a).sqrt() * noise, t, tokens(self.tok, texts).to(device),
                a.sqrt() * noise - (1 - a).sqrt() * z)


def train(args):
    nets = Networks(args)
    batches = Batches(args, nets.step)
    size = sum(p.numel() for p in nets.unet.parameters()) / 1e6
    print(f"{len(batches.labels)} latents ({len(batches.treated)} treated), {size:.1f} M UNet parameters, "
          f"step {nets.step}", flush=True)

    def loss():
        noisy, t, ids, target = batches(args.batch)
        with amp():
            guess = nets.unet(noisy, t, nets.text(ids)[0]).sample
        return F.mse_loss(guess.float(), target)

    run(args, nets, "unet", loss, f", {len(batches.labels)} latents")


if __name__ == "__main__":
    ap = options(__doc__, minutes=10, batch=64, lr=1e-3)
    ap.add_argument("--tokenizer", type=pathlib.Path, required=True)
    ap.add_argument("--treated", type=float, default=0.5, help="share of a batch that comes from treated pictures")
    ap.add_argument("--levels", type=float, nargs=2, metavar=("CENTRE", "SPREAD"),
                    help="draw noise levels from a logit-normal distribution; without it evenly")
    saved_often(ap, ema=2000)
    ap.add_argument("--unet-channels", type=int, nargs=4, default=[64, 128, 192, 192])
    train(parsed(ap))
