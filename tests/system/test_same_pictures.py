"""The pictures and the training that the program gave before it was rebuilt around recipes.

`tests/reference/draw_same_pictures.py` makes both.
"""
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reference.draw_same_pictures import PICTURES, machine

ROOT, BEFORE = Path(__file__).parents[2], Path(__file__).parents[1] / "data" / "same_pictures"
FACTS = json.loads((BEFORE / "facts.json").read_text(encoding="utf-8"))


def drawn(folder: Path, *options: str) -> dict:
    """What the script says of its pictures, with the number of threads that the ones before were drawn with."""
    environment = {**os.environ, "OMP_NUM_THREADS": FACTS["machine"]["threads"], "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "tests/reference/draw_same_pictures.py", str(folder), *options], cwd=ROOT,
                   env=environment, check=True)
    return json.loads((folder / "facts.json").read_text(encoding="utf-8"))


def compare(folder: Path, facts: dict) -> None:
    """Bit for bit on a machine like the one before; elsewhere within 1 of 255."""
    for name, digest in facts["pixels"].items():
        now, then = (np.asarray(Image.open(place / name)).astype(int) for place in (folder, BEFORE))
        assert now.shape == then.shape and np.abs(now - then).max() <= 1, name
        assert facts["machine"] != FACTS["machine"] or digest == FACTS["pixels"][name], name


def test_a_picture_is_the_same(tmp_path):
    compare(tmp_path, drawn(tmp_path, "--only", "fxemoji-eta"))


@pytest.mark.slow
def test_all_pictures_and_a_training_are_the_same(tmp_path):
    facts = drawn(tmp_path, "--training")
    assert len(facts["pixels"]) == len(PICTURES) + 4
    compare(tmp_path, facts)
    for what, then in FACTS["training"].items():
        if facts["machine"] == FACTS["machine"]:
            assert facts["training"][what] == then, what
        elif "losses" in what:
            np.testing.assert_allclose(facts["training"][what], then, rtol=1e-3)


def test_a_machine_says_what_last_bits_depend_on():
    assert set(machine()) == {"processor", "abilities", "threads"}
