"""AdamW with its whole state in plain sight, so that a resumed run continues bit for bit."""
from __future__ import annotations

import math
from typing import Dict

import numpy as np

from styleblend.errors import StyleBlendError
from styleblend.machine.runtime import jt
from styleblend.settings.training import OptimiserSettings


class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2), over named parameters only.

    `scale`: the loss is multiplied by it and the gradients are divided (Micikevicius et al. 2018, section 3.2), see
    `precision.loss_scale`.
    """

    def __init__(self, parameters: Dict[str, "jt.Var"], settings: OptimiserSettings, scale: float = 1.0):
        self.parameters, self.settings, self.scale, self.step = parameters, settings, scale, 0
        self.first = {name: jt.zeros(p.shape, "float32").stop_grad() for name, p in parameters.items()}
        self.second = {name: jt.zeros(p.shape, "float32").stop_grad() for name, p in parameters.items()}

    def lr(self) -> float:
        """The learning rate of the present step."""
        return self.settings.rate(self.step)

    def update(self, loss) -> None:
        """One step down the gradient of `loss`.

        StyleBlendError when a scaled gradient overflowed; nothing is changed then.
        """
        s, lr, names = self.settings, self.lr(), list(self.parameters)
        gradients = jt.grad(loss if self.scale == 1 else loss * self.scale, [self.parameters[n] for n in names])
        if self.scale != 1:
            gradients = [gradient / self.scale for gradient in gradients]
            if not math.isfinite(sum(gradient.abs().sum() for gradient in gradients).item()):
                raise StyleBlendError("a gradient left float16's range: train with --dtype bfloat16 or float32, "
                                      "or lower the learning rate in the config")
        self.step += 1
        # step-dependent factors as data, not as constants of the compiled code
        numbers = jt.array(np.array([lr / (1 - s.beta1 ** self.step), 1 / (1 - s.beta2 ** self.step) ** 0.5,
                                     1 - lr * s.weight_decay], np.float32))
        rate, root, keep = numbers[0], numbers[1], numbers[2]
        for name, gradient in zip(names, gradients):
            p, m, v = self.parameters[name], self.first[name], self.second[name]
            m.update(s.beta1 * m + (1 - s.beta1) * gradient)
            v.update(s.beta2 * v + (1 - s.beta2) * gradient * gradient)
            p.update(p * keep - rate * m / (jt.sqrt(v) * root + s.eps))

    def state(self) -> Dict[str, np.ndarray]:
        """Parameters and moments as arrays."""
        groups = (("p", self.parameters), ("m", self.first), ("v", self.second))
        return {f"{group}.{name}": var.numpy() for group, found in groups for name, var in found.items()}

    def restore(self, state: Dict[str, np.ndarray], step: int) -> None:
        """The inverse of `state`. Raises KeyError or ValueError when the parameters are others."""
        for group, found in (("p", self.parameters), ("m", self.first), ("v", self.second)):
            for name, var in found.items():
                array = state[f"{group}.{name}"]
                if tuple(array.shape) != tuple(var.shape):
                    raise ValueError(name)
                var.update(jt.array(array))
        self.step = step
