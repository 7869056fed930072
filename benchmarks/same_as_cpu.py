"""Does a card give what the CPU gives? A call of the UNet, or a picture of the mini base.

    python -m benchmarks.same_as_cpu --job unet --base sd21 --latent 64
    python -m benchmarks.same_as_cpu --job picture --dtype float16

Each side computes in a process of its own. Exits with 1 where the relative L2 distance is more than 1e-3 in float32, or
1e-2 in 16 bits.
"""
from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.harness import ROOT, arguments

ALLOWED = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 1e-2}


def unet(args) -> np.ndarray:
    """What the UNet says of made-up latents and texts, four rows of them."""
    from benchmarks.unet_step import network
    from benchmarks.worker import numbers
    from styleblend.machine.runtime import jt
    network_ = network(args)
    x, text = (jt.array(numbers(name, (4, *shape))) for name, shape in (
        ("x", (4, args.latent, args.latent)), ("text", (77, network_.config.cross_attention_dim))))
    with jt.no_grad():
        return network_(x, 500, text).float32().numpy()


def picture(args) -> np.ndarray:
    """A picture of both branches, as `styleblend draw` makes it; 0 to 1."""
    from styleblend import Pipeline, load_base, read_settings
    settings = read_settings("mini")
    pipeline = Pipeline(load_base(args.base, args.dtype), settings)
    [drawn] = pipeline.pictures("An anchor", style="fxemoji", seeds=7, steps=args.steps)
    return drawn.pixels.astype(np.float32) / 255


JOBS = {"unet": unet, "picture": picture}


def computed(args, given: list[str], **environ: str) -> tuple[np.ndarray, str]:
    """The numbers of one side, and the device that computed them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "found.npy"
        run = subprocess.run([sys.executable, "-m", "benchmarks.same_as_cpu", *given, "--save", str(path)], cwd=ROOT,
                             env={**os.environ, **environ}, stdout=subprocess.PIPE, text=True)
        if run.returncode:
            raise SystemExit(f"the process stopped with exit code {run.returncode}: its error stands above")
        return np.load(path), run.stdout.split()[-1]


def save(args) -> None:
    from styleblend.machine.runtime import device
    np.save(args.save, JOBS[args.job](args))
    print(device())


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--job", choices=JOBS, default="unet", help="what is computed on both sides")
    parser.add_argument("--save", help=argparse.SUPPRESS)
    args, given = parser.parse_args(), sys.argv[1:]
    if args.save:
        return save(args)
    theirs, _ = computed(args, given, nvcc_path="", use_cuda="0")
    ours, device = computed(args, given)
    if device != "cuda":
        raise SystemExit("there is no card that Jittor can use: type `styleblend doctor cuda`")
    off = float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
    fine = bool(np.isfinite(ours).all()) and off <= ALLOWED[args.dtype]
    print(f"{args.job}, {args.dtype}, on {device}: off by {off:.1e}, {ALLOWED[args.dtype]:.0e} is allowed: "
          f"{'ok' if fine else 'wrong'}")
    if args.json:
        Path(args.json).write_text(json.dumps({"job": args.job, "device": device, "dtype": args.dtype, "off": off,
                                               "allowed": ALLOWED[args.dtype], "fine": fine}) + "\n")
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
