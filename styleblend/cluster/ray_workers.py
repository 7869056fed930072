"""Spread pieces of work over a Ray cluster: one process for each GPU, or for some cores, each with the base."""
from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence

from styleblend.cluster.nodes import MACHINE, differences, refuse_unequal
from styleblend.cluster.remote import Came, Worker
from styleblend.cluster.work_list import WorkList
from styleblend.errors import StyleBlendError
from styleblend.files.whole_files import write_bytes
from styleblend.jobs.events import Job, Log, Progress
from styleblend.settings import RunSettings

AUTO = "auto"
EXTRA = 'pip install "styleblend-jittor[cluster]"'
PATIENCE = 60.0  # seconds without a worker after which that is said
LOOK = 1.0  # seconds between two looks at who has joined
MOST_DEAD = 3  # workers that die while they start, one after another, before that is the end


def import_ray():
    """Ray. StyleBlendError says how to install it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if sys.version_info < (3, 10):
        raise StyleBlendError("--cluster wants Python 3.10 or newer: this is "
                              f"{sys.version_info.major}.{sys.version_info.minor}")
    try:
        import ray
    except ImportError:
        raise StyleBlendError(f"--cluster needs Ray, which is not installed: {EXTRA}") from None
    return ray


@dataclass
class Hired:
    """One process on a machine. `ref` is what is waited for: that it is ready, or its piece of work."""

    actor: Any
    ref: Any
    machine: str = ""  # "": it has not said yet what it draws with
    idle: bool = False
    useful: bool = True


@dataclass
class Outcome:
    """What a run came to so far."""

    items: Sequence
    work: WorkList
    workers: Dict[int, Hired] = field(default_factory=dict)
    results: List[Any] = field(default_factory=list)
    facts: List[Dict[str, str]] = field(default_factory=list)  # of each worker that is ready
    hired: int = 0
    dead: int = 0  # while they started, since the last one that was ready

    def __post_init__(self) -> None:
        self.results = [None] * len(self.items)

    def progress(self, note: str = "") -> Progress:
        """One bar for all machines."""
        done = sum(len(self.items[piece].outputs) for piece in self.work.done)
        return Progress(self.items[0].title_of_all, done, sum(len(item.outputs) for item in self.items),
                        self.items[0].unit, note)


class RayWorkers:
    """A `styleblend.jobs.draw_items.Spread`.

    `address`: "auto", a cluster that runs on this machine, or else one that is started for this run; or HOST:PORT of
    one. Each worker has a GPU where the cluster has any, else `cores` cores. `collect`: what is written is sent back,
    for machines without common storage.
    """

    def __init__(self, address: str, settings: RunSettings, cores: int = 1, collect: bool = False):
        if "://" in address:
            raise StyleBlendError(f"--cluster {address}: start the command on a machine of the cluster, with "
                                  "--cluster auto or HOST:PORT")
        self.ray, self.address, self.settings = import_ray(), address, settings
        self.cores, self.collect = cores, collect

    def __call__(self, items: Sequence) -> Job[List[Any]]:
        """Do the pieces; returns what each came to, None where it could not be done: StyleBlendError at the end."""
        if not items:
            return []
        run = Outcome(items, WorkList(len(items)))
        with self.connected() as said:
            yield Log(said)
            try:
                yield run.progress("starting")
                yield from self.spread(run)
            finally:
                for worker in run.workers.values():
                    with contextlib.suppress(Exception):  # its machine may be gone
                        self.ray.kill(worker.actor)
        if run.work.failed:
            reasons = "; ".join(dict.fromkeys(run.work.failed.values()))
            raise StyleBlendError(f"{len(run.work.failed)} of {len(items)} pieces of work could not be done: {reasons}")
        return run.results

    @contextlib.contextmanager
    def connected(self) -> Iterator[str]:
        """The cluster, with a sentence on it."""
        quiet = dict(log_to_driver=False, logging_level="error")
        said = f"Ray cluster {self.address}"
        try:
            self.ray.init(address=self.address, **quiet)
        except ConnectionError:
            if self.address != AUTO:
                raise StyleBlendError(f"no Ray cluster answers at {self.address}: start one with ray start --head, and "
                                      "name it as HOST:PORT") from None
            self.ray.init(address="local", include_dashboard=False, **quiet)
            said = "no Ray cluster runs here: one is started on this machine for this run"
        try:
            yield said
        finally:
            self.ray.shutdown()

    def spread(self, run: Outcome) -> Job[None]:
        """Hire, check, hand out, hear, until all is done."""
        looked, began = 0.0, time.monotonic()
        while not run.work.finished:
            if not run.facts and time.monotonic() - began > PATIENCE:
                began = math.inf
                yield Log("no worker is ready yet: the machines load the base, or others use the cluster (ray status)")
            if time.monotonic() - looked > LOOK:
                self.hire(run)
                looked = time.monotonic()
            if run.facts and all(worker.machine for worker in run.workers.values()) or run.work.done:
                self.hand_out(run)  # not before all that have come are checked
            refs = {worker.ref: name for name, worker in run.workers.items()
                    if worker.useful and not worker.idle}
            if not refs:  # those that are there differ from the others
                time.sleep(LOOK)
            ready = self.ray.wait(list(refs), num_returns=1, timeout=LOOK)[0] if refs else []
            for ref in ready:
                yield from self.hear(run, refs[ref])

    def hire(self, run: Outcome) -> None:
        """Workers for GPUs or cores that have none, as long as there is work for them."""
        there, left = self.ray.cluster_resources(), len(run.work.waiting) + len(run.work.in_hand)
        options = {"num_gpus": 1} if there.get("GPU") else {"num_cpus": self.cores}
        room = int(there.get("GPU", 0)) or int(there.get("CPU", 0)) // self.cores
        if room < 1 and not run.workers:
            raise StyleBlendError(f"the cluster does not have {self.cores} cores: give fewer with --cores")
        while len(run.workers) < min(room, left):
            actor = self.ray.remote(Worker).options(max_restarts=0, **options).remote(
                self.settings, str(Path.cwd()), self.collect)
            run.workers[run.hired] = Hired(actor, actor.about.remote())
            run.hired += 1

    def hand_out(self, run: Outcome) -> None:
        """A piece for each worker that has none."""
        for name, worker in run.workers.items():
            if worker.machine and worker.idle:
                piece = run.work.next_for(name)
                if piece is not None:
                    worker.ref, worker.idle = worker.actor.do.remote(run.items[piece]), False

    def hear(self, run: Outcome, name: int) -> Job[None]:
        """What a worker has to say: it is ready, its piece is done, or it is gone."""
        worker = run.workers[name]
        try:
            answer = self.ray.get(worker.ref)
        except self.ray.exceptions.RayTaskError as error:  # what its own code raised
            if not worker.machine and isinstance(error.cause, StyleBlendError):  # such as a base that is missing
                raise StyleBlendError(str(error.cause)) from None
            yield from self.lost(run, name, " ".join(str(error.cause).split()))
        except self.ray.exceptions.RayError as error:
            yield from self.lost(run, name, " ".join(str(error).split())[:160])
        else:
            yield from (self.came(run, name, answer) if worker.machine else self.joined(run, name, answer))

    def joined(self, run: Outcome, name: int, facts: Dict[str, str]) -> Job[None]:
        """A worker is ready. Before the first piece one that is not equal to the others is an error, later left out."""
        worker = run.workers[name]
        if run.work.done or run.work.in_hand:
            found = differences(run.facts[0], facts)
            if found:
                worker.machine, worker.useful = facts[MACHINE], False  # it stays, so that none is hired in its place
                yield Log(f"{worker.machine} is left out, it has another {found[0]}")
                return
        run.facts.append(facts)
        refuse_unequal(run.facts)
        worker.machine, worker.idle, run.dead = facts[MACHINE], True, 0
        yield run.progress(f"{worker.machine} is ready")

    def came(self, run: Outcome, name: int, answer: Came) -> Job[None]:
        """A piece is done, or cannot be."""
        worker = run.workers[name]
        for sentence in answer.sentences:
            yield Log(f"{worker.machine}: {sentence}")
        for path, content in answer.files.items():
            write_bytes(path, content)
        worker.idle = True
        if answer.error is not None:
            run.work.fail(name, answer.error)
            yield Log(f"{worker.machine}: {answer.error}; going on with the next one")
            return
        piece = run.work.finish(name)
        run.results[piece] = answer.done
        yield run.progress(f"{worker.machine}: {run.items[piece].title}")

    def lost(self, run: Outcome, name: int, reason: str) -> Job[None]:
        """A worker is gone: its piece is for another one, and another one comes."""
        worker = run.workers.pop(name)
        with contextlib.suppress(Exception):
            self.ray.kill(worker.actor)
        if not worker.machine:
            run.dead += 1
            if run.dead >= MOST_DEAD:
                raise StyleBlendError(f"no worker comes to its start: {reason}")
        piece = run.work.lose(name, f"its worker on {worker.machine} died ({reason})")
        what = f" while it had {run.items[piece].title}" if piece is not None else ""
        yield Log(f"a worker on {worker.machine or 'a machine'} is gone{what}: another one takes its place ({reason})")

