"""Train a ControlNet for the mini base: from the edges of a picture to its layout.

    python tools/mini_base/train_controlnet.py --art ART --out OUT --tokenizer TOKENIZER --minutes 60 --lr 5e-4

Reads the finished base OUT/base, the latents of encode.py and the pictures they were made of; writes
OUT/controlnet_canny/, a diffusers folder in half precision. The base stays as it is. Goes on from OUT/controlnet.pt;
the state is saved every --save minutes, at the end, and on SIGTERM.
"""
import copy, json, pathlib, sys

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextModel

from art import load_art
from training import amp, checkpoint, device, follow, learn, options, parsed, run, saved_often
from train_unet import Batches

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
from styleblend.files.canny import canny  # noqa: E402  the program's own edges

WIDTHS = (8, 16, 32, 64)  # of the layers that read the edges
UNNAMED = 0.3  # share of the pictures whose caption is left out: the edges alone must say what is there


class Steered(Batches):
    """Batches of the UNet's training, each picture with its edges."""

    unnamed = UNNAMED

    def __init__(self, args, step):
        super().__init__(args, step)
        kept = torch.load(args.out / "latents.pt", weights_only=False)
        subjects = json.loads((args.out / "base" / "subjects.json").read_text())
        self.art, self.row, self.mirrored = load_art(args.art, subjects), kept["row"], kept["mirrored"]
        if len(self.art.picture) <= max(self.row):
            raise SystemExit(f"{args.art} has fewer pictures than {args.out}/latents.pt was made of: encode them again")

    def edges(self, rows):
        """(n, 3, side, side) in 0..1."""
        pictures = [self.art.picture[self.row[r]] for r in rows]
        pictures = [picture[:, ::-1] if self.mirrored[r] else picture for picture, r in zip(pictures, rows)]
        maps = np.stack([canny(picture) for picture in pictures])
        return torch.from_numpy(maps).to(device).float().div(255)[:, None].expand(-1, 3, -1, -1)

    def __call__(self, n):
        rows = self.rng.permutation(self.rows(n))
        return self.edges(rows), *self.of(rows)


class Networks:
    """The frozen base, the ControlNet and its running mean."""

    def __init__(self, args):
        base = args.out / "base"
        self.text = CLIPTextModel.from_pretrained(base / "text_encoder", torch_dtype=torch.float32)
        self.unet = UNet2DConditionModel.from_pretrained(base / "unet", torch_dtype=torch.float32)
        self.net = ControlNetModel.from_unet(self.unet, conditioning_embedding_out_channels=WIDTHS)
        if device == "cpu":  # at these sizes the backward pass of the fused attention costs more than the scores
            self.text.set_attn_implementation("eager")
            for model in (self.unet, self.net):
                model.set_attn_processor(AttnProcessor())
        for model in (self.text, self.unet):
            model.to(device).eval().requires_grad_(False)
        self.net.to(device).train()
        self.mean = copy.deepcopy(self.net).eval().requires_grad_(False)
        self.params, self.state, self.step = list(self.net.parameters()), args.out / "controlnet.pt", 0
        self.opt = torch.optim.AdamW(self.params, args.lr, betas=(0.9, 0.99), weight_decay=1e-2, fused=True)
        self.folder = args.out / "controlnet_canny"
        if self.state.exists():
            kept = torch.load(self.state, map_location=device)
            self.net.load_state_dict(kept["net"])
            self.mean.load_state_dict(kept["mean"])
            self.opt.load_state_dict(dict(kept["opt"], param_groups=self.opt.state_dict()["param_groups"]))
            self.step = kept["step"]

    def save(self):
        checkpoint(self.state, net=self.net.state_dict(), mean=self.mean.state_dict(), opt=self.opt.state_dict(),
                   step=self.step)
        copy.deepcopy(self.mean).half().save_pretrained(self.folder)

    def guess(self, noisy, t, ids, edges):
        """The UNet's v with what the ControlNet adds."""
        with torch.no_grad():
            text = self.text(ids)[0]
        down, mid = self.net(noisy, t, text, controlnet_cond=edges, return_dict=False)
        return self.unet(noisy, t, text, down_block_additional_residuals=down, mid_block_additional_residual=mid).sample

    def update(self, loss, lr, longest):
        learn(self.opt, loss, lr, self.params)
        self.step += 1
        follow(self.mean, self.net, self.step, longest)


def train(args):
    nets = Networks(args)
    batches = Steered(args, nets.step)
    print(f"{sum(p.numel() for p in nets.params) / 1e6:.1f} M ControlNet parameters, step {nets.step}", flush=True)

    def loss():
        edges, noisy, t, ids, target = batches(args.batch)
        with amp():
            guess = nets.guess(noisy, t, ids, edges)
        return F.mse_loss(guess.float(), target)

    run(args, nets, "controlnet", loss)


if __name__ == "__main__":
    ap = options(__doc__, minutes=60, batch=32, lr=5e-4)
    ap.add_argument("--art", type=pathlib.Path, required=True)
    ap.add_argument("--tokenizer", type=pathlib.Path, required=True)
    ap.add_argument("--treated", type=float, default=0.5, help="share of a batch that comes from treated pictures")
    ap.add_argument("--levels", type=float, nargs=2, metavar=("CENTRE", "SPREAD"),
                    help="draw noise levels from a logit-normal distribution; without it evenly")
    saved_often(ap, ema=300)
    train(parsed(ap))
