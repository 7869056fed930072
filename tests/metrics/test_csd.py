"""CSD against a restatement in PyTorch on the same pictures, through files like the published checkpoint.

`tests/reference/make_csd_reference.py` wrote the reference. `pytest -rP tests/metrics/test_csd.py` prints the errors.
"""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reference import seeded
from styleblend.errors import StyleBlendError
from styleblend.files import tensor_files
from styleblend.metrics import load_metrics
from styleblend.metrics.networks import Networks
from made_up_networks import CSD_REFERENCE as REFERENCE, file_of
from test_pickles import mapping, storage, tensor, text, zip_file

@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("metrics")
    tensor_files.write_safetensors(folder / "csd" / "model.safetensors", file_of("csd"))
    return folder


def pictures(name: str, count: int) -> list:
    return [Image.fromarray(pixels) for pixels in seeded.pictures(name, count, 60, 44)]


def test_both_heads_agree(folder):
    found = Networks(folder).csd.encode(pictures("drawn", 8))
    for head, name in enumerate(("style", "content")):
        error = float(np.abs(found[:, head] - REFERENCE[f"drawn/{name}"]).max())
        print(f"{name}: {error:.1e}")
        assert error <= 1e-4
    assert np.abs(found[:, 0] - found[:, 1]).max() > 0.1  # the heads are not one


def test_the_measure_is_the_mean_cosine_with_the_style_pictures(folder):
    (metric,), missing = load_metrics(folder, ["csd"])
    scores = metric.score(pictures("drawn", 8), ["a cat"] * 8, pictures("style", 3))
    shared = metric.with_shares([0.7, 0.2, 0.1]).score(pictures("drawn", 8), ["a cat"] * 8, pictures("style", 3))
    for name, head in (("csd", "style"), ("csd_content", "content")):
        cosines = REFERENCE[f"drawn/{head}"] @ REFERENCE[f"style/{head}"].T
        assert np.abs(scores[name] - cosines.mean(1)).max() <= 1e-4
        assert np.abs(shared[name] - cosines @ [0.7, 0.2, 0.1]).max() <= 1e-4
    assert not missing and metric.higher_is_better == {"csd": True, "csd_content": False}


def test_a_pickle_as_published_gives_the_same(folder, tmp_path):
    """The state dict under `model_state_dict`, every name behind `module.`, beside what else a training saves."""
    some = file_of("csd")
    state = {f"module.{name}": tensor(array.shape, tuple(step // 4 for step in array.strides),
                                      data=storage(array.size, key=text(str(number))))
             for number, (name, array) in enumerate(some.items())}
    (tmp_path / "csd").mkdir()
    (tmp_path / "csd" / "checkpoint.pth").write_bytes(zip_file(
        mapping(model_state_dict=mapping(**state), iter=b"K\x07"),
        **{f"_{number}": array.tobytes() for number, array in enumerate(some.values())}))
    ours, theirs = (Networks(place).csd.encode(pictures("drawn", 2)) for place in (folder, tmp_path))
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("spoil, words", [
    (lambda t: t.pop("last_layer_style"), "is no CSD by the names of its release"),
    (lambda t: t.pop("last_layer_content"), "1 tensors are missing (last_layer_content)"),
    (lambda t: t.pop("backbone.ln_post.weight"), "1 tensors are missing (vision_model.post_layernorm.weight)"),
    (lambda t: t.update(stranger=np.zeros(2, np.float32)), "1 tensors are too much (stranger)")])
def test_a_file_that_does_not_fit_is_named(tmp_path, spoil, words):
    some = file_of("csd")
    spoil(some)
    tensor_files.write_safetensors(tmp_path / "csd" / "model.safetensors", some)
    with pytest.raises(StyleBlendError) as caught:
        Networks(tmp_path).csd
    assert words in str(caught.value) and "docs/metrics.md" in str(caught.value)
