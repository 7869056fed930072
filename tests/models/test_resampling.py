"""What holds of every way to resize, and what each does at the border."""
import numpy as np
import pytest

from styleblend.machine.runtime import jt
from styleblend.models.resampling import (aligned_cubic_matrix, aligned_linear_matrix, corner_linear_matrix,
                                          cubic_matrix, linear_matrix, resized)

MATRICES = (cubic_matrix, aligned_cubic_matrix, linear_matrix, aligned_linear_matrix, corner_linear_matrix)
SIZES = [(1, 1), (1, 7), (7, 1), (2, 3), (12, 6), (6, 12), (37, 12), (12, 37)]


@pytest.mark.parametrize("new, old", SIZES)
@pytest.mark.parametrize("matrix", MATRICES)
def test_one_colour_stays(matrix, new, old):
    assert matrix(new, old).shape == (new, old) and matrix(new, old).dtype == np.float32
    np.testing.assert_allclose(matrix(new, old).sum(1), 1, atol=1e-6)


@pytest.mark.parametrize("matrix", MATRICES)
def test_the_same_size_is_the_same(matrix):
    np.testing.assert_allclose(matrix(9, 9), np.eye(9), atol=1e-6)


@pytest.mark.parametrize("matrix, wanted", [
    (linear_matrix, [0, 0.25, 0.75, 1.25, 1.75, 2]), (aligned_linear_matrix, [0, 0.4, 0.8, 1.2, 1.6, 2]),
    (corner_linear_matrix, [0, 0.5, 1, 1.5, 2, 2])])
def test_where_the_pixels_of_a_slope_lie(matrix, wanted):
    np.testing.assert_allclose(matrix(6, 3) @ np.float32([0, 1, 2]), wanted, atol=1e-6)


def test_aligned_cubic_keeps_a_slope_but_at_its_ends():
    """Where all four taps are inside, a straight line stays one; the first and the last value are the old ones."""
    found = aligned_cubic_matrix(16, 6) @ np.arange(6, dtype=np.float32)
    np.testing.assert_allclose(found[3:13], np.arange(3, 13) / 3, atol=1e-6)
    np.testing.assert_allclose(found[[0, -1]], [0, 5], atol=1e-6)


@pytest.mark.parametrize("height, width", [(5, 9), (12, 4), (5, 7), (3, 9)])
def test_maps_are_resized_along_both_axes(height, width):
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 9)).astype(np.float32)
    with jt.no_grad():
        found = resized(jt.array(x), height, width, linear_matrix).numpy()
    np.testing.assert_allclose(found, linear_matrix(height, 5) @ x @ linear_matrix(width, 9).T, atol=1e-5)
