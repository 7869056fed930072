"""The judge in Jittor: what does an emoji picture show, and in which style is it drawn?

    judge = Judge.load()
    judge.score(pictures, subjects=["cat", "dog"], styles=["twemoji", "noto"])

Only a measuring device: made by tools/mini_base/train_judge.py (PyTorch) on the real art, never on pictures of this
project's generator.
"""
from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

from styleblend.files.emphasis import spoken
from styleblend.metrics import JUDGE_SCORES, Metric
from styleblend.machine.runtime import jt

BATCH = 64


class Judge:
    """Two small CNNs, one for the subject and one for the style.

    `heldout` holds their accuracy on real art that they never saw.
    """

    def __init__(self, weights: Dict[str, np.ndarray], about: dict):
        self.weights = {name: jt.array(value.astype(np.float32)) for name, value in weights.items()}
        self.size, self.blocks = about["size"], about["blocks"]
        self.subjects, self.styles, self.heldout = about["subjects"], about["styles"], about["heldout"]
        # name of a style -> another one that looks the same and stands in its place
        self.same_look = about["same_look"]
        self.heldout_pairs = {(self.subjects[s], about["sets"][k]) for s, k in about["heldout_pairs"]}
        self.recipe = about["recipe"]
        self.hash = hashlib.sha256(b"".join(name.encode() + weights[name].tobytes()
                                            for name in sorted(weights))).hexdigest()[:10]

    @classmethod
    def load(cls, folder: Optional[Path] = None) -> Judge:
        """Read judge.safetensors and judge.json from `folder`, by default those of the package."""
        folder = Path(folder or Path(__file__).parents[1] / "data" / "judge")
        return cls(load_file(folder / "judge.safetensors"),
                   json.loads((folder / "judge.json").read_text(encoding="utf-8")))

    def look(self, style: str) -> str:
        """The name by which a style stands in `styles`."""
        return {name.lower(): other for name, other in self.same_look.items()}.get(style.lower(), style)

    def knows(self, style: str) -> bool:
        """Whether it was trained on art of this style, as far as names tell."""
        return self.look(style).lower() in {name.lower() for name in self.styles}

    def reads(self, width: int, height: int) -> bool:
        """Whether it reads pictures of this size: square ones whose side is a multiple of `size`."""
        return width == height > 0 and width % self.size == 0

    def predict(self, pictures: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """Subject and style logits, (N, subjects) and (N, styles), of uint8 pictures (N, H, H, 3)."""
        subject, style = zip(*self._run(pictures, self._network))
        return np.concatenate(subject), np.concatenate(style)

    def looks(self, pictures: np.ndarray) -> np.ndarray:
        """(N, D) unit vectors of how uint8 pictures (N, H, H, 3) are drawn.

        Their scalar product, 0..1, says how alike two looks are.
        """
        return unit(np.concatenate([look for look, in self._run(pictures, lambda x: [self._look(x)])]))

    def features(self, pictures: np.ndarray) -> np.ndarray:
        """(N, D) unit vectors of what uint8 pictures (N, H, H, 3) show.

        Their scalar product says how alike two contents are.
        """
        return unit(np.concatenate([content for content, in self._run(pictures, lambda x: [self._subject(x)])]))

    def _run(self, pictures: np.ndarray, network) -> List[list]:
        """What `network` gives for each batch."""
        pictures = np.asarray(pictures)
        if pictures.ndim != 4 or pictures.dtype != np.uint8 or pictures.shape[3] != 3 or len(pictures) == 0:
            raise ValueError(f"the judge reads uint8 pictures (N, H, H, 3), not {pictures.dtype} {pictures.shape}")
        if not self.reads(pictures.shape[2], pictures.shape[1]):
            raise ValueError(f"the judge reads square pictures whose side is a multiple of {self.size}, "
                             f"not {pictures.shape[1:3]}")
        with jt.no_grad():
            return [[v.numpy() for v in network(jt.array(self._prepare(pictures[i:i + BATCH])))]
                    for i in range(0, len(pictures), BATCH)]

    def score(self, pictures: np.ndarray, subjects: Sequence[str], styles: Optional[Sequence[str]] = None,
              candidates: Optional[Sequence[str]] = None) -> Dict[str, float]:
        """The fractions of `pictures` that show their subject and are drawn in their style.

        The subject may be the best guess, or among the best five. `candidates` limits the subjects among which the
        judge chooses. Upper and lower case are the same.
        """
        for given in (subjects, styles):
            if given is not None and len(given) != len(pictures):
                raise ValueError(f"{len(pictures)} pictures, but {len(given)} labels")
        columns = self._index(candidates, self.subjects) if candidates is not None else np.arange(len(self.subjects))
        wanted = self._index(subjects, [self.subjects[c] for c in columns])
        subject, style = self.predict(pictures)
        subject = subject[:, columns]
        rank = (subject > subject[np.arange(len(wanted)), wanted][:, None]).sum(1)
        result = {"subject_top1": float(np.mean(rank < 1)), "subject_top5": float(np.mean(rank < 5))}
        if styles is not None:
            result["style"] = float(np.mean(style.argmax(1) == self._index([self.look(s) for s in styles],
                                                                           self.styles)))
        return result

    @staticmethod
    def _index(names: Sequence[str], known: List[str]) -> np.ndarray:
        place = {name.lower(): i for i, name in enumerate(known)}
        unknown = sorted(name for name in set(names) if name.lower() not in place)
        if unknown:
            raise ValueError(f"the judge has no such label to choose: {', '.join(map(repr, unknown[:5]))}")
        return np.array([place[name.lower()] for name in names], int)

    def _prepare(self, pictures: np.ndarray) -> np.ndarray:
        """As in training: area averages of side `size` in -1..1, then every 2 x 2 block of pixels as 12 channels."""
        n, cell, half = len(pictures), pictures.shape[1] // self.size, self.size // 2
        x = pictures.reshape(n, self.size, cell, self.size, cell, 3).mean((2, 4), dtype=np.float32)
        x = x / np.float32(127.5) - 1
        # picture, colour, row and column in the block, block
        x = x.reshape(n, half, 2, half, 2, 3).transpose(0, 5, 2, 4, 1, 3)
        return np.ascontiguousarray(x.reshape(n, 12, half, half))

    def _conv(self, x, name: str, stride: int = 1):
        weight = self.weights[name + ".weight"]
        return jt.nn.conv2d(x, weight, self.weights[name + ".bias"], stride, weight.shape[2] // 2)

    def _linear(self, x, name: str):
        return jt.nn.linear(x, self.weights[name + ".weight"], self.weights[name + ".bias"])

    def _look(self, y):
        """What the style net sees, before its last layer."""
        stage, found = 0, []
        y = jt.nn.relu(self._conv(y, "style.stem"))
        while True:
            found += [y.mean((2, 3)), ((y * y).mean((2, 3)) + 1e-6).sqrt()]
            if f"style.stages.{stage}.conv1.weight" not in self.weights:
                return jt.nn.relu(self._linear(jt.concat(found, 1), "style.hidden"))
            y, stage = self._block(y, f"style.stages.{stage}", 2), stage + 1

    def _block(self, x, name: str, stride: int):
        relu = jt.nn.relu
        skip = self._conv(x, name + ".skip", stride) if name + ".skip.weight" in self.weights else x
        return relu(self._conv(relu(self._conv(x, name + ".conv1", stride)), name + ".conv2") + skip)

    def _subject(self, x):
        """What the subject net sees, before its last layer."""
        x = jt.nn.relu(self._conv(x, "subject.stem", 2))
        for i, blocks in enumerate(self.blocks):
            for j in range(blocks):
                x = self._block(x, f"subject.stages.{i}.{j}", 2 if i and j == 0 else 1)
        return x.mean((2, 3))

    def _network(self, x):
        """Subject and style logits; the batch norms of the trained networks are folded into the layers beside them."""
        return [self._linear(self._subject(x), "subject.head"), self._linear(self._look(x), "style.head")]


class JudgeMetric(Metric):
    """The judge as a metric of one style's pictures.

    Each picture gets `subject` and `style`, the probabilities of what it should show and of the style (0..1),
    `subject_top5`, whether the subject is among the five best guesses, `style_top1`, whether the style is the best one,
    and `both`, the geometric mean of the two probabilities. What the judge cannot say is NaN: `gaps` has the reasons.
    """

    name = "judge"
    higher_is_better = dict.fromkeys(JUDGE_SCORES, True)
    compares = False
    held_out = 0.87  # by benchmarks/likeness.py: 0.863 in the style whose pictures are most alike, less in the others

    def __init__(self, judge: Judge, style: str):
        self.judge, self.style = judge, style

    def features(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        return self.judge.features(np.stack([np.asarray(picture) for picture in pictures]))

    def measure(self, pictures: Sequence[Image.Image], prompts: Sequence[str],
                style_pictures: Sequence[Image.Image]) -> Dict[str, np.ndarray]:
        """(N,) of each score for RGB pictures, which may have different sizes.

        The judge knows the style by its name, not by `style_pictures`.
        """
        scores = {name: np.full(len(pictures), np.nan) for name in self.higher_is_better}
        for i, of_subjects, of_styles in self.predictions(pictures):
            column = self._place(self.judge.subjects, subject_of(prompts[i]))
            if column is not None:
                scores["subject"][i] = probability(of_subjects, column)
                scores["subject_top5"][i] = (of_subjects > of_subjects[column]).sum() < 5
            column = self._place(self.judge.styles, self.judge.look(self.style))
            if column is not None:
                scores["style"][i] = probability(of_styles, column)
                scores["style_top1"][i] = of_styles.argmax() == column
        scores["both"] = np.sqrt(scores["subject"] * scores["style"])
        return scores

    def predictions(self, pictures: Sequence[Image.Image]):
        """Number, subject logits and style logits of every picture that the judge reads.

        A few at a time, equal sizes together.
        """
        for begin in range(0, len(pictures), BATCH):
            some = {i: pictures[i] for i in range(begin, min(begin + BATCH, len(pictures)))}
            for size in sorted({p.size for p in some.values() if self.judge.reads(*p.size)}):
                rows = [i for i, p in some.items() if p.size == size]
                yield from zip(rows, *self.judge.predict(np.stack([np.asarray(some[i]) for i in rows])))

    def gaps(self, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> List[str]:
        """Sentences on what `score` cannot say of these pictures."""
        found, prompts = [], [spoken(prompt) for prompt in prompts]
        if self.style and self._place(self.judge.styles, self.judge.look(self.style)) is None:
            found.append(f"the judge does not know the style {self.style}, only the emoji art that it was trained on: "
                         "it says nothing of the style")
        unknown = [p for p in dict.fromkeys(prompts) if self._place(self.judge.subjects, subject_of(p)) is None]
        if unknown:
            found.append(f"{self.style}: the judge does not know {', '.join(unknown)}: "
                         "it says nothing of their subjects")
        wrong = [f"{prompt} ({p.width} x {p.height})"
                 for p, prompt in zip(pictures, prompts) if not self.judge.reads(*p.size)]
        if wrong:
            found.append(f"{self.style}: the judge reads square pictures whose side is a multiple of {self.judge.size} "
                         f"pixels, not {', '.join(wrong)}")
        return found

    @staticmethod
    def _place(known: List[str], name: str) -> Optional[int]:
        return next((i for i, k in enumerate(known) if k.lower() == name.lower()), None)


def unit(rows: np.ndarray) -> np.ndarray:
    """(N, D) with rows of length 1; a row of zeros stays."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def subject_of(prompt: str) -> str:
    """"An anchor" -> "anchor"."""
    return re.sub(r"^(an?|the) ", "", prompt.strip(), flags=re.I).lower()


def probability(logits: np.ndarray, column: int) -> float:
    """The softmax of (classes,) logits at one class."""
    return float(1 / np.exp(logits.astype(np.float64) - logits[column]).sum())
