"""Which words a text decoder says: the likeliest one each time (greedy), or the best of several beams.

Both ask for logits by the last tokens and the rows that they follow, so a decoder keeps its keys and values. Only
numbers, no Jittor.
"""
from __future__ import annotations

from typing import Callable, List, NamedTuple

import numpy as np

# (tokens, rows) -> (len(tokens), vocabulary) logits of what follows. Token i stands behind what row `rows[i]` of the
# call before has read.
Step = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Limits(NamedTuple):
    """When a text ends. `longest` and `shortest` count tokens, the start with them; `end` is the token that ends it."""

    start: int
    end: int
    longest: int
    shortest: int = 0


class Beam(NamedTuple):
    """A text so far, and the sum of its log-probabilities; of one that has ended, that by its length."""

    tokens: List[int]
    score: float


def greedy(step: Step, limits: Limits) -> List[int]:
    """The tokens of a text, with its start, and with its end where it did not become too long."""
    tokens = [limits.start]
    while len(tokens) < limits.longest and (len(tokens) == 1 or tokens[-1] != limits.end):
        logits = permitted(step(np.array(tokens[-1:]), np.zeros(1, int)), limits, len(tokens))
        tokens.append(int(logits[0].argmax()))
    return tokens


def beam_search(step: Step, limits: Limits, beams: int, length_penalty: float = 1.0,
                early_stopping: bool = False) -> List[int]:
    """The tokens of the best text that is found by following this many at once.

    A text that has ended is worth its log-probability by length ** `length_penalty`, the start not counted. The search
    ends when no open beam is worth more than the worst of as many ended ones, or, with `early_stopping`, once there
    are that many: as transformers does it. With one beam: `greedy`.
    """
    if beams == 1:
        return greedy(step, limits)
    running, ended, rows = [Beam([limits.start], 0.0)], [], np.zeros(1, int)
    for length in range(1, limits.longest):
        last = np.array([beam.tokens[-1] for beam in running])
        scores = permitted(log_softmax(step(last, rows)), limits, length)
        scores = scores + np.array([beam.score for beam in running])[:, None]
        found = best(scores, 2 * beams)  # twice as many: each beam may end, and as many go on
        candidates = [Beam([*running[row].tokens, token], scores[row, token]) for row, token in found]
        done = [length + 1 == limits.longest or token == limits.end for _, token in found]
        ended = best_ended(ended, [beam for beam, over in zip(candidates[:beams], done) if over], beams,
                           length ** length_penalty)
        going = [number for number, over in enumerate(done) if not over][:beams]
        if not going or len(ended) == beams and (
                early_stopping or candidates[going[0]].score / length ** length_penalty <= ended[-1].score):
            break
        running, rows = [candidates[number] for number in going], np.array([found[number][0] for number in going])
    return ended[0].tokens


def best_ended(before: List[Beam], new: List[Beam], beams: int, length: float) -> List[Beam]:
    """The best of the texts that have ended, best first; the score of a new one is divided by its length."""
    both = before + [Beam(beam.tokens, beam.score / length) for beam in new]
    return sorted(both, key=lambda beam: -beam.score)[:beams]


def best(scores: np.ndarray, count: int) -> List[tuple]:
    """(row, token) of the highest scores (rows, vocabulary), highest first."""
    flat = scores.reshape(-1)
    among = np.argpartition(-flat, count)[:count] if count < flat.size else np.arange(flat.size)
    among = among[np.argsort(-flat[among], kind="stable")]
    return [divmod(int(place), scores.shape[1]) for place in among]


def permitted(scores: np.ndarray, limits: Limits, length: int) -> np.ndarray:
    """Scores (rows, vocabulary) without the end, while a text of `length` tokens is too short for it."""
    if length >= limits.shortest:
        return scores
    scores = scores.copy()
    scores[:, limits.end] = -np.inf
    return scores


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """(rows, vocabulary) logits to log-probabilities."""
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def words(tokens: List[int], limits: Limits) -> List[int]:
    """The tokens of a text without its start and its end."""
    kept = tokens[1:]
    return kept[:-1] if kept and kept[-1] == limits.end else kept
