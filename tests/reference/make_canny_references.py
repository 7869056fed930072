"""Edges by OpenCV of the shipped style pictures and of made-up ones -> tests/data/canny.npz, a bit a pixel.

    pip install opencv-python-headless==4.11.0.86 "numpy<2" pillow
    python tests/reference/make_canny_references.py
"""
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
THRESHOLDS = ((100, 200), (30, 70))


def pictures():
    """name -> uint8 picture; tests/files/test_canny.py asks for them, too, so OpenCV is imported only below."""
    found = {f"{path.parts[-3]}/{path.name}": np.asarray(Image.open(path).convert("RGB"))
             for path in sorted((ROOT / "data" / "mini").glob("*/images/*.png"))}
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (30, 40, 3), np.uint8)
    found["noise"] = rng.integers(0, 256, (61, 83, 3), np.uint8)
    found["grey noise"] = rng.integers(0, 256, (40, 31), np.uint8)
    found["blocks"] = coarse.repeat(7, 0).repeat(5, 1)
    found["soft"] = np.asarray(Image.fromarray(coarse).resize((200, 150), Image.BICUBIC))
    found["one colour"], found["one row"] = np.full((5, 5), 7, np.uint8), np.arange(9, dtype=np.uint8)[None] * 30
    return found


if __name__ == "__main__":
    import cv2

    edges = {f"{name}|{low}|{high}": np.packbits(cv2.Canny(np.ascontiguousarray(picture), low, high) > 0)
             for name, picture in pictures().items() for low, high in THRESHOLDS}
    np.savez_compressed(ROOT / "tests" / "data" / "canny.npz", **edges)
