"""Ctrl-C and SIGTERM: a training ends its step first, everything else stops at once.

And a second signal always does.
"""
import os
import signal

import pytest

from styleblend.cli.running import follow
from styleblend.errors import Stopped
from styleblend.jobs.events import Log, Progress


def made_of(events, press, seen):
    """A job that presses a key after so many events."""
    try:
        for i, event in enumerate(events):
            if i in press:
                os.kill(os.getpid(), signal.SIGINT)
            yield event
            seen.append(i)
    finally:
        seen.append("closed")


STEPS = [Log("learning"), *(Progress("lora", i, 5, "step") for i in range(6))]


def test_the_step_is_ended_and_saved():
    seen = []
    with pytest.raises(Stopped, match="stopped at step 2 of lora, which is saved"):
        follow(made_of(STEPS, {3}, seen), step_ends=True)
    assert seen == [0, 1, 2, "closed"]


def test_a_second_signal_stops_at_once():
    def job():
        try:
            for event in STEPS[:3]:
                yield event
            os.kill(os.getpid(), signal.SIGINT)
            seen.append("once")
            os.kill(os.getpid(), signal.SIGINT)
            seen.append("twice")
        finally:
            seen.append("closed")

    seen = []
    with pytest.raises(KeyboardInterrupt):
        follow(job(), step_ends=True)
    assert seen == ["once", "closed"]


@pytest.mark.parametrize("events, step_ends", [(STEPS, False), (STEPS[:1] * 5, True),
                                               ([Progress("look-alikes", i, 9, "picture") for i in range(5)], True)])
def test_where_nothing_is_to_be_ended_it_stops_at_once(events, step_ends):
    seen = []
    with pytest.raises(KeyboardInterrupt):
        follow(made_of(events, {3}, seen), step_ends)
    assert seen == [0, 1, 2, "closed"]


def test_the_handlers_of_before_are_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    follow(made_of(STEPS, {}, []), step_ends=True)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
