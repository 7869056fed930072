"""What is drawn in a style: `prompt.json`, and the names of the pictures."""
from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, List, Mapping, NamedTuple, Optional

from styleblend.errors import StyleBlendError
from styleblend.files.emphasis import WORDS, parsed, spoken
from styleblend.files.layouts import pointed
from styleblend.files.limits import LARGEST_SEED
from styleblend.files.names import check_distinct, check_name, composed, control_character, fault, file_name
from styleblend.files.text import read_json

SHAPES = ('it should be like {"0": "Cat"}, {"my-cat": "A cat on a boat"}, ["Cat", "House"] or [{"prompt": "Cat"}, '
          '{"text": "A cat on a boat", "name": "my-cat", "seed": 5}]')
ARTICLE = re.compile(r"(an?|the)\s", re.I)


def article(word: str) -> str:
    """"Owl" -> "An owl", as the competition asks for its one-word prompts. What has an article stays as it is."""
    return word if ARTICLE.match(word) else article_of(word) + word.lower()


def article_of(word: str) -> str:
    return "An " if word[:1].lower() in "aeiou" else "A "


def with_article(prompt: str) -> str:
    """The same of a prompt that may have signs: "(Owl:1.2)" -> "An (owl:1.2)"."""
    said = spoken(prompt).strip()
    if said == prompt or ARTICLE.match(said):
        return article(prompt) if said == prompt else prompt
    return article_of(said) + re.sub(rf"({WORDS})|.", lambda found: found[1] or found[0].lower(), prompt, flags=re.S)


@dataclass(frozen=True)
class Prompt:
    """One thing to draw. `name` is its picture's; `whole`: it has a name of its own and is drawn as it stands.

    `seed`: its own, in place of the style's or the config's.
    """

    name: str
    text: str
    whole: bool = False
    seed: Optional[int] = None

    def phrase(self, plain: bool = False) -> str:
        """What is drawn: with an article, unless the prompt is whole or all are (`plain`)."""
        return self.text if plain or self.whole else with_article(self.text)

    def seed_of(self, of_style: Mapping[str, int], default: int) -> int:
        """The seed of its picture: its own, that which its style has for it by name or text, or the default."""
        if self.seed is not None:
            return self.seed
        return int(of_style.get(self.name, of_style.get(self.text, default)))


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
    if parsed(text) == ((),):
        raise StyleBlendError(f"the prompt {text[:80]!r} holds signs and no words: say what to draw")
    return text


def make_prompt(text: str, name: Optional[str] = None, seed: Optional[int] = None) -> Prompt:
    """A prompt that is named after itself, or has a name of its own. StyleBlendError: that cannot be a file's."""
    if name is not None:
        return Prompt(check_name(name.strip()), phrase_of(text), whole=True, seed=seed)
    text = phrase_of(text)
    return Prompt(file_name(text), text, seed=seed)


def whole_prompt(text: str) -> Prompt:
    """A prompt that is named after itself and drawn as it stands, without an article of ours."""
    return replace(make_prompt(text), whole=True)


def listed(choice: str) -> List[str]:
    """The prompts in "Cat, A (red, round:1.2) dog": commas in brackets belong to a prompt."""
    parts, depth = [""], 0
    for c in choice:
        depth = max(0, depth + (c in "([") - (c in ")]"))
        parts[-1] += c
        if c == "," and not depth:
            parts[-1] = parts[-1][:-1]
            parts.append("")
    return [part for part in parts if part.strip()] if not depth else [p for p in choice.split(",") if p.strip()]


class Entry(NamedTuple):
    """What a prompt.json says of one prompt; a `name` of None: it is named after itself."""

    name: Optional[str]
    text: Any
    seed: Any = None


def entries(data: Any) -> List[Entry]:
    """Everything in a prompt.json; ValueError for a shape that is not known."""
    if isinstance(data, dict):
        pairs = [(None if re.fullmatch("[0-9]+", key.strip()) else key, item) for key, item in data.items()]
    elif isinstance(data, list):
        pairs = [(None, item) for item in data]
    else:
        raise ValueError
    return [entry_of(item, name) if isinstance(item, dict) else Entry(name, item) for name, item in pairs]


def entry_of(item: dict, key: Optional[str]) -> Entry:
    """{"prompt": "Cat", "name": "my-cat", "seed": 5} under the key of a name, or under none."""
    texts = [item[word] for word in ("prompt", "text") if word in item]
    name = item.get("name", key)
    if len(texts) != 1 or set(item) - {"prompt", "text", "name", "seed"} or not isinstance(name, (str, type(None))):
        raise ValueError
    if key not in (None, name):
        raise ValueError
    return Entry(name, texts[0], item.get("seed"))


def is_seed(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST_SEED


def prompt_file(folder: Path) -> Path:
    """Where the prompts of a style are: in its own folder, or in that of its pictures where it lies elsewhere."""
    own, elsewhere = Path(folder) / "prompt.json", pointed(folder) / "prompt.json"
    return elsewhere if elsewhere.exists() and not own.exists() else own


def style_prompts(folder: Path) -> List[Prompt]:
    """The prompts in `prompt.json` of one style, each once, in their order. StyleBlendError names a wrong entry."""
    path = prompt_file(folder)
    if not path.exists():
        raise StyleBlendError(f"{path} does not exist: write {{\"0\": \"Cat\", \"1\": \"House\"}} into it, or name "
                              "prompts with --prompts")
    try:
        found = entries(read_json(path, SHAPES))
    except ValueError:
        found = []
    wrong = [one.text for one in found if not isinstance(one.text, str) or not one.text.strip()]
    if not found or wrong:
        what = f"has {str(wrong[0])[:60]!r} in the place of a prompt" if wrong else "holds no prompts"
        raise StyleBlendError(f"{path} {what}: {SHAPES}")
    wrong = [one.seed for one in found if one.seed is not None and not is_seed(one.seed)]
    if wrong:
        raise StyleBlendError(f"{path}: {str(wrong[0])[:60]!r} is no seed: give a number from 0 to {LARGEST_SEED}")
    check_distinct([name for name in ((one.text if one.name is None else one.name).strip() for one in found)
                    if not fault(composed(name))], str(path))
    prompts = {}
    for one in found:
        try:
            prompt = make_prompt(one.text, one.name, one.seed)
        except StyleBlendError as error:
            raise StyleBlendError(f"{path}: {error}") from None
        if prompts.setdefault(prompt.name, prompt) != prompt:
            raise StyleBlendError(f"{path}: {prompt.name!r} is the name of two prompts: give each its own")
    return list(prompts.values())
