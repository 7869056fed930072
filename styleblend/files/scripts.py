"""In which script a text is written. The text encoders of Stable Diffusion 2 learned from English captions."""
from __future__ import annotations

import unicodedata
from typing import Optional, Sequence

# how the names of letters begin that are no words of another language, such as the sign for micro
LATIN = ("LATIN", "FULLWIDTH LATIN", "MODIFIER", "MATHEMATICAL", "DOUBLE-STRUCK", "SCRIPT", "BLACK-LETTER", "MICRO",
         "FEMININE ORDINAL", "MASCULINE ORDINAL", "KELVIN", "ANGSTROM", "OHM", "ALEF SYMBOL", "COMBINING", "VARIATION")
NAMES = {"CJK": "Chinese", "HIRAGANA": "Japanese", "KATAKANA": "Japanese", "HALFWIDTH": "Japanese", "HANGUL": "Korean",
         "CYRILLIC": "Cyrillic", "DEVANAGARI": "Devanagari"}


def other_script(text: str) -> Optional[str]:
    """The script of the first word that is not written in Latin letters, such as "Chinese"; None: there is none.

    A single letter is a sign, as in "π", but for Chinese ones.
    """
    scripts = [script_of(c) for c in text]
    found = [script for before, script in zip([None, *scripts], scripts)
             if script and (script == before or script in ("Chinese", "Japanese"))]
    return "Japanese" if "Japanese" in found else found[0] if found else None


def script_of(character: str) -> Optional[str]:
    """The script of a letter, or of a vowel's mark, that is not Latin; None for all else."""
    name = unicodedata.name(character, "")
    if unicodedata.category(character)[0] not in "LM" or name.startswith(LATIN):
        return None
    first = name.split(" ")[0]
    return NAMES.get(first, first.capitalize()) if first else None


def hardly_known(prompts: Sequence[str], what: str = "the prompt") -> Optional[str]:
    """A sentence on the first of these that the text encoder hardly knows; None: it knows the letters of all."""
    for prompt in prompts:
        script = other_script(prompt)
        if script:
            return (f"{what} {prompt[:60]!r} is written in {script}, which the text encoder hardly knows: translate it "
                    "into English first")
    return None
