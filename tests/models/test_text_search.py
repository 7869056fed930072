"""The search for words against all texts that there are, on a chain of a few words."""
from __future__ import annotations

import itertools

import numpy as np
import pytest

from styleblend.models.text_search import Limits, beam_search, greedy, log_softmax, words

WORDS, END = 4, 1
LIMITS = Limits(start=0, end=END, longest=6)


class Chain:
    """The next word depends on the two before; what it is asked is checked as a decoder with a cache would need it."""

    def __init__(self, seed: int):
        self.logits = np.random.default_rng(seed).normal(size=(WORDS, WORDS, WORDS)).astype(np.float32) * 2
        self.texts = [[0]]

    def step(self, tokens: np.ndarray, rows: np.ndarray) -> np.ndarray:
        self.texts = [[*self.texts[row], int(token)] for row, token in zip(rows, tokens)]
        return np.stack([self.logits[text[-2], text[-1]] for text in self.texts])

    def value(self, text: list, penalty: float) -> float:
        """The log-probability of a whole text by its length."""
        known = [0, *text]
        steps = [log_softmax(self.logits[None, known[i - 1], known[i]])[0, known[i + 1]] for i in range(1, len(text))]
        return sum(steps) / len(steps) ** penalty


def all_texts(shortest: int = 0):
    """All that end, or have become as long as they may."""
    for length in range(2, LIMITS.longest + 1):
        for middle in itertools.product([w for w in range(WORDS) if w != END], repeat=length - 2):
            for last in range(WORDS):
                if last == END and length > shortest or last != END and length == LIMITS.longest:
                    yield [LIMITS.start, *middle, last]


@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("seed", range(5))
def test_with_beams_for_all_texts_the_best_is_found(seed, penalty):
    chain = Chain(seed)
    best = max(all_texts(), key=lambda text: chain.value(text, penalty))
    found = beam_search(chain.step, LIMITS, beams=600, length_penalty=penalty)
    assert found == best


@pytest.mark.parametrize("seed", range(5))
def test_greed_takes_the_likeliest_word_each_time(seed):
    text = [0]
    while len(text) < LIMITS.longest and (len(text) == 1 or text[-1] != END):
        text.append(int(Chain(seed).logits[([0] + text)[-2], text[-1]].argmax()))
    assert greedy(Chain(seed).step, LIMITS) == beam_search(Chain(seed).step, LIMITS, beams=1) == text


def test_more_beams_find_no_worse_text():
    values = {beams: [] for beams in (1, 2, 4, 16)}
    for seed in range(20):
        for beams, found in values.items():
            chain = Chain(seed)
            found.append(chain.value(beam_search(chain.step, LIMITS, beams, length_penalty=0.0), 0.0))
    means = [np.mean(found) for found in values.values()]
    assert means == sorted(means) and means[0] < means[-1]


@pytest.mark.parametrize("beams", [1, 3])
def test_a_text_has_its_least_length(beams):
    found = [len(beam_search(Chain(seed).step, LIMITS._replace(shortest=4), beams)) for seed in range(20)]
    assert min(found) >= 5 and len(beam_search(Chain(0).step, LIMITS._replace(longest=1), 1)) == 1


def test_words_have_neither_start_nor_end():
    assert words([0, 2, 3, 1], LIMITS) == words([0, 2, 3], LIMITS) == [2, 3]
    assert words([0], LIMITS) == []
