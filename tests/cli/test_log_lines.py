"""What a log file gets of texts that are drawn over each other on a terminal: Jittor's, and bars of libraries."""
import os
import subprocess
import sys

import pytest

from styleblend.cli.log_lines import END, LogLines, duration, unfinished

# word for word what Jittor 1.3.11 writes; one text takes a second
OPERATORS = "\n" + "".join(f"Compiling Operators({i}/46) used: {i * 1.0:.3g}s eta: {46.0 - i:4.3g}s \r"
                           for i in range(1, 47)) + "\n"
CORE = "".join(f"Compiling jittor_core({i}/150) used: {i * 2:.3f}s eta: {300 - 2 * i:.3f}s\r"
               for i in range(1, 151)) + "\n"


def shown(*texts, seconds=10.0):
    """The lines that become of these texts, given piece by piece; each carriage return takes a second."""
    now, said = [0.0], []
    lines = LogLines(said.append, seconds, lambda: now[0])
    for text in texts:
        for c in text:
            now[0] += c == "\r"
            lines.feed(c)
    lines.close()
    assert all(line.endswith("\n") and "\r" not in line for line in said)
    return "".join(said)


def test_a_compilation_is_a_line_every_ten_seconds_and_a_summary():
    assert shown(OPERATORS).splitlines() == [
        *(f"styleblend: compiling operators: {n} of 46, {46 - n} s left" for n in (11, 21, 31, 41)),
        "styleblend: compiled 46 operators in 46 s"]


def test_compilations_in_a_row_have_one_summary_before_what_comes_next():
    said = shown("drawing: 0/30 steps\n", OPERATORS, OPERATORS.replace("/46", "/5").split("Compiling Operators(6")[0],
                 "drawing: 1/30 steps\n", seconds=100).splitlines()
    assert said == ["drawing: 0/30 steps", "styleblend: compiled 51 operators in 51 s", "drawing: 1/30 steps"]


def test_the_first_start_of_jittor():
    said = shown("styleblend: Jittor compiles itself now\n", CORE, OPERATORS).splitlines()
    assert said[1] == "styleblend: compiling Jittor: 11 of 150, 4 min 38 s left"
    assert said[-2:] == ["styleblend: compiled Jittor in 5 min 0 s", "styleblend: compiled 46 operators in 46 s"]


def test_a_bar_of_a_library_is_a_line_now_and_then_and_its_end():
    bar = "".join(f"\rFetching: {i}%|####|" for i in range(0, 101)) + "\n"
    said = shown("before\n", bar, "after\n").splitlines()
    assert said[0] == "before" and said[-2:] == ["Fetching: 100%|####|", "after"] and len(said) == 3 + 9


@pytest.mark.parametrize("text", ["", "one\n", "one\ntwo\n", "\n\nafter two empty lines\n", "100 %\n",
                                  "Compiling is what it says\n", "Traceback:\n  File\n\nError: \u00e9\u4e2d\n"])
def test_other_text_stays_as_it_is(text):
    assert shown(text).replace("\n", "") == text.replace("\n", "") and shown(text)[-6:] == text[-6:]


def test_text_without_an_end_comes_too():
    assert shown("a line\nthe rest") == "a line\nthe rest\n"


@pytest.mark.parametrize("seconds, words", [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3725, "62 min 5 s")])
def test_durations(seconds, words):
    assert duration(seconds) == words


def test_the_end_is_found_in_pieces():
    data = b"text\0" + END
    assert [unfinished(data[:n]) for n in (4, 5, 6, 9)] == [0, 1, 1, 4] and unfinished(b"\0no end") == 0


CODE = """
import os, subprocess, sys, time
from styleblend.cli.log_lines import lines_in_a_log_file
print("to the output")
with lines_in_a_log_file():
    print("first", file=sys.stderr)
    os.write(2, b"\\n")
    for i in range(1, 5):
        os.write(2, b"Compiling Operators(%d/4) used:  2.%ds eta:    1s \\r" % (i, i))
    os.write(2, b"\\n")
    child = subprocess.Popen(["sleep", "60"])  # has the pipe open, as processes that Jittor has forked
    os.write(2, "\u4e2d".encode() * 20000 + b"\\n")
print("last", file=sys.stderr)
child.kill()
"""


def test_a_process_has_lines_in_its_log_file(tmp_path):
    """Its own and those that C++ writes, in their order; who has the pipe open meanwhile does not delay the end."""
    with open(tmp_path / "log", "wb") as log:
        run = subprocess.run([sys.executable, "-c", CODE], stdout=subprocess.PIPE, stderr=log, timeout=30)
    said = (tmp_path / "log").read_text().splitlines()
    assert run.returncode == 0 and run.stdout == b"to the output\n"
    assert said == ["first", "styleblend: compiled 4 operators in 2 s", "\u4e2d" * 20000, "last"]


def test_ctrl_c_to_the_group_does_not_cost_the_last_words(tmp_path):
    code = ("import os, signal, sys\nfrom styleblend.cli.log_lines import lines_in_a_log_file\n"
            "with lines_in_a_log_file():\n    try:\n        os.killpg(0, signal.SIGINT)\n        signal.pause()\n"
            "    except KeyboardInterrupt:\n        print('stopped', file=sys.stderr)")
    run = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, timeout=30,
                         start_new_session=True)
    assert run.returncode == 0 and run.stderr == "stopped\n"


def test_a_terminal_is_left_alone():
    """There Jittor's own display is as good as a bar."""
    code = ("import os, sys\nfrom styleblend.cli.log_lines import lines_in_a_log_file\nbefore = os.fstat(2)\n"
            "with lines_in_a_log_file():\n    assert os.path.samestat(os.fstat(2), before)")
    parent, child = os.openpty()
    assert subprocess.run([sys.executable, "-c", code], stderr=child, timeout=30).returncode == 0
    os.close(child), os.close(parent)
