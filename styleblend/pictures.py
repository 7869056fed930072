"""Pictures in and out: style folders, loading, contact sheets, whole-or-nothing saving."""
from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from styleblend.errors import StyleBlendError
from styleblend.files import write_bytes

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True)
class StylePicture:
    """A picture of a style; the caption is its file name with spaces for underscores."""

    path: Path
    caption: str


def check_name(name: str) -> str:
    """A style or prompt becomes a file name: refuse what would leave its folder."""
    if not name or name in (".", "..") or re.search(r'[/\\\0]', name) or name.startswith("."):
        raise StyleBlendError(f"{name!r} cannot be a style or prompt name here: it becomes a file name, so no '/', '\\' or leading '.'")
    return name


def style_names(data: Path) -> List[str]:
    """All style folders of a data folder, in order."""
    if not Path(data).is_dir():
        raise StyleBlendError(f"the data folder {data} does not exist: put one folder a style there, with images/*.png and prompt.json")
    names = sorted(p.name for p in Path(data).iterdir() if p.is_dir() and not p.name.startswith("."))
    if not names:
        raise StyleBlendError(f"{data} holds no style folders: put one folder a style there, with images/*.png and prompt.json")
    return names


def style_pictures(folder: Path) -> List[StylePicture]:
    """The pictures of one style, in order of their names."""
    images = Path(folder) / "images"
    found = sorted(p for p in images.iterdir() if p.suffix.lower() in ENDINGS) if images.is_dir() else []
    if not found:
        raise StyleBlendError(f"style {Path(folder).name} has no pictures: put 3 to 10 into {images}, named after what they show")
    return [StylePicture(p, p.stem.replace("_", " ").strip()) for p in found]


def style_prompts(folder: Path) -> Dict[str, str]:
    """`prompt.json` of one style: {"0": "Dolphin", ...} or a list. Checked: strings that can be file names."""
    path = Path(folder) / "prompt.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StyleBlendError(f"{path} does not exist: write {{\"0\": \"Cat\", \"1\": \"House\"}} into it, or name prompts with --prompts") from None
    except (OSError, ValueError) as error:
        raise StyleBlendError(f"{path} cannot be read as JSON ({error}): it should be like {{\"0\": \"Cat\"}}") from None
    data = {str(i): p for i, p in enumerate(data)} if isinstance(data, list) else data
    if not isinstance(data, dict) or not data or not all(isinstance(p, str) and p.strip() for p in data.values()):
        raise StyleBlendError(f"{path} should map numbers to prompts, like {{\"0\": \"Cat\", \"1\": \"House\"}}")
    return {key: check_name(prompt.strip()) for key, prompt in data.items()}


def load_picture(path: Path) -> Image.Image:
    """An RGB picture, upright, transparency on white."""
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                rgba = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
            return image.convert("RGB")
    except FileNotFoundError:
        raise StyleBlendError(f"the picture {path} does not exist") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise StyleBlendError(f"the picture {path} cannot be read ({str(error)[:120]}): save it again as PNG, or remove it") from None


def to_array(image: Image.Image, width: int, height: int) -> np.ndarray:
    """(3, height, width) float32 in -1..1; other proportions are cropped around the middle."""
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.LANCZOS)
    return (np.asarray(image, np.float32) / 127.5 - 1).transpose(2, 0, 1)


def save_png(path: Path, pixels, metadata: Dict[str, str] = {}) -> None:
    """Write uint8 (H, W, 3) or an Image whole or not at all; `metadata` become text chunks."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    info, buffer = PngInfo(), io.BytesIO()
    for key, value in metadata.items():
        info.add_text(key, value)
    image.save(buffer, "PNG", pnginfo=info)
    write_bytes(path, buffer.getvalue())


def is_whole(path: Path) -> bool:
    """Whether a picture is there and can be decoded to its end."""
    try:
        with Image.open(path) as image:
            image.load()
        return True
    except (OSError, SyntaxError, ValueError):
        return False


def contact_sheet(rows: Sequence[Sequence[tuple]], cell: int = 160, margin: int = 8, line: int = 16) -> Image.Image:
    """Rows of (label, Image) cells on white, each picture fitted into `cell` pixels with its label below."""
    width = max(len(row) for row in rows)
    sheet = Image.new("RGB", (margin + width * (cell + margin), margin + len(rows) * (cell + line + margin)), "white")
    draw = ImageDraw.Draw(sheet)
    for r, row in enumerate(rows):
        for c, (label, image) in enumerate(row):
            x, y = margin + c * (cell + margin), margin + r * (cell + line + margin)
            fitted = ImageOps.contain(image, (cell, cell), Image.LANCZOS)
            sheet.paste(fitted, (x + (cell - fitted.width) // 2, y + (cell - fitted.height) // 2))
            draw.text((x + 2, y + cell + 2), label, fill="black")
    return sheet
