"""The heads of `deform` on an NVIDIA GPU, differentiable: three Triton kernels, nothing kept.

Floors for 8 frames of 50,000 Gaussians, "taylor", 64 features, heads of 128, degree 3, on an H200,
estimated: forward 0.14 TFLOP, padding included, and 0.23 GB; cotangent of x 0.24 TFLOP, of the
weights 0.27 TFLOP, together 1.7 GB: 0.2, 0.3 and 0.35 ms at 790 TFLOP/s. Measured: 0.44, 0.60 and
0.63 ms. In plain XLA the columns of the units alone, 8 KB a row and 3 GB each way, take longer.
"""

import jax
import jax.numpy as jnp
from jax import ShapeDtypeStruct
from jaxtyping import Array, Float

from kernels import launch
from kernels._sharding import match_varying
from kernels.deform.triton import heads_kernels
from kernels.deform.types import GEOMETRY, Affine, HeadWeights, Tile
from kernels.deform.xla.deform import expand

# As much at a time as leaves the sums in registers; of such tiles the fastest on an H200.
HEADS = Tile(rows=128, units=32, warps=8, stages=2)
INPUTS = Tile(rows=64, units=32, warps=4, stages=3)
WEIGHTS = Tile(rows=32, units=64, warps=4, stages=3)
PROGRAMS = 264
"""Programs of the weights' kernel: two at once for each multiprocessor of an H100 or H200."""

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
    geometry, color = launch.triton_call(
        heads_kernels.heads_kernel, x, *w.hidden, *w.geometry, *w.color,
        outputs=(shape(GEOMETRY), shape(w.color.bias.size)), grid=-(-x.shape[0] // HEADS.rows),
        WIDTH=w.color.kernel.shape[1], COLOR_BLOCK=w.color.bias.size, **_constants(HEADS, x, w),
    )  # fmt: skip
    return (geometry, color), (x, weights)


def _backward(kept: tuple[Array, HeadWeights], cotangents: Outputs) -> tuple[Array, HeadWeights]:
    x, weights = kept
    w = weights.astype(jnp.bfloat16)
    width = w.color.kernel.shape[1]
    # Twenty programs read each of these: they are rounded once.
    columns = jnp.stack(expand(x, w.network)).astype(jnp.bfloat16)
    grad_geometry, grad_color = (value.astype(jnp.bfloat16) for value in cotangents)
    [grad_x] = launch.triton_call(
        heads_kernels.inputs_kernel, x, columns, grad_geometry, grad_color, *w.hidden,
        w.geometry.kernel, w.color.kernel, outputs=(ShapeDtypeStruct(x.shape, jnp.float32),),
        grid=-(-x.shape[0] // INPUTS.rows), WIDTH=width, COLOR_BLOCK=w.color.bias.size,
        **_constants(INPUTS, x, w),
    )  # fmt: skip
    inner, bias, geometry = _weights(columns, grad_geometry, w, w.geometry.kernel, 0)
    color_inner, color_bias, color = _weights(columns, grad_color, w, w.color.kernel, 4 * width)
    hidden = Affine(
        jnp.concatenate([inner, color_inner], axis=-1), jnp.concatenate([bias, color_bias])
    )
    sums = [jnp.sum(value, axis=0) for value in cotangents]
    grads = HeadWeights(
        network=w.network, hidden=hidden, geometry=Affine(geometry, sums[0]),
        color=Affine(color, sums[1]),
    )  # fmt: skip
    cast = lambda grad, value: grad.astype(value.dtype)
    return grad_x, jax.tree.map(cast, grads, weights)


_heads.defvjp(_forward, _backward)


def _weights(
    columns: Float[Array, "C R D"],
    cotangent: Float[Array, "R out"],
    w: HeadWeights,
    outer: Float[Array, "C units out"],
    first: int,
) -> tuple[Float[Array, "C D units"], Float[Array, " units"], Float[Array, "C units out"]]:
    """Cotangents of the inner kernel and bias of some units, and of their outer kernel."""
    n_columns, count, out = outer.shape
    x = columns[0]
    constants = _constants(WEIGHTS, x, w)
    blocks = count // constants["UNITS"]
    shares = max(1, PROGRAMS // blocks)
    shape = lambda *sizes: ShapeDtypeStruct((shares, *sizes), jnp.float32)
    parts = launch.triton_call(
        heads_kernels.weights_kernel, columns, cotangent, *w.hidden, outer,
        outputs=(shape(n_columns, count, x.shape[1]), shape(count), shape(n_columns, count, out)),
        grid=blocks * shares, FIRST=first, COUNT=count, STRIDE=w.hidden.bias.size, OUT=out,
        SHARES=shares, **constants,
    )  # fmt: skip
    inner, bias, outer = (jnp.sum(part, axis=0) for part in parts)
    return inner.swapaxes(1, 2), bias, outer


def _constants(tile: Tile, x: Array, weights: HeadWeights) -> dict:
    """Return the constants that all kernels take."""
    width = weights.color.kernel.shape[1]
    return dict(
        num_warps=tile.warps, TOTAL=x.shape[0], D=x.shape[1],
        TAYLOR=int(weights.network == "taylor"), ROWS=tile.rows, UNITS=min(tile.units, width),
        STAGES=tile.stages, ASM=not launch.is_interpreting(),
    )  # fmt: skip
