"""The process that does the page's work, one piece after another: `python -m styleblend.ui.worker CONFIG`.

It has a process of its own, since Jittor compiles in C, where a stop is not heard, and a crash there is the end of the
process: the page goes on. Requests and answers are lines of JSON.
"""
from __future__ import annotations

import base64
import contextlib
import io
import json
import logging
import os
import queue
import signal
import sys
import threading
import time
import traceback
import warnings
from typing import Any, Dict, Optional

from styleblend.errors import StartAgain, StyleBlendError
from styleblend.jobs.events import Drawn, Event, Job, Progress, Written
from styleblend.settings import read_settings
from styleblend.ui.requests import Asked, job_of

AGAIN = 75  # exit code: Jittor has rebuilt a part of itself, and the work can begin in a new process
PREVIEW_EVERY = 0.4  # seconds
PATIENCE = 15.0  # seconds in which the work ends its step when the page has gone


class Worker:
    """Answers requests of one config. `stopped`: numbers of the jobs that are to end after their step."""

    def __init__(self, config: str, requests, answers):
        self.settings, self.requests, self.answers = read_settings(config), requests, answers
        self.asked: "queue.Queue[Optional[dict]]" = queue.Queue()
        self.stopped: set = set()
        self.writing = threading.Lock()
        self.number = 0
        self.ended = threading.Event()

    def answer(self, **said: Any) -> None:
        with self.writing:
            print(json.dumps({"job": self.number, **said}), file=self.answers, flush=True)

    def listen(self) -> None:
        """Read what the page says, in a thread. Where that ends, the page has gone: this process goes, too."""
        for line in self.requests:
            said = json.loads(line)
            if "stop" in said:
                self.stopped.add(said["stop"])
            else:
                self.asked.put(said)
        self.stopped.add(None)
        self.asked.put(None)
        self.ended.wait(PATIENCE)
        end_all()

    def work(self) -> None:
        for said in iter(self.asked.get, None):
            self.number = said["job"]
            self.answer(**self.done(Asked(said["kind"], said["values"])))

    def done(self, asked: Asked) -> Dict[str, Any]:
        """Do a piece of work; how it ended."""
        try:
            return self.run(job_of(asked, self.settings))
        except StartAgain:
            raise
        except StyleBlendError as error:
            return {"end": "failed", "error": " ".join(str(error).split())}
        except OSError as error:
            return {"end": "failed", "error": f"{error.filename or 'a file'}: {error.strerror or error}"}
        except Exception as error:  # the page goes on, and the log says where it was
            traceback.print_exc()
            return {"end": "failed", "error": problem_of(error)}

    def run(self, job: Job) -> Dict[str, Any]:
        shown = 0.0
        with contextlib.closing(job):
            for event in job:
                self.answer(**told(event))
                if isinstance(event, Progress) and event.preview and time.monotonic() - shown > PREVIEW_EVERY:
                    self.show(event)
                    shown = time.monotonic()
                if self.stopped & {self.number, None}:
                    return {"end": "stopped"}
        return {"end": "done"}

    def show(self, event: Progress) -> None:
        """The preview of a step, as a small JPEG."""
        picture = event.preview()
        if picture is not None:
            buffer = io.BytesIO()
            picture.save(buffer, "JPEG", quality=85)
            self.answer(preview=base64.b64encode(buffer.getvalue()).decode("ascii"))


def end_all() -> None:
    """End this process with those that compile for it: one that stays has Jittor's lock for ever."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def told(event: Event) -> Dict[str, Any]:
    """An event as an answer."""
    if isinstance(event, Progress):
        return {"progress": {"title": event.title, "done": event.done, "total": event.total, "unit": event.unit,
                             "note": event.note, "value": event.value}}
    if isinstance(event, Drawn):
        return {"drawn": str(event.path), "seed": event.record.seed, "prompt": event.record.prompt}
    return {"written": str(event.path)} if isinstance(event, Written) else {"log": event.sentence}


def problem_of(error: Exception) -> str:
    """A sentence for what no job expects."""
    from styleblend.machine.compilers import compiler_problem
    known = compiler_problem(error) if isinstance(error, RuntimeError) else None
    return known or f"something unexpected: {str(error)[:200] or type(error).__name__}; the page's log says where"


class Told(logging.Handler):
    """What the library says reaches the page as sentences."""

    def __init__(self, worker: Worker):
        super().__init__()
        self.worker = worker

    def emit(self, record: logging.LogRecord) -> None:
        self.worker.answer(log=record.getMessage())


def main(config: str) -> int:
    # what a library prints is no answer: it goes where errors go
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # and nobody reads stdin itself: Jittor's compilers are forked, close it, and would wait for ever for who reads it
    requests = os.fdopen(os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    worker = Worker(config, requests, answers)
    logging.getLogger("styleblend").addHandler(Told(worker))
    warnings.simplefilter("ignore")
    warnings.filterwarnings("default", category=UserWarning, module=r"styleblend\b")
    warnings.showwarning = lambda message, *_: worker.answer(log=str(message))
    threading.Thread(target=worker.listen, daemon=True).start()
    try:
        worker.work()
    except StartAgain as again:
        worker.answer(log=f"{str(again).partition(':')[0]}: the work begins again")
        return AGAIN
    worker.ended.set()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
