"""Train the judge: two small CNNs, one tells what an emoji picture shows, the other in which style it is drawn.

    python tools/mini_base/train_judge.py --art art [--vae run/base/vae] [--candidates run/subjects.json]
                                          [--epochs 40] [--init FOLDER]

Needs the requirements beside it (PyTorch, diffusers) and the art that render_art.py makes; the runtime never imports
this file. The judge learns all subjects and all styles, also those that the mini base never sees: it must know them to
judge them. A fixed tenth of the (subject, style) pairs is kept back and only ever measured.

Generated pictures come out of a lossy autoencoder, so with --vae a part of the training pictures first goes through it.
For the subject they are also shifted, zoomed, blurred, resampled and noised, and some lose their colour, so that the
shape is learned. For the style they move only a little: line, texture and palette are what it is told by. Half of them
also get a part of another picture in the same style, so that no single drawing is learned.

--init goes on from the weights of an earlier run, also from the shipped ones (batch norm starts as the identity on
them).
"""
import argparse, json, pathlib, time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from judge_networks import (BLOCKS, SIZE, StyleNet, SubjectNet, fold, plain_forward, scaled, to_input,
                            warm_start)

TEST_SHARE, TEST_SEED = 0.1, 2
# these sets share one drawing per subject
FAMILIES = [{"fluent-3d", "fluent-emoji", "fluent-emoji-flat", "fluent-emoji-high-contrast"},
            {"openmoji", "openmoji-black"}, {"emojione", "emojione-monotone"}]
# two renderings of the same models that no eye tells apart at this size: one style
SAME_LOOK = {"fluent-emoji": "fluent-3d"}
LICENCES = ("Trained on Noto Emoji and its first version (Apache-2.0), Twemoji (CC-BY-4.0), Fluent Emoji in four "
            "variants (MIT), OpenMoji and OpenMoji black (CC-BY-SA-4.0), EmojiOne 2 and its monotone set (CC-BY-4.0), "
            "EmojiOne 1 (CC-BY-SA-4.0), FxEmojis (CC-BY-4.0) and Streamline Emojis (CC-BY-4.0); labels by emojibase "
            "(MIT).")


def moved(x, rng, share, turn=0.0, zoom=0.1, stretch=0.0, shift=0.1):
    """Mirrored or not, and a share of the pictures turned, zoomed, stretched and shifted by up to these amounts."""
    n = len(x)
    draw = lambda amount: torch.from_numpy(rng.uniform(-amount, amount, n).astype(np.float32))
    some = torch.from_numpy(rng.random(n) < share)
    turn, zoom, stretch = draw(turn) * some, torch.exp(draw(zoom) * some), torch.exp(draw(stretch) * some)
    flip = 1 - 2 * torch.from_numpy(rng.integers(0, 2, n).astype(np.float32))
    theta = torch.stack([flip * zoom * stretch * turn.cos(), -zoom * turn.sin(), draw(shift) * some,
                         flip * zoom * turn.sin(), zoom / stretch * turn.cos(), draw(shift) * some], 1).view(n, 2, 3)
    return F.grid_sample(x, F.affine_grid(theta, x.shape, align_corners=False), padding_mode="border",
                         align_corners=False)


def tinted(x, rng, brightness, colour):
    """Ink a little brighter or darker and of another tone; the paper stays white."""
    n = len(x)
    gain = torch.from_numpy(rng.uniform(1 - brightness, 1 + brightness, (n, 1, 1, 1)).astype(np.float32))
    gain = gain * (1 + colour * torch.from_numpy(rng.standard_normal((n, 3, 1, 1)).astype(np.float32)))
    return (x - 1).mul_(gain).add_(1).clamp_(-1, 1)


def for_subject(x, labels, rng):
    """What may happen to a picture without changing its subject; every picture gets its own random mix."""
    n = len(x)
    draw = lambda low, high, rows: torch.from_numpy(rng.uniform(low, high, rows).astype(np.float32))
    some = lambda share: torch.from_numpy(np.flatnonzero(rng.random(n) < share))
    x = moved(x, rng, 0.85, turn=0.15, zoom=0.2, stretch=0.08, shift=0.12)

    def resample(v, side):
        return F.interpolate(F.interpolate(v, side, mode="area"), SIZE, mode="bilinear", align_corners=False)

    def mix(rows, change):
        if len(rows):
            x[rows] = torch.lerp(x[rows], change(x[rows]), draw(0.3, 1, len(rows)).view(-1, 1, 1, 1))

    mix(some(0.25), lambda v: resample(v, int(rng.integers(40, 112))))
    mix(some(0.2), lambda v: F.avg_pool2d(v, 3, 1, 1, count_include_pad=False))
    x = tinted(x, rng, 0.1, 0.05)
    rows = some(0.3)
    x[rows] += torch.randn_like(x[rows]) * draw(0.01, 0.12, len(rows)).view(-1, 1, 1, 1)
    return discoloured(x.clamp_(-1, 1), rng)


def for_style(x, labels, rng):
    """What may happen to a picture without changing its style.

    Moves by whole pixels only, without resampling, came out the same.
    """
    return patched(tinted(moved(x, rng, 0.5), rng, 0.0, 0.02), labels, rng, 0.5)


def patched(x, labels, rng, share):
    """A share of the pictures with a rectangle out of another one with the same label, in the same place."""
    mixed = x.clone()
    for i in np.flatnonzero(rng.random(len(x)) < share):
        (height, width), other = (rng.integers(SIZE // 4, 3 * SIZE // 4, 2),
                                  rng.choice(np.flatnonzero(labels == labels[i])))
        top, left = rng.integers(SIZE - height), rng.integers(SIZE - width)
        mixed[i, :, top:top + height, left:left + width] = x[other, :, top:top + height, left:left + width]
    return mixed


def discoloured(x, rng, share=0.2):
    """A share of the pictures in grey, their contrast changed: the subject can still be told."""
    rows = torch.from_numpy(np.flatnonzero(rng.random(len(x)) < share))
    weights = torch.from_numpy(rng.dirichlet([2, 2, 2], len(rows)).astype(np.float32)).view(-1, 3, 1, 1)
    contrast = torch.from_numpy(rng.uniform(0.7, 2.5, len(rows)).astype(np.float32)).view(-1, 1, 1, 1)
    x[rows] = ((x[rows] * weights).sum(1, keepdim=True) - 1).mul(contrast).add(1).clamp(-1, 1).expand(-1, 3, -1, -1)
    return x


def net_loss(net, x, labels, smoothing):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = net(to_input(x))
    return F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)


@torch.no_grad()
def reconstruct(pictures, folder):
    """The pictures as the mini base's autoencoder gives them back.

    Its latents are a little disturbed, as generated ones are.
    """
    from diffusers import AutoencoderKL
    vae, out, start = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32).eval().to(
        memory_format=torch.channels_last), [], time.time()
    for i in range(0, len(pictures), 32):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            z = vae.encode(scaled(pictures[i:i + 32]).contiguous(
                memory_format=torch.channels_last)).latent_dist.mean.float()
            y = vae.decode(z + 0.1 * z.std() * torch.randn_like(z)).sample
        out.append(y.float().clamp(-1, 1).add(1).mul(127.5).round().byte().contiguous().numpy())
    print(f"{len(pictures)} autoencoder reconstructions in {time.time() - start:.0f} s", flush=True)
    return np.concatenate(out)


@torch.no_grad()
def figures(weights, pictures, subject, style, candidates=None):
    logits, styles = [torch.cat(v).numpy() for v in zip(*[plain_forward(weights, to_input(scaled(pictures[i:i + 128])))
                                                          for i in range(0, len(pictures), 128)])]
    if candidates is not None:
        keep = np.isin(subject, candidates)
        logits, styles, subject, style = (logits[keep][:, candidates], styles[keep],
                                          np.searchsorted(candidates, subject[keep]), style[keep])
    rank = (logits > logits[np.arange(len(subject)), subject][:, None]).sum(1)
    return dict(pictures=len(subject), subject_top1=float(np.round(np.mean(rank < 1), 4)),
                subject_top5=float(np.round(np.mean(rank < 5), 4)),
                style=float(np.round(np.mean(styles.argmax(1) == style), 4))), styles.argmax(1)


def evaluate(weights, pictures, subject, art_set, style, train, test, info, candidates, recon):
    """All figures that judge.json reports.

    `recon` holds the test pictures as the autoencoder gives them back, or None.
    """
    names, known = info["styles"], looks(info)
    shown = {(int(subject[i]), names[art_set[i]]) for i in train}
    family = lambda s: next((f for f in FAMILIES if s in f), {s})
    new = np.array([i for i in test if not any((int(subject[i]), s) in shown for s in family(names[art_set[i]]))])
    report, guess = figures(weights, pictures[test], subject[test], style[test])
    report["new_drawings"] = figures(weights, pictures[new], subject[new], style[new])[0]
    report["new_drawings"]["meaning"] = "held-out pictures whose drawing was not seen in a sister style either"
    if candidates is not None:
        report["candidates"] = figures(weights, pictures[test], subject[test], style[test],
                                       candidates)[0] | {"candidates": len(candidates)}
        report["candidates_new_drawings"] = figures(weights, pictures[new], subject[new], style[new], candidates)[0]
    if recon is not None:
        report["through_autoencoder"] = figures(weights, recon, subject[test], style[test])[0]
        if candidates is not None:
            report["candidates_through_autoencoder"] = figures(weights, recon, subject[test], style[test],
                                                               candidates)[0]
    report["by_style"] = {}
    for k, name in enumerate(names):
        rows = test[art_set[test] == k]
        wrong = np.bincount(guess[(art_set[test] == k) & (guess != style[test])], minlength=len(known))
        report["by_style"][name] = figures(weights, pictures[rows], subject[rows], style[rows])[0]
        if wrong.any():
            report["by_style"][name]["mostly_taken_for"] = known[int(wrong.argmax())]
    return report


def looks(info):
    """The styles that the judge tells apart."""
    return [name for name in info["styles"] if name not in SAME_LOOK]


def write_reference(folder, pictures, subject, art_set, test, info, path, count=10):
    """Held-out pictures and PyTorch's logits of them, in fp32 from the exported weights: for test_judge.py."""
    rows = test[np.linspace(0, len(test) - 1, count).astype(int)]
    with torch.no_grad():
        logits = plain_forward(load_file(folder / "judge.safetensors"), to_input(scaled(pictures[rows])))
    np.savez_compressed(path, pictures=pictures[rows].transpose(0, 2, 3, 1), subject_logits=logits[0].numpy(),
                        style_logits=logits[1].numpy(), subjects=[info["subjects"][i] for i in subject[rows]],
                        styles=[info["styles"][i] for i in art_set[rows]])


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--art", type=pathlib.Path, required=True, help="folder with art.npz and art.json")
    ap.add_argument("--out", type=pathlib.Path,
                    default=pathlib.Path(__file__).parents[2] / "styleblend" / "data" / "judge")
    ap.add_argument("--vae", type=pathlib.Path,
                    help="autoencoder of the mini base: a part of the training pictures passes through it")
    ap.add_argument("--vae-share", type=float, default=0.5,
                    help="share of the training pictures that are also shown as it gives them back")
    ap.add_argument("--init", type=pathlib.Path, help="folder with the judge.safetensors to go on from")
    ap.add_argument("--only", nargs=1, choices=["subject", "style"], help="train one of the two networks, with --init")
    ap.add_argument("--candidates", type=pathlib.Path,
                    help="JSON list of subject labels: report the figures among these as well")
    ap.add_argument("--reference", type=pathlib.Path,
                    help="train nothing: write this file for tests/metrics/test_judge.py from the weights in --out")
    ap.add_argument("--epochs", type=float, default=40)
    ap.add_argument("--batch", type=int, default=128)
    ap.add_argument("--lr", type=float, default=3e-3)
    ap.add_argument("--seed", type=int, default=0, help="of the training, not of the test pairs: these stay")
    ap.add_argument("--threads", type=int, default=0, help="0 = PyTorch's choice")
    ap.add_argument("--compile", action="store_true", help="torch.compile: twice as fast after half a minute")
    args = ap.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    data, info = np.load(args.art / "art.npz"), json.loads((args.art / "art.json").read_text())
    pictures = np.ascontiguousarray(data["picture"].transpose(0, 3, 1, 2))
    subject, art_set = data["subject"].astype(int), data["style"].astype(int)
    style = np.array([looks(info).index(SAME_LOOK.get(name, name)) for name in info["styles"]])[art_set]
    if pictures.shape[2:] != (SIZE, SIZE):
        raise SystemExit(f"the judge learns from pictures of {SIZE} x {SIZE}, these are {pictures.shape[2:]}")
    order = np.random.default_rng(TEST_SEED).permutation(len(pictures))
    cut = round(TEST_SHARE * len(order))
    test, train = np.sort(order[:cut]), np.sort(order[cut:])
    if args.reference:
        return write_reference(args.out, pictures, subject, art_set, test, info, args.reference)
    candidates = (np.sort([info["subjects"].index(s) for s in json.loads(args.candidates.read_text())])
                  if args.candidates else None)
    rng = np.random.default_rng(args.seed)
    through = np.sort(rng.permutation(train)[:int(args.vae_share * len(train))]) if args.vae else np.empty(0, int)
    recon = reconstruct(pictures[np.concatenate([test, through])], args.vae) if args.vae else None
    recon_row = np.full(len(pictures), -1)
    recon_row[through] = np.arange(len(test), len(test) + len(through))

    nets = nn.ModuleDict(dict(subject=SubjectNet(len(info["subjects"])), style=StyleNet(len(looks(info))))).to(
        memory_format=torch.channels_last)
    if args.init:
        warm_start(nets, args.init, to_input(scaled(pictures[train[::40]])))
    learning = nn.ModuleDict({name: nets[name] for name in args.only or nets})
    learners = [(torch.compile(net) if args.compile else net,
                 *{"subject": (for_subject, subject, 0.05), "style": (for_style, style, 0.02)}[name])
                for name, net in learning.items()]
    decay = [p for p in learning.parameters() if p.ndim > 1]
    opt = torch.optim.AdamW([{"params": decay, "weight_decay": 0.05},
                             {"params": [p for p in learning.parameters() if p.ndim == 1], "weight_decay": 0}],
                            args.lr, betas=(0.9, 0.98), fused=True)
    steps = int(args.epochs * len(train) / args.batch)
    plan = torch.optim.lr_scheduler.OneCycleLR(opt, args.lr, total_steps=steps, pct_start=0.15)
    queue, start, run = np.empty(0, int), time.time(), []
    print(f"{len(train)} pictures to learn, {len(test)} kept back, "
          f"{sum(p.numel() for p in learning.parameters()) / 1e6:.2f} M parameters, {steps} steps", flush=True)
    for step in range(1, steps + 1):
        if len(queue) < args.batch:
            queue = np.concatenate([queue, rng.permutation(train)])
        rows, queue = np.sort(queue[:args.batch]), queue[args.batch:]
        batch = pictures[rows]
        if recon is not None:
            swap = (recon_row[rows] >= 0) & (rng.random(len(rows)) < 0.6)
            batch[swap] = recon[recon_row[rows[swap]]]
        x = scaled(batch)
        losses = [net_loss(net, change(x, labels[rows], rng), torch.from_numpy(labels[rows]), smoothing)
                  for net, change, labels, smoothing in learners]
        opt.zero_grad(set_to_none=True)
        sum(losses).backward()
        opt.step()
        plan.step()
        run.append([loss.item() for loss in losses])
        if step % 100 == 0:
            print(f"step {step}/{steps} loss {np.round(np.mean(run, 0), 3)} "
                  f"{step * args.batch / (time.time() - start):.0f} pictures/s, "
                  f"CPU {time.process_time() / 60:.1f} min", flush=True)
            run = []
    minutes = time.process_time() / 60

    weights = fold(nets.eval())
    args.out.mkdir(parents=True, exist_ok=True)
    save_file(weights, args.out / "judge.safetensors",
              metadata={"size": str(SIZE), "blocks": ",".join(map(str, BLOCKS))})
    with torch.no_grad():
        report = evaluate(weights, pictures, subject, art_set, style, train, test, info, candidates,
                          None if recon is None else recon[:len(test)])
    compact = lambda v: json.dumps(v, separators=(",", ":"))
    fields = dict(size=SIZE, blocks=list(BLOCKS), sets=info["styles"], styles=looks(info), same_look=SAME_LOOK,
                  subjects=info["subjects"], heldout=report,
                  heldout_pairs=[[int(subject[i]), int(art_set[i])] for i in test],
                  recipe=f"{steps} steps of {args.batch} pictures, AdamW at {args.lr:g}, one cycle, label smoothing"
                         + (f", {len(through)} pictures also through the autoencoder" if args.vae else "")
                         + f"; {minutes:.0f} minutes of CPU time"
                         + (", from the weights of an earlier run" if args.init else ""),
                  licences=LICENCES)
    (args.out / "judge.json").write_text(
        "{\n" + ",\n".join(f" {compact(k)}: {compact(v)}" for k, v in fields.items()) + "\n}\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
