"""What a cluster does without Ray: the list of work, machines that differ, pieces that are moved, options."""
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from styleblend.adapters.style_files import adapter_hashes
from styleblend.cli import main
from styleblend.cluster.nodes import about, refuse_unequal
from styleblend.cluster.remote import Worker
from styleblend.cluster.work_list import MOST_TRIES, WorkList
from styleblend.errors import StyleBlendError
from styleblend.files.whole_files import write_bytes
from styleblend.jobs.board import BoardRequest, draw_board
from styleblend.jobs.events import result_of
from styleblend.jobs.train import TrainRequest
from styleblend.jobs.train_items import train_spread
from styleblend.record import read_record
from styleblend.settings import read_settings


# ---------------------------------------------------------------- the list of work

def test_every_piece_is_done_once_whoever_dies():
    """Workers die at every third piece; the list ends with each piece done once."""
    work, handed = WorkList(10), []
    worker, step = 0, 0
    while not work.finished:
        piece, step = work.next_for(worker), step + 1
        handed.append(piece)
        if step % 3 == 0:
            assert work.lose(worker, "it died") == piece
            worker += 1
        else:
            assert work.finish(worker) == piece
    assert sorted(work.done) == list(range(10)) and not work.failed
    assert len(handed) == 10 + step // 3


def test_a_piece_that_kills_its_workers_is_given_up_and_the_others_go_on():
    work = WorkList(3)
    for worker in range(MOST_TRIES):
        assert work.next_for(worker) == 0  # it stands at the front again
        work.lose(worker, "it died")
    assert [work.next_for("a"), work.next_for("b")] == [1, 2]
    work.finish("a"), work.fail("b", "no such style")
    assert work.finished and work.done == [1]
    assert work.failed == {0: f"it died, {MOST_TRIES} times", 2: "no such style"}


def test_a_worker_has_one_piece_and_a_free_one_has_none_to_lose():
    work = WorkList(2)
    work.next_for("a")
    with pytest.raises(ValueError, match="in hand"):
        work.next_for("a")
    assert work.lose("b", "it died") is None and work.next_for("b") == 1 and work.next_for("c") is None


# ---------------------------------------------------------------- machines

@pytest.mark.parametrize("name, value, words", [
    ("base", "0123", "copy the same base"), ("styleblend", "0.1", "install the same version"),
    ("numpy", "1.0", "install the same requirements"), ("autoencoder", "77", "another autoencoder 77")])
def test_a_machine_that_would_draw_other_pictures_is_named(tiny_base, name, value, words):
    first = about(tiny_base)
    refuse_unequal([first, {**first, "machine": "other"}])  # only its name is another one
    with pytest.raises(StyleBlendError, match="other has another") as caught:
        refuse_unequal([first, {**first, "machine": "other", name: value}])
    assert words in str(caught.value)


# ---------------------------------------------------------------- pieces of work

def by_hand(worker, came=None):
    """In a cluster's place: one worker here, whose pieces go through pickle on both ways."""
    def spread(items):
        yield from ()
        found = []
        for item in items:
            answer = pickle.loads(pickle.dumps(worker.do(pickle.loads(pickle.dumps(item)))))
            assert answer.error is None, answer.error
            found.append(answer.done)
            for path, content in answer.files.items():
                write_bytes(path, content)
            if came is not None:
                came.append(answer)
        return found
    return spread


def board(config, tmp_path, name, spread=None, **more):
    settings = read_settings(config).model_copy(update={"output": str(tmp_path / name)})
    files = result_of(draw_board(BoardRequest(settings, prompts="Cat,Owl,Dog", **more), spread=spread))
    return settings, {path.name: np.asarray(Image.open(path), int) for path in files}


@pytest.mark.parametrize("collect", [False, True])
def test_a_board_by_pieces_is_the_board_of_one_process(trained, tmp_path, collect):
    settings, here = board(trained, tmp_path, "here")
    came = []
    worker = Worker(settings, str(Path.cwd()), collect)
    _, there = board(trained, tmp_path, "there", by_hand(worker, came))
    assert set(here) == set(there) and all(np.array_equal(here[name], there[name]) for name in here)
    assert read_record(tmp_path / "here" / "dots" / "Cat.png") == read_record(tmp_path / "there" / "dots" / "Cat.png")
    assert (tmp_path / "there" / "index.html").is_file() and len(came) == 2  # batches of two
    assert sum(len(one.files) for one in came) == (3 if collect else 0)
    assert not list((tmp_path / "there").rglob("*.tmp*"))


def test_only_what_is_missing_is_handed_out(trained, tmp_path):
    settings, first = board(trained, tmp_path, "there")
    (tmp_path / "there" / "dots" / "Owl.png").unlink()
    came = []
    _, again = board(trained, tmp_path, "there", by_hand(Worker(settings, str(Path.cwd()), True), came))
    assert list(again) == ["Owl.png"] and np.array_equal(again["Owl.png"], first["Owl.png"])
    assert [path.name for path in came[0].files] == ["Owl.png"]  # its neighbour of the batch is kept


def test_a_style_that_differs_on_a_machine_is_not_drawn(trained, tmp_path):
    settings, _ = board(trained, tmp_path, "here")
    worker, asked = Worker(settings, str(Path.cwd()), False), []

    def spread(items):
        yield from ()
        plan = items[0].plan
        other = replace(plan, adapters={**plan.adapters, "fine_embeds": "0" * 16})
        asked.append(worker.do(replace(items[0], plan=other)))
        return [None] * len(items)

    board(trained, tmp_path, "there", spread)
    assert "style dots are others here" in asked[0].error and not list((tmp_path / "there" / "dots").glob("*.png"))
    assert adapter_hashes(tmp_path / "adapters" / "dots", "dots")


@pytest.mark.parametrize("collect", [False, True])
def test_trainings_by_pieces_are_those_of_one_process(world, tmp_path, collect):
    """The same adapters; done again nothing is trained."""
    settings = read_settings(world)
    request, came = TrainRequest(settings, ("coarse", "fine"), "dots"), []
    result_of(train_spread(request, by_hand(Worker(settings, str(Path.cwd()), collect), came)))
    first = adapter_hashes(tmp_path / "adapters" / "dots", "dots")
    assert len(came) == 2 and len(first) == 4
    assert all(bool(one.files) == collect for one in came)
    came.clear()
    result_of(train_spread(request, by_hand(Worker(settings, str(Path.cwd()), collect), came)))
    assert all("trained already" in " ".join(one.sentences) for one in came)
    other = settings.model_copy(update={"adapters": str(tmp_path / "other")})
    from styleblend.jobs.train import train_styles
    result_of(train_styles(replace(request, settings=other)))
    assert adapter_hashes(tmp_path / "other" / "dots", "dots") == first


def test_a_folder_that_a_machine_does_not_have_is_named(world, tmp_path):
    with pytest.raises(StyleBlendError, match="nowhere is not on "):
        Worker(read_settings(world), str(tmp_path / "nowhere"), False).about()


# ---------------------------------------------------------------- options

@pytest.mark.parametrize("command", ["board", "train"])
@pytest.mark.parametrize("options, words", [
    (("--collect",), "--collect has no effect without --cluster"),
    (("--cores", "2"), "--cores has no effect without --cluster"),
    (("--cluster", "auto", "--cores", "0"), "give at least 1"),
    (("--cluster", "ray://head:10001"), "HOST:PORT"),
    (("--cluster", "auto", "--max-memory", "8GB"), "--max-memory looks at this machine")])
def test_options_that_cannot_be(trained, capsys, command, options, words):
    assert main([command, "--config", str(trained), *options]) == 2
    assert words in capsys.readouterr().err


def test_without_ray_the_command_says_what_to_install(trained, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    assert main(["board", "--config", str(trained), "--cluster", "auto"]) == 2
    assert 'pip install "styleblend-jittor[cluster]"' in capsys.readouterr().err
