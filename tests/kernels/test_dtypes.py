"""In which type pictures are drawn and styles learned: what "auto" stands for."""
from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from styleblend import cli
from styleblend.cli.options import settings_of
from styleblend.errors import StyleBlendError
from styleblend.jobs.memory import table, within
from styleblend.kernels import bfloat16, dtypes, products
from styleblend.machine.precision import added, cast
from styleblend.machine.runtime import jt
from styleblend.record import read_record
from styleblend.settings import read_settings


@pytest.fixture
def unmasked(monkeypatch):
    monkeypatch.delenv(dtypes.CHOICE)


#                         Linux sees tiles, what multiplies, what is drawn in
@pytest.mark.parametrize("tiles, unit, dtype", [(True, "tiles", "bfloat16"), (True, "vectors", "float32"),
                                                (True, "", "float32"), (False, "tiles", "float32")])
def test_auto_is_bfloat16_where_there_are_tiles(unmasked, monkeypatch, tiles, unit, dtype):
    """Also where Linux has them and the compiler does not know them, or the other way about, it is float32."""
    monkeypatch.setattr(bfloat16, "has_tiles", lambda: tiles)
    monkeypatch.setattr(bfloat16, "unit", lambda: unit)
    assert dtypes.drawn_as("auto") == dtype and dtypes.trained_as("auto") == "float32"


def test_without_tiles_nothing_is_compiled_to_know(unmasked, monkeypatch):
    monkeypatch.setattr(bfloat16, "has_tiles", lambda: False)
    monkeypatch.setattr(bfloat16, "unit", lambda: pytest.fail("the compiler was asked"))
    assert dtypes.drawn_as("auto") == "float32"


def test_on_a_gpu_it_is_float32(unmasked, monkeypatch):
    monkeypatch.setattr(bfloat16, "has_tiles", lambda: True)
    monkeypatch.setattr(bfloat16, "unit", lambda: "tiles")
    for module in (bfloat16, dtypes):
        monkeypatch.setattr(module, "jt", type("Jittor", (), {"flags": type("Flags", (), {"use_cuda": 1})}))
    assert dtypes.drawn_as("auto") == "float32" and not bfloat16.multiplied("bfloat16")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_what_is_said_is_done(dtype):
    assert dtypes.drawn_as(dtype) == dtypes.trained_as(dtype) == dtype


def test_the_environment_may_choose(monkeypatch):
    monkeypatch.setenv(dtypes.CHOICE, "bfloat16")
    assert dtypes.drawn_as("auto") == "bfloat16" and dtypes.drawn_as("float32") == "float32"
    monkeypatch.setenv(dtypes.CHOICE, "half")
    with pytest.raises(StyleBlendError, match="STYLEBLEND_DTYPE=half is no type: give float32, float16 or bfloat16"):
        dtypes.drawn_as("auto")


def test_a_picture_says_what_auto_was(world, tmp_path, monkeypatch, capsys):
    """And a sentence does where it was not float32; learning a style stays in float32."""
    for chosen in ("float32", "bfloat16"):
        monkeypatch.setenv(dtypes.CHOICE, chosen)
        path = tmp_path / f"{chosen}.png"
        assert cli.main(["draw", "--config", str(world), "--prompt", "A cat", "--output", str(path)]) == 0
        assert read_record(path).dtype == chosen
        assert ("drawn in bfloat16 (--dtype auto)" in capsys.readouterr().err) == (chosen == "bfloat16")
    job = within(read_settings(world), "training", None)
    with pytest.raises(StopIteration) as end:
        next(job)
    assert end.value.value.dtype == "float32"


@pytest.mark.parametrize("said, drawn", [("auto", "float32"), ("bfloat16", "bfloat16")])
def test_all_machines_of_a_cluster_draw_in_one_type(world, monkeypatch, said, drawn):
    """Whatever each of them multiplies fast."""
    monkeypatch.setenv(dtypes.CHOICE, "bfloat16")
    assert settings_of(SimpleNamespace(config=world, cluster="auto", dtype=said)).dtype == drawn
    assert settings_of(SimpleNamespace(config=world, cluster=None, dtype=said)).dtype == said


def test_an_estimate_names_the_type_of_trainings(world, monkeypatch):
    monkeypatch.setenv(dtypes.CHOICE, "bfloat16")
    settings = read_settings(world)
    rows, wide = (dict(table(Path(settings.base), settings.model_copy(update={"dtype": dtype})))
                  for dtype in ("auto", "float32"))
    assert rows["training in float32: training step"] == wide["training: training step"]
    assert rows["drawing: UNet step"] < wide["drawing: UNet step"] and "weights of the unet, bfloat16" in rows


def test_an_empty_batch_is_an_empty_result():
    x, weight = jt.zeros((0, 8)), jt.zeros((3, 8))
    assert added(cast(x, "bfloat16"), cast(x, "bfloat16")).shape == [0, 8]
    if bfloat16.unit():
        assert products.linear(x, cast(weight, "bfloat16"), None).shape == [0, 3]
