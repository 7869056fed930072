"""Checkpoints: the last few are kept, a damaged one falls back to the one before, and a cut run goes on bit for bit."""
import json

import numpy as np
import pytest

from styleblend.errors import StyleBlendError
from styleblend.machine.runtime import jt
from styleblend.settings import StageSettings, TrainingSettings
from styleblend.training.checkpoints import Checkpoints, Log, digest
from styleblend.jobs.events import result_of
from styleblend.training.loop import train
from styleblend.training.work import WorkDone
from styleblend.files.tensor_files import read_metadata, read_safetensors, write_safetensors


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def saved(folder, *steps, keep=2):
    """Checkpoints with a tensor and losses that tell the step."""
    found = Checkpoints(folder, "run", keep)
    for step in steps:
        found.save(step, {"a": np.full((2, 3), step, np.float32)}, Log([0.1] * step, {step: 0.5}, "both"))
    return found


@pytest.mark.parametrize("keep, kept", [(1, [9]), (2, [6, 9]), (5, [3, 6, 9])])
def test_the_newest_are_kept(tmp_path, keep, kept):
    found = saved(tmp_path, 3, 6, 9, keep=keep)
    assert names(tmp_path) == ["latest"] + [f"step-{step:06d}.safetensors" for step in kept]
    assert (tmp_path / "latest").read_text() == "step-000009.safetensors\n"
    step, tensors, log = found.restore()
    assert step == 9 and (tensors["a"] == 9).all() and log == ([0.1] * 9, {9: 0.5}, "both")


def test_checkpoints_that_do_not_say_what_scored_them_are_read(tmp_path):
    """As the first releases wrote them."""
    about, tensors = ({"step": "2", "fingerprint": "run", "losses": "[0.3, 0.1]", "scores": '{"2": 0.5}'},
                      {"a": np.ones(3, np.float32)})
    write_safetensors(tmp_path / "step-000002.safetensors", tensors, {**about, "sha256": digest(about, tensors)})
    assert Checkpoints(tmp_path, "run", 2).restore()[2] == ([0.3, 0.1], {2: 0.5}, "")


def test_none_is_there(tmp_path):
    assert Checkpoints(tmp_path / "nowhere", "run", 2).restore() is None
    (tmp_path / "coarse.safetensors").write_bytes(b"the layout of former versions")
    (tmp_path / "step-x.safetensors").write_bytes(b"")
    assert Checkpoints(tmp_path, "run", 2).restore() is None


def torn(path):
    path.write_bytes(path.read_bytes()[:-5])


def flipped(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))


def other_losses(path):
    path.write_bytes(path.read_bytes().replace(b"0.1", b"0.2"))


@pytest.mark.parametrize("damage", [torn, flipped, other_losses, lambda p: p.write_bytes(b""), lambda p: p.unlink()])
def test_a_damaged_one_falls_back_to_the_one_before_and_says_so(tmp_path, caplog, damage):
    found = saved(tmp_path, 3, 6)
    damage(tmp_path / "step-000006.safetensors")
    assert found.restore()[0] == 3
    said = caplog.text
    assert "step-000006.safetensors is damaged" in said and "the checkpoint before it" in said
    # saved at other steps than before: the damaged one does not count as newest
    found.save(4, {"a": np.zeros((2, 3), np.float32)}, Log([0.1] * 4, {}))
    assert names(tmp_path) == ["latest", "step-000003.safetensors", "step-000004.safetensors"]


def test_all_are_damaged(tmp_path, caplog):
    found = saved(tmp_path, 3, 6)
    for path in tmp_path.glob("step-*"):
        torn(path)
    assert found.restore() is None
    assert caplog.text.count("is damaged") == 2


@pytest.mark.parametrize("text", [None, b"", b"\xff\xfe", b"../../step-000003.safetensors",
                                  b"step-000003.safetensors\n"])
def test_the_pointer_is_missing_broken_or_behind(tmp_path, text):
    """Behind: killed after a checkpoint was whole and before the pointer named it."""
    found = saved(tmp_path, 3, 6)
    (tmp_path / "latest").unlink()
    if text is not None:
        (tmp_path / "latest").write_bytes(text)
    assert found.restore()[0] == (3 if text == b"step-000003.safetensors\n" else 6)


def test_one_of_another_run_is_refused(tmp_path):
    saved(tmp_path, 3)
    with pytest.raises(StyleBlendError, match="--overwrite"):
        Checkpoints(tmp_path, "another run", 2).restore()


def a_run(folder, cut=None, **changes):
    """12 steps on a small problem whose gradients depend on noise and on the order of data; an exception in step `cut`.

    The "score" of every second step is how near x is to 0.9, which it passes on its way from 1 to about 0.
    """
    data = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    x = jt.array(np.ones((1, 4), np.float32))
    config = TrainingSettings(coarse=StageSettings(steps=12, lr=0.05, decay=0.5, decay_every=4), save_every=3,
                              sample_every=2, **changes)
    done = [0]

    def loss_of(rng):
        done[0] += 1
        if done[0] == cut:
            raise ZeroDivisionError
        rows = data[rng.integers(0, 20, 5)] + rng.standard_normal((5, 4)).astype(np.float32)
        return ((x - jt.array(rows)) ** 2).mean()

    def sample(path):
        yield WorkDone("picture grid", 0, 1, "step")
        return -abs(float(x.mean().item()) - 0.9)

    run = train("coarse", config, {"x": x}, loss_of, folder, sample=sample)
    return result_of(run), x.numpy()


def test_a_run_that_is_cut_at_every_step_goes_on_bit_for_bit(tmp_path):
    """Parameters, moments, losses, learning rate, noise and order of data.

    All that determines the rest of a run is in a checkpoint, or follows from its step.
    """
    log, x = a_run(tmp_path / "whole")
    last = "coarse/step-000012.safetensors"
    for cut in range(1, 13):
        folder = tmp_path / str(cut)
        with pytest.raises(ZeroDivisionError):
            a_run(folder, cut)
        again, y = a_run(folder)
        assert again == log and (x == y).all()
        assert (folder / last).read_bytes() == (tmp_path / "whole" / last).read_bytes()
    assert (json.loads(read_metadata(tmp_path / "whole" / last)["losses"]) == log.losses
            and sorted(log.scores) == [2, 4, 6, 8, 10, 12])
    assert sorted(read_safetensors(tmp_path / "whole" / last)) == ["m.x", "p.x", "v.x"]


@pytest.mark.parametrize("cut", [None, 8])
def test_a_run_that_was_killed_before_it_removed_an_old_checkpoint_removes_it_when_it_goes_on(tmp_path, cut):
    """Also one that was at its end, and saves none any more."""
    a_run(tmp_path / "whole")
    if cut:
        with pytest.raises(ZeroDivisionError):
            a_run(tmp_path / "killed", cut)
    else:
        a_run(tmp_path / "killed")
    folder = tmp_path / "killed" / "coarse"
    kept = names(folder)
    newest = (folder / "latest").read_text().strip()
    (folder / "step-000001.safetensors").write_bytes((folder / newest).read_bytes())
    a_run(tmp_path / "killed")
    assert cut or names(folder) == kept
    assert names(folder) == names(tmp_path / "whole" / "coarse")


def test_the_best_step_is_kept_if_asked_for(tmp_path):
    """Also by a run that was cut after it, and by one that has nothing left to do."""
    log, last = a_run(tmp_path / "last")
    _, best = a_run(tmp_path / "best", keep_adapters="best")
    assert 2 <= log.best() < 12
    assert (abs(best.mean() - 0.9) == pytest.approx(-log.scores[log.best()], abs=1e-6)
            and abs(last.mean() - 0.9) > abs(best.mean() - 0.9))
    for cut in (log.best() + 1, 12):
        with pytest.raises(ZeroDivisionError):
            a_run(tmp_path / f"cut-{cut}", cut, keep_adapters="best")
        assert (a_run(tmp_path / f"cut-{cut}", keep_adapters="best")[1] == best).all()
    assert (a_run(tmp_path / "best", keep_adapters="best")[1] == best).all()


def test_the_best_step_is_lost(tmp_path):
    """Nothing else is taken for it."""
    a_run(tmp_path, keep_adapters="best")
    (tmp_path / "coarse" / "best.safetensors").unlink()
    with pytest.raises(StyleBlendError, match="best.safetensors"):
        a_run(tmp_path, keep_adapters="best")


def test_a_run_that_is_closed_while_a_grid_is_drawn_ends_the_grid_first(tmp_path):
    """Its score belongs to the step that is saved: the rest of the run is that of an unbroken one."""
    def run(folder):
        x = jt.array(np.zeros(1, np.float32))

        def sample(path):
            for done in range(3):
                yield WorkDone("picture grid", done, 3, "step")
            return float(x.numpy()[0])

        config = TrainingSettings(coarse=StageSettings(steps=4, lr=0.5), save_every=100, sample_every=2)
        return train("coarse", config, {"x": x}, lambda rng: ((x - 3) ** 2).sum(), folder, sample=sample)

    whole, cut = result_of(run(tmp_path / "whole")), run(tmp_path / "cut")
    for event in cut:
        if isinstance(event, WorkDone) and event.done == 1:
            cut.close()
    assert names(tmp_path / "cut" / "coarse") and result_of(run(tmp_path / "cut")) == whole
    assert sorted(whole.scores) == [2, 4]
