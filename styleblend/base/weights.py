"""Load networks strictly: equal key sets, equal shapes, one report of all that is wrong."""
from __future__ import annotations

from typing import Dict

import numpy as np

from styleblend.errors import StyleBlendError
from styleblend.kernels.int8 import Int8, narrowed
from styleblend.machine.precision import cast, computed_as, rounded
from styleblend.machine.runtime import jt
from styleblend.models.layers import Weighted


def parameters(network) -> Dict[str, "jt.Var"]:
    """Parameters by checkpoint name, LoRAs left out: they are not part of a base."""
    return {name: p for name, p in network.named_parameters() if ".lora." not in name}


ADVICE = "Download the whole folder again, or use a Stable Diffusion 2.x base"


def check(network, tensors: dict, source: str, advice: str = ADVICE) -> Dict[str, "jt.Var"]:
    """The network's parameters, if `tensors` has just their names and shapes.

    Else one StyleBlendError with all that is wrong.
    """
    own = parameters(network)
    missing, extra = sorted(set(own) - set(tensors)), sorted(set(tensors) - set(own))
    shapes = [f"{n} is {tuple(tensors[n].shape)}, needed {tuple(own[n].shape)}" for n in sorted(set(own) & set(tensors))
              if tuple(tensors[n].shape) != tuple(own[n].shape)]
    problems = [f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
                for what, names in (("tensors are missing", missing), ("tensors are too much", extra),
                                    ("tensors have another shape", shapes)) if names]
    if problems:
        raise StyleBlendError(f"{source} does not fit its config.json: {'; '.join(problems)}. {advice}")
    return own


def finite(array: np.ndarray) -> bool:
    """Whether all numbers are finite as float32. A sum says so at once; only one that overflows needs a second look."""
    with np.errstate(all="ignore"):
        # no copy of half precision: `load` makes the one
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        return bool(np.isfinite(array.sum(dtype=np.float32)) or np.isfinite(array).all())


def types(network, dtype: str) -> Dict[str, str]:
    """The type of each parameter in a network of `dtype`: vectors and the network's `float32_parts` stay float32.

    Only the matrices of layers become int8: tables of embeddings are as what is computed.
    """
    wide = tuple(f"{part}." for part in getattr(network, "float32_parts", ()))
    layers = weighted(network) if computed_as(dtype) != dtype else {}
    return {name: "float32" if p.ndim < 2 or name.startswith(wide) else "int8" if name in layers else computed_as(dtype)
            for name, p in parameters(network).items()}


def weighted(network) -> Dict[str, Weighted]:
    """The layers whose matrices may be kept as int8, by the names of these."""
    return {f"{name}.weight".lstrip("."): layer for name, layer in network.named_modules()
            if isinstance(layer, Weighted)}


def load(network, tensors: Dict[str, np.ndarray], source: str, dtype: str = "float32", advice: str = ADVICE) -> None:
    """Put arrays into a network, its matrices as `dtype`: all or nothing.

    Strictly (see `check`), and without NaN, infinity and whole numbers. Takes them out of `tensors` on the way: a
    network of several GB would else be in memory twice. Those that are stored are read one at a time, twice.
    """
    layers, own = weighted(network), check(network, tensors, source, advice)
    whole = next((name for name in own if tensors[name].dtype.kind != "f"), None)
    if whole:
        raise StyleBlendError(f"{source} holds {tensors[whole].dtype} in {whole}, as weights that are packed or cut "
                              "off do: get it in float32, float16 or bfloat16")
    broken = [name for name, array in tensors.items() if not finite(np.asarray(array))]
    if broken:
        raise StyleBlendError(f"{source} holds NaN or infinity in "
                              f"{broken[0]}{f' and {len(broken) - 1} more' if broken[1:] else ''}: download it again")
    large = [name for name, array in tensors.items()
             if dtype == "float16" and np.abs(np.asarray(array)).max(initial=0) > 65504]
    if large:
        raise StyleBlendError(f"{source} holds numbers beyond float16's range in {large[0]}: "
                              "use --dtype bfloat16 or float32")
    kinds = types(network, dtype)
    for name, parameter in own.items():
        array = np.asarray(tensors.pop(name))
        if name in layers:
            layers[name].int8 = None
        # a base is never trained: gradients reach only what was injected
        if kinds[name] == "int8":
            kept, factors = narrowed(jt.array(rounded(array, "float32")))
            layers[name].int8 = Int8(factors.stop_grad(), computed_as(dtype))
        else:
            kept = cast(jt.array(rounded(array, kinds[name])).stop_grad(), kinds[name])
        parameter.assign(kept.stop_grad())
        # else what it was cast from stays too
        # weak_sync would bring the zeros of the parameters that are still to come into being
        parameter.sync(device_sync=False, weak_sync=False)
    jt.gc()


def share(network, variables: Dict[str, "jt.Var"], source: str) -> None:
    """Let a network use the Vars of another one, strictly: the same memory, no copy.

    Half precision becomes float32, as in `load`.
    """
    for name, parameter in check(network, variables, source).items():
        shared = variables[name]
        parameter.assign(shared if shared.dtype == "float32" else shared.float32())
        parameter.stop_grad()
