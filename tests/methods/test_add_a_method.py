"""The method of docs/add-a-method.md, with its code as it stands there, draws."""
import re
from pathlib import Path

import numpy as np

from styleblend.methods.method import Request
from styleblend.pipeline import Pipeline
from styleblend.settings import SamplingSettings

PAGE = Path(__file__).parents[2] / "docs" / "add-a-method.md"
# what the files that the page names import already
IMPORTS = """
from dataclasses import dataclass
from pydantic import Field
from styleblend.diffusion.controls import Control
from styleblend.diffusion.recipe import Recipe, classifier_free
from styleblend.kernels.segments import Segment
from styleblend.models.rows import Rows
from styleblend.settings import Settings
"""


def test_the_page_is_right(tiny_base):
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert len(code) == 2
    names = {"__name__": "echo"}
    exec(compile(IMPORTS + "\n".join(code), str(PAGE), "exec"), names)
    pipeline = Pipeline(tiny_base, methods={"echo": names["Echo"]()})
    sampling, pixels = SamplingSettings(steps=2, width=64, height=64, output=None), []
    for reference in ("a drawing", "a stone"):
        request = Request(("A cat", "An owl"), (5, 6), sampling, method="echo",
                          settings=names["EchoSettings"](reference=reference))
        events = list(pipeline.draw(request))
        pixels.append(np.stack([event.pixels for event in events[2:]]))
    assert pixels[0].shape == (2, 64, 64, 3)
    assert np.abs(pixels[0].astype(int) - pixels[1]).max() > 3  # the reference is seen
