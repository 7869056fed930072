"""Do pictures follow the edges that a ControlNet was given?

Each style picture of a data folder gives its edges; the same prompt, which says what it shows, and the same seed are
drawn with them and without. Precision: edges of the drawing that are near a given one. Recall: given edges that are
near one of the drawing. F1: their harmonic mean, here of all pixels of a picture.
"""
import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from styleblend import Pipeline, load_base, read_settings
from styleblend.cli.options import HelpFormatter
from styleblend.files.canny import canny
from styleblend.files.captions import pictures_if_any
from styleblend.files.pictures import contact_sheet, load_picture, save_png
from styleblend.files.shipped import data_of, style_folders
from styleblend.metrics.comparison import paired_difference
from styleblend.settings import ControlSettings


def near(edges: np.ndarray, pixels: int) -> np.ndarray:
    """Where an edge is at most so many pixels away, each way."""
    return np.asarray(Image.fromarray(edges).filter(ImageFilter.MaxFilter(2 * pixels + 1))) > 0


def agreement(drawn: np.ndarray, given: np.ndarray, pixels: int) -> float:
    """F1 of two pictures of edges (H, W) uint8; 0 where one has none."""
    found, wanted = drawn > 0, given > 0
    if not found.any() or not wanted.any():
        return 0.0
    precision, recall = near(given, pixels)[found].mean(), near(drawn, pixels)[wanted].mean()
    return float(2 * precision * recall / max(precision + recall, 1e-9))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--config", default="mini", help="settings with the base and the data folder")
    parser.add_argument("--controlnet", type=Path, required=True, help="folder of the ControlNet for edges")
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.5, 1.0], help="factors of the control")
    parser.add_argument("--seeds", type=int, default=2, help="pictures of each")
    parser.add_argument("--near", type=int, default=1, help="pixels that still count as the same place")
    parser.add_argument("--sheet", type=Path, help="write what was drawn as one picture, a PNG file")
    args = parser.parse_args()
    settings = read_settings(args.config)
    pipeline = Pipeline(load_base(settings.base), settings)
    size = settings.sampling.width, settings.sampling.height
    rows, scores = [], {strength: [] for strength in (0.0, *args.strengths)}
    for picture in (p for name in style_folders(settings.data) for p in pictures_if_any(data_of(settings.data, name))):
        shown = ImageOps.fit(load_picture(picture.path), size, Image.LANCZOS)
        given = canny(np.asarray(shown))
        cells = [(picture.caption, shown), ("edges", Image.fromarray(given))]
        for strength, found in scores.items():
            control = ControlSettings(picture=str(picture.path), network=str(args.controlnet), strength=strength)
            drawn = pipeline.pictures(*[picture.phrase] * args.seeds, seeds=range(1, args.seeds + 1),
                                      control=(control,) if strength else ())
            found += [agreement(canny(one.pixels), given, args.near) for one in drawn]
            cells.append((f"{strength:g}: {found[-args.seeds]:.2f}", Image.fromarray(drawn[0].pixels)))
        rows.append(cells)
    for strength, found in scores.items():
        more = paired_difference(found, scores[0.0])
        against = f", {more} against without" if strength else ""
        print(f"strength {strength:g}: F1 {np.mean(found):.3f} of {len(found)} pictures{against}")
    if args.sheet:
        save_png(args.sheet, contact_sheet(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
