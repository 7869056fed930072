"""The corpus of the mini base's style encoder: the art that the base draws, a folder a look, with captions.json.

    python tools/mini_base/style_corpus.py --art art --out corpus \
        --tokens checkpoints/encoders/mini/tokens
    python -m styleblend train encoder --config mini --corpus corpus --name mini --stage encoder
    python -m styleblend train encoder --config mini --corpus corpus --name mini --stage finetune

What is held out (art.py) is left out. `--held-out` writes just that, to measure with: held-out subjects in looks that
the base knows, and the held-out styles. `--tokens` writes what the network learns first, in place of tokens by
inversion: the base's own words for the look of a picture (README.md, "The style encoder").
"""
import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from styleblend.base.tokens import Tokenizer
from styleblend.files.corpus import read_corpus
from styleblend.files.tensor_files import read_safetensors, write_safetensors
from styleblend.training.style_inversion import TENSOR, token_file

from art import HELD_OUT_EVERY, HELD_OUT_STYLES, STYLE_WORDS, load_art

BASE = Path(__file__).resolve().parents[2] / "checkpoints" / "mini" / "base"
SUBJECTS = BASE / "subjects.json"
COUNT = 8  # style tokens of a picture


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--art", type=Path, required=True, help="the folder of render_art.py")
    parser.add_argument("--out", type=Path, required=True, help="the corpus")
    parser.add_argument("--held-out", action="store_true", help="what must not be trained on, to measure with")
    parser.add_argument("--all-subjects", action="store_true", help="also what the base does not draw, for the stage "
                        "`encoder`, which draws nothing")
    parser.add_argument("--tokens", type=Path, help="folder for the tokens of the words for each look")
    args = parser.parse_args()
    write(args.out, held_out(args.art) if args.held_out else known(args.art, args.all_subjects))
    if args.tokens:
        write_tokens(args.tokens, args.out)


def known(folder, all_subjects):
    """Picture, subject and style of what the base draws in its own looks, or of all that is not held out in them."""
    art = load_art(folder, None if all_subjects else json.loads(SUBJECTS.read_text()))
    for picture, subject, style, look, other in zip(art.picture, art.subject, art.style, art.look, art.moved):
        if not other and look == 0 and art.info["styles"][style] in STYLE_WORDS:
            yield picture, art.info["subjects"][subject], art.info["styles"][style]


def held_out(folder):
    """The same of held-out subjects in known looks, and of known subjects in held-out styles."""
    info, data = json.loads((folder / "art.json").read_text()), np.load(folder / "art.npz")
    draws = {info["subjects"].index(name) for name in json.loads(SUBJECTS.read_text())}
    for picture, subject, style in zip(data["picture"], data["subject"], data["style"]):
        name = info["styles"][style]
        new_subject = subject % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
        if (name in STYLE_WORDS and new_subject) or (name in HELD_OUT_STYLES and subject in draws):
            yield picture, info["subjects"][subject], name


def write_tokens(folder, corpus):
    """For each picture of a corpus the words of its look, ".", end-of-text and padding, as its prompt would have them:
    eight embeddings of the base."""
    tokenizer = Tokenizer(BASE / "tokenizer")
    weights = read_safetensors(BASE / "text_encoder" / "model.safetensors")
    embeddings = next(w for name, w in weights.items() if name.endswith("token_embedding.weight"))
    for entry in read_corpus(corpus).entries:
        ids = tokenizer.encode([STYLE_WORDS[entry.style] + "."])[0, 1:1 + COUNT]
        write_safetensors(token_file(folder, entry), {TENSOR: embeddings[ids].astype(np.float32)}, {"made_of": "words"})


def write(folder, pictures):
    captions = []
    for picture, subject, style in pictures:
        name = f"{style}/{subject.lower().replace(' ', '_').replace('/', '_')}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / name)
        caption = ("An " if subject[0].lower() in "aeiou" else "A ") + subject.lower()
        captions.append({"image_path": name, "caption": caption, "style": style})
    (folder / "captions.json").write_text(json.dumps(captions, indent=1, ensure_ascii=False))
    print(f"{len(captions)} pictures in {folder}")


if __name__ == "__main__":
    main()
