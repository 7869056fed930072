"""Time one job here and in PyTorch + diffusers, on the same device: medians, ratio, peak memory.

Two processes take turns (A B A B). Each builds its job, runs it once (compilation and warm-up, reported apart), then
runs it when it is told to and says how long it took. A benchmark is a file with `build(args) -> run()`;
`benchmarks/peer.py` holds the same jobs for the peer.
"""
from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Callable, Optional

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.worker import serve
from styleblend.cli.options import HelpFormatter

ROOT = Path(__file__).parents[1]


def ask_gpu(what: str) -> Optional[str]:
    """A field of nvidia-smi, for the GPU that is used; None where there is none."""
    number = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    try:
        answer = subprocess.run(["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader,nounits", "-i", number],
                                capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


class DeviceMemory:
    """The most GPU memory in use while this is open, beyond what was before: `most` in MiB, None without a GPU.

    Both sides are asked from outside, so both count alike: with their CUDA context and what their allocators hold.
    """

    def __enter__(self) -> DeviceMemory:
        self.before, self.closed = self.used(), threading.Event()
        self.most = None if self.before is None else 0.0
        self.watch = threading.Thread(target=self.look, daemon=True)
        self.watch.start()
        return self

    def __exit__(self, *error) -> None:
        self.closed.set()
        self.watch.join()

    def used(self) -> Optional[float]:
        answer = ask_gpu("memory.used")
        return None if answer is None else float(answer)

    def look(self) -> None:
        while self.before is not None:
            now = self.used()
            self.most = max(self.most, (self.before if now is None else now) - self.before)
            if self.closed.wait(0.05):
                return


class Worker:
    """A process that holds one built job."""

    def __init__(self, name: str, command: list):
        clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        self.name = name
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env=clean)
        with DeviceMemory() as memory:  # while the job is built and runs first: the other process waits meanwhile
            self.ready = self.answer()
        self.device_mib = memory.most
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
        return {**self.ready, **last, "device_mib": self.device_mib, "seconds": statistics.median(self.seconds)}


def arguments(doc: str, sd21: bool = True, int8: bool = False) -> argparse.ArgumentParser:
    """The options of every benchmark. `sd21`: whether random weights of that size will do; `int8`: also in that."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=HelpFormatter)
    random = '; "sd21": Stable Diffusion 2.1\'s sizes with random weights, the same on both sides'
    parser.add_argument("--base", default="checkpoints/mini/base", help="base folder" + (random if sd21 else ""))
    parser.add_argument("--latent", type=int, default=16,
                        help="side of the latent: 16 is the mini base's, 64 and 96 are 512 and 768 pixels")
    parser.add_argument("--batch", type=int, default=1, help="pictures, or rows where a benchmark says nothing else")
    types = ["float32", "float16", "bfloat16", *(["int8-float32", "int8-bfloat16"] if int8 else [])]
    parser.add_argument("--dtype", choices=types, default="float32",
                        help="of frozen weights and activations, on both sides"
                             + ("; int8: of our weights, and the peer's are as what is computed" if int8 else ""))
    parser.add_argument("--beside", choices=types, help="also time our own side in this type")
    parser.add_argument("--steps", type=int, default=30, help="denoising steps of a picture")
    parser.add_argument("--rounds", type=int, default=7, help="runs of each side; the median counts")
    parser.add_argument("--peer", choices=["torch"],
                        help="also time PyTorch + diffusers, in the Python that STYLEBLEND_TORCH_PYTHON names")
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser


def about(args, flop: Callable) -> dict:
    """Where our side computes, with what, and how much one run is."""
    from styleblend.machine.runtime import device, versions
    return {"device": device(), "versions": versions(),
            "threads": int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))), "flop": flop(args)}


def ceiling(dtype: str) -> dict:
    """GFLOP/s of one large product.

    In float32 by NumPy on the CPU, with as many threads as the job; in `dtype` on a GPU.
    """
    from styleblend.machine.runtime import device, jt
    size = 8192 if device() == "cuda" else 3072
    a, best = np.random.default_rng(0).standard_normal((size, size), np.float32), float("inf")
    x = jt.array(a).cast(dtype) if device() == "cuda" else None
    for _ in range(6):
        begin = time.perf_counter()
        if x is None:
            a @ a
        else:
            jt.matmul(x, x).sync()
            jt.sync_all(True)
        best = min(best, time.perf_counter() - begin)
    return {"ceiling_gflops": 2 * size ** 3 / best / 1e9}


def main(build: Callable, parser: argparse.ArgumentParser, module: str, flop: Callable,
         variants: Callable = lambda args: {}) -> None:
    """Measure and print; `flop(args)` is the number of floating-point operations of one run.

    `variants(args)`: names of other ways in which our side takes turns, too, with the options that make them.
    """
    args = parser.parse_args()
    if args.worker:
        return serve(lambda: build(args), lambda: about(args, flop), lambda: ceiling(args.dtype))
    job, given = module.rsplit(".", 1)[-1], [a for a in sys.argv[1:] if a != "--worker"]
    workers = [Worker("ours", [sys.executable, "-m", module, "--worker"] + given)]
    more = {**variants(args), **({args.beside: ["--dtype", args.beside]} if args.beside else {})}
    workers += [Worker(name, [sys.executable, "-m", module, "--worker"] + given + options)
                for name, options in more.items()]
    device = workers[0].ready["device"]
    if args.peer:
        python = os.environ.get("STYLEBLEND_TORCH_PYTHON")
        if not python:
            raise SystemExit("STYLEBLEND_TORCH_PYTHON should name a Python with tests/reference/requirements.txt")
        workers.append(Worker("peer", [python, str(ROOT / "benchmarks" / "peer.py"), job,
                                       json.dumps({**vars(args), "device": device,
                                                   "dtype": args.dtype.removeprefix("int8-")})]))
    for _ in range(args.rounds):
        for worker in workers:
            worker.run()
    found = {worker.name: worker.end() for worker in workers}
    ours, name = found["ours"], ask_gpu("name") if device == "cuda" else processor()
    report = {"job": job, "arguments": {k: v for k, v in vars(args).items() if k not in ("worker", "json")},
              "device": device, "device_name": name, "cores": os.cpu_count(), "processor": processor(),
              "memory": "device" if device == "cuda" else "RSS", "ceiling_gflops": ours["ceiling_gflops"]}
    for side, one in found.items():
        one["peak"], one["gflops"] = (one["device_mib"] if device == "cuda" else one["peak_mib"],
                                      ours["flop"] / one["seconds"] / 1e9)
        report.update({f"{side}_s": one["seconds"], f"peak_{side}_mib": one["peak"], f"first_{side}_s": one["first_s"],
                       f"{side}_gflops": one["gflops"], f"{side}_of_ceiling": one["gflops"] / ours["ceiling_gflops"],
                       f"{side}_versions": one["versions"], f"{side}_threads": one["threads"]})
    ratios = {side: ours["seconds"] / one["seconds"] for side, one in found.items() if side != "ours"}
    report.update({"ratio" if side == "peer" else f"ratio_{side}": ratio for side, ratio in ratios.items()})
    table = Table("", "median", "first run", f"peak memory ({report['memory']})", "GFLOP/s", "of the ceiling",
                  title=f"{job} on {name}, {args.dtype}, {ours['threads']} threads")
    for side, one in found.items():
        table.add_row(side, f"{one['seconds'] * 1e3:.1f} ms", f"{one['first_s']:.1f} s",
                      f"{one['peak'] or 0:.0f} MiB", f"{one['gflops']:.0f}",
                      f"{one['gflops'] / ours['ceiling_gflops']:.0%}")
    Console().print(table)
    print(f"the ceiling is one large product: {ours['ceiling_gflops']:.0f} GFLOP/s")
    for side, ratio in ratios.items():
        print(f"ours / {side}: {ratio:.2f}")
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def processor() -> str:
    """The processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
