"""Gradient checkpointing (Chen et al. 2016).

A block's activations are thrown away and computed again in the backward pass.
"""
from __future__ import annotations

from styleblend.machine.runtime import jt


class Recompute(jt.Function):
    """`run(*inputs)`, with the gradients of its inputs and of the parameters that it trains; keeps the inputs only."""

    def __init__(self, run, trained: list):
        self.run, self.trained = run, trained

    def execute(self, *inputs):
        """`inputs` are those of `run`, then `trained`.

        The latter only so that Jittor asks for their gradients; `run` has them already.
        """
        self.inputs = inputs[:len(inputs) - len(self.trained)]
        with jt.no_grad():
            return self.run(*self.inputs)

    def grad(self, gradient):
        if gradient is None:
            return (None,) * len(self.input_mask)
        # Finish what comes after this block before its activations are computed again, and finish those before the next
        # block's: in one graph Jittor would hold the activations of all blocks at a time. Only what these need
        # (weak_sync off): the gradients of other branches are half built. A convolution's, which is fused with what
        # follows, would be unfolded to seven dimensions: 15 GB in the UNet.
        gradient.sync(device_sync=False, weak_sync=False)
        inputs = [x.detach() for x in self.inputs]
        wanted = [x for x, given in zip(inputs, self.input_mask) if given >= 0]
        for x in wanted:
            x.start_grad()
        found = jt.grad((self.run(*inputs) * gradient).sum(), wanted + self.trained)
        jt.sync(found, device_sync=False, weak_sync=False)
        of_inputs = iter([x.detach() for x in found])  # else each holds what it was computed from
        return tuple(next(of_inputs) if given >= 0 else None for given in self.input_mask)


def checkpoint(module, loras, run, *inputs):
    """`run(*inputs)`, a computation of `module` with one result, without keeping what it computes on the way.

    `loras` (layer -> LoRA) may hold layers of the module. The result and all gradients, also those of the trained
    parameters, are the same bit for bit. A backward pass costs one more forward pass.
    """
    parts = [module, *(loras[layer] for layer in module.modules() if layer in loras)]
    trained = [p for part in parts for p in part.parameters() if not p.is_stop_grad()]
    return Recompute(run, trained)(*inputs, *trained)
