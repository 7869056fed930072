"""What is drawn in a style: `prompt.json`, and the names of the pictures."""
from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, List, Optional, Tuple

from styleblend.errors import StyleBlendError
from styleblend.files.names import check_distinct, check_name, composed, control_character
from styleblend.files.text import read_json

SHAPES = ('it should be like {"0": "Cat"}, {"my-cat": "A cat on a boat"}, ["Cat", "House"] or [{"prompt": "Cat"}, '
          '{"text": "A cat on a boat", "name": "my-cat"}]')
HINT = 'shorten or change it, or give it a name of its own in prompt.json: {"my-name": "the prompt"}'


def article(word: str) -> str:
    """"Owl" -> "An owl", as the competition asks for its one-word prompts."""
    return ("An " if word[:1].lower() in "aeiou" else "A ") + word.lower()


@dataclass(frozen=True)
class Prompt:
    """One thing to draw. `name` is its picture's; `whole`: it has a name of its own and is drawn as it stands."""

    name: str
    text: str
    whole: bool = False

    def phrase(self, plain: bool = False) -> str:
        """What is drawn: with an article, unless the prompt is whole or all are (`plain`)."""
        return self.text if plain or self.whole else article(self.text)


def without_full_stop(text: str) -> str:
    """The text without spaces around it and without one full stop at its end: that is put in behind the style.

    An ellipsis stays. Unicode is composed.
    """
    return re.sub(r"(?<=[^.])\.$", "", composed(text.strip())).rstrip()


def phrase_of(text: str) -> str:
    """What is drawn of a whole prompt, wherever it was typed. StyleBlendError when it is empty or cannot be printed."""
    text = without_full_stop(text)
    if not text:
        raise StyleBlendError("the prompt is empty: say what to draw")
    if control_character(text):  # neither tokens nor a picture's record could be made of it
        raise StyleBlendError(f"the prompt {text[:80]!r} holds the control character {control_character(text)}: "
                              "take it out")
    return text


def make_prompt(text: str, name: Optional[str] = None) -> Prompt:
    """A prompt that is named after itself, or has a name of its own. StyleBlendError: the name cannot be a file's."""
    if name is not None:
        return Prompt(check_name(name.strip()), phrase_of(text), whole=True)
    text = check_name(without_full_stop(text), HINT)
    return Prompt(text, text)


def entries(data: Any) -> List[Tuple[Optional[str], Any]]:
    """(own name or None, prompt) of everything in a prompt.json; ValueError for a shape that is not known."""
    if isinstance(data, dict):
        return [(None if re.fullmatch("[0-9]+", key.strip()) else key, text) for key, text in data.items()]
    if not isinstance(data, list):
        raise ValueError
    found = []
    for item in data:
        if isinstance(item, dict):
            texts = [item[key] for key in ("prompt", "text") if key in item]
            if len(texts) != 1 or set(item) - {"prompt", "text", "name"} or not isinstance(item.get("name", ""), str):
                raise ValueError
            found.append((item.get("name"), texts[0]))
        else:
            found.append((None, item))
    return found


def style_prompts(folder: Path) -> List[Prompt]:
    """The prompts in `prompt.json` of one style, each once, in their order. StyleBlendError names a wrong entry."""
    path = Path(folder) / "prompt.json"
    if not path.exists():
        raise StyleBlendError(f"{path} does not exist: write {{\"0\": \"Cat\", \"1\": \"House\"}} into it, or name "
                              "prompts with --prompts")
    try:
        found = entries(read_json(path, SHAPES))
    except ValueError:
        found = []
    wrong = [text for _, text in found if not isinstance(text, str) or not text.strip()]
    if not found or wrong:
        what = f"has {str(wrong[0])[:60]!r} in the place of a prompt" if wrong else "holds no prompts"
        raise StyleBlendError(f"{path} {what}: {SHAPES}")
    check_distinct([(text if name is None else name).strip() for name, text in found], str(path))
    prompts = {}
    for name, text in found:
        try:
            prompt = make_prompt(text, name)
        except StyleBlendError as error:
            raise StyleBlendError(f"{path}: {error}") from None
        if prompts.setdefault(prompt.name, prompt) != prompt:
            raise StyleBlendError(f"{path}: {prompt.name!r} is the name of two prompts: give each its own")
    return list(prompts.values())
