"""Tokens by stage, as DreamStyler learns them: `<name>-T0` is read where there is least noise. No Jittor in it."""
from __future__ import annotations

import re
from typing import Any, Dict, Iterable, Mapping, Tuple

import numpy as np

from styleblend.adapters.formats import flat, with_model
from styleblend.errors import StyleBlendError, printable

NAME = re.compile(r"(.+)-T([0-9]{1,3})", re.S)  # as upstream names them: the token, and its stage
MOST_STAGES = 64  # up to here the published float32 expression and whole numbers give the same stages
TRAIN = "train it with styleblend train dreamstyler"


def stage_token(stage: int, place: int = 1) -> str:
    """Our placeholder for a stage; `place` counts the styles that stand in one prompt."""
    return f"<S{place if place > 1 else ''}>-T{stage}"


def by_stage(tokens: Iterable[str]) -> Tuple[Tuple[str, ...], ...]:
    """Of each stage its tokens, in their order. Anything that is no token of a stage is left out."""
    found: Dict[int, Tuple[str, ...]] = {}
    for token in tokens:
        match = NAME.fullmatch(token)
        if match:
            found[int(match[2])] = (*found.get(int(match[2]), ()), token)
    if sorted(found) != list(range(len(found))):
        raise ValueError(f"the stages {sorted(found)} are not those from 0 on")
    return tuple(found[stage] for stage in range(len(found)))


def named_rows(name: str, rows: Iterable[np.ndarray]) -> Dict[str, np.ndarray]:
    """The vectors of the stages, from 0 on, under the tokens of a style as upstream's files have them."""
    return {f"<{name}>-T{stage}": row for stage, row in enumerate(rows)}


def is_staged(names: Iterable[str]) -> bool:
    """Whether these names of a file's arrays are those of tokens by stage."""
    names = list(names)
    return bool(names) and all(NAME.fullmatch(name) for name in names)


def stage_vectors(tensors: Mapping[str, Any], width: int, source: str) -> Dict[str, np.ndarray]:
    """{our token of each stage: (width,)} from {token of any name: vector}, as upstream's files have it.

    StyleBlendError for other tokens, a stage that is missing, vectors of another width or of no numbers.
    """
    entries = flat(dict(tensors))
    if not is_staged(entries):
        other = next((name for name in entries if not NAME.fullmatch(name)), "nothing")
        raise StyleBlendError(f"{source} has {printable(other)} in the place of tokens such as <ink>-T0, one for each "
                              f"stage: {TRAIN}")
    matches = {name: NAME.fullmatch(name) for name in entries}
    words = {match[1] for match in matches.values()}
    if len(words) > 1:
        raise StyleBlendError(f"{source} has the tokens of {len(words)} styles ({printable(', '.join(sorted(words)))}):"
                              " give a file with one")
    stages = {int(match[2]): name for name, match in matches.items()}
    missing = set(range(max(stages) + 1)) - set(stages)
    if missing or len(stages) < len(entries):
        what = f"no token of stage {min(missing)}" if missing else "a stage twice"
        raise StyleBlendError(f"{source} has {what}: {TRAIN}, or download it again")
    if len(stages) > MOST_STAGES:
        raise StyleBlendError(f"{source} has {len(stages)} stages, more than {MOST_STAGES}: {TRAIN}")
    return {stage_token(stage): vector_of(entries[stages[stage]], stages[stage], width, source)
            for stage in range(len(stages))}


def vector_of(value: Any, name: str, width: int, source: str) -> np.ndarray:
    """One token's vector as float32 (width,)."""
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or value.size == 0 or value.ndim > 2:
        raise StyleBlendError(f"{source}: {printable(name)} holds no vector of floating-point numbers: {TRAIN}")
    if value.size != value.shape[-1]:
        raise StyleBlendError(f"{source}: {printable(name)} holds {value.size // value.shape[-1]} vectors, and a "
                              f"stage has one: {TRAIN}")
    if value.size != width:
        raise StyleBlendError(f"{source}: its tokens have the width {with_model(value.size)}, the base needs "
                              f"{with_model(width)}: get or train one for this base")
    with np.errstate(over="ignore"):  # beyond float32 it becomes infinity, which is refused by name
        return np.ascontiguousarray(value.reshape(-1), np.float32)
