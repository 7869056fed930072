"""How like its style's pictures is other art of the same style?

The limits beyond which a training speaks of a leak (`styleblend/training/scores.py`) come from here.

Real art (art.npz and art.json of tools/mini_base/render_art.py) in the features of the judge: of each style some
pictures are taken for its style pictures, over and over, and all that the judge never saw are held against them. How
near these come to their nearest one is what drawing in a style looks like without a leak; changed copies are what a
leak looks like.
"""
import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from styleblend.cli.options import HelpFormatter
from styleblend.metrics.judge import Judge, JudgeMetric
from styleblend.training.scores import likeness_limit

COUNTS = (3, 6, 10)  # style pictures
COPIES = {"noise": lambda p, rng: np.clip(p + rng.normal(0, 8, p.shape), 0, 255).astype(np.uint8),
          "shifted": lambda p, rng: np.roll(p, 8, 2), "mirrored": lambda p, rng: p[:, :, ::-1].copy(),
          "turned": lambda p, rng: each(p, lambda i: i.rotate(10, Image.BICUBIC, fillcolor="white")),
          "blurred": lambda p, rng: each(p, lambda i: i.filter(ImageFilter.GaussianBlur(1)))}


def each(pictures: np.ndarray, change) -> np.ndarray:
    return np.stack([np.asarray(change(Image.fromarray(p))) for p in pictures])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("art", type=Path, help="folder with art.npz and art.json")
    parser.add_argument("--draws", type=int, default=100, help="sets of style pictures of each size for each style")
    args = parser.parse_args()
    judge, about, rng = Judge.load(), json.loads((args.art / "art.json").read_text()), np.random.default_rng(0)
    with np.load(args.art / "art.npz") as art:
        pictures, subjects, styles = (art[name] for name in ("picture", "subject", "style"))
    titles = ["pictures", "99% below", "> style", "> half way", f"> {JudgeMetric.held_out}", *COPIES]
    print("Of held-out art: what 99 in 100 stay below, and how many are above three limits; "
          f"of copies, how many are above {JudgeMetric.held_out}")
    print(f"{'style':28}" + "".join(f"{title:>12}" for title in titles))
    rows = []
    for number, style in enumerate(about["styles"]):
        own = np.flatnonzero(styles == number)
        features = judge.features(pictures[own])
        held = np.flatnonzero([(about["subjects"][subjects[i]], style) in judge.heldout_pairs for i in own])
        copies = [judge.features(change(pictures[own], rng)) for change in COPIES.values()]
        for count in COUNTS:
            nearest, above, found = [], [], []
            for _ in range(args.draws):
                chosen = rng.choice(len(own), count, replace=False)
                likeness = (features[np.setdiff1d(held, chosen)] @ features[chosen].T).max(1)
                nearest.append(likeness)
                among = likeness_limit(features[chosen], -1)  # how alike the two are that are most alike
                above.append([(likeness > limit).mean() for limit in (
                    among, likeness_limit(features[chosen], None), JudgeMetric.held_out)])
                found.append([((c[chosen] @ features[chosen].T).max(1) > JudgeMetric.held_out).mean() for c in copies])
            rows.append([np.quantile(np.concatenate(nearest), 0.99), *np.mean(above, 0), *np.mean(found, 0)])
            print(f"{style:28}{count:12}{rows[-1][0]:12.3f}" + "".join(f"{share:12.1%}" for share in rows[-1][1:]))
    for name, values in (("mean", np.mean(rows, 0)), ("highest", np.max(rows, 0)), ("lowest", np.min(rows, 0))):
        print(f"{name:40}{values[0]:12.3f}" + "".join(f"{share:12.1%}" for share in values[1:]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
