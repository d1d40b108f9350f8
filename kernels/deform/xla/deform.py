"""`deform` in plain JAX, differentiable, for any machine; its parts are a model's forward pass.

Products take operands of the weights' type and sum in float32; everything else is float32. On a CPU
the Gaussians of a frame go through all layers in blocks, so that what lies between two layers stays
in the second-level cache (measured on two cores with 20,000 Gaussians, "taylor": 30 ms a frame
instead of 180). Elsewhere all rows go through each layer together.
"""

from collections.abc import Callable

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
    shares = token_shares(static_mix, dynamic_mix, weights.heads.hidden.kernel.dtype)
    return jax.lax.platform_dependent(
        canonical, features, shares, weights.gain * tokens, weights,
        cpu=_in_blocks, default=_together,
    )  # fmt: skip


def token_shares(
    static: Float[Array, "N A"] | None,
    dynamic: Float[Array, "B A T"],
    dtype: jnp.dtype | type = jnp.float32,
) -> Float[Array, "B N T"]:
    """Return P G, how much every Gaussian listens to each token of each frame; rows sum to one.

    Args:
      static: P; None: the identity, every Gaussian is its own agent.
      dynamic: G.
      dtype: Type of the operands.
    """
    if static is None:
        return dynamic
    n_frames, n_agents, n_tokens = dynamic.shape
    # One product for all frames: [N, A] x [A, B T].
    dynamic = dynamic.transpose(1, 0, 2).reshape(n_agents, n_frames * n_tokens)
    shares = product(static, dynamic, dtype).reshape(-1, n_frames, n_tokens)
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
        block = lambda part: _frame(part[0], part[1], part[2], tokens, weights)
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
    attended = product(shares, tokens, weights.heads.hidden.kernel.dtype)
    x = normalized_layers(features + attended, weights)
    return move(canonical, *heads_xla(x, weights.heads))


def normalized_layers(
    x: Float[Array, "*rows D"],
    weights: DeformWeights,
    drop: Callable[[Array], Array] = lambda values: values,
) -> Float[Array, "*rows D"]:
    """Return x2 = LN(x1 + FFN(x1)) with x1 = LN(x).

    Args:
      x: Features and what is attended beside them: f + gain (P G) S.
      weights: See `DeformWeights`.
      drop: Dropout inside the feed-forward network and after it, in training.
    """
    x = _normalize(x, weights.norm1, weights.epsilon)
    hidden = drop(jax.nn.relu(affine(x, weights.ffn_in)))
    return _normalize(x + drop(affine(hidden, weights.ffn_out)), weights.norm2, weights.epsilon)


def move(
    canonical: DeformInputs, geometry: Float[Array, "*B n 16"], color: Float[Array, "*B n S"]
) -> Deformed:
    """Add to canonical Gaussians what the heads say, and activate; in one frame or in B."""
    n_colors = 3 * canonical.sh.shape[1]
    change = color[..., :n_colors].reshape(*color.shape[:-1], *canonical.sh.shape[1:])
    if geometry.ndim == 3:
        canonical = jax.tree.map(lambda value: value[None], canonical)
    return Deformed(
        means=canonical.means + geometry[..., 0:3],
        quats=canonical.quats + geometry[..., 6:10],
        scales=jnp.exp(canonical.log_scales + geometry[..., 3:6]),
        opacities=jax.nn.sigmoid(canonical.logit_opacities + geometry[..., 10]),
        sh=canonical.sh + change,
    )


def heads_xla(
    x: Float[Array, "R D"], weights: HeadWeights
) -> tuple[Float[Array, "R 16"], Float[Array, "R S"]]:
    """Apply the heads with XLA operations; arguments and results as `decode_heads`."""
    n_geometry = weights.geometry.kernel.shape[1]
    if weights.network == "plain_mlp":
        units = affine(x, Affine(weights.hidden.kernel[0], weights.hidden.bias))
    else:
        units = expanded_layer(x, weights.hidden, weights.network)
    geometry = expanded_layer(units[:, :n_geometry], weights.geometry, weights.network)
    color = expanded_layer(units[:, n_geometry:], weights.color, weights.network)
    return geometry, color


def expand(x: Array, network: str) -> tuple[Array, ...]:
    """Return the columns that a layer of "taylor" or of an MLP makes of its inputs, each as `x`."""
    return (jax.nn.silu(x), x, x * x) if network == "taylor" else (jax.nn.relu(x),)


def expanded_layer(
    x: Float[Array, "*rows fan_in"], layer: Affine, network: str
) -> Float[Array, "*rows fan_out"]:
    """Apply a layer [C, fan_in, fan_out] as one product with the columns side by side."""
    columns = jnp.concatenate(expand(x, network), axis=-1)
    return affine(columns, Affine(layer.kernel.reshape(-1, layer.bias.size), layer.bias))


def affine(x: Float[Array, "*rows fan_in"], layer: Affine) -> Float[Array, "*rows fan_out"]:
    """Apply a linear layer to the last axis."""
    return _add(product(x, layer.kernel, layer.kernel.dtype), layer.bias)


def product(a: Array, b: Array, dtype: jnp.dtype | type = jnp.float32) -> Array:
    """Multiply matrices with operands of `dtype` and sums in float32."""
    return jnp.matmul(a.astype(dtype), b.astype(dtype), preferred_element_type=jnp.float32)


def _add(x: Array, vector: Array) -> Array:
    return x + vector.reshape((1,) * (x.ndim - 1) + vector.shape)


def _normalize(x: Array, norm: Norm, epsilon: float) -> Array:
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + epsilon)
    scale = norm.scale.reshape((1,) * (x.ndim - 1) + norm.scale.shape)
    return _add(x * (inverse * scale), norm.bias)
