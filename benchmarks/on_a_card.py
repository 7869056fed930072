"""Everything that is to be known of a card, at once: is it right, how fast, how much memory. Results to files.

    python -m benchmarks.on_a_card --output card                the whole list, about an hour
    python -m benchmarks.on_a_card --only doctor,kernels        some of it; --list shows the names
    STYLEBLEND_TORCH_PYTHON=... python -m benchmarks.on_a_card  with PyTorch and diffusers on the same card

Each step is a process of its own with a time limit; one that fails does not stop the next. OUTPUT has a log of each,
what benchmarks wrote as JSON, and summary.md. Started once more it runs what is missing or went wrong.
"""
from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import ROOT
from styleblend.cli.options import HelpFormatter
from styleblend.machine.cards import cards

PYTHON = sys.executable
DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Step:
    """A name, a command, minutes that it may take. `timed`: a benchmark, which can have a peer and writes JSON."""

    name: str
    command: tuple[str, ...]
    minutes: float = 10
    timed: bool = False


def benchmark(name: str, module: str, *options: str, minutes: float = 10) -> Step:
    return Step(name, (PYTHON, "-m", f"benchmarks.{module}", *options), minutes, timed=True)


def steps(folder: Path) -> list[Step]:
    """First whether it computes right, then how fast, then a style."""
    found = [Step("doctor", (PYTHON, "-m", "styleblend", "doctor", "cuda"), 20),
             Step("operators", (PYTHON, "-m", "styleblend.kernels.check"), 20),
             Step("kernels", (PYTHON, "-m", "pytest", "-q", "tests/kernels/test_cuda.py"), 20)]
    for dtype in DTYPES:
        same = (PYTHON, "-m", "benchmarks.same_as_cpu", "--dtype", dtype)
        found += [Step(f"picture-{dtype}", (*same, "--job", "picture")),
                  Step(f"unet-{dtype}", (*same, "--base", "sd21", "--latent", "64"), 15)]
    for dtype in DTYPES:
        for latent in ("64", "96"):
            found.append(benchmark(f"attention-{latent}-{dtype}", "attention", "--batch", "4", "--heads", "5",
                                   "--latent", latent, "--dtype", dtype))
            found.append(benchmark(f"unet-step-{latent}-{dtype}", "unet_step", "--base", "sd21", "--latent", latent,
                                   "--dtype", dtype))
        found.append(benchmark(f"attention-gradient-{dtype}", "attention", "--heads", "5", "--latent", "64",
                               "--gradient", "--dtype", dtype))
        found.append(benchmark(f"generate-{dtype}", "generate", "--dtype", dtype))
        found.append(benchmark(f"training-step-{dtype}", "train_step", "--base", "sd21", "--latent", "64",
                               "--checkpointing", "--dtype", dtype))
    return [*found, Step("style", (PYTHON, "-m", "styleblend", "train", "styleblend", "--styles", "fxemoji", "--config",
                                   str(folder / "style.yaml")), 20)]


def write_config(folder: Path) -> None:
    """The mini config with adapters in this folder: those that are shipped stay as they are."""
    import yaml
    settings = yaml.safe_load((ROOT / "configs" / "mini.yaml").read_text(encoding="utf-8"))
    settings.update(adapters=str(folder / "adapters"), look_alikes=str(folder / "look_alikes"))
    (folder / "style.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")


def run(step: Step, folder: Path) -> dict:
    """How it went; its output is in a file of its name."""
    command = list(step.command)
    if step.timed:
        command += ["--json", str(folder / f"{step.name}.json")]
        command += ["--peer", "torch"] if os.environ.get("STYLEBLEND_TORCH_PYTHON") else []
    begin = time.monotonic()
    with open(folder / f"{step.name}.log", "w", encoding="utf-8") as log:
        log.write(f"$ {shlex.join(command)}\n")
        log.flush()
        # without a card a step fails: else it would be well with the CPU, or leave all its tests out
        card = {} if step.name == "doctor" else {"use_cuda": "1"}
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                   start_new_session=True, env={**os.environ, **card})
        try:
            code = process.wait(timeout=60 * step.minutes)
        except subprocess.TimeoutExpired:
            code = "too long"
        except BaseException:  # Ctrl-C goes to this process only
            stop(process)
            raise
        stop(process)
    return {"code": code, "seconds": round(time.monotonic() - begin, 1)}


def stop(process: subprocess.Popen) -> None:
    """End a step with all that it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def outcome(step: Step, folder: Path, done: dict) -> str:
    """A line of the summary."""
    found = folder / f"{step.name}.json"
    said = ""
    if step.timed and found.is_file():
        its = json.loads(found.read_text(encoding="utf-8"))
        said = f"{its['ours_s'] * 1e3:.1f} ms, {its['peak_ours_mib'] or 0:.0f} MiB"
        said += f"; peer {its['peer_s'] * 1e3:.1f} ms, ratio {its['ratio']:.2f}" if "ratio" in its else ""
    else:
        lines = (folder / f"{step.name}.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        said = lines[-1][:160].replace("|", "/") if lines else ""
    code = {0: "ok", "too long": "too long"}.get(done["code"], f"exit code {done['code']}")
    return f"| {step.name} | {code} | {done['seconds']:.0f} s | {said} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("card"), metavar="OUTPUT", help="folder of the results")
    parser.add_argument("--only", default="", help="names of steps, with commas between them (default: all)")
    parser.add_argument("--list", action="store_true", help="print the steps and their commands, run nothing")
    args = parser.parse_args()
    folder = args.output.resolve()
    names = [step.name for step in steps(folder)]
    only = args.only.split(",") if args.only else names
    wrong = [name for name in only if name not in names]
    if wrong:
        parser.error(f"there is no step {wrong[0]}: --list shows them")
    chosen = [step for step in steps(folder) if step.name in only]
    if args.list:
        print("\n".join(f"{step.name}: {shlex.join(step.command)}" for step in chosen))
        return
    if not cards():
        parser.error("there is no NVIDIA driver or no card")
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder)
    record = folder / "steps.json"
    done = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    for number, step in enumerate(chosen, 1):
        if done.get(step.name, {"code": None})["code"] != 0:
            print(f"{number} of {len(chosen)}: {step.name} (at most {step.minutes:.0f} minutes)", flush=True)
            done[step.name] = run(step, folder)
            record.write_text(json.dumps(done, indent=1), encoding="utf-8")
        lines = [outcome(s, folder, done[s.name]) for s in steps(folder) if s.name in done]
        (folder / "summary.md").write_text("\n".join(["| step | | time | |", "|---|---|---|---|", *lines, ""]),
                                           encoding="utf-8")
        print(outcome(step, folder, done[step.name]), flush=True)
    sys.exit(any(done[step.name]["code"] for step in chosen))


if __name__ == "__main__":
    main()
