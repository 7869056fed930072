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


@pytest.mark.parametrize("matrix", [aligned_cubic_matrix, aligned_linear_matrix])
def test_aligned_ones_keep_the_old_values(matrix):
    """From 6 values to 16 each third one is an old one, also the first and the last."""
    x = np.float32([3, -1, 4, 1, -5, 9])
    np.testing.assert_allclose((matrix(16, 6) @ x)[::3], x, atol=1e-5)


@pytest.mark.parametrize("height, width", [(5, 9), (12, 4), (5, 7), (3, 9)])
def test_maps_are_resized_along_both_axes(height, width):
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 9)).astype(np.float32)
    with jt.no_grad():
        found = resized(jt.array(x), height, width, linear_matrix).numpy()
    np.testing.assert_allclose(found, linear_matrix(height, 5) @ x @ linear_matrix(width, 9).T, atol=1e-5)
