"""The queue of the page: places, limits, stops, crashes; and a real worker that draws."""
import json
import sys
import textwrap
import time

import pytest

from styleblend.errors import StyleBlendError
from styleblend.record import read_record
from styleblend.settings import read_settings
from styleblend.ui.queue import DONE, FAILED, MOST_EACH, MOST_WAITING, RUNNING, STOPPED, WAITING, JobQueue
from styleblend.ui.requests import Asked, check
from styleblend.ui.shown import scores

DRAW = {"prompts": ["A cat"], "count": 1, "seed": 7, "style": "", "method": "", "references": [], "negative": None,
        "strength": None, "sampling": {}, "own": {}}
# a worker of one's own: a request says what becomes of it
WORKER = textwrap.dedent("""
    import json, os, subprocess, sys, threading, time
    stopped, todo = set(), []
    def listen():
        for line in sys.stdin:
            said = json.loads(line)
            stopped.add(said["stop"]) if "stop" in said else todo.append(said)
        os._exit(0)
    threading.Thread(target=listen, daemon=True).start()
    while True:
        if not todo:
            time.sleep(0.01)
            continue
        job = todo.pop(0)
        what = job["values"]["what"]
        if what == "crash":
            subprocess.Popen(["sleep", "1000"])  # holds the pipe open, as what compiles for a worker does
            os.kill(os.getpid(), 11)
        for step in range(1000 if what == "long" else 2):
            print(json.dumps({"progress": dict(title="drawing", done=step, total=9, unit="step", note="", value=0.5)}),
                  flush=True)
            time.sleep(0.01)
            if job["job"] in stopped:
                break
        print(json.dumps({"end": "stopped" if job["job"] in stopped else "done"}), flush=True)
""")


@pytest.fixture
def queue():
    queue = JobQueue("", [sys.executable, "-c", WORKER])
    yield queue
    queue.close()


def asked(what):
    return Asked("draw", {"what": what})


def until(job, *states):
    for _ in range(2000):
        if job.state in states:
            return job.state
        time.sleep(0.01)
    raise AssertionError(job)


def test_jobs_wait_for_each_other_and_places_count_down(queue):
    first, second, third = (queue.submit(name, asked(what)) for name, what in (("a", "long"), ("b", "short"),
                                                                              ("a", "short")))
    until(first, RUNNING)
    assert [queue.place(job) for job in (first, second, third)] == [0, 1, 2] and second.state == WAITING
    assert queue.latest("b", "draw") is second and queue.latest("c", "draw") is None
    queue.stop(first)
    assert [until(job, DONE, STOPPED) for job in (first, second, third)] == [STOPPED, DONE, DONE]
    assert second.values["drawing"] == [(0, 0.5), (1, 0.5)] and second.progress == {}


def test_one_that_waits_is_stopped_at_once(queue):
    first, second = queue.submit("a", asked("long")), queue.submit("a", asked("short"))
    queue.stop(second)
    assert second.state == STOPPED and first.state != STOPPED
    queue.stop(first)
    until(first, STOPPED)


def test_a_thousand_jobs_are_refused_kindly(queue):
    taken, refused = 0, []
    for number in range(1000):
        try:
            queue.submit(f"browser {number}", asked("long"))
            taken += 1
        except StyleBlendError as error:
            refused.append(str(error))
    assert taken == MOST_WAITING and set(refused) == {"16 jobs wait already, which is the most: try again in a while"}


def test_one_browser_does_not_take_all_places(queue):
    for _ in range(MOST_EACH):
        queue.submit("greedy", asked("long"))
    with pytest.raises(StyleBlendError, match="6 jobs of yours"):
        queue.submit("greedy", asked("long"))
    queue.submit("another", asked("long"))


def test_a_crash_is_said_and_the_next_job_is_done(queue):
    crashed, next_one = queue.submit("a", asked("crash")), queue.submit("a", asked("short"))
    assert until(crashed, FAILED) == FAILED and "crashed (SIGSEGV)" in crashed.error
    assert until(next_one, DONE) == DONE


def test_a_real_worker_draws(trained, tmp_path):
    """Each owner's pictures are their own; what cannot be done is said by a sentence, and the worker goes on."""
    queue, settings = JobQueue(str(trained)), read_settings(trained)
    try:
        style = Asked("draw", {**DRAW, "style": "dots", "prompts": ["A cat", "A boat"], "sampling": {"steps": 3}})
        check(style, settings)
        jobs = [queue.submit("one", style), queue.submit("other", Asked("draw", DRAW)),
                queue.submit("one", Asked("draw", {**DRAW, "style": "none"}))]
        for _ in range(3000):
            if all(job.ended for job in jobs):
                break
            time.sleep(0.1)
        assert [job.state for job in jobs] == [DONE, DONE, FAILED] and "there is no style none" in jobs[2].error
        records = [read_record(one["path"]) for job in jobs for one in job.pictures]
        assert [(one.prompt, one.style, one.sampling.steps) for one in records] == [
            ("A cat", "dots", 3), ("A boat", "dots", 3), ("A cat", "", 2)]
        assert all(one["path"].startswith(str(tmp_path / "result")) for job in jobs for one in job.pictures)
    finally:
        queue.close()


@pytest.mark.parametrize("change, words", [
    ({"prompts": []}, "nothing to draw"), ({"prompts": ["x" * 5000]}, "4000 are the most"),
    ({"prompts": ["A cat"] * 21}, "20 prompts at a time"), ({"count": 1000}, "64 pictures"),
    ({"style": "../../etc"}, "../../etc"), ({"style": "dots", "method": "style_encoder"}, "not both"),
    ({"method": "no_method"}, "is no method"), ({"method": "style_aligned"}, "drop a picture"),
    ({"references": ["/etc/passwd"]}, "have no effect"), ({"sampling": {"steps": 0}}, "steps"),
    ({"sampling": {"output": "/etc"}}, "saved_size")])
def test_what_cannot_be_drawn_is_said_before_it_waits(trained, change, words):
    with pytest.raises(StyleBlendError, match=words):
        check(Asked("draw", {**DRAW, **change}), read_settings(trained))


COMPARED = {"prompts": ["A cat"], "methods": ["plain", "styleblend"], "styles": ["dots"], "seeds": [1],
            "references": None}


@pytest.mark.parametrize("change, words", [
    ({"methods": ["plain"]}, "two or more methods"), ({"methods": ["plain", "magic"]}, "unknown method"),
    ({"styles": ["../../etc"]}, "../../etc"), ({"seeds": [1, 1]}, "named twice"), ({"seeds": [-1]}, "seeds"),
    ({"seeds": list(range(9))}, "8 seeds"), ({"prompts": ["A cat"] * 21}, "20 prompts"),
    ({"references": 0}, "references")])
def test_what_cannot_be_compared_is_said_before_it_waits(trained, change, words):
    check(Asked("compare", COMPARED), read_settings(trained))
    with pytest.raises(StyleBlendError, match=words):
        check(Asked("compare", {**COMPARED, **change}), read_settings(trained))


def test_the_scores_of_a_comparison_as_a_table(tmp_path):
    """A method that has no number of a kind gets a dash; what stands in a file is text, whatever it looks like."""
    runs = [{"folder": "out/plain", "means": {"all": {"style": 0.125}}, "of_board": {"draw_s": 2.0}},
            {"folder": "out/<b>", "means": {"all": {"style": 0.5}}, "of_board": {}}]
    (tmp_path / "scores.json").write_text(json.dumps({"runs": runs}))
    table = scores(str(tmp_path / "scores.json"))
    assert "<th>plain</th><td>0.125</td><td>2</td>" in table and "<th>&lt;b&gt;</th><td>0.5</td><td>-</td>" in table
    assert scores(None) == ""


def test_a_renamed_pickle_is_no_adapter(trained, tmp_path):
    """What it holds is never executed."""
    import pickle

    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "executed"), "w")

    (tmp_path / "lora.safetensors").write_bytes(pickle.dumps({"a": Evil()}))
    with pytest.raises(StyleBlendError):
        check(Asked("load", {"name": "new", "files": [str(tmp_path / "lora.safetensors")]}), read_settings(trained))
    assert not (tmp_path / "executed").exists()


def test_what_is_asked_for_is_plain_data():
    assert json.loads(Asked("draw", DRAW).line()) == {"kind": "draw", "values": DRAW}
