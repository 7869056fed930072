"""Networks that wait in the host's memory while another one works on the GPU (`offload: true` in a config)."""
from __future__ import annotations

from contextlib import contextmanager

from styleblend.machine.precision import cast
from styleblend.machine.runtime import jt
from styleblend.base.weights import parameters


class Offloaded:
    """The weights of a network, on the device only inside `at_work`.

    A LoRA's stay there: they are small, and change from style to style.

    A use costs one copy to the device and none back, since the weights are frozen. NumPy has no bfloat16: such weights
    wait as float32, which is exact.
    """

    def __init__(self, network):
        self.weights = [(var, str(var.dtype), var.numpy()) for var in parameters(network).values()]
        self.put_away()

    def put_away(self) -> None:
        """Leave a single number in the place of each weight."""
        for var, dtype, _ in self.weights:
            var.assign(jt.zeros(1, dtype).stop_grad())
            var.sync(device_sync=False, weak_sync=False)
        jt.gc()

    @contextmanager
    def at_work(self):
        """The weights are on the device, whatever happens inside."""
        try:
            for var, dtype, array in self.weights:
                var.assign(cast(jt.array(array), dtype).stop_grad())
                var.sync(device_sync=False, weak_sync=False)  # else what it was cast from stays, too
            yield
        finally:
            self.put_away()
