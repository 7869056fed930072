"""oneDNN, with which Jittor computes on the CPU, unpacked where Jittor looks for it."""
from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import tarfile
import tempfile
from pathlib import Path

from styleblend.machine.environment import jittor_cache, onednn_ready

ARCHIVES = {"x86_64": "dnnl_lnx_2.2.0_cpu_gomp.tgz", "aarch64": "dnnl_lnx_2.2.0_cpu_gomp_aarch64.tgz"}


def unpack_onednn() -> None:
    """Unpack what jittor-offline brings. Where it is there already, or is not brought, nothing is done.

    Jittor would do it, too, and then try it by a command that a space in the path of the home folder takes apart.
    """
    found, name = importlib.util.find_spec("jittor_offline"), ARCHIVES.get(platform.machine())
    if onednn_ready() or not name or not found or not found.origin:
        return
    archive, place = Path(found.origin).parent / name, jittor_cache() / "mkl"
    if not archive.is_file():
        return
    place.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".onednn-", dir=place))
    try:
        with tarfile.open(archive, "r") as file:
            file.extractall(draft)
        whole = place / Path(name).stem
        if whole.exists() and not onednn_ready():  # half unpacked, by a start that was ended
            os.replace(whole, draft / "old")
        if not whole.exists():  # else another process was faster
            os.replace(draft / Path(name).stem, whole)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
