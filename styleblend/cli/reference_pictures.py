"""Reference pictures on the command line: a.png, a.png:0.3 or, where strengths are known, a.png:0.7:famous."""
from __future__ import annotations

import math
from pathlib import Path
from typing import Collection, Dict, List, Optional, Sequence

from styleblend.errors import StyleBlendError


def references(given: Sequence[str], strengths: Collection[str] = (), prompts: Sequence[str] = (),
               option: str = "--reference ") -> List[Dict[str, object]]:
    """These pictures as settings. `prompts`: what each of them shows; `option`: how an error names them."""
    if given and len(prompts) not in (0, len(given)):
        raise StyleBlendError(f"{len(given)} --reference with {len(prompts)} --reference-prompt: give one for each")
    found: List[Dict[str, object]] = []
    for number, text in enumerate(given):
        said: Dict[str, object] = {}
        rest = text
        while ":" in rest and not Path(rest).is_file():
            before, last = rest.rsplit(":", 1)
            what = "strength" if last in strengths else "weight" if is_number(last) else None
            if what is None or what in said:
                refuse_other_words(option + text, rest, strengths, what)
                break
            said[what] = last if what == "strength" else float(last)
            rest = before
        if not 0 <= said.get("weight", 0) < math.inf:
            raise StyleBlendError(f"{option}{text}: {said['weight']:g} is no weight: give a number greater than or "
                                  "equal to 0")
        if not rest:
            raise StyleBlendError(f"{option}{text!r} names no picture: give its file, such as picture.png:0.3")
        found.append({"picture": rest, **said, **({"prompt": prompts[number]} if prompts else {})})
    return found


def refuse_other_words(given: str, rest: str, strengths: Collection[str], twice: Optional[str]) -> None:
    """StyleBlendError where a picture's name is followed by what is neither a weight nor a strength, or by two of them.

    `rest`: what is not understood of the words given; `twice`: weight or strength, where there was one already.
    """
    before, last = rest.rsplit(":", 1)
    if Path(before).is_file() and not Path(rest).exists():
        if twice:
            raise StyleBlendError(f"{given}: behind {before} comes a {twice}, and then another one: give one")
        what, known = ("a weight or a strength", f", or {' or '.join(strengths)}") if strengths else ("a weight", "")
        raise StyleBlendError(f"{given}: behind {before} comes {what}, not {last!r}: give a number{known}")


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
