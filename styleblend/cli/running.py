"""Runs a command: events on stderr, errors as one sentence, signals, exit codes."""
from __future__ import annotations

import argparse
import contextlib
import sys
from typing import List, Optional

from styleblend.cli.log_lines import lines_in_a_log_file
from styleblend.cli.progress import Display, messages_on_stderr
from styleblend.cli.stopping import StopRequest, sigterm_as_ctrl_c
from styleblend.errors import StartAgain, Stopped, StyleBlendError


def run(parser: argparse.ArgumentParser, argv: Optional[List[str]] = None) -> int:
    """Parse and run; 2 and one sentence on stderr for what the user can mend, 130 for what they stopped.

    Without `argv` this process is the program, and the command runs in a child of it.
    """
    args = parser.parse_args(argv)
    with lines_in_a_log_file():  # out here: a process that the command itself starts would be taken for a compiler
        if argv is not None or not getattr(args, "watched", True):
            return run_parsed(args)
        from styleblend.cli.watched import watched
        return watched(lambda may_ask: run_parsed(args, may_ask), go_on(args))


def run_parsed(args: argparse.Namespace, may_ask: bool = False) -> int:
    """Run a command; `may_ask`: it may ask for a second start, with StartAgain."""
    try:
        with messages_on_stderr(), sigterm_as_ctrl_c():
            return args.run(args)
    except (KeyboardInterrupt, Stopped) as stop:
        print(f"styleblend: {go_on(args, str(stop))}", file=sys.stderr)
        return 130
    except StyleBlendError as error:
        if may_ask and isinstance(error, StartAgain):
            raise
        # one line, also where a file's name has a line break
        print(f"styleblend: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"styleblend: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except RuntimeError as error:  # Jittor raises no other
        from styleblend.machine.cards import full_card
        from styleblend.machine.compilers import compiler_problem
        dtype = args.dtype if getattr(args, "dtype", None) in ("float16", "bfloat16") else "float32"
        dtype = dtype if hasattr(args, "dtype") else None
        problem = compiler_problem(error) or full_card(error, dtype, getattr(args, "offload", None))
        if problem is None:
            raise
        print(f"styleblend: {problem}", file=sys.stderr)
        return 2


def go_on(args: argparse.Namespace, stopped: str = "") -> str:
    """The sentence for who has stopped a command."""
    overwrites = getattr(args, "overwrite", False) and getattr(args, "command", None) != "load"
    anew = " (without --overwrite, which begins anew)" if overwrites else ""
    return f"{stopped or 'stopped; whole files are kept'}: start the same command again to go on{anew}"


def follow(job, step_ends: bool = False, each=None):
    """Run a job to its end and show its events; what it returns. `each`: who else gets every event.

    `step_ends`: while it makes steps that it can save, such as those of a training, the first Ctrl-C or SIGTERM lets
    the step end and raises Stopped.
    """
    from styleblend.jobs.events import Log, Progress
    stop = StopRequest()
    with contextlib.closing(job), Display() as display, stop.heard() if step_ends else contextlib.nullcontext():
        while True:
            try:
                event = next(job)
            except StopIteration as end:
                return end.value
            outer = isinstance(event, Progress) and display.is_outermost(event)  # a picture grid is part of its step
            display.show(event)
            if each:
                each(event)
            if stop.requested and outer:
                job.close()
                raise Stopped(f"stopped at step {event.done} of {event.title}, which is saved")
            if outer or isinstance(event, Log):
                stop.step_ends = isinstance(event, Progress) and event.unit == "step" and event.done < event.total
