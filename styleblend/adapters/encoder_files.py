"""Where the style encoder is, and its hash. Nothing here needs Jittor: what is missing is said before it starts."""
from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import List, Optional

from styleblend.errors import StyleBlendError
from styleblend.files.content import PYTORCH, kind_of, sha256_of
from styleblend.files.shipped import own_or_shipped
from styleblend.files.tensor_files import read_names, read_sizes
from styleblend.models.configs import StyleEncoderConfig, read_config

CONFIG, WEIGHTS, MAPPING, CARD = "config.json", "model.safetensors", "mapping.safetensors", "README.md"
TRAIN = "python -m styleblend train encoder"
ADVICE = f"Download the whole encoder again, or train it ({TRAIN})"


def find_encoder(named: Optional[str], option: str = "--encoder") -> Path:
    """The folder of an encoder, or its checkpoint file; `option` is what named it.

    StyleBlendError says what to type where there is none.
    """
    if not named:
        raise StyleBlendError("no style encoder is known: name one with --encoder, or encoder: FOLDER in the config")
    path = own_or_shipped(named)
    if not path.exists():
        raise StyleBlendError(f"there is no style encoder {path}: name another one with {option}, or train it with "
                              f"{TRAIN}")
    if path.is_dir() and not (path / CONFIG).is_file():
        raise StyleBlendError(f"{path} is no style encoder: name a folder with {CONFIG} and {WEIGHTS}, or a "
                              "checkpoint file")
    return path


def ready_encoder(named: Optional[str]) -> Path:
    """The same, after a look at its sizes and at the names of its weights. StyleBlendError where one is not whole."""
    path = find_encoder(named)
    if path.is_dir():
        config_of(path)
        if not (path / WEIGHTS).is_file():
            raise StyleBlendError(f"{path / WEIGHTS} is missing. {ADVICE}")
        for file in weight_files(path):
            read_names(file)
    return path


def config_of(folder: Path) -> StyleEncoderConfig:
    """The sizes in an encoder's folder, or those of the image encoder where it is a whole CLIP's."""
    return read_config(StyleEncoderConfig, folder / CONFIG, "vision_config")


def encoder_hash(path: Path) -> str:
    """The first 16 digits of the SHA-256 of an encoder's weights, and of what else of it pictures depend on."""
    return sha256_of(*weight_files(path), behind=unusual(path).encode())[:16]


def unusual(path: Path) -> str:
    """What the config.json of an encoder says that is not usual, but for its base, of which a picture says more.

    Nothing of a published one: its hash is that of its file.
    """
    folder = path if path.is_dir() else path.parent
    said = asdict(config_of(folder)) if (folder / CONFIG).is_file() else {}
    usual = asdict(StyleEncoderConfig(base=said.get("base", "")))
    return "".join(f"{name}: {value!r}\n" for name, value in sorted(said.items()) if value != usual[name])


def encoder_size(path: Path) -> int:
    """Bytes of an encoder's weights in memory, where they are float32, as they are in the published checkpoint."""
    return sum(file.stat().st_size if kind_of(file) == PYTORCH else sum(read_sizes(file, read_names(file)).values())
               for file in weight_files(path))


def weight_files(path: Path) -> List[Path]:
    """The files of an encoder's weights."""
    return [file for file in (path / WEIGHTS, path / MAPPING) if file.is_file()] if path.is_dir() else [path]
