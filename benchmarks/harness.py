"""Time one job here and in PyTorch + diffusers: two processes that take turns (A B A B), medians, ratio, peak memory.

Each process builds its job, runs it once (compilation and warm-up, reported apart), then runs it when it is told to and says how long it took.
A benchmark is a file with `build(args) -> run()`; `benchmarks/peer.py` holds the same jobs for the peer.
"""
from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Callable

from rich.console import Console
from rich.table import Table

from benchmarks.worker import serve

ROOT = Path(__file__).parents[1]


class Worker:
    """A process that holds one built job."""

    def __init__(self, name: str, command: list):
        clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        self.name = name
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clean)
        self.ready = self.answer()
        self.seconds = []

    def answer(self) -> dict:
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"{self.name} stopped with exit code {self.process.wait()}: its error stands above")

    def ask(self, what: str) -> dict:
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return self.answer()

    def run(self) -> None:
        self.seconds.append(self.ask("run")["seconds"])

    def end(self) -> dict:
        last = self.ask("end")
        self.process.wait()
        return {**self.ready, **last, "seconds": statistics.median(self.seconds)}


def arguments(doc: str) -> argparse.ArgumentParser:
    """The options of every benchmark."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--base", default="checkpoints/mini/base", help='base folder; "sd21": Stable Diffusion 2.1\'s sizes with random weights')
    parser.add_argument("--latent", type=int, default=16, help="side of the latent: 16 is the mini base's, 64 and 96 are 512 and 768 pixels")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=30, help="denoising steps of a picture")
    parser.add_argument("--rounds", type=int, default=7, help="runs of each side; the median counts")
    parser.add_argument("--peer", choices=["torch"], help="also time PyTorch + diffusers, in the Python that STYLEBLEND_TORCH_PYTHON names")
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser


def main(build: Callable, parser: argparse.ArgumentParser, module: str, flop: Callable = lambda args: None) -> None:
    """Measure and print; `flop(args)` is the number of floating-point operations of one run, where it is known."""
    args = parser.parse_args()
    if args.worker:
        return serve(lambda: build(args))
    job, given = module.rsplit(".", 1)[-1], [a for a in sys.argv[1:] if a != "--worker"]
    workers = [Worker("ours", [sys.executable, "-m", module, "--worker"] + given)]
    if args.peer:
        python = os.environ.get("STYLEBLEND_TORCH_PYTHON")
        if not python:
            raise SystemExit("STYLEBLEND_TORCH_PYTHON should name a Python with tests/reference/requirements.txt")
        workers.append(Worker("peer", [python, str(ROOT / "benchmarks" / "peer.py"), job, json.dumps(vars(args))]))
    for _ in range(args.rounds):
        for worker in workers:
            worker.run()
    found = {worker.name: worker.end() for worker in workers}
    report = {"job": job, "arguments": {k: v for k, v in vars(args).items() if k not in ("worker", "json")}, "cores": os.cpu_count(), "processor": processor(),
              "ours_s": found["ours"]["seconds"], "peak_ours_mib": found["ours"]["peak_mib"], "first_ours_s": found["ours"]["first_s"]}
    if "peer" in found:
        report.update(peer_s=found["peer"]["seconds"], peak_peer_mib=found["peer"]["peak_mib"], first_peer_s=found["peer"]["first_s"],
                      ratio=found["ours"]["seconds"] / found["peer"]["seconds"])
    operations = flop(args)
    if operations:
        report["ours_gflops"] = operations / report["ours_s"] / 1e9
    table = Table("", "median", "first run", "peak memory", title=f"{job} on {report['processor']}, {report['cores']} cores")
    for name, one in found.items():
        table.add_row(name, f"{one['seconds'] * 1e3:.1f} ms", f"{one['first_s']:.1f} s", f"{one['peak_mib']:.0f} MiB")
    Console().print(table)
    if "ratio" in report:
        print(f"ours / peer: {report['ratio']:.2f}")
    if operations:
        print(f"{report['ours_gflops']:.0f} GFLOP/s")
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def processor() -> str:
    """The processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
