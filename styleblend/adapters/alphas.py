"""How strong a LoRA is where that stands beside its matrices: in a file's header, or in PEFT's settings beside it.

A layer's own alpha among the tensors counts first. Where a file disagrees with itself, what won is said.
"""
from __future__ import annotations

import math
import re
import warnings
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple

import numpy as np

from styleblend.adapters.formats import layer_and_end, number, split
from styleblend.errors import StyleBlendError, printable
from styleblend.files import tensor_files
from styleblend.files.content import shown
from styleblend.files.text import LARGEST, parse_json, read_json

PEFT_PREFIX, DIFFUSERS_KEY = "base_model.model.", "lora_adapter_metadata"
NAME_PATTERN = re.compile(r"(\^?)((?:\w|\\?\.)+)\$?")  # the names that PEFT's patterns are, in practice
NETWORKS = {"unet.": "unet", "text_encoder.": "text", "": ""}  # how a setting begins -> the network that it is for
# Plain fields of a header, by what they say; the first that is there counts. kohya's begin with "ss_".
ALPHAS = ("lora_alpha", "network_alpha", "alpha", "ss_network_alpha")
RANKS = ("r", "rank", "lora_rank", "network_dim", "ss_network_dim")
TENSORS = "its tensors"


class Strength(NamedTuple):
    """What is said of the strength of a LoRA, or of one network's part of it, beside its matrices."""

    alpha: float
    where: str  # as in "alpha is 8 in its header (lora_alpha)"
    # of these keys alone: how they begin, or their network; empty: of all
    start: str = ""
    network: str = ""
    # whether it is the layer's whole name, and the name -> place in the list, alpha
    by_name: Mapping[Tuple[bool, str], Tuple[int, float]] = {}
    rank_stabilised: bool = False
    rank: Optional[float] = None  # where it is said for all layers alike

    def of(self, layer: str, rank: int) -> float:
        """The alpha of a layer, such that alpha / rank is what its matrices are multiplied by."""
        parts = layer.split(".")
        ends = [(True, layer)] + [(False, ".".join(parts[i:])) for i in range(len(parts))]
        # as PEFT: the first that fits
        alpha = min((self.by_name[end] for end in ends if end in self.by_name), default=(0, self.alpha))[1]
        return alpha * math.sqrt(rank) if self.rank_stabilised else alpha


def strength(config: Dict[str, Any], source: str, where: str, **of) -> Strength:
    """The part of a PEFT configuration that says how strong the LoRA is.

    StyleBlendError for what is no such configuration.
    """
    patterns, by_name = config.get("alpha_pattern") or {}, {}
    if not isinstance(patterns, dict):
        raise StyleBlendError(f"{source}: alpha_pattern is no JSON object: "
                              "the file is damaged, save or download it again")
    for place, (pattern, alpha) in enumerate(patterns.items()):
        match = NAME_PATTERN.fullmatch(pattern)
        if not match:
            raise StyleBlendError(f"{source}: {printable(pattern, 60)} in alpha_pattern is more than the name of a "
                                  "layer, and other patterns are not followed: write the names out")
        by_name.setdefault((bool(match[1]), match[2].replace("\\.", ".")),
                           (place, number(alpha, "alpha_pattern", source)))
    rank = config.get("r")
    return Strength(number(config["lora_alpha"], "lora_alpha", source), where, by_name=by_name,
                    rank_stabilised=config.get("use_rslora") is True,
                    rank=rank if type(rank) is int and not config.get("rank_pattern") else None, **of)


def beside(path: Path, names) -> Iterator[Strength]:
    """What adapter_config.json in the file's folder says, if the names are PEFT's."""
    settings = path.with_name("adapter_config.json")
    if any(name.startswith(PEFT_PREFIX) for name in names) and settings.is_file():
        config = read_json(settings, "download it again")
        if isinstance(config, dict) and "lora_alpha" in config:
            yield strength(config, str(settings), "adapter_config.json", start=PEFT_PREFIX)


def in_json(path: Path, header: Mapping[str, str]) -> Iterator[Strength]:
    """What the JSON says that newer diffusers write into the header."""
    text = header.get(DIFFUSERS_KEY)
    if text is None:
        return
    try:
        found = parse_json(text if len(text) <= LARGEST else "")
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")
    except ValueError as error:
        raise StyleBlendError(f"{path}: {DIFFUSERS_KEY} in its header cannot be read ({printable(str(error))}): "
                              "save or download it again") from None
    for name in ("unet", "text_encoder"):  # also where each network's settings are an object of their own
        if isinstance(found.get(name), dict):
            found.update({f"{name}.{key}": value for key, value in found[name].items()})
    for start, network in NETWORKS.items():
        if f"{start}lora_alpha" in found:
            yield strength({key[len(start):]: value for key, value in found.items() if key.startswith(start)},
                           str(path), f"its header ({DIFFUSERS_KEY})", network=network)


def as_number(text: Optional[str]) -> Optional[float]:
    """A header's field as a number; None where it is none."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if abs(value) < 1e9 else None  # not for NaN either


def in_fields(path: Path, header: Mapping[str, str]) -> Iterator[Strength]:
    """What plain fields of the header say, such as lora_alpha, unet.lora_alpha and kohya's ss_network_alpha."""
    for start, network in NETWORKS.items():
        name = next((f"{start}{field}" for field in ALPHAS if f"{start}{field}" in header), None)
        if name is None:
            continue
        alpha = as_number(header[name])
        if alpha is None or (alpha == 0 and name.startswith("ss_")):
            if header[name] not in ("Dynamic", "None", ""):
                why = "is no number" if alpha is None else "is 0, which kohya's scripts take as the rank"
                warnings.warn(f"{path}: {name} in its header {why} ({shown(header[name], 20)}): "
                              "alpha is taken as the rank where no tensor says it")
            continue
        rank = next((as_number(header[f"{start}{field}"]) for field in RANKS if f"{start}{field}" in header), None)
        config = {"lora_alpha": alpha, "use_rslora": header.get(f"{start}use_rslora", "").lower() == "true"}
        try:
            config["alpha_pattern"] = parse_json(header.get(f"{start}alpha_pattern", "{}")[:LARGEST])
        except ValueError:
            warnings.warn(f"{path}: {start}alpha_pattern in its header is no JSON: it is not followed")
        yield strength(config, str(path), f"its header ({name})", network=network)._replace(rank=rank)


def strengths(path: Path, names) -> List[Strength]:
    """All that is said of the strength beside the matrices. What is said first counts."""
    header = tensor_files.read_metadata(path)
    return [*beside(path, names), *in_json(path, header), *in_fields(path, header)]


def alphas(path: Path, tensors: Dict[str, Any]) -> Dict[str, float]:
    """`<layer>.alpha` of each layer whose alpha stands beside the matrices and not among them."""
    found, said, disagree, ranks = {}, strengths(path, tensors), {}, {}
    peft = any(name.startswith(PEFT_PREFIX) for name in tensors)
    for key, value in tensors.items() if said else ():
        layer, end = layer_and_end(key) or ("", "")
        if end != "down" or not isinstance(value, np.ndarray) or not value.ndim:
            continue
        network, plain, _ = split(key, str(path))
        own = tensors.get(f"{layer}.alpha")
        votes = [(TENSORS, number(own, f"{layer}.alpha", str(path)))] if own is not None else []
        votes += [(one.where, one.of(plain, value.shape[0])) for one in said
                  if key.startswith(one.start) and one.network in ("", network)]
        if votes and own is None:
            found[f"{layer}.alpha"] = votes[0][1]
            ranks.update({one.rank: value.shape[0] for one in said
                          if one.where == votes[0][0] and one.rank not in (None, value.shape[0])})
        other = next((vote for vote in votes[1:] if not math.isclose(vote[1], votes[0][1], rel_tol=1e-4)), None)
        if other:
            disagree.setdefault((votes[0][0], other[0]), (votes[0][1], other[1]))
    for (winner, loser), (alpha, not_it) in list(disagree.items())[:2]:
        warnings.warn(f"{path} disagrees with itself: alpha is {alpha:g} in {winner} and {not_it:g} in {loser}; "
                      f"{winner} won")
    for rank, true in list(ranks.items())[:1]:
        warnings.warn(f"{path} disagrees with itself: the rank is {true} in its matrices and {rank:g} in its header; "
                      "its matrices won")
    if peft and not any(key.startswith(PEFT_PREFIX) and key.endswith(".alpha") for key in [*tensors, *found]):
        warnings.warn(f"{path} does not say how strong it is, since PEFT keeps lora_alpha in adapter_config.json, "
                      "and there is none beside it: alpha is taken as the rank")
    return found


def where_said(path: Path, tensors: Mapping[str, Any]) -> str:
    """Where the alphas that count are from, of what `foreign_files.read_tensors` has read."""
    alpha = [value for key, value in tensors.items() if key.endswith(".alpha")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said already, when the file was read
        said = dict.fromkeys(one.where for one in strengths(path, tensors))
    among = any(isinstance(value, np.ndarray) for value in alpha) or not said
    added = any(not isinstance(value, np.ndarray) for value in alpha)
    return ", ".join([TENSORS] * (among and bool(alpha)) + list(said) * added)
