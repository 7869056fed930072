"""Checkpoints of a training stage.

`step-000150.safetensors`, the last few of them, and `latest`, which names the newest.
"""
from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from styleblend.errors import StyleBlendError
from styleblend.files.whole_files import remove_unfinished, write_bytes
from styleblend.machine.runtime import say
from styleblend.files.tensor_files import read_metadata, read_safetensors, write_safetensors


class Log(NamedTuple):
    """What a stage has seen: the loss of every step, and the score of the grids that have one, by step.

    `scored_by`: what gave the scores.
    """

    losses: List[float]
    scores: Dict[int, float]
    scored_by: str = ""

    def best(self) -> int:
        """The step with the best score, the first of several."""
        return max(self.scores, key=self.scores.get)


State = Tuple[int, Dict[str, np.ndarray], Log]


class Checkpoints:
    """One folder a stage. `fingerprint` names all that the run depends on: a checkpoint with another one is refused."""

    def __init__(self, folder: Path, fingerprint: str, keep: int):
        self.folder, self.fingerprint, self.keep = Path(folder), fingerprint, keep
        remove_unfinished(self.folder)

    def save(self, step: int, tensors: Dict[str, np.ndarray], log: Log) -> None:
        """Write the state after `step` steps.

        Older checkpoints go only when the new one is whole and named by `latest`.
        """
        path = self.folder / f"step-{step:06d}.safetensors"
        metadata = {"step": str(step), "fingerprint": self.fingerprint, "losses": json.dumps(log.losses),
                    "scores": json.dumps(log.scores), "scored_by": log.scored_by}
        write_safetensors(path, tensors, {**metadata, "sha256": digest(metadata, tensors)})
        write_bytes(self.folder / "latest", f"{path.name}\n".encode())
        for damaged in [p for p in self.files() if step_of(p) > step]:  # from which this run fell back
            damaged.unlink(missing_ok=True)
        self.leave_out_old(step)

    def leave_out_old(self, step: int) -> None:
        """Remove all before `step` that are more than are kept: also where a run was killed before it could."""
        for old in [p for p in self.files() if step_of(p) < step][self.keep - 1:]:
            old.unlink(missing_ok=True)

    def restore(self) -> Optional[State]:
        """Step, tensors and log of the checkpoint that `latest` names.

        If that is damaged, of the one before it, which is said. None: there is none.
        """
        for path in self.in_order():
            try:
                step, tensors, log, fingerprint = read(path)
            except StyleBlendError as error:
                say(f"{error}; training goes on from the checkpoint before it, or from the start if there is none")
                continue
            if fingerprint != self.fingerprint:
                raise StyleBlendError(f"{path} is a checkpoint of other settings, pictures or base: "
                                      f"delete {self.folder} or pass --overwrite")
            return step, tensors, log
        return None

    def save_best(self, step: int, parameters: Dict[str, np.ndarray]) -> None:
        """Keep the parameters of the step with the best score so far."""
        write_safetensors(self.folder / "best.safetensors", parameters, {"step": str(step)})

    def best(self, step: int) -> Dict[str, np.ndarray]:
        """The parameters of the step with the best score."""
        path = self.folder / "best.safetensors"
        tensors = read_safetensors(path)
        if read_metadata(path).get("step") != str(step):
            raise StyleBlendError(f"{path} is not of step {step}: delete {self.folder} or pass --overwrite")
        return tensors

    def files(self) -> List[Path]:
        """All checkpoints, the newest first."""
        return sorted((p for p in self.folder.glob("step-*.safetensors") if step_of(p) >= 0), key=step_of, reverse=True)

    def in_order(self) -> List[Path]:
        """The one that `latest` names, whether it is there or not, then the others, the newest first."""
        try:
            name = (self.folder / "latest").read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            name = ""
        named = [self.folder / name] if step_of(Path(name)) >= 0 else []
        return named + [p for p in self.files() if p not in named]


def step_of(path: Path) -> int:
    """150 for step-000150.safetensors, -1 for any other name."""
    found = re.fullmatch(r"step-(\d+)\.safetensors", str(path.name))
    return int(found[1]) if found else -1


def digest(metadata: Dict[str, str], tensors: Dict[str, np.ndarray]) -> str:
    """sha256 of all that a checkpoint holds: a flipped bit would else go on into the adapters unseen."""
    found = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, array in sorted(tensors.items()):
        found.update(f"{name} {array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def read(path: Path) -> Tuple[int, Dict[str, np.ndarray], Log, str]:
    """Step, tensors, log and fingerprint of a checkpoint; a StyleBlendError says how it is damaged."""
    try:
        tensors, metadata = read_safetensors(path), read_metadata(path)
    except StyleBlendError:
        raise StyleBlendError(f"{path} is damaged (torn or missing)") from None
    kept = {key: metadata.get(key, "") for key in ("step", "fingerprint", "losses", "scores")}
    if "scored_by" in metadata:  # checkpoints of the first releases have none
        kept["scored_by"] = metadata["scored_by"]
    if metadata.get("sha256") != digest(kept, tensors):
        raise StyleBlendError(f"{path} is damaged (its checksum is wrong)")
    scores = {int(step): score for step, score in json.loads(kept["scores"]).items()}
    return (int(kept["step"]), tensors, Log(json.loads(kept["losses"]), scores, kept.get("scored_by", "")),
            kept["fingerprint"])
