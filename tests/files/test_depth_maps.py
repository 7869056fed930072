"""Depth maps as control pictures: scaled, resized, or refused in a sentence."""
import numpy as np
import pytest
from PIL import Image

from styleblend.errors import StyleBlendError
from styleblend.files.depth_maps import from_depth, load_depth_map


def slope(width: int, height: int) -> np.ndarray:
    """Grey that grows downwards and to the right."""
    return np.uint8(np.add.outer(np.linspace(0, 200, height), np.linspace(0, 55, width)))


def saved(path, pixels, mode=None):
    Image.fromarray(pixels, mode).save(path)
    return path


@pytest.mark.parametrize("scale, offset", [(1, 0), (1e-6, 0), (1e6, -3e6), (-2, 5)])
def test_depth_of_any_scale_goes_from_black_to_white(scale, offset):
    depth = np.float32(np.linspace(0, 1, 60).reshape(6, 10) * scale + offset)
    grey = from_depth(depth)
    assert grey.shape == (6, 10, 3) and grey.dtype == np.uint8 and (grey == grey[..., :1]).all()
    assert grey.min() == 0 and grey.max() == 255
    order = np.argsort(depth.ravel())
    assert (np.diff(grey[..., 0].ravel()[order].astype(int)) >= 0).all()


@pytest.mark.parametrize("depth", [np.zeros((4, 4)), np.full((4, 4), 7.5), np.full((1, 1), 1.0),
                                   np.full((4, 4), np.nan), np.array([[0, np.inf]]), np.array([[0, 1, np.nan]])])
def test_no_depth_is_refused(depth):
    with pytest.raises(StyleBlendError, match="the same everywhere"):
        from_depth(np.float32(depth))


@pytest.mark.parametrize("width, height, wanted", [
    (64, 48, (64, 48)), (128, 96, (64, 48)), (32, 24, (64, 48)), (65, 48, (64, 48)), (21, 16, (64, 48)),
    (100, 133, (768, 1024)), (683, 512, (1024, 768))])
def test_another_size_is_resized(width, height, wanted, tmp_path):
    grey = load_depth_map(saved(tmp_path / "map.png", slope(width, height)), *wanted)
    assert grey.shape == (wanted[1], wanted[0], 3) and grey.dtype == np.uint8 and (grey == grey[..., :1]).all()
    assert np.abs(grey[..., 0].astype(int) - slope(*wanted)).max() <= 12
    if (width, height) == wanted:
        assert (grey[..., 0] == slope(width, height)).all()


@pytest.mark.parametrize("width, height", [(48, 64), (64, 64), (64, 40), (400, 48), (768, 512), (1000, 768)])
def test_other_proportions_are_refused(width, height, tmp_path):
    path = saved(tmp_path / "map.png", slope(width, height))
    with pytest.raises(StyleBlendError, match=f"is {width} x {height}, and 1024 x 768 is drawn") as error:
        load_depth_map(path, 1024, 768)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("kind", ["16 bits", "RGB", "with alpha", "JPEG", "palette"])
def test_kinds_of_grey_files(kind, tmp_path):
    grey, path = slope(64, 48), tmp_path / "map.png"
    if kind == "16 bits":
        Image.fromarray(grey.astype(np.uint16) * 257).save(path)
    elif kind == "with alpha":
        saved(path, np.dstack([grey, np.full_like(grey, 255)]))
    elif kind == "JPEG":
        path = saved(tmp_path / "map.jpg", np.dstack([grey] * 3))
    elif kind == "palette":
        Image.fromarray(grey).convert("P").save(path)
    else:
        saved(path, np.dstack([grey] * 3))
    assert np.abs(load_depth_map(path, 64, 48)[..., 0].astype(int) - grey).max() <= (4 if kind == "JPEG" else 0)


@pytest.mark.parametrize("pixels, message", [
    (np.full((48, 64), 90, np.uint8), "of one colour"),
    (np.dstack([slope(64, 48), slope(64, 48)[::-1], slope(64, 48)]), "has colours, and a depth map is grey")])
def test_what_holds_no_depth_is_refused(pixels, message, tmp_path):
    with pytest.raises(StyleBlendError, match=message):
        load_depth_map(saved(tmp_path / "map.png", pixels), 64, 48)


def test_what_is_no_picture_is_said(tmp_path):
    with pytest.raises(StyleBlendError, match="does not exist"):
        load_depth_map(tmp_path / "nothing.png", 64, 48)
    (tmp_path / "map.exr").write_bytes(b"v/1\x01" * 9)
    with pytest.raises(StyleBlendError, match="cannot be read"):
        load_depth_map(tmp_path / "map.exr", 64, 48)
