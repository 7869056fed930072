"""Canny edges are OpenCV's, bit for bit."""
from pathlib import Path

import numpy as np
import pytest

from reference.make_canny_references import pictures
from styleblend.files.canny import canny

STORED = np.load(Path(__file__).parents[1] / "data" / "canny.npz")
PICTURES = pictures()


@pytest.mark.parametrize("name", PICTURES)
def test_edges_are_opencvs(name):
    cases = [key for key in STORED.files if key.split("|")[0] == name]
    assert len(cases) == 2
    for key in cases:
        edges = canny(PICTURES[name], *map(int, key.split("|")[1:]))
        assert edges.dtype == np.uint8 and edges.shape == PICTURES[name].shape[:2] and set(np.unique(edges)) <= {0, 255}
        assert np.array_equal(np.packbits(edges > 0), STORED[key])


def test_there_is_something_to_compare():
    assert len(PICTURES) >= 20
    assert sum(np.unpackbits(STORED[key]).sum() > 100 for key in STORED.files) >= 40
