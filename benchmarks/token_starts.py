"""Does Textual Inversion get there sooner from the tokens that Style Encoder wrote than from words?

`<F>` of each style is learned twice, with the same pictures and the same random numbers in each step: from the config's
words (`training.initial_fine`), and from the tokens of the style's first picture (`training.start`). On the way both
are asked for their loss under noises that no step sees. The ordinary start ends with some loss: at which step did the
other one have it?
"""
import argparse
import json
from pathlib import Path
from typing import Dict, List, Optional

import numpy as np
from rich.console import Console
from rich.table import Table

from styleblend import Pipeline, load_base, read_settings
from styleblend.adapters.style import Applied
from styleblend.base.base import Base
from styleblend.cli.options import HelpFormatter
from styleblend.files.captions import style_pictures
from styleblend.files.shipped import data_of, style_folders
from styleblend.jobs.encode import EncodeRequest, encode
from styleblend.jobs.events import result_of
from styleblend.machine.runtime import jt
from styleblend.settings import EncodedPicture, RunSettings
from styleblend.training.fine import rows_of_words
from styleblend.training.latents import LatentCache, encode_pictures
from styleblend.training.loop import TrainingStep, step_rng, train
from styleblend.training.noise_loss import noise_loss
from styleblend.training.prompts import prompt_ids
from styleblend.training.starting_tokens import starting_tokens
from styleblend.training.starting_words import starting_words

EVERY = 15  # steps between two looks at the loss
NOISES = 8  # of each picture, over all levels


class OneStyle:
    """A style's pictures as the training sees them."""

    def __init__(self, base: Base, settings: RunSettings, name: str):
        self.base, self.settings, self.pipeline = base, settings, Pipeline(base, settings)
        self.pictures = style_pictures(data_of(settings.data, name))
        self.cache: LatentCache = result_of(encode_pictures(
            base, [one.path for one in self.pictures], settings.sampling.width, settings.sampling.height,
            settings.training.inversion.flip, settings.pictures))

    def words(self) -> np.ndarray:
        """The vectors of the words that the training would choose."""
        config = self.settings.training
        return rows_of_words(self.pipeline, result_of(starting_words(
            self.pipeline, config.initial_fine, self.pictures, self.cache, config.seed, config.inversion.batch)))

    def learned(self, start: np.ndarray, folder: Path) -> List[float]:
        """The loss at the start and after every fifteen steps of `<F>`, learned from these vectors (n, width)."""
        config, rows = self.settings.training, jt.array(start)
        above = jt.zeros((1, start.shape[1]))  # <C>, as in the training
        ids = prompt_ids(self.pipeline.tokenizer("styleblend", Applied({"<F>": rows})), "fine", self.pictures)

        def text(index):
            return self.base.text_encoder(ids[index], jt.concat([above, rows]))

        def loss_of(rng):
            index = rng.integers(0, len(self.cache), config.inversion.batch)
            return noise_loss(self.base, self.cache, rng, index, text)

        return [self.unseen(text) for event in train("inversion", config, {"rows": rows}, loss_of, folder)
                if isinstance(event, TrainingStep) and event.step % EVERY == 0]

    def unseen(self, text) -> float:
        """The loss of all pictures under the same noises each time."""
        index, length = np.arange(len(self.cache)), len(self.base.schedule)
        with jt.no_grad():
            return float(np.mean([noise_loss(
                self.base, self.cache, step_rng(0, "unseen", place), index, text,
                times=lambda rng: np.full(len(index), int(length * (place + 0.5) / NOISES))).item()
                for place in range(NOISES)]))


def curves(base: Base, settings: RunSettings, name: str, work: Path) -> Dict[str, List[float]]:
    """Both losses of one style along the way."""
    encoded = f"{name}-encoded"
    own = OneStyle(base, settings, name)
    picture = EncodedPicture(picture=str(own.pictures[0].path))
    result_of(encode(EncodeRequest(settings, [picture], encoded, output=work / "adapters", overwrite=True)))
    training = settings.training.model_copy(update={"start": encoded})
    tokens = starting_tokens(base, settings.model_copy(update={"adapters": work / "adapters", "training": training}))
    return {"words": own.learned(own.words(), work / name / "words"),
            "encoded": own.learned(tokens, work / name / "encoded")}


def first_below(losses: List[float], goal: float) -> Optional[int]:
    """The step at which the loss is first as low as the goal; None: never."""
    return next((EVERY * place for place, loss in enumerate(losses) if loss <= goal), None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--config", default="mini", help="settings with the base, the training and the data folder")
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints: what is there goes on")
    parser.add_argument("--words", nargs="+", help="words to start from, in place of the config's")
    args = parser.parse_args()
    settings, found = read_settings(args.config), {}
    own = {"checkpoints": 1, "sample_every": 0, **({"initial_fine": args.words} if args.words else {})}
    settings = settings.model_copy(update={"training": settings.training.model_copy(update=own)})
    base, steps = load_base(settings.base), settings.training.inversion.steps
    table = Table("style", "words: first, last loss", "encoded: first, last loss", f"step of {steps} with words' last",
                  title="Textual Inversion from words and from encoded tokens")
    for name in style_folders(settings.data):
        found[name] = curves(base, settings, name, args.work)
        words, encoded = found[name]["words"], found[name]["encoded"]
        step = first_below(encoded, words[-1])
        table.add_row(name, f"{words[0]:.4f}, {words[-1]:.4f}", f"{encoded[0]:.4f}, {encoded[-1]:.4f}",
                      "never" if step is None else str(step))
        (args.work / "curves.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    Console().print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
