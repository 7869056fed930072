"""`styleblend doctor cuda`: a CUDA home for Jittor, whether its kernels compile, and what the cards here can do."""
from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from styleblend.errors import StyleBlendError, printable
from styleblend.machine import environment
from styleblend.machine.cards import Card, cards, driver_version
from styleblend.machine.cuda_home import MOST_OF_JITTOR, make_home
from styleblend.machine.doctor import Line, show

CAPABILITIES = (75, 80, 86, 89, 90)  # Turing, Ampere (two), Ada, Hopper
PROBE, KERNELS = Path(__file__).parent / "cuda_probe.cu", Path(__file__).parents[1] / "kernels"
# as Jittor gives them (`jittor.compiler`)
FLAGS = ("-std=c++14", "-DIS_CUDA", "--use_fast_math", "-Xcompiler", "-fPIC", "-w", "-x", "cu", "-c")
# of the attention kernels: type, how float32 is multiplied, least capability
OURS = (("float", "FMA", 75), ("float", "SPLIT", 80), ("float", "TF32", 80), ("__half", "FMA", 75),
        ("__nv_bfloat16", "FMA", 80))
TYPES = ("float", "__half", "__nv_bfloat16")


def run_doctor_cuda() -> int:
    """Print what was found and made; 0, or 2 where a card cannot be used. A machine without a card is a normal one."""
    here = cards()
    lines = list(card_lines(here))
    try:
        home, toolkit = make_home(environment.own_cache(), [card.capability for card in here], driver=driver_version())
    except StyleBlendError as error:
        wrong, _, cure = str(error).partition("; ")
        show([*lines, Line("CUDA home", "fail" if here else "info", wrong, cure)])
        return 2 if here else 0
    lines.append(Line("CUDA home", "ok", f"CUDA {toolkit.version[0]}.{toolkit.version[1]} of {toolkit.folder}, in "
                      f"{home}"))
    lines += compile_lines(home)
    lines += computing_lines(here, home)
    failed = any(line.status == "fail" for line in lines)
    if failed:  # Jittor would end the process when it is imported
        shutil.rmtree(home)
        lines.append(Line("CUDA home", "warn", "taken away again: the program computes on the CPU, as before"))
    show(lines)
    return 2 if failed else 0


def card_lines(here: Sequence[Card]) -> Iterator[Line]:
    """Driver and cards."""
    count, problem = environment.gpus_found()
    if problem:
        yield Line("driver", "fail", *problem.split(": ", 1))
    elif not here:
        yield Line("driver", "info", "there is no NVIDIA driver or no card: the program computes on the CPU, as before")
    else:
        yield Line("driver", "ok", f"runs CUDA up to {driver_version()}")
    for card in here:
        found = f"{card.name}, compute capability {card.capability / 10:.1f}, {card.memory / 2**30:.1f} GiB"
        if card.capability > MOST_OF_JITTOR:
            yield Line("card", "warn", f"{found}: newer than Jittor 1.3.11 compiles for, so the driver translates code "
                       "of 9.0 when it is first used", "nothing is to be done; this was never tried on such a card")
        elif card.capability < CAPABILITIES[0]:
            yield Line("card", "fail", f"{found}: too old for the kernels here", "use a card of 7.5 (Turing, 2018) or "
                       "newer, or the CPU; if there is one beside it, name that one by CUDA_VISIBLE_DEVICES")
        else:
            yield Line("card", "ok", found)


def compile_lines(home: Path) -> Iterator[Line]:
    """Whether what Jittor's operators include, and our kernels, compile for each kind of card."""
    failed = {}
    for capability in CAPABILITIES:
        print(f"compiling for compute capability {capability / 10:.1f} ...", file=sys.stderr, flush=True)
        problem = compile_problem(home, capability)
        if problem:
            failed[capability] = problem
    fine = ", ".join(f"{c / 10:.1f}" for c in CAPABILITIES if c not in failed)
    if fine:
        yield Line("kernels", "ok", f"compile for compute capability {fine}")
    for capability, problem in failed.items():
        yield Line("kernels", "fail", f"do not compile for {capability / 10:.1f}: {problem}",
                   "give it another toolkit: CUDA_HOME=/path/to/cuda styleblend doctor cuda")


def compile_problem(home: Path, capability: int) -> str | None:
    """The first error, or None."""
    found = importlib.util.find_spec("jittor")
    jittor = Path(found.submodule_search_locations[0] if found and found.submodule_search_locations else "")
    ours = "\n".join(f"template cudaError_t styleblend::cuda::attention_{way}<{kind}, 64, styleblend::cuda::"
                     f"{precision}>(const styleblend::cuda::Problem<{kind}>&);"
                     for kind, precision, least in OURS if capability >= least for way in ("forward", "backward"))
    headers = (PROBE.name, "helper_cuda.h", "attention_cuda.h", "norms_cuda.h")
    text = "\n".join([f'#include "{name}"' for name in headers] + [ours, norms()])
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "probe.cu"
        program.write_text(text, encoding="utf-8")
        run = subprocess.run([str(home / "bin" / "nvcc"), *FLAGS, f"-arch=compute_{capability}",
                              f"-code=sm_{capability}", *(f"-I{place}" for place in (
                                  home / "include", jittor / "extern" / "cuda" / "inc", jittor / "src", PROBE.parent,
                                  KERNELS)),
                              "-o", f"{folder}/probe.o", str(program)],
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if run.returncode == 0:
        return None
    errors = re.findall(r"error.*", run.stdout) or run.stdout.strip().splitlines() or ["nvcc gave up"]
    return printable(errors[0], 160)


def norms() -> str:
    """Every kernel of `norms_cuda.h`."""
    of_each = [f"normed<{kind}, {which}>(const styleblend::cuda::Norm<{kind}>&, bool);"
               for kind in TYPES for which in ("false, false", "false, true", "true, false")]
    of_each += [f"geglu(styleblend::cuda::Gated<{kind}>, bool);" for kind in TYPES]
    return "\n".join(f"template cudaError_t styleblend::cuda::{one}" for one in of_each)


def computing_lines(here: Sequence[Card], home: Path) -> Iterator[Line]:
    """One operator of each kind on the card, against NumPy, and what fits into its memory."""
    if not here:
        return
    print("Jittor compiles itself for CUDA, then runs an operator of each kind: minutes, the first time ...",
          file=sys.stderr, flush=True)
    # on the card, whatever the environment says
    run = in_a_process("-m", "styleblend.kernels.check", use_cuda="1", nvcc_path=str(home / "bin" / "nvcc"))
    said = [line.split(" ", 1) for line in run.stdout.splitlines() if line.startswith(("ok ", "wrong "))]
    for status, what in said:
        yield Line("computes", "ok" if status == "ok" else "fail", what,
                   "" if status == "ok" else "compute on the CPU until it is mended: use_cuda=0")
    if run.returncode and not any(status == "wrong" for status, _ in said):
        last = (run.stderr.strip().splitlines() or [f"it ended with code {run.returncode}"])[-1]
        yield Line("computes", "fail", printable(re.sub("\x1b\\[[0-9;]*m", "", last), 200),
                   "compute on the CPU until it is mended: use_cuda=0")
    yield from fitting_lines(min(card.memory for card in here))


def fitting_lines(memory: int) -> Iterator[Line]:
    """What of Stable Diffusion 2.1 fits into a card's memory, by estimate."""
    code = "import sys; from styleblend.jobs.memory import what_fits; print(*what_fits(int(sys.argv[1])), sep='\\n')"
    run = in_a_process("-c", code, str(memory), nvcc_path="", use_cuda="0")
    yield from (Line("fits", "info", line) for line in run.stdout.splitlines())


def in_a_process(*arguments: str, **environ: str) -> subprocess.CompletedProcess:
    """A program of this project in a Python of its own: a bad CUDA ends the whole process."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    return subprocess.run([sys.executable, *arguments], env={**os.environ, "PYTHONPATH": path, **environ},
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
