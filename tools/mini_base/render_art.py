"""Emoji art -> art.npz (uint8 pictures) + art.json (subjects, styles, captions).

    python tools/mini_base/render_art.py --packs packs --out art [--size 128]

--packs is the folder that fetch_art.sh fills: the unpacked npm packages named in PACKAGES, one folder each, named after
the tarball. Needs: resvg-py, pillow, numpy. One process renders about 9,700 pictures in two minutes.
"""
import argparse, io, json, pathlib, re, unicodedata

import numpy as np
import resvg_py
from PIL import Image

PACKAGES = ["emojibase-data@17.0.0", "openmoji@17.0.0", "@lobehub/fluent-emoji-3d@1.1.0"] + [
    f"@iconify-json/{name}@{version}" for name, version in {
        "noto": "1.2.9", "noto-v1": "1.2.5", "twemoji": "1.2.5", "fluent-emoji": "1.2.7", "fluent-emoji-flat": "1.2.6",
        "fluent-emoji-high-contrast": "1.2.6", "emojione": "1.2.3", "emojione-v1": "1.2.3",
        "emojione-monotone": "1.2.1", "fxemoji": "1.2.2", "streamline-emojis": "1.2.4"}.items()]
ICONIFY = ["noto", "noto-v1", "twemoji", "fluent-emoji", "fluent-emoji-flat", "fluent-emoji-high-contrast", "emojione",
           "emojione-v1", "emojione-monotone", "fxemoji", "streamline-emojis"]
STYLES = ["noto", "noto-v1", "twemoji", "fluent-3d", "fluent-emoji", "fluent-emoji-flat", "fluent-emoji-high-contrast",
          "openmoji", "openmoji-black", "emojione", "emojione-v1", "emojione-monotone", "fxemoji", "streamline-emojis"]
INNER = 0.88  # of the side: a margin of 6 % all round
GROUPS = ["animals-nature", "food-drink", "travel-places", "objects", "activities"]


def plain(hexcode):
    """Code points without the variation selector, lower case: the key that all sets share."""
    return "-".join(p for p in hexcode.lower().split("-") if p != "fe0f")


def slug(text):
    text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower().replace("'", "")
    return re.sub(r"[^a-z0-9]+", "-", text).strip("-")


def folder(packs, pattern):
    return next(p for p in sorted(packs.iterdir()) if p.is_dir() and re.fullmatch(pattern, p.name))


def subjects(packs):
    """Objects only: no flags, symbols, people, clock faces; label, keywords, code points."""
    root = folder(packs, r"emojibase-data-[\d.]+") / "en"
    messages = json.loads((root / "messages.json").read_text())
    group = {g["order"]: g["key"] for g in messages["groups"]}
    sub = {g["order"]: g["key"] for g in messages["subgroups"]}
    for e in json.loads((root / "data.json").read_text()):
        if group.get(e.get("group")) in GROUPS and sub.get(e.get("subgroup")) != "time":
            yield dict(key=plain(e["hexcode"]), label=e["label"], tags=e.get("tags", []), emoji=e["emoji"])


class IconSet:
    """One Iconify package: name lookup by code point or label, SVG text by name."""

    def __init__(self, root):
        self.data = json.loads((root / "icons.json").read_text())
        chars = root / "chars.json"
        self.by_code = {plain(h): n for h, n in json.loads(chars.read_text()).items()} if chars.exists() else {}
        self.names = set(self.data["icons"]) | set(self.data.get("aliases", {}))

    def find(self, subject, code_names):
        guesses = [self.by_code.get(subject["key"]), slug(subject["label"])]
        if len(subject["emoji"].replace("\ufe0f", "")) == 1:  # longer ones would name only their first part
            guesses.append(slug(unicodedata.name(subject["emoji"][0], "")))
        guesses.append(code_names.get(subject["key"]))
        for g in guesses:
            for name in (g, g and g.replace("-", "")):
                if name in self.names:
                    return name

    def svg(self, name):
        props = {}
        while name not in self.data["icons"]:
            alias = self.data["aliases"][name]
            props = {k: v for k, v in alias.items() if k != "parent"} | props
            name = alias["parent"]
        icon = self.data["icons"][name] | props
        w, h = (icon.get(k, self.data.get(k, 16)) for k in ("width", "height"))
        body = icon["body"].replace("currentColor", "#000")
        if icon.get("hFlip"):
            body = f'<g transform="translate({w} 0) scale(-1 1)">{body}</g>'
        return (f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
                f'viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {w} {h}" width="{w}" height="{h}">{body}</svg>')


def rasterise(svg, size):
    return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size, skip_system_fonts=True))))


def on_white(image, size, inner):
    image = image.convert("RGBA")
    if max(image.size) > inner:
        image.thumbnail((inner, inner), Image.LANCZOS)  # keeps the aspect ratio: pad, don't squeeze
    out = Image.new("RGB", (size, size), "white")
    out.paste(image, ((size - image.width) // 2, (size - image.height) // 2), image)
    return np.asarray(out)


class Art:
    """All sets of the unpacked packages: what each draws of a subject."""

    def __init__(self, packs):
        openmoji = folder(packs, r"openmoji-[\d.]+")
        files = {"openmoji": openmoji / "color/svg", "openmoji-black": openmoji / "black/svg",
                 "fluent-3d": folder(packs, r"lobehub-fluent-emoji-3d-[\d.]+") / "assets"}
        self.files = {s: {plain(f.stem): f for f in d.iterdir()} for s, d in files.items()}
        self.sets = {s: IconSet(folder(packs, rf"iconify-json-{s}-[\d.]+")) for s in ICONIFY}
        self.subjects, self.code_names = list(subjects(packs)), {}
        for s in ("noto", "twemoji", "fluent-emoji-flat"):
            for key, name in self.sets[s].by_code.items():
                self.code_names.setdefault(key, name)

    def svg(self, subject, style):
        """The drawing as SVG text; None if the set has none, or only a finished picture."""
        if style in self.files:
            path = self.files[style].get(subject["key"])
            return path.read_text() if path and path.suffix == ".svg" else None
        name = self.sets[style].find(subject, self.code_names)
        return name and self.sets[style].svg(name)

    def image(self, subject, style, size):
        """The drawing as a PIL picture, an SVG `size` wide; None if the set has none."""
        svg = self.svg(subject, style)
        path = self.files.get(style, {}).get(subject["key"])
        return rasterise(svg, size) if svg else path and Image.open(path)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--packs", type=pathlib.Path, required=True)
    ap.add_argument("--out", type=pathlib.Path, required=True)
    ap.add_argument("--size", type=int, default=128)
    args = ap.parse_args()
    inner = round(args.size * INNER)
    art, pictures, subject_of, style_of = Art(args.packs), [], [], []
    for i, subject in enumerate(art.subjects):
        for j, style in enumerate(STYLES):
            image = art.image(subject, style, inner)
            if image:
                pictures.append(on_white(image, args.size, inner))
                subject_of.append(i)
                style_of.append(j)
    args.out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(args.out / "art.npz", picture=np.stack(pictures), subject=np.array(subject_of, np.int16),
                        style=np.array(style_of, np.int8))
    (args.out / "art.json").write_text(json.dumps(dict(
        styles=STYLES, subjects=[s["label"] for s in art.subjects], keywords=[s["tags"] for s in art.subjects])))
    print(f"{len(pictures)} pictures, {len(art.subjects)} subjects, {len(STYLES)} styles")


if __name__ == "__main__":
    main()
