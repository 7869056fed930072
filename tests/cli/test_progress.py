"""What a command shows: bars on a terminal, few lines in a log file, sentences beside both."""
import fcntl
import io
import logging
import os
import struct
import subprocess
import sys
import termios
import warnings
from pathlib import Path

import pytest

from styleblend.cli import progress
from styleblend.cli.progress import Display, Lines, messages_on_stderr
from styleblend.cli.running import follow
from styleblend.jobs.events import Log, Progress
from styleblend.machine.runtime import say


ROOT = Path(__file__).parents[2]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A second passes with every event."""
    now = iter(range(10_000))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now) / 2)
    monkeypatch.setattr(Lines, "said", -100.0)


def shown(monkeypatch, stream, events):
    monkeypatch.setattr(sys, "stderr", stream)
    with Display() as display:
        for event in events:
            display.show(event)
    return stream.getvalue()


def steps(count, title="lora", **more):
    return [Progress(title, i, count, "step", **more) for i in range(count + 1)]


def test_a_log_file_gets_a_line_now_and_then(monkeypatch, clock):
    said = shown(monkeypatch, io.StringIO(), steps(100, note="loss=0.5")).splitlines()
    assert "\r" not in "".join(said) and said[0] == "lora: 0/100 steps, loss=0.5"
    assert 4 <= len(said) <= 12 and said[-1].startswith("lora: 100/100 steps, ") and said[-1].endswith("loss=0.5")
    assert all("steps/s" in line and "left" in line for line in said[1:-1])


def test_the_speed_leaves_out_what_was_compiled_for_the_first_step(monkeypatch):
    now = iter([0, 0, 300, 311, 320])  # each line and its bar ask for the time
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    monkeypatch.setattr(Lines, "said", -100.0)
    said = shown(monkeypatch, io.StringIO(), steps(3)).splitlines()
    assert said[1:] == ["lora: 1/3 steps, 300.0 s/step, 10:00 left", "lora: 2/3 steps, 11.0 s/step, 00:11 left",
                        "lora: 3/3 steps, 10.0 s/step"]


def test_lines_are_as_far_apart_as_the_environment_says(monkeypatch, clock):
    monkeypatch.setenv("TQDM_MININTERVAL", "0")
    assert len(shown(monkeypatch, io.StringIO(), steps(20)).splitlines()) == 21


def test_work_inside_other_work_is_quiet_in_a_log_file(monkeypatch, clock):
    events = [event for picture in range(3)
              for event in (Progress("pictures", picture, 3, "picture"), *steps(2, "drawing"))]
    said = shown(monkeypatch, io.StringIO(), [*events, Progress("pictures", 3, 3, "picture")]).splitlines()
    assert [line.split(",")[0] for line in said] == ["pictures: 0/3 pictures", "pictures: 3/3 pictures"]


def test_a_terminal_gets_a_bar_with_its_speed(monkeypatch):
    said = shown(monkeypatch, Terminal(), [*steps(3, note="loss=0.5"), Log("a sentence")])
    assert ("\r" in said and "3/3" in said and "step/s" in said and "loss=0.5" in said
            and "styleblend: a sentence\n" in said)


def test_what_the_library_says_is_told_in_the_programs_voice(capsys):
    """And what other libraries say is not: it would come before our own sentence on the same thing."""
    with messages_on_stderr():
        say("the first of 100 % sentences")
        warnings.warn_explicit("a warning", UserWarning, "pictures.py", 1, "styleblend.files.pictures")
        warnings.warn_explicit("overflow", RuntimeWarning, "judge.py", 1, "styleblend.metrics.judge")
        warnings.warn_explicit("Corrupt EXIF data", UserWarning, "TiffImagePlugin.py", 1, "PIL.TiffImagePlugin")
        logging.getLogger("PIL.Image").warning("from a library's logger")
    assert capsys.readouterr().err == "styleblend: the first of 100 % sentences\nstyleblend: a warning\n"
    assert not [handler for handler in logging.getLogger("styleblend").handlers if isinstance(handler, progress.Teller)]


def test_a_library_user_gets_log_messages(caplog):
    say("a sentence")
    assert [(record.name, record.levelname, record.getMessage()) for record in caplog.records] == [
        ("styleblend", "WARNING", "a sentence")]


def test_a_command_gets_what_its_job_returns_and_closes_what_fails(capsys):
    closed = []

    def job(error=None):
        try:
            yield Log("at work")
            if error:
                raise error
            return 5
        finally:
            closed.append(1)

    assert follow(job()) == 5 and closed == [1]
    with pytest.raises(KeyError):
        follow(job(KeyError()))
    assert closed == [1, 1] and capsys.readouterr().err.count("styleblend: at work") == 2


SHOW = """
import sys
from styleblend.cli.progress import Display
from styleblend.jobs.events import Progress
with Display() as display:
    for done in range(4):
        display.show(Progress("drawing", done, 3, "step"))
"""


@pytest.mark.parametrize("columns", [0, 60])
def test_a_real_terminal_gets_a_bar_also_when_it_does_not_say_how_wide_it_is(columns):
    parent, child = os.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24 if columns else 0, columns, 0, 0))
    process = subprocess.Popen([sys.executable, "-c", SHOW], cwd=ROOT, stderr=child)
    assert process.wait(60) == 0
    os.close(child)
    said = os.read(parent, 1 << 16).decode()
    os.close(parent)
    assert "drawing: 100%" in said and "3/3" in said and "step/s" in said
    assert columns == 0 or max(map(len, said.replace("\n", "\r").split("\r"))) <= columns
