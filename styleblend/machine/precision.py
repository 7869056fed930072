"""Half precision: what is kept in it, and in which type sums are made.

In a network that is loaded as float16 or bfloat16 the frozen matrices, the convolution kernels and the activations
between layers have that type. Float32 stay: gains and biases, the time embedding, the first and last convolutions,
norms, softmax, LoRAs, placeholder embeddings, the optimiser, and all that a sampler computes. The VAE has its
activations beyond float16's range and is float32 beside a float16 UNet.

On a CPU with instructions for it bfloat16 is multiplied as it is (`styleblend.kernels.products`), with float32 sums.
Why other products are made as `product_type` says (Jittor 1.3.11):
- On the CPU it adds up a product in the type of its factors, by a generic loop: the relative error of a matrix product
  over 96 terms was 0.0024 in float16 and 0.15 in bfloat16, and a 3x3 convolution took 2.0 s and 0.27 s where float32
  takes 2.6 ms. With factors cast to float32 it is oneDNN's product, bit for bit that of float32 factors of the same
  values.
- Its bfloat16 is cut off on the CPU, not rounded: 1.0059 becomes 1, and a 12-step picture of the mini base was 2.4/255
  away from float32 on average. Rounded at every cast and sum (`Rounding`, `added`, `rounded`) it is 0.6/255.
- On the GPU its source has cuBLAS add up in float32; but cuDNN gets the type of the result as the type to add up in:
  float16's range for sums of 11,520 products, and for bfloat16 a pair that cuDNN does not document. So convolutions are
  float32 elsewhere. (Read, not measured.)
- float16 or bfloat16 with float32 gives float32, with a Python number its own type; `exp` of either gives float32.
- A cast to the type that is there already makes a copy.
"""
from __future__ import annotations

import math

import numpy as np

from styleblend.machine.runtime import jt

INT8 = "int8-"  # with the type of what is computed: a network whose matrices are kept as int8


def cast(x, dtype: str):
    """x in this type, rounded to the nearest: itself where it has it already."""
    if x.dtype == dtype:
        return x
    return Rounding()(cast(x, "float32")) if dtype == "bfloat16" and not jt.flags.use_cuda else x.cast(dtype)


def added(x, y):
    """x + y, rounded once to the type of x. `y` may have one number for all pixels of a channel, also of all rows."""
    if x.dtype == y.dtype == "bfloat16" and not jt.flags.use_cuda and in_a_row(x.shape, y.shape):
        return Sum()(x, y)
    return x + y if x.dtype == "float32" else cast(x.float32() + y, x.dtype)


def in_a_row(large, small) -> bool:
    """Whether each number of a shape is for as many in a row of another one, from the first on, over and over."""
    small = [1] * (len(large) - len(small)) + list(small)
    told = [i for i, size in enumerate(small) if size != 1]
    return len(small) == len(large) and (not told or small[told[0]:told[-1] + 1] == list(large[told[0]:told[-1] + 1]))


class Sum(jt.Function):
    """x + y of bfloat16 on the CPU, read and written once, where their shapes are `in_a_row`."""

    def execute(self, x, y):
        self.shape, told = y.shape, len(y.shape)
        while told and y.shape[told - 1] == 1:
            told -= 1
        within = math.prod(x.shape[len(x.shape) - len(y.shape) + told:])
        return jt.code(x.shape, "bfloat16", [x, y], data={"within": within}, cpu_src="""
            const uint16_t *x = (const uint16_t*)in0_p, *y = (const uint16_t*)in1_p;
            uint16_t* to = (uint16_t*)out0_p;
            auto sum = [](uint16_t a, uint16_t b) {
                union { uint32_t bits; float number; } one, other;
                one.bits = (uint32_t)a << 16; other.bits = (uint32_t)b << 16;
                one.number += other.number;
                return (uint16_t)((one.bits + 0x7FFF + (one.bits >> 16 & 1)) >> 16);
            };
            size_t within = (size_t)data["within"], count = in0->num, numbers = in1->num;
            if (count == 0) {
            } else if (within == 1 && count == numbers) {
                #pragma omp parallel for simd
                for (size_t i = 0; i < count; i++) to[i] = sum(x[i], y[i]);
            } else {
                #pragma omp parallel for
                for (size_t i = 0; i < count / within; i++)
                    for (size_t k = i * within; k < (i + 1) * within; k++) to[k] = sum(x[k], y[i % numbers]);
            }""")

    def grad(self, gradient):
        if gradient is None:
            return None, None
        lead = len(gradient.shape) - len(self.shape)
        summed = [i for i, size in enumerate(gradient.shape) if i < lead or self.shape[i - lead] != size]
        of_y = gradient if not summed else cast(gradient.float32().sum(tuple(summed)).reshape(self.shape), "bfloat16")
        return gradient, of_y


class Rounding(jt.Function):
    """float32 to the nearest bfloat16, ties to even, on the CPU."""

    def execute(self, x):
        return jt.code(x.shape, "bfloat16", [x], cpu_src="""
            #pragma omp parallel for
            for (size_t i = 0; i < in0->num; i++) {
                uint32_t bits = ((const uint32_t*)in0_p)[i];
                bool is_nan = (bits & 0x7FFFFFFF) > 0x7F800000;
                ((uint16_t*)out0_p)[i] = is_nan ? 0x7FC0 : (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
            }""")

    def grad(self, gradient):
        return None if gradient is None else gradient.float32()


def product_type(dtype: str) -> str:
    """The type to cast the factors of a matrix product to when they are kept as `dtype`."""
    return dtype if jt.flags.use_cuda else "float32"


def computed_as(dtype: str) -> str:
    """The type of what a network of `dtype` computes: beside int8 weights (`styleblend.kernels.int8`) another one."""
    return dtype[len(INT8):] if dtype.startswith(INT8) else dtype


def vae_type(dtype: str) -> str:
    """The type of the VAE beside a UNet of `dtype`: float16 ends at 65,504, and its decoder's activations do not.

    Its weights are a tenth of all, and each of them is seen in the picture: they do not become int8.
    """
    return "float32" if dtype == "float16" else computed_as(dtype)


def loss_scale(dtype: str) -> float:
    """What to multiply a loss by so that the gradients of activations stay numbers.

    Of float16, whose least is 6e-8, a mean over the 36,864 numbers of a 768 px latent would lose many.
    """
    return 2.0 ** 14 if dtype == "float16" else 1.0


def rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    """float32 or float16 numbers rounded to the nearest that `dtype` has, ties to even; bfloat16 comes as float32."""
    if dtype == "float16":
        with np.errstate(over="ignore"):  # who calls looks for infinity
            return np.ascontiguousarray(array, np.float16)
    array = np.ascontiguousarray(array, np.float32)
    if dtype == "float32":
        return array
    bits = array.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
