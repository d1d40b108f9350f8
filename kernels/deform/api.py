"""`deform`: everything that happens to each Gaussian between a frame's tokens and the rasterizer.

With P the static and G the dynamic mix, S the tokens, f the features and LN a normalisation:

    x1 = LN(f + gain (P G) S),   x2 = LN(x1 + FFN(x1)),
    attributes = activate(canonical + heads(x2)).

Place in the pipeline: before `rasterize`. Two implementations: `xla_path`, and on an NVIDIA GPU one
Triton kernel, `triton_path`, in which a block of Gaussians goes through all layers.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels import _triton
from kernels._checks import require, typechecked
from kernels.deform.heads import check_heads, why_not
from kernels.deform.types import (
    Deformed,
    DeformInputs,
    DeformWeights,
    color_columns,
)
from kernels.deform.xla_path import deform_xla

CUBIC = 3
MAX_COLUMNS = 9
"""Of an input: more of them take more shared memory than `heads.SHARED_MEMORY`."""


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
        operands with sums in float32, no gradient, no `vmap` (frames are its batch), at most 8
        B-splines an input, of degree 3. None picks "triton" on an NVIDIA GPU where it can do the
        work, else "xla".

    Returns:
      Activated attributes, float32.

    Raises:
      NotImplementedError: if the implementation asked for cannot run; the message says why.
      ValueError: if a shape or a name makes no sense.
    """
    _check(canonical, features, weights, tokens.shape[0])
    _check_mixes(features.shape[0], static_mix, dynamic_mix)
    if _picks(implementation, weights, own_agents=static_mix is None):
        from kernels.deform.triton_path import deform_triton as run
    else:
        run = deform_xla
    return run(canonical, features, static_mix, dynamic_mix, tokens, weights)


def operand_dtype(weights: DeformWeights, implementation: str | None = None) -> jnp.dtype:
    """Type that `deform` gives to the operands of its products here: weights and static mix.

    Those of another type are converted in every call; pass them as this type to have it done once.
    """
    return jnp.dtype(jnp.bfloat16 if _picks(implementation, weights) else jnp.float32)


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
    check_heads(features.shape[1], weights.heads)
    columns = color_columns(n_harmonics)
    require(
        weights.heads.color.kernel.shape[-1] == columns,
        f"weights: expected {columns} columns of colour for {n_harmonics} harmonics, got "
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
    """Whether the Triton kernel runs."""
    return _triton.picks("deform", implementation, _why_not(weights, own_agents))


def _why_not(weights: DeformWeights, own_agents: bool) -> str | None:
    """One line that says why the kernel does not take this work; None if it does."""
    if own_agents:
        return "its kernel mixes tokens through agents only (a static_mix)"
    knots, n_columns = weights.heads.knots, weights.heads.hidden.kernel.shape[0]
    if knots and knots.hidden.shape[1] - n_columns != CUBIC:
        return f"it takes B-splines of degree {CUBIC} only"
    if n_columns > MAX_COLUMNS:
        return f"it takes at most {MAX_COLUMNS - 1} B-splines an input, got {n_columns - 1}"
    ffn_width = weights.ffn_in.kernel.shape[1]
    if ffn_width < 16 or ffn_width & (ffn_width - 1):
        return f"it takes a layer as wide as a power of two from 16 on, got width {ffn_width}"
    return why_not(weights.heads)
