"""Pictures in looks that no set has: a random part of all (subject, set, treatment) -> looks.npz, looks.json in ART.

    python tools/mini_base/looks.py --packs packs --art art [--subjects tools/mini_base/subjects.json] [--each 3]
    python tools/mini_base/looks.py --packs packs --art art --sheet looks.png    # a few of every treatment, to look at

Every picture is turned, zoomed, shifted and mirrored a little; so are those that keep the look of their set ("as
drawn"). The same seed gives the same pictures. The sets and the subjects that the base never sees are left out by who
reads the file (art.py), held-out sets here too: their drawings would give them away. Needs what render_art.py needs.
"""
import argparse, json, pathlib

import numpy as np
from PIL import Image

from art import HELD_OUT_FAMILIES, STYLE_WORDS
from layer import Layer, shrink
from render_art import STYLES, Art
from treatments import FAMILIES, WHITE

AS_DRAWN = "as_drawn"  # the look of the set: its words are those of the set
NAMES = [AS_DRAWN, *FAMILIES]


def geometry(rng):
    return dict(turn=rng.uniform(-8, 8), zoom=rng.uniform(0.84, 1.02), shift=tuple(rng.uniform(-0.035, 0.035, 2)),
                mirror=bool(rng.integers(2)))


def draw(svg, family, rng, size=128):
    """A picture (size, size, 3) uint8 of the SVG in a treatment, and its words."""
    layer = Layer(svg, size, geometry(rng))
    rgb, words = FAMILIES[family](layer, rng) if family != AS_DRAWN else (layer.on(WHITE), "")
    return shrink(rgb, size), words


def plan(art, wanted, each, plain, seed):
    """(subject, set, family, generator) of every picture; one generator a picture, so that none depends on the
    others."""
    for i, subject in enumerate(art.subjects):
        for j, style in enumerate(STYLES):
            if style in STYLE_WORDS and subject["label"] in wanted and art.svg(subject, style):
                rng = np.random.default_rng([seed, i, j])
                chosen = rng.choice(list(FAMILIES), min(each, len(FAMILIES)), replace=False)
                for k, family in enumerate([AS_DRAWN] * plain + list(chosen)):
                    yield i, j, str(family), np.random.default_rng([seed, i, j, k])


def sheet(art, path, seed):
    """A row for each treatment, a drawing of every set in it."""
    rows, usual = [], [s for s in art.subjects if all(art.svg(s, style) for style in STYLE_WORDS)]
    for family in NAMES:
        rng = np.random.default_rng([seed, *family.encode()])
        some = rng.choice(len(usual), len(STYLE_WORDS), replace=False)
        row = [draw(art.svg(usual[i], style), family, rng)[0] for i, style in zip(some, STYLE_WORDS)]
        rows.append(np.concatenate(row, 1))
    Image.fromarray(np.concatenate(rows)).save(path)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--packs", type=pathlib.Path, required=True)
    ap.add_argument("--art", type=pathlib.Path, required=True, help="the folder that render_art.py wrote")
    ap.add_argument("--subjects", type=pathlib.Path, help="JSON list of labels; without it all")
    ap.add_argument("--each", type=int, default=3, help="treatments of each drawing")
    ap.add_argument("--plain", type=int, default=1, help="moved pictures of each drawing in the look of its set")
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--sheet", type=pathlib.Path, help="write only this picture")
    args = ap.parse_args()
    art = Art(args.packs)
    if args.sheet:
        return sheet(art, args.sheet, args.seed)
    wanted = set(json.loads(args.subjects.read_text())) if args.subjects else {s["label"] for s in art.subjects}
    pictures, labels, words = [], [], [""]
    for subject, style, family, rng in plan(art, wanted, args.each, args.plain, args.seed):
        picture, said = draw(art.svg(art.subjects[subject], STYLES[style]), family, rng)
        if said not in words:
            words.append(said)
        pictures.append(picture)
        labels.append((subject, style, NAMES.index(family), words.index(said)))
        if len(pictures) % 1000 == 0:
            print(len(pictures), "pictures", flush=True)
    columns = dict(zip(("subject", "style", "family", "words"), np.array(labels, np.int16).T))
    np.savez_compressed(args.art / "looks.npz", picture=np.stack(pictures), **columns)
    about = dict(families=NAMES, words=words, held_out=sorted(HELD_OUT_FAMILIES))
    (args.art / "looks.json").write_text(json.dumps(about, indent=0))
    print(f"{len(pictures)} pictures, {len(FAMILIES)} treatments, {len(words) - 1} different words")


if __name__ == "__main__":
    main()
