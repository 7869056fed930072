"""Write the model card of the mini base, base/README.md, from subjects.json, looks.json and training.json.

    python tools/mini_base/card.py --out run
"""
import argparse, json, pathlib

CARD = """---
license: other
license_name: attributions-below
base_model: none
library_name: diffusers
tags: [stable-diffusion, text-to-image, emoji]
---

# The mini base

A small Stable Diffusion 2.1: the same structure and file layout (text encoder, UNet with 16 self-attention sites, \
AutoencoderKL, v-prediction), narrow networks,
{size}. It was trained from random numbers on freely licensed emoji art, so that StyleBlend can be tried, tested and \
developed on a laptop without a
download. `tools/mini_base/` is the whole recipe.

## What it draws

"A pizza.", "A pizza in the style of noto.": {count} subjects at 128 x 128, on white, one thing a picture. Style \
words: {styles}.

{subjects}

{state}

## What it cannot draw

- Anything that is not in the list above: other words give one of these things, or a blob. People, scenes, several \
things, text, numbers, positions.
- Other sizes than 128 x 128, photographs, backgrounds.
- Fine detail: its autoencoder gives a picture back with {psnr}.
- Four styles were held out for ever (fluent-3d, openmoji-black, emojione-monotone, fxemoji), and every 14th of the \
830 subjects of the art: they test what is
  learned later. Do not train a base that is shipped on them.

How well the judge recognises what it draws: `python -m benchmarks.quality`; figures in the project's README.

## Training

{training}

## Licences of the art

{licences}

Labels and keywords: emojibase (MIT). Tokenizer: CLIP's (MIT). The weights are no copy of any picture, but were made \
from these; when you pass on the base or
pictures drawn with it, name the sets above as their licences ask. Versions, authors and links: \
`tools/mini_base/README.md`.
"""
LICENCES = [("Noto Emoji, and its first version (Google)", "Apache-2.0"),
            ("Twemoji (Twitter and contributors)", "CC-BY-4.0"),
            ("Fluent Emoji: gradient, flat and high-contrast (Microsoft)", "MIT"),
            ("OpenMoji (HfG Schwäbisch Gmünd and contributors)", "CC-BY-SA-4.0"), ("EmojiOne 2", "CC-BY-4.0"),
            ("EmojiOne 1", "CC-BY-SA-4.0"), ("Streamline Emojis", "CC-BY-4.0")]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", type=pathlib.Path, required=True, help="the folder that the trainings wrote")
    ap.add_argument("--state", default="", help="a sentence on how good this version is")
    args = ap.parse_args()
    out, base = args.out, args.out / "base"
    subjects, notes = json.loads((base / "subjects.json").read_text()), json.loads((out / "training.json").read_text())
    size = sum(f.stat().st_size for f in base.rglob("*.safetensors")) / 1e6
    training = ["| stage | steps | batch | minutes | device | result |", "|---|---|---|---|---|---|"]
    training += [f"| {n['stage']} | {n['steps']} | {n['batch']} | {n['minutes']} | {n['device']} | {n['result']} |"
                 for n in notes]
    psnr = next((n["result"] for n in reversed(notes) if n["stage"] in ("encode", "decoder")), "little sharpness")
    words = ", ".join(json.loads((base / "looks.json").read_text()))
    (base / "README.md").write_text(CARD.format(
        size=f"{size:.0f} MB in fp16", count=len(subjects), styles=words, subjects=", ".join(subjects) + ".",
        psnr=psnr, state=args.state, training="\n".join(training),
        licences="\n".join(["| set | licence |", "|---|---|"] + [f"| {a} | {b} |" for a, b in LICENCES])),
        encoding="utf-8")


if __name__ == "__main__":
    main()
