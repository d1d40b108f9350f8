"""`deform`: everything that happens to each Gaussian between a frame's tokens and the rasterizer.

With P the static and G the dynamic mix, S the tokens, f the features and LN a normalization:

    x1 = LN(f + gain (P G) S),   x2 = LN(x1 + FFN(x1)),
    attributes = activate(canonical + heads(x2)).

`decode_heads` is the last part of it by itself, differentiable, for training. A layer of the heads
expands its inputs into columns c_i (see `types`) and is linear in them: h = sum_i c_i(x) A_i + a of
all heads side by side, then of each head sum_i c_i(h) B_i + b.

Place in the pipeline: before `rasterize`. On an NVIDIA GPU `deform` is one kernel in which a block
of Gaussians goes through all layers; `decode_heads` has an adjoint of its own, which keeps nothing
of what lies between x and the outputs.
"""

from functools import partial
from typing import get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels import dispatch
from kernels.checks import require, typechecked
from kernels.deform.types import (
    NETWORKS,
    Deformed,
    DeformInputs,
    DeformWeights,
    HeadWeights,
    Network,
    color_columns,
)
from kernels.deform.xla.deform import deform_xla, heads_xla

MAX_ROWS = 2**31 // 256
"""Rows that the kernels of `decode_heads` can count: their indices have 32 bits."""
SHARED_MEMORY = 105
"""Shared memory that the largest program takes, of either operation [KiB]: an A100 or H100."""


@partial(jax.jit, static_argnames="implementation")
@typechecked
def deform(
    canonical: DeformInputs,
    features: Float[Array, "N D"],
    static_mix: Float[Array, "N A"] | None,
    dynamic_mix: Float[Array, "B A T"],
    tokens: Float[Array, "B T D"],
    weights: DeformWeights,
    *,
    implementation: str | None = None,
) -> Deformed:
    """Deform canonical Gaussians by the tokens of every frame.

    Already jitted. Rows are independent: a Gaussian with non-finite numbers harms no other. Bits
    may depend on the number of frames and on the machine, not on what the other frames hold.

    Args:
      canonical: What deltas are added to.
      features: f, one row a Gaussian.
      static_mix: P, how much a Gaussian listens to each agent; None: it is its own agent (P is the
        identity and A is N), which "triton" does not do.
      dynamic_mix: G, how much each agent listens to each token.
      tokens: S, of each frame.
      weights: Their type is that of the operands of all products in "xla".
      implementation: "xla": plain JAX, differentiable. "triton": one kernel, products of bfloat16
        operands with sums in float32, no gradient, no `vmap` (frames are its batch). None
        picks "triton" on an NVIDIA GPU where it can do the work, else "xla".

    Returns:
      Activated attributes, float32.

    Raises:
      NotImplementedError: if the implementation asked for cannot run; the message says why.
      ValueError: if a shape or a name makes no sense.
    """
    _check(canonical, features, weights, tokens.shape[0])
    _check_mixes(features.shape[0], static_mix, dynamic_mix)
    if _picks(implementation, weights, own_agents=static_mix is None):
        from kernels.deform.triton.deform import deform_triton as run
    else:
        run = deform_xla
    return run(canonical, features, static_mix, dynamic_mix, tokens, weights)


def operand_dtype(weights: DeformWeights, implementation: str | None = None) -> jnp.dtype:
    """Return the type in which `deform` wants its operands here, weights and static mix.

    Others are converted in every call: convert them once before many.
    """
    return jnp.dtype(jnp.bfloat16 if _picks(implementation, weights) else jnp.float32)


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
    _check_heads(x.shape[-1], weights)
    if not dispatch.uses_triton("decode_heads", implementation, _why_not_heads(x, weights)):
        run = heads_xla
    else:
        from kernels.deform.triton.heads import heads_triton as run
    geometry, color = run(x.reshape(-1, x.shape[-1]), weights)
    shaped = lambda value: value.reshape(*x.shape[:-1], value.shape[-1])
    return shaped(geometry), shaped(color)


def _check(canonical: DeformInputs, features: Array, weights: DeformWeights, n_frames: int) -> None:
    """Check what shape annotations do not."""
    count, n_harmonics = features.shape[0], canonical.sh.shape[-2]
    require(
        count > 0 and n_frames > 0,
        f"features, tokens: expected at least one Gaussian and one frame, got {count} and "
        f"{n_frames}; do not call it for none",
    )
    wanted = DeformInputs((count, 3), (count, 3), (count, 4), (count,), (count, n_harmonics, 3))
    got = DeformInputs(*(value.shape for value in canonical))
    require(
        got == wanted, f"canonical: expected shapes {wanted} beside {count} features, got {got}"
    )
    _check_heads(features.shape[1], weights.heads)
    columns = color_columns(n_harmonics)
    require(
        weights.heads.color.kernel.shape[-1] == columns,
        f"weights: expected {columns} columns of color for {n_harmonics} harmonics, got "
        f"{weights.heads.color.kernel.shape[-1]}; pass the same n_harmonics to pack_heads",
    )


def _check_mixes(count: int, static_mix: Array | None, dynamic_mix: Array) -> None:
    require(
        static_mix is not None or dynamic_mix.shape[1] == count,
        f"dynamic_mix: expected one row for each of {count} Gaussians without a static_mix, got "
        f"{dynamic_mix.shape[1]}; pass static_mix",
    )


def _picks(
    implementation: str | None, weights: DeformWeights, *, own_agents: bool = False
) -> bool:  # fmt: skip
    """Decide whether the Triton kernel runs."""
    return dispatch.uses_triton("deform", implementation, _why_not_deform(weights, own_agents))


def _why_not_deform(weights: DeformWeights, own_agents: bool) -> str | None:
    """Say in one line why the kernel does not take this work; None if it does."""
    if own_agents:
        return "its kernel mixes tokens through agents only (a static_mix)"
    ffn_width = weights.ffn_in.kernel.shape[1]
    if ffn_width < 16 or ffn_width & (ffn_width - 1):
        return f"it takes a layer as wide as a power of two from 16 on, got width {ffn_width}"
    return _why_not_weights(weights.heads)


def _check_heads(d_model: int, weights: HeadWeights) -> None:
    """Check what shape annotations do not.

    Raises:
      ValueError: if the weights are of an unknown network, or for features of another size.
    """
    known = get_args(Network)
    require(
        weights.network in known,
        f"weights.network: expected one of {known}, got {weights.network!r}",
    )
    width = weights.hidden.kernel.shape[1]
    require(
        width == d_model,
        f"weights: expected them for {d_model} features, got {width}; pack them again",
    )


def _why_not_heads(x: Array, weights: HeadWeights) -> str | None:
    """Say in one line why the kernels do not take these arrays; None if they do."""
    rows = x.size // x.shape[-1]
    if x.dtype != jnp.float32 or not 0 < rows < MAX_ROWS:
        return f"it takes 1 to {MAX_ROWS - 1} rows of float32, got {rows} of {x.dtype}"
    return _why_not_weights(weights)


def _why_not_weights(weights: HeadWeights) -> str | None:
    """Say in one line why the kernels do not take these weights here; None if they do."""
    if reason := dispatch.device_lacks(capability=(8, 0), shared_memory=SHARED_MEMORY):
        return reason
    if weights.network not in NETWORKS:
        return "its kernels begin an MLP with a ReLU"
    d_model, width = weights.hidden.kernel.shape[1], weights.color.kernel.shape[1]
    powers = all(size >= 16 and size & (size - 1) == 0 for size in (d_model, width))
    if not powers or d_model > 64:
        return (
            "it takes 16, 32 or 64 features and heads as wide as a power of two from 16 on, got "
            f"{d_model} features and width {width}"
        )
    return None
