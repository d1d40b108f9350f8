"""`deform` in plain JAX, differentiable, for any machine.

Products take operands of the weights' type and sum in float32; everything else is float32. On a CPU
the Gaussians of a frame go through all layers in blocks, so that what lies between two layers stays
in the second-level cache (measured on two cores with 20,000 Gaussians, "taylor": 30 ms a frame
instead of 180). Elsewhere all rows go through each layer together.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.deform.types import (
    Affine,
    Deformed,
    DeformInputs,
    DeformWeights,
    HeadWeights,
    Norm,
)
from kernels.splines import bspline_basis

BLOCK_ROWS = (512, 1024)  # least and most Gaussians in a block


def deform_xla(
    canonical: DeformInputs,
    features: Float[Array, "N D"],
    static_mix: Float[Array, "N A"] | None,
    dynamic_mix: Float[Array, "B A T"],
    tokens: Float[Array, "B T D"],
    weights: DeformWeights,
) -> Deformed:
    """Deform with XLA operations; arguments and results as `deform`."""
    shares = _shares(static_mix, dynamic_mix, weights.heads.hidden.kernel.dtype)
    return jax.lax.platform_dependent(
        canonical, features, shares, weights.gain * tokens, weights,
        cpu=_in_blocks, default=_together,
    )  # fmt: skip


def _shares(static: Array | None, dynamic: Array, dtype: jnp.dtype) -> Float[Array, "B N T"]:
    """P G: how much every Gaussian listens to each token of each frame."""
    if static is None:
        return dynamic
    n_frames, n_agents, n_tokens = dynamic.shape
    # One product for all frames: [N, A] x [A, B T].
    dynamic = dynamic.transpose(1, 0, 2).reshape(n_agents, n_frames * n_tokens)
    shares = _product(static, dynamic, dtype).reshape(-1, n_frames, n_tokens)
    return shares.transpose(1, 0, 2)


def _together(
    canonical: DeformInputs, features: Array, shares: Array, tokens: Array, weights: DeformWeights
) -> Deformed:
    frame = lambda shares, tokens: _frame(canonical, features, shares, tokens, weights)
    return jax.vmap(frame)(shares, tokens)


def _in_blocks(
    canonical: DeformInputs, features: Array, shares: Array, tokens: Array, weights: DeformWeights
) -> Deformed:
    count = features.shape[0]
    rows = _block_rows(count)

    def split(value: Array) -> Array:
        padding = [(0, -count % rows)] + [(0, 0)] * (value.ndim - 1)
        return jnp.pad(value, padding).reshape(-1, rows, *value.shape[1:])

    blocks = jax.tree.map(split, (canonical, features))

    def frame(mixed: tuple[Array, Array]) -> Deformed:
        shares, tokens = mixed
        block = lambda part: _frame(*part, tokens, weights)
        out = jax.lax.map(block, (*blocks, split(shares)))
        return jax.tree.map(lambda v: v.reshape(-1, *v.shape[2:])[:count], out)

    return jax.lax.map(frame, (shares, tokens))


def _block_rows(count: int) -> int:
    """Gaussians in a block: as many as leave the last block as full as can be."""
    least, most = BLOCK_ROWS
    if count <= most:
        return count
    return min(range(most, least - 1, -1), key=lambda rows: -count % rows)


def _frame(
    canonical: DeformInputs,
    features: Float[Array, "n D"],
    shares: Float[Array, "n T"],
    tokens: Float[Array, "T D"],
    weights: DeformWeights,
) -> Deformed:
    """Deform some Gaussians in one frame; `tokens` are multiplied by the gain."""
    attended = _product(shares, tokens, weights.heads.hidden.kernel.dtype)
    x = _normalise(features + attended, weights.norm1, weights.epsilon)
    change = _affine(jax.nn.relu(_affine(x, weights.ffn_in)), weights.ffn_out)
    x = _normalise(x + change, weights.norm2, weights.epsilon)
    geometry, color = heads_xla(x, weights.heads)
    n_colors = 3 * canonical.sh.shape[1]
    return Deformed(
        means=canonical.means + geometry[:, 0:3],
        quats=canonical.quats + geometry[:, 6:10],
        scales=jnp.exp(canonical.log_scales + geometry[:, 3:6]),
        opacities=jax.nn.sigmoid(canonical.logit_opacities + geometry[:, 10]),
        sh=canonical.sh + color[:, :n_colors].reshape(canonical.sh.shape),
    )


def heads_xla(
    x: Float[Array, "R D"], weights: HeadWeights
) -> tuple[Float[Array, "R 16"], Float[Array, "R S"]]:
    """Apply the heads with XLA operations; arguments and results as `decode_heads`."""
    n_geometry = weights.geometry.kernel.shape[1]
    knots = weights.knots
    units = _expanded(x, weights.hidden, weights.network, knots and knots.hidden)
    pairs = (
        (weights.geometry, slice(None, n_geometry)),
        (weights.color, slice(n_geometry, None)),
    )
    geometry, color = (
        _expanded(units[:, part], layer, weights.network, knots and knots.heads[part])
        for layer, part in pairs
    )
    return geometry, color


def expand(x: Array, network: str) -> tuple[Array, ...]:
    """Return the columns of a layer of "taylor" or "mlp" heads, arrays as `x`."""
    return (jax.nn.silu(x), x, x * x) if network == "taylor" else (jax.nn.relu(x),)


def _expanded(x: Array, layer: Affine, network: str, knots: Array | None) -> Array:
    """A layer of the heads as one product with the columns side by side."""
    if network != "bspline":
        columns = jnp.concatenate(expand(x, network), axis=1)
    else:
        n_columns = layer.kernel.shape[0]
        values = bspline_basis(x, knots, knots.shape[1] - n_columns)
        columns = jnp.concatenate([jax.nn.silu(x), values.reshape(x.shape[0], -1)], axis=1)
    return _affine(columns, Affine(layer.kernel.reshape(-1, layer.bias.size), layer.bias))


def _affine(x: Array, layer: Affine) -> Array:
    return _product(x, layer.kernel, layer.kernel.dtype) + layer.bias[None]


def _product(a: Array, b: Array, dtype: jnp.dtype) -> Array:
    return jnp.matmul(a.astype(dtype), b.astype(dtype), preferred_element_type=jnp.float32)


def _normalise(x: Array, norm: Norm, epsilon: float) -> Array:
    x = x - jnp.mean(x, axis=1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.mean(x * x, axis=1, keepdims=True) + epsilon)
    return x * inverse * norm.scale[None] + norm.bias[None]
