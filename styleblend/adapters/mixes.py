"""Mixes of DreamStyler's styles: who gives the tokens of which stages. No Jittor in it.

"ink:0-2,wax:3-5" takes brushwork from one style and layout from another; in "ink+wax:0-5" both stand in one prompt. A
mix is drawn as any style is, by this text in the place of a name: no name of a style holds a colon.
"""
from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Mapping, Tuple, Union

import numpy as np

from styleblend.adapters.stage_tokens import MOST_STAGES, by_stage, is_staged, stage_token
from styleblend.adapters.style_files import find_style, part_file, read_part_file, settings_in
from styleblend.errors import StyleBlendError, printable
from styleblend.files.names import check_name

EXAMPLE = "ink:0-2,wax:3-5"
METHOD, PART = "dreamstyler", "stage_embeds"


@dataclass(frozen=True)
class Share:
    """Some stages, from `first` to `last`, and the styles whose tokens stand in their prompts."""

    names: Tuple[str, ...]
    first: int = 0
    last: int = -1  # the last that there is

    def stages(self, count: int) -> range:
        """The stages that are meant, of so many."""
        return range(self.first, (count if self.last == -1 else self.last + 1))


def is_mix(name: str) -> bool:
    """Whether this is a mix, and not the name of one style."""
    return ":" in name


def style_name(text: str) -> str:
    """What was given as a style: a mix as it is, anything else as the name of a style. StyleBlendError: it is none."""
    return text if is_mix(text) else check_name(text)


def parse_mix(text: str) -> List[Share]:
    """The shares in "ink:0-2,wax:3-5", "ink+wax" or "ink:0,wax:1-5". StyleBlendError for what is none."""
    found = []
    for piece in text.split(","):
        names, _, stages = piece.strip().rpartition(":") if ":" in piece else (piece.strip(), "", "")
        match = re.fullmatch(r"([0-9]{1,2})(?:-([0-9]{1,2}))?", stages.strip()) if stages else None
        if not names or ":" in piece and not match:
            raise StyleBlendError(f"--mix {printable(text)[:60]!r} is not like {EXAMPLE}: names of styles, each with "
                                  "its stages")
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if match and last < first:
            raise StyleBlendError(f"--mix: the stages {first}-{last} of {names} go backwards: write {last}-{first}")
        given = [check_name(name.strip()) for name in names.split("+")]
        twice = next((name for name in given if given.count(name) > 1), None)
        if twice:
            raise StyleBlendError(f"--mix names {twice} twice for the same stages: once is enough")
        found.append(Share(tuple(given), first, last))
    return found


def refuse_gaps(shares: List[Share], count: int) -> None:
    """StyleBlendError where a stage, of so many, has no style or is given twice."""
    taken: Dict[int, Share] = {}
    for share in shares:
        for stage in share.stages(count):
            if stage >= count:
                raise StyleBlendError(f"--mix: {'+'.join(share.names)} has no stage {stage}: its stages are 0 to "
                                      f"{count - 1}")
            if taken.setdefault(stage, share) is not share:
                raise StyleBlendError(f"--mix names stage {stage} twice, for {'+'.join(taken[stage].names)} and for "
                                      f"{'+'.join(share.names)}: give it once, or both in one prompt as "
                                      f"{taken[stage].names[0]}+{share.names[0]}:{stage}")
    missing = [stage for stage in range(count) if stage not in taken]
    if missing:
        raise StyleBlendError(f"--mix leaves stage {missing[0]} without a style: give each of 0 to {count - 1}, as in "
                              f"{EXAMPLE}")


def resolved(adapters: Union[str, Path], text: str) -> str:
    """A mix with the stages of each share, of styles that are there. StyleBlendError says what is wrong with it."""
    shares = parse_mix(text)
    counts = {name: stage_count(adapters, name) for share in shares for name in share.names}
    count = next(iter(counts.values()))
    other = next((name for name in counts if counts[name] != count), None)
    if other:
        raise StyleBlendError(f"--mix: {next(iter(counts))} has {count} stages and {other} has {counts[other]}: mix "
                              "styles of as many stages")
    refuse_gaps(shares, count)
    return ",".join(f"{'+'.join(share.names)}:{share.first}-{share.stages(count)[-1]}" for share in shares)


def with_stages(adapters: Union[str, Path], name: str, other: str, stages: str) -> str:
    """The mix that is the style `name` but for these stages ("0-2"), which another one gives."""
    count, share = stage_count(adapters, name), parse_mix(f"{other}:{stages}")[0]
    own = [f"{name}:{stage}" for stage in range(count) if stage not in share.stages(count)]
    return resolved(adapters, ",".join([f"{other}:{stages}", *own]))


def stage_count(adapters: Union[str, Path], name: str) -> int:
    """How many stages a style has. StyleBlendError: there is none of this name, or it is of another method."""
    folder = find_style(adapters, name)
    method = settings_in(folder, name).method
    if method != METHOD:
        raise StyleBlendError(f"--mix: {name} is a style of {method} and has no stages: name styles of {METHOD}")
    names = read_part_file(part_file(folder, name, PART), PART, name)
    return len(names) if is_staged(names) and len(names) <= MOST_STAGES else 1  # what is wrong is said when it is read


def mixed(text: str, rows: Mapping[str, Mapping[str, np.ndarray]]) -> Dict[str, np.ndarray]:
    """The tokens of a mix, from those of each of its styles by name."""
    count, found = len(by_stage(next(iter(rows.values())))), {}
    for share in parse_mix(text):
        for stage in share.stages(count):
            found.update({stage_token(stage, place): rows[name][stage_token(stage)]
                          for place, name in enumerate(share.names, 1)})
    return {token: found[token] for stage in by_stage(found) for token in stage}


def names_in(text: str) -> List[str]:
    """The styles of a mix, each once."""
    return list(dict.fromkeys(name for share in parse_mix(text) for name in share.names))
