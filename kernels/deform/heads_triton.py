"""The heads of `deform` on an NVIDIA GPU, differentiable: three Triton kernels, nothing kept.

Floors for 8 frames of 50,000 Gaussians, "taylor", 64 features, heads of 128, degree 3, on an H200,
estimated: forward 0.14 TFLOP, padding included, and 0.23 GB; cotangent of x 0.24 TFLOP, of the
weights 0.27 TFLOP, together 1.7 GB: 0.2, 0.3 and 0.35 ms at 790 TFLOP/s. In plain XLA the columns
of the units alone, 8 KB a row and 3 GB each way, take longer.
"""

import jax
import jax.numpy as jnp
from jax import ShapeDtypeStruct
from jaxtyping import Array, Float

from kernels import _triton
from kernels._sharding import match_varying
from kernels.deform import heads_kernels
from kernels.deform.types import GEOMETRY, Affine, HeadWeights

ROWS, WARPS, STAGES = 128, 8, 2
UNITS = dict(heads_kernel=64, inputs_kernel=32, weights_kernel=64)
"""Hidden units at a time: as many as leave the sums in registers (`weights_kernel` spills a little,
with 32 units more, and falls back to the older tensor instructions)."""
PROGRAMS = 264
"""Of the weights' kernel: two for each multiprocessor of an H100 or H200."""

Outputs = tuple[Float[Array, "R 16"], Float[Array, "R S"]]


def heads_triton(x: Float[Array, "R D"], weights: HeadWeights) -> Outputs:
    """Apply the heads with Triton kernels; arguments and results as `decode_heads`."""
    return _heads(*match_varying((x, weights)))


@jax.custom_vjp
def _heads(x: Array, weights: HeadWeights) -> Outputs:
    return _forward(x, weights)[0]


def _forward(x: Array, weights: HeadWeights) -> tuple[Outputs, tuple[Array, HeadWeights]]:
    w = weights.astype(jnp.bfloat16)
    shape = lambda columns: ShapeDtypeStruct((x.shape[0], columns), jnp.float32)
    geometry, color = _triton.triton_call(
        heads_kernels.heads_kernel, x, *w.hidden, *w.geometry, *w.color,
        outputs=(shape(GEOMETRY), shape(w.color.bias.size)), grid=-(-x.shape[0] // ROWS),
        num_warps=WARPS, WIDTH=w.color.kernel.shape[1], COLOR_BLOCK=w.color.bias.size,
        STAGES=STAGES, **_constants("heads_kernel", x, weights),
    )  # fmt: skip
    return (geometry, color), (x, weights)


def _backward(kept: tuple[Array, HeadWeights], cotangents: Outputs) -> tuple[Array, HeadWeights]:
    x, weights = kept
    w = weights.astype(jnp.bfloat16)
    grad_geometry, grad_color = cotangents
    width = w.color.kernel.shape[1]
    [grad_x] = _triton.triton_call(
        heads_kernels.inputs_kernel, x, grad_geometry, grad_color, *w.hidden, w.geometry.kernel,
        w.color.kernel, outputs=(ShapeDtypeStruct(x.shape, jnp.float32),),
        grid=-(-x.shape[0] // ROWS), num_warps=WARPS, WIDTH=width,
        COLOR_BLOCK=w.color.bias.size, STAGES=STAGES, **_constants("inputs_kernel", x, weights),
    )  # fmt: skip
    inner, bias, geometry = _weights(x, grad_geometry, w, w.geometry.kernel, 0)
    color_inner, color_bias, color = _weights(x, grad_color, w, w.color.kernel, 4 * width)
    hidden = Affine(
        jnp.concatenate([inner, color_inner], axis=-1), jnp.concatenate([bias, color_bias])
    )
    grads = HeadWeights(
        network=weights.network, hidden=hidden,
        geometry=Affine(geometry, jnp.sum(grad_geometry, axis=0)),
        color=Affine(color, jnp.sum(grad_color, axis=0)), knots=None,
    )  # fmt: skip
    cast = lambda grad, value: grad.astype(value.dtype)
    return grad_x, jax.tree.map(cast, grads, weights)


_heads.defvjp(_forward, _backward)


def _weights(
    x: Array, cotangent: Array, w: HeadWeights, outer: Float[Array, "C units out"], first: int
) -> tuple[Float[Array, "C D units"], Float[Array, " units"], Float[Array, "C units out"]]:
    """Cotangents of the inner kernel and bias of some units, and of their outer kernel."""
    n_columns, count, out = outer.shape
    constants = _constants("weights_kernel", x, w)
    units = constants["UNITS"]
    shares = max(1, PROGRAMS * units // w.hidden.bias.size)
    shape = lambda *sizes: ShapeDtypeStruct((shares, *sizes), jnp.float32)
    parts = _triton.triton_call(
        heads_kernels.weights_kernel, x, cotangent, *w.hidden, outer,
        outputs=(shape(n_columns, x.shape[1], count), shape(count), shape(n_columns, count, out)),
        grid=count // units * shares, num_warps=WARPS, FIRST=first, COUNT=count,
        STRIDE=w.hidden.bias.size, OUT=out, SHARES=shares, **constants,
    )  # fmt: skip
    return tuple(jnp.sum(part, axis=0) for part in parts)


def _constants(kernel: str, x: Array, weights: HeadWeights) -> dict:
    """Compile-time numbers that all kernels take."""
    width = weights.color.kernel.shape[1]
    return dict(
        TOTAL=x.shape[0], D=x.shape[1], TAYLOR=int(weights.network == "taylor"),
        ROWS=ROWS, UNITS=min(UNITS[kernel], width), ASM=not _triton.is_interpreting(),
    )  # fmt: skip
