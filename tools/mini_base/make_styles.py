"""Write the style folders of data/mini: for each held-out style a few pictures and 25 prompts.

    python tools/mini_base/make_styles.py --art art --known run/base/subjects.json [--pictures 6] [--out data/mini]

--known is the JSON list of subjects that the base can draw: a style is shown, and asked for, only in these. The
pictures come one from each group below, so that a style shows animals, food and houses alike; the prompts come from all
groups in turn and are never what the pictures show. Every prompt's subject exists in the real art of that style, so a
judge can be checked on it. The same input gives the same files. Needs pillow and numpy.
"""
import argparse, json, pathlib

import numpy as np
from PIL import Image

STYLES = ["fluent-3d", "openmoji-black", "emojione-monotone", "fxemoji"]  # never shown to the base
PROMPTS = 25
# Common words of one or two parts; prompts are taken from the front of each group, pictures from its back.
GROUPS = json.loads((pathlib.Path(__file__).parent / "common_words.json").read_text(encoding="utf-8"))


def in_turn(groups):
    """First of each group, then second of each, and so on."""
    for i in range(max(map(len, groups))):
        yield from (g[i] for g in groups if i < len(g))


def choose(place, offered, pictures):
    """Subjects of the pictures and of the prompts; `place` turns the groups: not all styles show the same things."""
    groups = [[s for s in group if s in offered] for group in GROUPS.values()]
    late = [g[::-1][:4] for g in groups if len(g) > 4]  # a group that has little to offer keeps it for the prompts
    late = [g[place % len(g):] + g[:place % len(g)] for g in late]
    shown = list(in_turn(late))[:pictures]
    asked = [s for s in in_turn(groups) if s not in shown][:PROMPTS]
    if len(shown) < pictures or len(asked) < PROMPTS:
        raise SystemExit(f"only {len(shown)} subjects for {pictures} pictures and {len(asked)} for {PROMPTS} prompts "
                         "are known")
    return shown, asked


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--art", type=pathlib.Path, required=True, help="folder with art.npz and art.json")
    ap.add_argument("--known", type=pathlib.Path, required=True,
                    help="JSON list of the subjects that the base can draw")
    ap.add_argument("--pictures", type=int, default=6)
    ap.add_argument("--out", type=pathlib.Path, default=pathlib.Path("data/mini"))
    args = ap.parse_args()
    data, info = np.load(args.art / "art.npz"), json.loads((args.art / "art.json").read_text(encoding="utf-8"))
    known, picture = set(json.loads(args.known.read_text(encoding="utf-8"))), data["picture"]
    for place, name in enumerate(STYLES):
        rows = {info["subjects"][data["subject"][i]]: i
                for i in np.flatnonzero(data["style"] == info["styles"].index(name))}
        shown, asked = choose(place, known & set(rows), args.pictures)
        images = args.out / name / "images"
        images.mkdir(parents=True, exist_ok=True)
        for old in images.glob("*.png"):
            old.unlink()
        for subject in shown:
            Image.fromarray(picture[rows[subject]]).save(images / f"{subject.lower().replace(' ', '_')}.png",
                                                         optimize=True)
        prompts = {str(i): s[0].upper() + s[1:] for i, s in enumerate(asked)}
        (args.out / name / "prompt.json").write_text(json.dumps(prompts, indent=2) + "\n", encoding="utf-8")
        print(f"{name}: pictures {', '.join(shown)}; prompts {', '.join(asked)}")


if __name__ == "__main__":
    main()
