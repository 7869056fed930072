"""AdamW with its whole state in plain sight, so that a resumed run continues bit for bit."""
from __future__ import annotations

from typing import Dict

import numpy as np

from styleblend.runtime import jt
from styleblend.settings import StageSettings


class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2), over named parameters only."""

    def __init__(self, parameters: Dict[str, "jt.Var"], settings: StageSettings):
        self.parameters, self.settings, self.step = parameters, settings, 0
        self.first = {name: jt.zeros(p.shape, "float32").stop_grad() for name, p in parameters.items()}
        self.second = {name: jt.zeros(p.shape, "float32").stop_grad() for name, p in parameters.items()}

    def lr(self) -> float:
        """The learning rate of the present step."""
        s = self.settings
        return s.lr * s.decay ** (self.step // s.decay_every) if s.decay_every else s.lr

    def update(self, loss) -> None:
        """One step down the gradient of `loss`."""
        s, lr, names = self.settings, self.lr(), list(self.parameters)
        gradients = jt.grad(loss, [self.parameters[n] for n in names])
        self.step += 1
        # step-dependent factors as data, not as constants of the compiled code
        numbers = jt.array(np.array([lr / (1 - s.beta1 ** self.step), 1 / (1 - s.beta2 ** self.step) ** 0.5, 1 - lr * s.weight_decay], np.float32))
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
