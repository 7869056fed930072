"""A start for the style encoder's network: a small CLIP image encoder that tells the looks of the base apart.

    python tools/mini_base/train_vision.py --art art --out vision --minutes 60
    python tools/mini_base/train_vision.py --art art --out told --start vision --tokens tokens --minutes 8 --lr 5e-4
    python -m styleblend train encoder --config mini --corpus corpus --name mini --stage encoder --start told

It sees all subjects that are not held out, also those that the base does not draw, and each look equally often.
Pictures are moved, zoomed and perhaps mirrored, half of them with a piece of another one in the same look: else it
would know them by heart. It sees a few patches of each at a time, since a look is in all of them: that is less work,
and it cannot lean on one detail (Li et al. 2023, "Scaling Language-Image Pre-training via Masking"). A start of another
`patch_size` is brought to this one. With `--tokens` it learns the tokens of the looks that style_corpus.py wrote, in
place of their numbers: the first steps of the stage `encoder`, on pictures that are moved as well. At the end it says
how many it tells rightly of the held-out subjects.
"""
import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, CLIPVisionModel

from art import HELD_OUT_EVERY, STYLE_WORDS, columns, load_art
from training import amp

SIZES = dict(hidden_size=192, intermediate_size=768, num_hidden_layers=6, num_attention_heads=6, image_size=128,
             patch_size=8, hidden_act="quick_gelu")  # as in configs/mini.yaml, and so is this
TEMPLATE = "{prompt} in the style of {}."


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--art", type=Path, required=True, help="the folder of render_art.py")
    parser.add_argument("--out", type=Path, required=True, help="a folder for config.json and model.safetensors")
    parser.add_argument("--start", type=Path, help="a folder that this program or `train encoder` wrote, to go on from")
    parser.add_argument("--tokens", type=Path, help="the folder of style_corpus.py, to learn these in place of looks")
    parser.add_argument("--patches", type=int, default=40, help="of the 256 patches of a picture, seen at a time")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rng, art = np.random.default_rng(0), load_art(args.art)
    looks = [art.info["styles"].index(style) for style in STYLE_WORDS]
    of_look = [np.flatnonzero((art.style == look) & (art.look == 0)) for look in looks]
    network = CLIPVisionModel(CLIPVisionConfig(**SIZES))
    network.set_attn_implementation("eager")  # PyTorch's fused one is slow backwards: 2.5 s a step for 1.4
    head = TokenHead(args.tokens) if args.tokens else LookHead(SIZES["hidden_size"], len(looks))
    if args.start:
        network.load_state_dict(started(args.start))
    network.train()
    optimiser = torch.optim.AdamW([*network.parameters(), *head.parameters()], lr=args.lr, weight_decay=0.05)
    began, step, right = time.time(), 0, []
    while (share := (time.time() - began) / (60 * args.minutes)) < 1:
        for group in optimiser.param_groups:  # a warm-up of 100 steps, then a cosine of the time that is left
            group["lr"] = args.lr * min(1, (step + 1) / 100) * (1 + np.cos(np.pi * share)) / 2
        index = np.array([rng.choice(of_look[look]) for look in rng.integers(len(looks), size=args.batch)])
        shown = patched(rng, moved(rng, pixels(art.picture[index])), art.style[index])
        with amp():
            seen = pooled(network, shown, args.patches)
        labels = torch.tensor([looks.index(style) for style in art.style[index]])
        loss, told = head.loss(seen.float(), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        step += 1
        right.append(float((told == labels).float().mean()))
        if step % 20 == 0:
            print(f"step {step}, {time.time() - began:.0f} s, loss {loss.item():.3f}, right {np.mean(right[-20:]):.3f}",
                  flush=True)
    save(network, head, args.out)
    print(f"told rightly of held-out subjects: {told_rightly(network.eval(), head, args.art, art.info, looks):.3f}")


class LookHead(torch.nn.Linear):
    """Which look a picture has, told from what the network makes of it."""

    about = {}

    def told(self, seen):
        return self(seen).argmax(1)

    def loss(self, seen, labels):
        logits = self(seen)
        return torch.nn.functional.cross_entropy(logits, labels), logits.argmax(1)


class TokenHead(torch.nn.Linear):
    """The map to the tokens of each look's words: those of any of its pictures, which all have the same."""

    def __init__(self, folder):
        words = [load_file(next((folder / style).glob("*.safetensors")))["style_tokens"] for style in STYLE_WORDS]
        super().__init__(SIZES["hidden_size"], words[0].numel())
        self.about = {"tokens": words[0].shape[0], "width": words[0].shape[1], "template": TEMPLATE}
        self.register_buffer("words", torch.stack([one.flatten() for one in words]))
        with torch.no_grad():
            self.weight.zero_()
            self.bias.copy_(self.words.mean(0))

    def told(self, seen):
        return torch.cdist(self(seen), self.words).argmin(1)

    def loss(self, seen, labels):
        """The absolute error, of which 1 is that of their mean.

        Where a look is more likely than not, its own words have the least; of squares a mean of all likely ones has.
        """
        error = (self(seen) - self.words[labels]).abs().mean()
        return error / (self.words - self.words.mean(0)).abs().mean(), self.told(seen)


def pooled(network, pictures, count):
    """What the network makes of `count` patches of each picture (N, 3, H, W), drawn from those that are not empty while
    there are such: (N, hidden_size)."""
    patches = torch.nn.functional.unfold(pictures, SIZES["patch_size"], stride=SIZES["patch_size"])
    order = (torch.rand(len(pictures), patches.shape[2]) + (patches.std(1) > 0.01)).argsort(1, descending=True)
    kept = torch.cat([torch.zeros(len(pictures), 1, dtype=torch.long), 1 + order[:, :count]], 1)  # the class token
    tokens = network.pre_layrnorm(network.embeddings(pictures))
    tokens = tokens.gather(1, kept[..., None].expand(-1, -1, tokens.shape[2]))
    return network.post_layernorm(network.encoder(inputs_embeds=tokens).last_hidden_state[:, 0])


def started(folder):
    """The weights of a folder, under the names of this version of transformers, for patches of SIZES."""
    weights = {name.removeprefix("vision_model."): tensor.float()
               for name, tensor in load_file(folder / "model.safetensors").items() if not name.startswith("proj.")}
    kernel, places = "embeddings.patch_embedding.weight", "embeddings.position_embedding.weight"
    old, size = weights[kernel].shape[-1], SIZES["patch_size"]
    if old != size:
        weights[kernel] = resized(weights[kernel], size) * (old / size) ** 2
        grid = weights[places][1:].reshape(1, SIZES["image_size"] // old, SIZES["image_size"] // old, -1)
        grid = resized(grid.permute(0, 3, 1, 2), SIZES["image_size"] // size)
        weights[places] = torch.cat([weights[places][:1], grid.flatten(2)[0].T])
    return weights


def resized(x, side):
    return torch.nn.functional.interpolate(x, size=(side, side), mode="bilinear", antialias=True, align_corners=False)


def pixels(pictures):
    """Pictures (N, H, W, 3) uint8 as the style encoder reads them: (N, 3, H, W) in -1..1."""
    return torch.from_numpy(pictures.astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2)


def moved(rng, pictures):
    """The pictures zoomed by 0.85 to 1.1 and shifted by up to a twelfth of their side, half of them mirrored."""
    count, ends = len(pictures), np.zeros((len(pictures), 2, 3), np.float32)
    ends[:, 1, 1] = 1 / rng.uniform(0.85, 1.1, count)
    ends[:, 0, 0] = ends[:, 1, 1] * rng.choice([-1, 1], count)
    ends[:, :, 2] = rng.uniform(-1 / 6, 1 / 6, (count, 2))
    grid = torch.nn.functional.affine_grid(torch.from_numpy(ends), pictures.shape, align_corners=False)
    return torch.nn.functional.grid_sample(pictures, grid, padding_mode="border", align_corners=False)


def patched(rng, pictures, looks):
    """Half of the pictures with a rectangle of another one in the same look, in the same place."""
    mixed, side = pictures.clone(), pictures.shape[2]
    for one in np.flatnonzero(rng.random(len(pictures)) < 0.5):
        other = rng.choice(np.flatnonzero(looks == looks[one]))
        height, width = rng.integers(side // 4, 3 * side // 4, 2)
        top, left = rng.integers(side - height), rng.integers(side - width)
        piece = (slice(None), slice(top, top + height), slice(left, left + width))
        mixed[one][piece] = pictures[other][piece]
    return mixed


@torch.no_grad()
def told_rightly(network, head, folder, info, looks):
    """Share of the pictures of subjects that no training sees whose look is told rightly."""
    picture, subject, style, _, _ = columns(folder / "art.npz", None)
    chosen = np.flatnonzero(np.isin(style, looks) & (subject % HELD_OUT_EVERY == HELD_OUT_EVERY - 1))
    found = [head.told(network(pixels(picture[part])).pooler_output).numpy()
             for part in np.array_split(chosen, 1 + len(chosen) // 64)]
    return float((np.concatenate(found) == [looks.index(one) for one in style[chosen]]).mean())


def save(network, head, folder):
    folder.mkdir(parents=True, exist_ok=True)
    if head.about:
        save_file({f"proj.{name}": tensor.detach() for name, tensor in head.named_parameters()},
                  folder / "mapping.safetensors")
    tensors = {name if name.startswith("vision_model.") else f"vision_model.{name}": tensor.contiguous()
               for name, tensor in network.state_dict().items() if not name.endswith("position_ids")}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**SIZES, **head.about}, indent=1))


if __name__ == "__main__":
    main()
