"""A kernel of a device as a Jittor operator with the gradient of its first input."""
from __future__ import annotations

from collections.abc import Callable

from styleblend.machine.precision import cast
from styleblend.machine.runtime import jt


class Kernel(jt.Function):
    """`code(shapes, types, inputs, source, numbers)` makes an operator of the device.

    In the sources T is the type of the first input, the result and the gradients, and `data` are the `numbers`. Source
    `forward` writes the result to out0, and to out1 what `backward` needs again besides the inputs, as float32. `wide`:
    the backward pass is all in float32, since it keeps sums in its result on the way.
    """

    def __init__(self, code: Callable, forward: str, backward: str, shapes: list, numbers: dict, wide: bool = False):
        self.code, self.forward, self.backward, self.shapes = code, forward, backward, shapes
        self.numbers, self.wide = numbers, wide

    def execute(self, *inputs):
        self.inputs, self.kind = list(inputs), str(inputs[0].dtype)
        result, *self.kept = self.code(self.shapes, [self.kind, "float32"][:len(self.shapes)], self.inputs,
                                       self.forward, self.numbers)
        return result

    def grad(self, gradient):
        if gradient is None:
            return (None,) * len(self.inputs)
        x, kind = self.inputs[0], "float32" if self.wide else self.kind
        given = [cast(x, kind), *self.inputs[1:], *self.kept, cast(gradient, kind)]
        found = self.code(x.shape, kind, given, self.backward, self.numbers)
        return (cast(found, self.kind),) + (None,) * (len(self.inputs) - 1)
