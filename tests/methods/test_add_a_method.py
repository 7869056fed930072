"""The method of docs/add-a-method.md, with its code as it stands there, draws."""
import json
import re
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pytest
from PIL import Image

from styleblend.adapters.parts import PARTS
from styleblend.cli import main
from styleblend.methods.method import Request
from styleblend.methods.registry import METHODS
from styleblend.pipeline import Pipeline
from styleblend.record import read_record
from styleblend.settings import KINDS, SamplingSettings, StyleSettings

PAGE = Path(__file__).parents[2] / "docs" / "add-a-method.md"
# what the files that the page names import already
IMPORTS = """
from dataclasses import dataclass
from pydantic import Field
from styleblend.diffusion.controls import Control
from styleblend.diffusion.recipe import Recipe, classifier_free
from styleblend.kernels.segments import Segment
from styleblend.models.rows import Rows
from styleblend.settings import MethodSettings, validated
"""


@pytest.fixture(scope="module")
def names():
    """What the page defines."""
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert len(code) == 2
    found = {"__name__": "echo"}
    exec(compile(IMPORTS + "\n".join(code), str(PAGE), "exec"), found)
    return found


def test_the_page_is_right(tiny_base, names):
    pipeline = Pipeline(tiny_base, methods={"echo": names["Echo"]()})
    sampling, pixels = SamplingSettings(steps=2, width=64, height=64, output=None), []
    for reference in ("a drawing", "a stone"):
        request = Request(("A cat", "An owl"), (5, 6), sampling, method="echo",
                          settings=names["EchoSettings"](reference=reference))
        events = list(pipeline.draw(request))
        pixels.append(np.stack([event.pixels for event in events[2:]]))
    assert pixels[0].shape == (2, 64, 64, 3)
    assert np.abs(pixels[0].astype(int) - pixels[1]).max() > 3  # the reference is seen


def test_with_its_entries_every_command_draws_it(world, tmp_path, names, monkeypatch, capsys):
    """The three tables that the page names are all: a board, one prompt, the picture again, a sheet."""

    class EchoStyle(StyleSettings):
        section: ClassVar[str] = "echo"
        drawing: ClassVar[type] = names["EchoSettings"]
        method: Literal["echo"] = "echo"
        echo: dict = {}

    for table, entry in ((METHODS, names["Echo"]()), (PARTS, {}), (KINDS, EchoStyle)):
        monkeypatch.setitem(table, "echo", entry)
    folder = tmp_path / "adapters" / "dots"
    folder.mkdir(parents=True)
    drawn = []
    for reference in ("a drawing", "a stone"):
        style = {"method": "echo", "echo": {"reference": reference}, "guidance": 4}
        (folder / "style.json").write_text(json.dumps(style))
        one = tmp_path / f"{reference}.png"
        command = ["draw", "--config", str(world), "--style", "dots", "--prompt", "A cat", "--output", str(one)]
        assert main(command) == 0
        drawn.append(np.asarray(Image.open(one), int))
        record = read_record(one)
        assert (record.method, record.settings.reference, record.sampling.guidance) == ("echo", reference, 4)
    assert np.abs(drawn[0] - drawn[1]).max() > 3
    again = tmp_path / "again.png"
    assert main(["draw", "--config", str(world), "--from", str(one), "--output", str(again)]) == 0
    assert np.array_equal(np.asarray(Image.open(again)), drawn[1])
    assert main(["board", "--config", str(world), "--styles", "dots"]) == 0
    assert read_record(tmp_path / "result" / "dots" / "Cat.png").method == "echo"
    sheet = str(tmp_path / "grid.png")
    assert main(["grid", "dots", "--config", str(world), "--x", "guidance=2,4", "--output", sheet]) == 0
    # scale is a setting of StyleBlend, not one of its own
    assert main(["grid", "dots", "--config", str(world), "--x", "scale=1,2", "--output", sheet]) == 2
    assert main([*command, "--strength", "2"]) == 2
    assert main(["tune", "dots", "--config", str(world)]) == 2
    assert main(["styles", "--config", str(world)]) == 0 and "dots  echo" in capsys.readouterr().out
