"""What a picture says of itself: the text chunk that A1111 and picture viewers read, and all that it takes to draw it again."""
from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Dict, List, Optional, get_args

from styleblend import __version__
from styleblend.errors import StyleBlendError
from styleblend.files.pictures import opened
from styleblend.files.names import control_character
from styleblend.machine.precision import DType
from styleblend.settings import LARGEST_SEED, BlendSettings, SamplingSettings, validated
from styleblend.files.text import parse_json

SAMPLER_NAMES = {"ddim": "DDIM", "dpmpp_2m": "DPM++ 2M", "euler": "Euler"}
CHUNK = "styleblend"
SAME_PICTURE = {"batch", "vae_strip", "seed"}  # sampling settings that change no picture; each has a seed of its own
LATER = {"dtype": "float32", "preset": None, "adapters": {}, "libraries": {}, "decoder": ""}  # what older pictures do not say


def libraries() -> Dict[str, str]:
    """The versions of the libraries that a picture's numbers depend on."""
    found = {name: [d.version for d in metadata.distributions(name=name)][:1] for name in ("jittor", "numpy", "transformers")}
    return {name: version[0] for name, version in found.items() if version}


@dataclass(frozen=True)
class Record:
    """One drawn picture. `prompt` is the phrase that both branches' prompts are made of. A plain picture has no `style` and no `style_hash`."""

    prompt: str
    seed: int
    style: str
    style_hash: str
    base: str  # fingerprint
    sampling: SamplingSettings
    blend: BlendSettings
    version: str = __version__
    dtype: str = "float32"
    preset: Optional[str] = None  # the name of the settings that `blend` differs from
    adapters: Dict[str, str] = field(default_factory=dict)  # hashes of the files; the style's hash is of their numbers
    libraries: Dict[str, str] = field(default_factory=libraries)
    decoder: str = ""  # fingerprint of the base's autoencoder

    def chunks(self) -> Dict[str, str]:
        """The text chunks of the PNG file."""
        s, b = self.sampling, self.blend
        of_style = {} if not self.style else {"StyleBlend style": self.style, "StyleBlend style hash": self.style_hash, "StyleBlend coarse scale": b.scale,
                 "StyleBlend fine scale": b.fine_scale, "StyleBlend negative scale": b.negative_scale,
                 "StyleBlend c2f": f"{b.c2f_ratio} at {' '.join(map(str, b.c2f_sites))}", "StyleBlend f2c": f"{b.f2c_ratio} at {' '.join(map(str, b.f2c_sites))}"}
        facts = {"Steps": s.steps, "Sampler": SAMPLER_NAMES[s.sampler], "CFG scale": s.guidance, "Seed": self.seed, "Size": f"{s.width}x{s.height}", "RNG": "CPU",
                 "Model hash": self.base[:10], **of_style, "Version": f"StyleBlend {self.version}"}
        # A1111 splits at commas: a value that holds one, or a colon or quote, is written as JSON
        line = ", ".join(f"{k}: {json.dumps(str(v)) if any(c in str(v) for c in ',:' + chr(34)) else v}" for k, v in facts.items())
        negative = f"\nNegative prompt: {s.fine_negative}" if s.fine_negative else ""
        everything = {**asdict(self), "sampling": s.model_dump(), "blend": b.model_dump()}
        return {"parameters": f"{self.prompt}{' in the style of <F>' if self.style else ''}.{negative}\n{line}", CHUNK: json.dumps(everything, ensure_ascii=False)}


def changes(then: Record, now: Record) -> List[str]:
    """What a picture was drawn with and would no longer be drawn with, in words; what either record does not say counts as the same."""
    sampling = [{k: v for k, v in record.sampling.model_dump().items() if k not in SAME_PICTURE} for record in (then, now)]
    pairs = {"prompts": (then.prompt, now.prompt), "seeds": (then.seed, now.seed), "adapters": (then.adapters or now.adapters, now.adapters or then.adapters),
             "sampling settings": sampling, "blend settings": (then.blend, now.blend), "precision": (then.dtype, now.dtype)}
    return [name for name, (one, other) in pairs.items() if one != other]


def read_record(path: Path) -> Record:
    """The record of a picture that was drawn here."""
    with opened(path) as image:
        text = image.info.get(CHUNK)
    if not isinstance(text, str):
        raise StyleBlendError(f"{path} does not say how it was drawn: only PNG files of this program do, and a program that saves one again may drop it")
    try:
        data = parse_json(text)
        sampling, blend = data.pop("sampling"), data.pop("blend")
        data = {**LATER, **data}
        kinds = {"dtype": str, "prompt": str, "seed": int, "style": str, "style_hash": str, "base": str, "version": str, "preset": (str, type(None)), "adapters": dict, "libraries": dict, "decoder": str}
        if not isinstance(sampling, dict) or not isinstance(blend, dict) or set(data) != set(kinds) or not all(isinstance(data[k], kind) for k, kind in kinds.items()) \
                or data["dtype"] not in get_args(DType):
            raise ValueError("its fields are others")
        if not 0 <= data["seed"] <= LARGEST_SEED or control_character(data["prompt"]):
            raise ValueError("its seed or its prompt is none that can be drawn")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StyleBlendError(f"{path}: what it says of itself is damaged ({str(error)[:100]})") from None
    return Record(sampling=validated(SamplingSettings, sampling, str(path)), blend=validated(BlendSettings, blend, str(path)), **data)
