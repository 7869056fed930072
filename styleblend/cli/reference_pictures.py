"""Reference pictures on the command line: a.png, a.png:0.3 or, where strengths are known, a.png:0.7:famous."""
from __future__ import annotations

from pathlib import Path
from typing import Collection, Dict, List, Sequence

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
            if last in strengths and "strength" not in said:
                said["strength"] = last
            elif is_number(last) and "weight" not in said:
                said["weight"] = float(last)
            else:
                refuse_other_words(rest, before, last, strengths, option)
                break
            rest = before
        if not rest:
            raise StyleBlendError(f"{option}{text!r} names no picture: give its file, such as picture.png:0.3")
        found.append({"picture": rest, **said, **({"prompt": prompts[number]} if prompts else {})})
    return found


def refuse_other_words(text: str, before: str, last: str, strengths: Collection[str], option: str) -> None:
    """StyleBlendError where a picture's name is followed by what is neither a weight nor a strength."""
    if Path(before).is_file() and not Path(text).exists():
        what, known = ("a weight or a strength", f", or {' or '.join(strengths)}") if strengths else ("a weight", "")
        raise StyleBlendError(f"{option}{text}: behind {before} comes {what}, not {last!r}: give a number{known}")


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
