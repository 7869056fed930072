"""Several sentences in one, by T5."""
from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Optional, Sequence

import numpy as np

from styleblend.context.language_models import check_kind, find, load_weights, read_tokenizer
from styleblend.machine.runtime import jt
from styleblend.models.configs import read_config
from styleblend.models.decoder_cache import step_of
from styleblend.models.t5 import END, NOT_WEIGHTS, START, TIED, T5Config, T5ForConditionalGeneration
from styleblend.models.text_search import Limits, beam_search, words
from styleblend.settings import RunSettings

FOLDER = "checkpoints/t5-small"
FILES = ("config.json", "tokenizer.json")
TASK = "Summarize: "  # with a capital, as in the published pipelines whose prompts these are
BEAMS, LENGTH_PENALTY = 4, 1.5
LIMITS = Limits(START, END, longest=50, shortest=5)
MOST_TOKENS = 512  # of the source


class Summary(NamedTuple):
    """`text` is None where no T5 is there. `source`: who made it, or why nobody did, in words."""

    text: Optional[str]
    source: str


class Rewriter:
    """Texts to shorter ones."""

    def __init__(self, network: T5ForConditionalGeneration, tokenizer, name: str):
        self.network, self.tokenizer, self.name = network, tokenizer, name
        tokenizer.enable_truncation(MOST_TOKENS)

    def tokens(self, text: str) -> list:
        """The tokens of the short text, with start and end."""
        ids = np.array([self.tokenizer.encode(text).ids])
        with jt.no_grad():
            cache = self.network.cache(ids)
        step = step_of(self.network.decode, cache)
        return beam_search(step, LIMITS, BEAMS, LENGTH_PENALTY, early_stopping=True)

    def shorten(self, text: str) -> str:
        """What the network makes of a text; it may leave out what stands at the end."""
        found = self.tokenizer.decode(words(self.tokens(TASK + text), LIMITS), skip_special_tokens=True)
        jt.gc()
        return " ".join(found.split())


def load_rewriter(folder: Path) -> Rewriter:
    """The T5 in a folder. StyleBlendError for what is none, or is not whole."""
    config = read_config(T5Config, check_kind(folder, "t5", "T5"))
    tokenizer = read_tokenizer(folder, config.vocab_size)
    network = T5ForConditionalGeneration(config)
    load_weights(network, folder, TIED, NOT_WEIGHTS)
    return Rewriter(network, tokenizer, folder.resolve().name)


def summarise(sentences: Sequence[str], settings: RunSettings) -> Summary:
    """The sentences, in their order, as one. StyleBlendError: the weights of the config cannot be read."""
    folder = find(settings.context.rewriter, FOLDER, FILES)
    if folder is None:
        return Summary(None, f"no T5 is there: put google-t5/t5-small into {FOLDER}, or name its folder or hub id as "
                             "context.rewriter in the config")
    rewriter = load_rewriter(folder)
    text = rewriter.shorten(" ".join(sentence.strip() for sentence in sentences))
    if not text:
        return Summary(None, f"{rewriter.name} made nothing of it")
    return Summary(text, rewriter.name)
