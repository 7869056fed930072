"""Offloading: each network is on the device only while it works, and the pictures stay what they are.

Where the device is the CPU, too: there it gains nothing.
"""
import numpy as np
import pytest

from drawing import present, request
from styleblend.jobs import memory
from styleblend.base.base import NETWORKS, base_for_drawing, load_base
from styleblend.jobs.board import BoardRequest, draw_board
from styleblend.jobs.events import result_of
from styleblend.base.offload import Offloaded
from styleblend.pipeline import Picture, Pipeline
from styleblend.settings import SamplingSettings, read_settings
from styleblend.base.weights import parameters
from test_memory import ROOT, sd21  # noqa: F401 (a fixture that works by being here)

SAMPLING = SamplingSettings(steps=2, width=64, height=64, guidance=3.0, saved_size=None)


@pytest.mark.parametrize("dtype", ["float32", *(pytest.param(dtype, marks=pytest.mark.slow)
                                                for dtype in ("float16", "bfloat16"))])
def test_pictures_are_the_same(tiny_folder, tiny_style, dtype):
    """With a style, with another one after it, and without one; bit for bit."""
    pictures = []
    for offload in (False, True):
        base = load_base(tiny_folder, dtype)
        prints = base.fingerprint(), base.decoder_fingerprint()
        if offload:
            base.offload()
            assert present(base) == set()
        pipeline, at_work, drawn = Pipeline(base), [], []
        for prompts, style in ((["A cat", "An owl"], tiny_style), (["A cat"], None), (["A cat", "An owl"], tiny_style)):
            events = []
            for event in pipeline.draw(request(prompts, [1, 2][:len(prompts)], SAMPLING, style)):
                events.append(event)
                if not isinstance(event, Picture):
                    at_work.append(present(base))
            drawn.append(np.stack([event.pixels for event in events if isinstance(event, Picture)]))
        assert all(parts == ({"unet"} if offload else set(NETWORKS)) for parts in at_work) and len(at_work) == 6
        assert (base.fingerprint(), base.decoder_fingerprint()) == prints
        assert present(base) == (set() if offload else set(NETWORKS))
        assert {str(p.dtype) for part in NETWORKS
                for p in parameters(getattr(base, part)).values()} <= {"float32", dtype}
        pictures.append(drawn)
    for kept, offloaded in zip(*pictures):
        assert np.array_equal(kept, offloaded)
    assert not np.array_equal(pictures[0][0][:1], pictures[0][1]) and np.array_equal(pictures[0][0], pictures[0][2])


def test_a_network_is_put_away_after_an_error(tiny_folder):
    base = load_base(tiny_folder)
    base.offload()
    with pytest.raises(RuntimeError, match="halfway"), base.at_work("vae"):
        assert present(base) == {"vae"}
        raise RuntimeError("halfway")
    assert present(base) == set()


def test_a_fingerprint_brings_no_network_in(tiny_folder, monkeypatch):
    base = load_base(tiny_folder)
    prints = base.fingerprint(), base.decoder_fingerprint()
    base.offload()
    monkeypatch.setattr(Offloaded, "at_work", lambda self: pytest.fail("a network was brought in"))
    assert (base.fingerprint(), base.decoder_fingerprint()) == prints


def test_without_a_gpu_it_says_that_it_is_of_no_use(trained, caplog, monkeypatch):
    settings = read_settings(trained).model_copy(update={"offload": True})
    monkeypatch.setattr("styleblend.base.base.device", lambda: "cpu")
    base = base_for_drawing(settings)
    assert "offload is of no use without a GPU" in caplog.text and present(base) == set(NETWORKS)


def test_a_board_is_drawn_with_it(trained, tmp_path, monkeypatch):
    """The same files with and without, by the path that a GPU takes."""
    settings, results = read_settings(trained), []
    monkeypatch.setattr("styleblend.base.base.device", lambda: "cuda")
    for offload in (False, True):
        changed = settings.model_copy(update={"offload": offload, "output": str(tmp_path / f"result-{offload}")})
        results.append([path.read_bytes() for path in result_of(draw_board(BoardRequest(changed)))])
    assert results[0] == results[1] and len(results[0]) == 2


def test_what_it_takes(sd21, monkeypatch):  # noqa: F811
    """Only the largest network counts, and --max-memory finds that out.

    By calculation, since no GPU is needed for it.
    """
    settings = read_settings(ROOT / "configs" / "sd21.yaml")
    monkeypatch.setattr(memory, "device", lambda: "cuda")
    sizes = memory.Sizes(sd21, "float32")
    offloaded = settings.model_copy(update={"offload": True})
    assert (memory.drawing(sizes, settings)["UNet step"] - memory.drawing(sizes, offloaded)["UNet step"]
            == sizes.weights["text_encoder"] + sizes.weights["vae"])
    said = []
    limit = memory.needed(sizes, offloaded.model_copy(update={
        "sampling": settings.sampling.model_copy(update={"vae_strip": 64})}), "drawing") / memory.MIB + 1
    assert (result_of(memory.fitted(settings, sd21, "drawing", f"{limit:.0f}MiB"), said.append).offload
            and "offload" in said[-1].sentence)
    monkeypatch.setattr(memory, "device", lambda: "cpu")
    assert memory.drawing(sizes, settings) == memory.drawing(sizes, offloaded)
