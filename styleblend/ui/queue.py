"""One piece of work at a time: who waits, how far it is, what came of it. It outlives the page that asked for it."""
from __future__ import annotations

import contextlib
import hmac
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Deque, Dict, List, Optional, Tuple

from styleblend.errors import StyleBlendError
from styleblend.ui.requests import Asked
from styleblend.ui.worker import AGAIN

WAITING, RUNNING, DONE, STOPPED, FAILED = "waiting", "running", "done", "stopped", "failed"
MOST_WAITING, MOST_EACH = 16, 6  # in all, and of one browser
KEPT = 100  # jobs that have ended are remembered, the newest
PATIENCE = 20.0  # seconds in which work that is stopped may end its step; then its process is ended
MOST_LINES = 50  # sentences of a job that are kept


class QueueFull(StyleBlendError):
    """There is too much in the queue already: later it may be taken."""


@dataclass
class QueuedJob:
    """A piece of work and how far it is. `owner`: the browser that asked; nobody else sees it.

    `key`: a name of the job that cannot be guessed, for a program that has no name of its own.
    """

    number: int
    owner: str
    asked: Asked
    state: str = WAITING
    progress: Dict[str, dict] = field(default_factory=dict)  # title -> its last one, outermost first
    preview: str = ""  # a JPEG as base64
    pictures: List[dict] = field(default_factory=list)  # path, prompt and seed of each that is drawn
    written: List[str] = field(default_factory=list)
    said: Deque[str] = field(default_factory=lambda: deque(maxlen=MOST_LINES))
    values: Dict[str, List[Tuple[int, float]]] = field(default_factory=dict)  # title -> (step, loss)
    error: str = ""
    asked_to_stop: float = 0.0  # when
    begun: bool = False  # its first progress has come
    version: int = 0  # counts up with every change
    key: str = field(default_factory=lambda: secrets.token_urlsafe(16))

    @property
    def ended(self) -> bool:
        return self.state in (DONE, STOPPED, FAILED)

    def take(self, said: Dict[str, Any]) -> None:
        """Note an answer of the worker."""
        if "progress" in said:
            self.step(said["progress"])
        elif "preview" in said:
            self.preview = said["preview"]
        elif "drawn" in said:
            self.pictures.append({"path": said["drawn"], "prompt": said["prompt"], "seed": said["seed"]})
        elif "written" in said:
            if said["written"] not in self.written:
                self.written.append(said["written"])
        elif "log" in said:
            self.said.append(said["log"])
        self.version += 1

    def step(self, one: dict) -> None:
        title, self.begun = one["title"], True
        self.progress[title] = one
        if one["value"] is not None:
            self.values.setdefault(title, []).append((one["done"], one["value"]))
        if one["done"] >= one["total"]:
            del self.progress[title]

    def end(self, state: str, error: str = "") -> None:
        self.state, self.error, self.preview, self.progress = state, error, "", {}
        self.version += 1


class JobQueue:
    """Runs jobs in a worker of one config, one after another, in the order in which they came.

    `command`: how the worker is started; default: `python -m styleblend.ui.worker CONFIG`.
    """

    def __init__(self, config: str, command: Optional[List[str]] = None):
        self.command = command or [sys.executable, "-m", "styleblend.ui.worker", config]
        self.jobs: List[QueuedJob] = []
        self.changed = threading.Condition()
        self.process: Optional[subprocess.Popen] = None
        self.closed, self.count = False, 0
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    # ---------------------------------------------------------------- for the page

    def submit(self, owner: str, asked: Asked) -> QueuedJob:
        """Put work at the end of the queue. QueueFull where there is too much in it already."""
        with self.changed:
            waiting = [job for job in self.jobs if not job.ended]
            if sum(job.owner == owner for job in waiting) >= MOST_EACH:
                raise QueueFull(f"{MOST_EACH} jobs of yours wait or run already: try again when one is done")
            if len(waiting) >= MOST_WAITING:
                raise QueueFull(f"{MOST_WAITING} jobs wait already, which is the most: try again in a while")
            self.count += 1
            job = QueuedJob(self.count, owner, asked)
            ended = [one for one in self.jobs if one.ended]
            for old in ended[:max(0, len(ended) - KEPT)]:
                self.jobs.remove(old)
            self.jobs.append(job)
            self.changed.notify_all()
        return job

    def of(self, owner: str, *kinds: str) -> List[QueuedJob]:
        """The jobs of a browser, of these kinds, the newest last."""
        with self.changed:
            return [job for job in self.jobs if job.owner == owner and job.asked.kind in kinds]

    def with_key(self, key: str) -> Optional[QueuedJob]:
        """The job of this key; None where there is none, or none any more."""
        with self.changed:
            return next((job for job in self.jobs if hmac.compare_digest(job.key.encode(), key.encode())), None)

    def latest(self, owner: str, *kinds: str) -> Optional[QueuedJob]:
        """The job of these kinds that a browser wants to see: the one that runs or is next, else the last."""
        jobs = self.of(owner, *kinds)
        return next((job for job in jobs if not job.ended), jobs[-1] if jobs else None)

    def place(self, job: QueuedJob) -> int:
        """How many jobs are before this one."""
        with self.changed:
            return sum(not other.ended and other.number < job.number for other in self.jobs)

    def stop(self, job: Optional[QueuedJob]) -> None:
        """End a job: at once while it waits, after its step while it runs."""
        with self.changed:
            if job is None or job.ended:
                return
            if job.state == WAITING:
                job.end(STOPPED)
            elif not job.asked_to_stop:
                job.asked_to_stop = time.monotonic()
                self.send({"stop": job.number})
            self.changed.notify_all()

    def close(self) -> None:
        """End the work that runs, after its step, and the worker."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
            process = self.process
        if process and process.poll() is None:
            process.stdin.close()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                end(process)
        self.thread.join(PATIENCE)

    # ---------------------------------------------------------------- the thread that works

    def run(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.closed or any(not job.ended for job in self.jobs))
                if self.closed:
                    return
                job = next(job for job in self.jobs if not job.ended)
                job.state = RUNNING
                job.version += 1
            try:
                self.work(job, may_ask=True)
            except Exception as error:  # such as no memory for a process: the next job has its turn
                traceback.print_exc()
                with self.changed:
                    job.end(FAILED, f"the work could not be begun ({str(error)[:200] or type(error).__name__})")

    def work(self, job: QueuedJob, may_ask: bool) -> None:
        """Have a job done. `may_ask`: the worker may ask for a new process, once."""
        if self.process is None or self.process.poll() is not None:
            if self.process is not None:
                end(self.process)
            self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                            start_new_session=True)  # Ctrl-C in the terminal is the page's
        watcher = threading.Thread(target=self.end_the_deaf, args=(job, self.process), daemon=True)
        watcher.start()
        with self.changed:
            self.send({"job": job.number, **json.loads(job.asked.line())})
            if job.asked_to_stop:  # before there was a process to be told
                self.send({"stop": job.number})
        for line in self.process.stdout:
            said = json.loads(line)
            with self.changed:
                if "end" in said:
                    job.end(said["end"], said.get("error", ""))
                    return
                job.take(said)
        code = self.process.wait()
        end(self.process)
        with self.changed:
            if job.asked_to_stop:
                job.end(STOPPED)
                return
        if code == AGAIN and may_ask:
            self.work(job, may_ask=False)
            return
        with self.changed:
            job.end(STOPPED if self.closed else FAILED, "" if self.closed else ended_by(code))

    def send(self, said: dict) -> None:
        if self.process is None:
            return
        try:
            self.process.stdin.write(json.dumps(said) + "\n")
            self.process.stdin.flush()
        except (OSError, ValueError):
            pass  # it has ended, which whoever reads its answers finds out

    def end_the_deaf(self, job: QueuedJob, process: subprocess.Popen) -> None:
        """End a worker that was asked to stop and does not, as one that compiles; and what a crashed one has left.

        Processes that compile for it hold the pipe of its answers open, so its end is not seen there.
        """
        while not job.ended:
            deaf = job.asked_to_stop and time.monotonic() - job.asked_to_stop > PATIENCE
            if deaf or process.poll() is not None:
                end(process)
                return
            with self.changed:
                self.changed.wait(1.0)


def end(process: subprocess.Popen) -> None:
    """End a worker, and the processes that compile for it: one that stays has Jittor's lock for ever."""
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def ended_by(code: int) -> str:
    """Why a worker that nobody asked to has ended, in a sentence."""
    if code == -signal.SIGKILL:
        return ("the work was killed from outside, as Linux does when memory runs out: ask for a smaller picture, or "
                "free memory")
    if code < 0:
        return (f"the work crashed ({signal.Signals(-code).name}): ask again; if it crashes again, run styleblend "
                "doctor")
    return "the work ended without an answer: the page's log says why"
