"""Imports Jittor, and nothing else does: everywhere else it is ``from styleblend.machine.runtime import jt``.

The environment is prepared first (`styleblend.machine.environment`); Jittor's own log is quiet unless
STYLEBLEND_VERBOSE=1.
"""
from __future__ import annotations

import atexit
import contextlib
import glob
import logging
import os
import platform
import signal
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import styleblend
from styleblend.machine.environment import (folder_problem, installed_version, jittor_cache, onednn_ready,
                                            prepare_environment)
from styleblend.errors import StartAgain, StyleBlendError, printable
from styleblend.machine.compiled_code import CompiledCode, recorded_folders, repair
from styleblend.machine.compilers import compiler_problem
from styleblend.machine.core_headers import core_headers, without
from styleblend.machine.jittor_lock import file_locked, import_locked, operators_locked
from styleblend.machine.onednn import unpack_onednn
from styleblend.machine.operator_compiler import compile_directly
from styleblend.machine.plain_paths import make_paths_plain
from styleblend.machine.precompiled_headers import precompile
from styleblend.machine.signals import handle


WORK_SPACE = 512 << 20  # bytes of a card's memory that cuDNN may work in, beside what it reads and writes

# Signals that Jittor takes over, and SIGTERM.
CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGCHLD, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE,
          signal.SIGILL)


def import_jittor():
    """Import Jittor on this machine, say so when it has to compile itself first, and return the module."""
    unused_gpu = prepare_environment()
    if unused_gpu:
        say(f"no GPU is used: {unused_gpu}. `python -m styleblend doctor` says more.")
    others = "jittor" in sys.modules  # who has imported Jittor before has the say over its flags
    chosen = "use_cuda" in os.environ or others
    try:
        with process_kept():
            jittor_utils = import_jittor_utils(os.environ.get("STYLEBLEND_VERBOSE") == "1")
            code = CompiledCode(Path(jittor_utils.cache_path))
            check_folders(code.folder)
            with contextlib.ExitStack() as stack:
                onednn = CompiledCode(jittor_cache() / "mkl")
                if onednn.damaged() or not is_built(jittor_utils.cache_path):
                    # Jittor locks per Python version, but all versions unpack oneDNN into one folder. This lock comes
                    # first: Jittor lets go of its own for a moment while it compiles itself, and wants it back.
                    stack.enter_context(file_locked(jittor_cache() / "styleblend.lock", say))
                    remove_damaged(onednn)
                stack.enter_context(import_locked(jittor_utils.lock, say))
                if code.damaged():
                    with operators_locked(jittor_utils.lock.lock_path, say):
                        remove_damaged(code)
                stack.enter_context(stdout_to_stderr())  # also where a part is missing, and nobody knows it yet
                building = not is_built(jittor_utils.cache_path)
                if building:
                    say("Jittor compiles itself now: 1 to 3 minutes, only this once. "
                        f"The result stays in {jittor_cache()}")
                unpack_onednn()
                jittor_utils.LOG.e = lambda *message: None  # "please rerun your command": that is said here
                stack.callback(delattr, jittor_utils.LOG, "e")
                with contextlib.nullcontext("") if others else core_headers(jittor_utils, building, say) as flag:
                    import jittor
                close_compilers(jittor_utils)
                make_paths_plain(jittor)
                if not others:
                    jittor.flags.cc_flags = without(flag, jittor.flags.cc_flags)
                    hasten_operators(jittor)
    except SystemExit as stop:  # Jittor leaves like this after it has rebuilt a part of itself that was loaded
        raise StartAgain("Jittor has rebuilt a part of itself: type the same command again.") from stop
    except StyleBlendError:
        raise
    except Exception as error:
        raise cannot_be_imported(error) from error
    record(code)
    atexit.register(record, code)
    if jittor.has_cuda and not chosen:
        jittor.flags.use_cuda = 1
    if jittor.has_cuda and not others:
        bound_work_space(jittor)
    return jittor


def bound_work_space(jittor) -> None:
    """Jittor lets cuDNN take a quarter of the card's memory while it looks for the fastest way of a convolution."""
    total = jittor.get_mem_info().total_cuda_ram
    if jittor.cudnn and total > 0:
        jittor.cudnn.set_max_workspace_ratio(min(0.25, WORK_SPACE / total))


def check_folders(cache: Path) -> None:
    """Jittor's own folders, of which some are another user's after a run with sudo."""
    below = [path for path in cache.iterdir() if path.is_dir()]
    for folder in [cache.parent, cache, *below]:
        problem = folder_problem(folder)
        if problem:
            raise StyleBlendError(problem)


def remove_damaged(part: CompiledCode) -> None:
    """Take away what is damaged of a part of Jittor's cache and say so: Jittor compiles it again."""
    said = repair(part)
    if said:
        say(said)


def record(code: CompiledCode) -> None:
    """Write down what is compiled now, of Jittor and of oneDNN, so that the next start finds what is damaged."""
    try:
        code.record()
        CompiledCode(jittor_cache() / "mkl").record()
    except (OSError, StyleBlendError) as error:
        say(f"what was compiled could not be recorded ({printable(str(error))}): damage to it is found more slowly.")


def cannot_be_imported(error: Exception) -> StyleBlendError:
    """The sentence, after a last look for damage."""
    if any(repair(code, thorough=True) for code in recorded_folders(jittor_cache())):
        return StartAgain("a damaged part of Jittor's cache was removed: type the same command again.")
    if isinstance(error, OSError) and error.filename and jittor_cache() in Path(error.filename).parents:
        return StyleBlendError(f"{error.filename}: {error.strerror}, and Jittor keeps its compiled code there: "
                               "set HOME to a folder of yours.")
    reason = compiler_problem(error) or (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    return StyleBlendError(f"Jittor cannot be imported ({reason}): type `python -m styleblend doctor`.")


@contextlib.contextmanager
def process_kept():
    """Put back what the import changes in the whole process.

    jittor_utils switches the verification of HTTPS certificates off. Jittor's own handler of Ctrl-C ends the process
    with no clean-up; that of a crash waits for ever for the threads that crashed; that of SIGCHLD ends the process when
    a compiler is killed. It ends the processes that it forks with SIGTERM, so they must not have a handler of that.
    """
    verify_https = ssl._create_default_https_context
    before = {number: signal.getsignal(number) for number in CAUGHT}
    in_main_thread = threading.current_thread() is threading.main_thread()
    try:
        if in_main_thread:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        yield
    finally:
        ssl._create_default_https_context = verify_https
        for number, handler in before.items():
            if in_main_thread and handler is not None:
                handle(number, handler)


def import_jittor_utils(verbose: bool):
    """Import Jittor's small helper package, which holds the logger, and make the logger quiet.

    `log_silent` silences the C++ side below errors. The Python side takes the same variable too far: it also drops
    LOG.f, and with it the exceptions that LOG.f raises. So it is put back there, and only LOG.i is dropped.
    """
    if not verbose:
        os.environ.setdefault("log_silent", "1")
    import jittor_utils
    if not verbose:
        jittor_utils.LOG.log_silent = 0
        jittor_utils.LOG.i = lambda *message: None
    return jittor_utils


def close_compilers(jittor_utils) -> None:
    """End the processes that compiled Jittor itself; it starts others when it needs some.

    They would wait for work until the end. Ctrl-C in a terminal reaches them too, and one that dies while it waits
    takes the pool's lock with it: this process would then hang when it ends.
    """
    if jittor_utils.pool_size:
        atexit.unregister(jittor_utils.pool_cleanup)
        jittor_utils.pool_cleanup()
        jittor_utils.pool_size = 0


def hasten_operators(jittor) -> None:
    """Make operators compile faster, where the compiler is g++."""
    if jittor.compiler.cc_type != "g++":
        return
    try:
        precompile(jittor, Path(jittor.compiler.cache_path))
        compile_directly(jittor, Path(jittor.compiler.cache_path))
    except (OSError, StyleBlendError, subprocess.SubprocessError) as error:
        say(f"headers could not be precompiled ({printable(str(error).strip().splitlines()[0])}): "
            "every new operator takes about a second longer.")


def is_built(cache_path: str) -> bool:
    """Whether oneDNN is unpacked and Jittor's core compiled, for the CPU or for the CUDA that will be used."""
    kind = "cu*" if os.environ.get("nvcc_path", "cu") else ""
    return onednn_ready() and bool(glob.glob(os.path.join(glob.escape(cache_path), kind, "jittor_core*.so")))


@contextlib.contextmanager
def stdout_to_stderr():
    """Keep what the first import prints, from Python and from programs that it starts, out of a command's output."""
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


def say(sentence: str) -> None:
    """Tell the user something: a warning of the logger "styleblend".

    The command line shows it in its own voice, beside its progress bars.
    """
    logging.getLogger("styleblend").warning("%s", sentence)


jt = import_jittor()


def device() -> str:
    """Where Jittor computes now: "cpu" or "cuda"."""
    return "cuda" if jt.flags.use_cuda else "cpu"


def use_cuda(flag: bool) -> None:
    """Compute on the GPU, which is the default where one can be used, or on the CPU."""
    if flag and not jt.has_cuda:
        raise StyleBlendError("no GPU can be used here: type `python -m styleblend doctor` to see why.")
    jt.flags.use_cuda = int(flag)


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    compiler = subprocess.run([os.environ["cc_path"], "-dumpfullversion"], stdout=subprocess.PIPE, text=True)
    return {"styleblend": getattr(styleblend, "__version__", "unknown"),
            "jittor": installed_version("jittor") or "unknown",
            "python": platform.python_version(), "g++": compiler.stdout.strip()}
