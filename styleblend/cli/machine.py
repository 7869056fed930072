"""`doctor`, which checks this machine, and `memory`, which says what a config takes of it."""
from __future__ import annotations

from styleblend.cli.options import add_command, add_config, add_dtype, settings_of
from styleblend.cli.running import follow


def add_commands(commands) -> None:
    memory = add_command(commands, "memory", "estimate the memory that drawing and training with a config take",
                         example="memory --config sd21 --dtype bfloat16")
    add_config(memory)
    add_dtype(memory)
    memory.set_defaults(run=run_memory)
    doctor = add_command(commands, "doctor",
                         "check this machine and say what to type; doctor cuda: make it ready for an NVIDIA card",
                         example="doctor cuda")
    doctor.add_argument("what", nargs="?", choices=["cuda"], help="make a CUDA home that Jittor builds with, of a "
                        "toolkit (11.8 to 13) or pip's wheels; compile for each kind of card; compute on those here")
    doctor.set_defaults(run=run_doctor)


def run_doctor(args) -> int:
    if args.what == "cuda":
        from styleblend.machine.doctor_cuda import run_doctor_cuda
        return run_doctor_cuda()
    from styleblend.machine.doctor import run_doctor as check
    return check()


def run_memory(args) -> int:
    from styleblend.files.base_folder import KNOWN_COPIES, find_base
    settings = settings_of(args)
    if not settings.base_id and settings.base not in KNOWN_COPIES:
        find_base(settings.base)  # said before Jittor starts
    from styleblend.jobs.memory import MIB, estimate
    rows = follow(estimate(settings))
    widest = max(len(name) for name, _ in rows)
    for name, size in rows:
        print(f"{name:{widest}} {size / MIB:8,.0f} MiB")
    return 0
