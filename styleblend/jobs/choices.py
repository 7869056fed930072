"""Which styles and prompts a job works on: what was named, or all that there are."""
from __future__ import annotations

import re
from pathlib import Path
from typing import List, Optional

from styleblend.adapters.style import missing_parts
from styleblend.errors import StyleBlendError
from styleblend.files.captions import style_names
from styleblend.files.names import check_name, entry
from styleblend.files.prompts import Prompt, listed, make_prompt, prompt_file, style_prompts
from styleblend.settings import RunSettings


def named_styles(names: str) -> List[str]:
    """The names in "00, 01", each once. StyleBlendError when there is none, or one that cannot be a style's."""
    found = [check_name(name.strip()) for name in names.split(",") if name.strip()]
    if not found:
        raise StyleBlendError(f"--styles {names!r} names nothing: give names with commas between them")
    return list(dict.fromkeys(found))


def chosen_styles(settings: RunSettings, names: Optional[str]) -> List[str]:
    """The named styles, which must be whole; or all styles of the data folder that have all adapters."""
    if names is not None:
        found = named_styles(names)
        for name in found:
            if not entry(settings.data, name).is_dir():
                there = ", ".join(style_names(Path(settings.data))[:40])
                raise StyleBlendError(f"there is no style {name} in {settings.data}; there are: {there}")
        return found
    found = [name for name in style_names(Path(settings.data))
             if not missing_parts(Path(settings.adapters) / name, name)]
    if not found:
        raise StyleBlendError(f"no style of {settings.data} has adapters in {settings.adapters}: train one with "
                              "scripts/train_coarse_style.sh and scripts/train_fine_style.sh")
    return found


def chosen_prompts(folder: Path, choice: Optional[str]) -> List[Prompt]:
    """The prompts of a style: all of its prompt.json, the first N ("3"), or those named ("Cat,Dog").

    Those that are named need not be in it.
    """
    if choice is not None and re.fullmatch("[0-9]{20,}", choice):
        raise StyleBlendError(f"--prompts {choice[:20]}... is more than there can be: give names with commas between "
                              "them, or how many")
    if choice is not None and not re.fullmatch("[0-9]{1,9}", choice):
        known = {p.name: p for p in style_prompts(folder)} if prompt_file(folder).exists() else {}
        named = [make_prompt(text) for text in listed(choice)]
        if not named:
            raise StyleBlendError(f"--prompts {choice!r} names nothing: give names with commas between them, or how "
                                  "many")
        return [known.get(p.name, p) for p in dict.fromkeys(named)]
    if choice is not None and int(choice) == 0:
        raise StyleBlendError("--prompts 0 draws nothing: give at least 1")
    prompts = style_prompts(folder)
    return prompts[:int(choice)] if choice else prompts
