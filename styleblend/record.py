"""What a picture says of itself: text that A1111 and picture viewers read, and all that it takes to draw it again."""
from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Tuple, get_args

from pydantic import BaseModel

from styleblend import __version__
from styleblend.diffusion.samplers import SAMPLERS
from styleblend.errors import StyleBlendError, printable
from styleblend.files.emphasis import escaped
from styleblend.files.names import control_character
from styleblend.files.pictures import hashes_of, opened
from styleblend.files.saved_pictures import texts_of
from styleblend.files.text import parse_json
from styleblend.settings import (FIRST_METHOD, KINDS, LARGEST_SEED, ContentSettings, ControlSettings, DType,
                                 MethodSettings, SamplingSettings, Source, validated)

CHUNK = "styleblend"
SAME_PICTURE = {"batch", "vae_strip", "seed"}  # sampling settings that change no picture; each has a seed of its own
FIELDS = {"method": str, "dtype": str, "prompt": str, "seed": int, "style": str, "style_hash": str, "base": str,
          "version": str, "preset": (str, type(None)), "adapters": dict, "libraries": dict, "decoder": str,
          "signs": bool, "control": list, "content": (dict, type(None)), "pictures": dict,
          "sources": list}
# what older pictures do not say
LATER = {"method": FIRST_METHOD, "dtype": "float32", "preset": None, "adapters": {}, "libraries": {},
         "decoder": "", "signs": False, "control": [], "content": None, "pictures": {}, "sources": []}


def libraries() -> Dict[str, str]:
    """The versions of the libraries that a picture's numbers depend on."""
    names = ("jittor", "numpy", "tokenizers")
    found = {name: [d.version for d in metadata.distributions(name=name)][:1] for name in names}
    return {name: version[0] for name, version in found.items() if version}


@dataclass(frozen=True)
class Record:
    """One drawn picture. `prompt` is the phrase that the prompts of all branches are made of."""

    prompt: str
    seed: int
    style: str
    style_hash: str
    base: str  # fingerprint
    sampling: SamplingSettings
    settings: MethodSettings
    method: str = FIRST_METHOD
    version: str = __version__
    dtype: str = "float32"
    preset: Optional[str] = None  # the name of the settings that `settings` differ from
    adapters: Dict[str, str] = field(default_factory=dict)  # hashes of the files; the style's hash is of their numbers
    libraries: Dict[str, str] = field(default_factory=libraries)
    decoder: str = ""  # fingerprint of the base's autoencoder
    control: Tuple[ControlSettings, ...] = ()  # pictures that held the layout
    content: Optional[ContentSettings] = None  # the picture that was drawn anew
    sources: Tuple[Source, ...] = ()  # of which media the prompt was made
    pictures: Dict[str, str] = field(default_factory=dict)  # hashes of the files that were looked at

    def chunks(self) -> Dict[str, str]:
        """The texts in the picture's file (`files.saved_pictures`)."""
        s, kind, plain = self.sampling, KINDS[self.method], not self.style and self.method == FIRST_METHOD
        facts = {"Steps": s.steps, "Sampler": SAMPLERS[s.sampler].title, "CFG scale": s.guidance, "Seed": self.seed,
                 "Size": f"{s.width}x{s.height}", "RNG": "CPU", "Model hash": self.base[:10],
                 **({} if plain else self.facts_of_style()), "Version": f"StyleBlend {self.version}"}
        line = ", ".join(f"{key}: {quoted(value)}" for key, value in facts.items())
        prompt = ("{prompt}." if plain else kind.shown_prompt).replace("{prompt}", self.prompt, 1)
        negative = f"\nNegative prompt: {s.fine_negative}" if s.fine_negative else ""
        own = {**asdict(self), "sampling": s.model_dump(), "settings": self.settings.model_dump(),
               "control": [one.model_dump(exclude_defaults=True) for one in self.control],
               "content": self.content and self.content.model_dump(exclude_defaults=True),
               "sources": [one.model_dump() for one in self.sources]}
        if any(escaped(text) != text for text in (self.prompt, s.coarse_negative, s.fine_negative)):
            own["signs"] = True  # to earlier versions brackets were text
        own = {kind.section if key == "settings" else key: value for key, value in own.items()
               if key not in ("control", "content", "pictures", "sources") or value}
        return {"parameters": f"{prompt}{negative}\n{line}", CHUNK: json.dumps(own, ensure_ascii=False)}

    def facts_of_style(self) -> Dict[str, object]:
        """What other programs are told of the style, or of the method where pictures or words stand for one."""
        named = {"style": self.style, "style hash": self.style_hash} if self.style else {"method": self.method}
        return {f"StyleBlend {name}": value for name, value in {**named, **self.settings.facts()}.items()}


def seen(said: Any, hashes: Mapping[str, str]) -> Any:
    """Settings as plain data, in which each picture's file is its content where that is known: a file may move."""
    if isinstance(said, BaseModel):
        return seen(said.model_dump(), hashes)
    if isinstance(said, (list, tuple)):
        return [seen(one, hashes) for one in said]
    if not isinstance(said, dict):
        return said
    return {key: hashes.get(value, value) if key == "picture" else seen(value, hashes) for key, value in said.items()}


def looked_at(settings: MethodSettings, control: Iterable[ControlSettings],
              content: Optional[ContentSettings]) -> Dict[str, str]:
    """Hashes of the picture files that a drawing with these settings looks at."""
    return hashes_of(files_looked_at(settings, control, content))


def files_looked_at(settings: MethodSettings, control: Iterable[ControlSettings],
                    content: Optional[ContentSettings]) -> List[str]:
    """These files."""
    others = [one.picture for one in (*control, *([content] if content else []))]
    return [*(settings.pictures() if settings else []), *others]


def quoted(value: Any) -> str:
    """As JSON where it holds a comma, a colon or a quote: A1111 splits at commas."""
    return json.dumps(str(value)) if any(c in str(value) for c in ',:"') else str(value)


def changes(then: Record, now: Record) -> List[str]:
    """What a picture was drawn with and would no longer be drawn with, in words.

    What either record does not say counts as the same.
    """
    sampling = [record.sampling.model_dump(exclude=SAME_PICTURE) for record in (then, now)]
    changed = [name for name, known in then.pictures.items() if now.pictures.get(name, known) != known]
    hashes = [{name: known for name, known in record.pictures.items() if then.pictures and name not in changed}
              for record in (then, now)]
    settings, control, content = ([seen([getattr(record, name)], known) for record, known in zip((then, now), hashes)]
                                  for name in ("settings", "control", "content"))
    pairs = {"prompts": (then.prompt, now.prompt), "seeds": (then.seed, now.seed), "methods": (then.method, now.method),
             "adapters": (then.adapters or now.adapters, now.adapters or then.adapters), "sampling settings": sampling,
             f"{KINDS[now.method].section} settings": settings, "control pictures": control,
             "content pictures": content,
             "picture files": ([], changed),
             "precision": (then.dtype, now.dtype)}
    return [name for name, (one, other) in pairs.items() if one != other]


def read_record(path: Path) -> Record:
    """The record of a picture that was drawn here."""
    with opened(path) as image:
        text = texts_of(image).get(CHUNK)
    if text is None:
        raise StyleBlendError(f"{path} does not say how it was drawn: only pictures of this program do, and a program "
                              "that saves one again may drop it")
    try:
        data, sampling, settings = parts_of(parse_json(text), path)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StyleBlendError(f"{path}: what it says of itself is damaged ({printable(str(error), 100)})") from None
    control = tuple(validated(ControlSettings, one, str(path)) for one in data.pop("control"))
    sources = tuple(validated(Source, one, str(path)) for one in data.pop("sources"))
    content = data.pop("content")
    content = None if content is None else validated(ContentSettings, content, str(path))
    return Record(sampling=validated(SamplingSettings, sampling, str(path)), control=control, content=content,
                  sources=sources, settings=validated(KINDS[data["method"]].drawing, settings, str(path)), **data)


def parts_of(data: Any, path: Path) -> Tuple[Dict[str, Any], Dict[str, Any], Dict[str, Any]]:
    """A record's own fields, its sampling settings and its method's settings; errors of many kinds where it is damaged.

    StyleBlendError when it was drawn by a method that is not known.
    """
    older = "method" not in data
    data = {**LATER, **data}
    if isinstance(data["method"], str) and data["method"] not in KINDS:
        raise StyleBlendError(f"{path} was drawn by the method {printable(data['method'])}; this version knows "
                              f"{', '.join(KINDS)}: draw it again with a newer one")
    sampling, settings = data.pop("sampling"), data.pop(KINDS[data["method"]].section)
    typed = set(data) == set(FIELDS) and all(isinstance(data[key], kind) for key, kind in FIELDS.items())
    if not typed or not isinstance(sampling, dict) or not isinstance(settings, dict):
        raise ValueError("its fields are others")
    if data["dtype"] not in get_args(DType):
        raise ValueError("its dtype is none of numbers")
    if not 0 <= data["seed"] <= LARGEST_SEED or control_character(data["prompt"]):
        raise ValueError("its seed or its prompt is none that can be drawn")
    sampler = SAMPLERS.get(sampling.get("sampler", SamplingSettings().sampler))
    if older and sampler and not sampler.takes_noise:
        sampling = {**sampling, "eta": 0.0}  # it had no effect, and nobody said so
    if not data.pop("signs"):
        data["prompt"] = escaped(data["prompt"])
        texts = [key for key in ("coarse_negative", "fine_negative") if isinstance(sampling.get(key), str)]
        sampling = {**sampling, **{key: escaped(sampling[key]) for key in texts}}
    return data, sampling, settings
