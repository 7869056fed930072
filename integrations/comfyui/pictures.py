"""ComfyUI's IMAGE, (batch, height, width, 3) float32 in 0..1, from PNG files and back."""
from __future__ import annotations

import io
from typing import List, Sequence, Tuple

import numpy as np
import torch
from PIL import Image

RECORD = "styleblend"  # the text of a PNG that says how it was drawn


def to_png(images: torch.Tensor) -> List[bytes]:
    """Each picture of a batch as a PNG of 8 bits."""
    return [png_of(image) for image in images]


def png_of(image: torch.Tensor) -> bytes:
    pixels = np.rint(image[..., :3].cpu().numpy().clip(0, 1) * 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def from_png(files: Sequence[bytes]) -> Tuple[torch.Tensor, str]:
    """A batch of pictures of one size; and their records, JSON, one on each line."""
    pictures, records = [], []
    for file in files:
        with Image.open(io.BytesIO(file)) as image:
            image.load()
            records.append(image.info.get(RECORD, "{}"))
            pictures.append(np.asarray(image.convert("RGB"), np.float32) / 255)
    return torch.from_numpy(np.stack(pictures)), "\n".join(records)
