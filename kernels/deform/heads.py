"""`decode_heads`: the heads of `deform` by themselves, differentiable, for training.

A layer of the heads expands its inputs into columns c_i (`types`) and is linear in them:
h = sum_i c_i(x) A_i + a of all heads side by side, then of each head sum_i c_i(h) B_i + b.
Two implementations: "xla" (`xla_path.heads_xla`), and "triton" (`heads_triton`) with an adjoint of
its own, which keeps nothing of what lies between x and the outputs.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels import _triton
from kernels._checks import require, typechecked
from kernels.deform.types import NETWORKS, HeadWeights
from kernels.deform.xla_path import heads_xla

MAX_ROWS = 2**31 // 256  # the kernels' indices have 32 bits
SHARED_MEMORY = 105
"""What the largest program takes, of these kernels or of `deform`'s [KiB]: an A100 or H100."""


@partial(jax.jit, static_argnames="implementation")
@typechecked
def decode_heads(
    x: Float[Array, "*rows D"], weights: HeadWeights, *, implementation: str | None = None
) -> tuple[Float[Array, "*rows 16"], Float[Array, "*rows S"]]:
    """Apply the heads to rows of features.

    Already jitted. Gradients with respect to `x` and all weights; sums have a fixed order.

    Args:
      x: Features, one row a Gaussian and frame.
      weights: See `pack_heads`.
      implementation: "xla"; "triton": products of bfloat16 operands with sums in float32, networks
        "taylor" and "mlp"; no `vmap` (rows are its batch). None picks "triton" on an NVIDIA GPU
        where it can do the work, else "xla".

    Returns:
      What the first four heads say, in the columns of `HeadWeights.geometry`, and what that of the
      harmonics says, in those of `HeadWeights.color`.

    Raises:
      NotImplementedError: if the implementation asked for cannot run; the message says why.
      ValueError: if a shape or a name makes no sense.
    """
    check_heads(x.shape[-1], weights)
    if not _triton.picks("decode_heads", implementation, _why_not(x, weights)):
        run = heads_xla
    else:
        from kernels.deform.heads_triton import heads_triton as run
    geometry, color = run(x.reshape(-1, x.shape[-1]), weights)
    shaped = lambda value: value.reshape(*x.shape[:-1], value.shape[-1])
    return shaped(geometry), shaped(color)


def check_heads(d_model: int, weights: HeadWeights) -> None:
    """Check what shape annotations do not.

    Raises:
      ValueError: if the weights are of an unknown network, or for features of another size.
    """
    require(
        weights.network in NETWORKS,
        f"weights.network: expected one of {NETWORKS}, got {weights.network!r}",
    )
    width = weights.hidden.kernel.shape[1]
    require(
        width == d_model,
        f"weights: expected them for {d_model} features, got {width}; pack them again",
    )


def _why_not(x: Array, weights: HeadWeights) -> str | None:
    """One line that says why the kernels do not take these arrays; None if they do."""
    rows = x.size // x.shape[-1]
    if x.dtype != jnp.float32 or not 0 < rows < MAX_ROWS:
        return f"it takes 1 to {MAX_ROWS - 1} rows of float32, got {rows} of {x.dtype}"
    if weights.network == "bspline":
        return "its kernel has no B-splines"
    return why_not(weights)


def why_not(weights: HeadWeights) -> str | None:
    """One line that says why the kernels do not take these weights here; None if they do."""
    if reason := _triton.needs_shared_memory(SHARED_MEMORY):
        return reason
    d_model, width = weights.hidden.kernel.shape[1], weights.color.kernel.shape[1]
    powers = all(size >= 16 and size & (size - 1) == 0 for size in (d_model, width))
    if not powers or d_model > 64:
        return (
            "it takes 16, 32 or 64 features and heads as wide as a power of two from 16 on, got "
            f"{d_model} features and width {width}"
        )
    return None
