"""`deform` in plain JAX: the oracle of the Triton kernel, differentiable, for any machine.

All rows (a Gaussian in a frame) go through each layer together. Products take operands of the
weights' type and sum in float32; everything else is float32.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.deform.types import Affine, Deformed, DeformInputs, DeformWeights, Norm
from kernels.splines import bspline_basis


def deform_xla(
    canonical: DeformInputs,
    features: Float[Array, "N D"],
    static_mix: Float[Array, "N A"],
    dynamic_mix: Float[Array, "B A T"],
    tokens: Float[Array, "B T D"],
    weights: DeformWeights,
) -> Deformed:
    """Deform with XLA operations; arguments and results as `deform`."""
    n_frames, n_gaussians = tokens.shape[0], features.shape[0]
    attended = _attend(static_mix, dynamic_mix, weights.gain * tokens, weights.hidden.kernel.dtype)
    x = (features[None] + attended).reshape(-1, features.shape[1])  # [B N, D]
    x = _normalise(x, weights.norm1, weights.epsilon)
    change = _affine(jax.nn.relu(_affine(x, weights.ffn_in)), weights.ffn_out)
    x = _normalise(x + change, weights.norm2, weights.epsilon)
    geometry, color = _heads(x, weights)
    frames = lambda v: v.reshape(n_frames, n_gaussians, -1)
    raw = lambda name, first, last: getattr(canonical, name)[None] + frames(geometry[:, first:last])
    n_harmonics = canonical.sh.shape[1]
    change = color[:, : 3 * n_harmonics].reshape(n_frames, n_gaussians, n_harmonics, 3)
    return Deformed(
        means=raw("means", 0, 3),
        quats=raw("quats", 6, 10),
        scales=jnp.exp(raw("log_scales", 3, 6)),
        opacities=jax.nn.sigmoid(canonical.logit_opacities[None] + frames(geometry[:, 10])[..., 0]),
        sh=canonical.sh[None] + change,
    )


def _attend(static: Array, dynamic: Array, tokens: Array, dtype: jnp.dtype) -> Array:
    """(P G) S for every frame, [B, N, D]."""
    n_frames, n_agents, n_tokens = dynamic.shape
    # One product for all frames: [N, A] x [A, B T].
    dynamic = dynamic.transpose(1, 0, 2).reshape(n_agents, n_frames * n_tokens)
    shares = _product(static, dynamic, dtype).reshape(-1, n_frames, n_tokens)
    return jnp.einsum(
        "nbt,btd->bnd", shares.astype(dtype), tokens.astype(dtype),
        preferred_element_type=jnp.float32,
    )  # fmt: skip


def _heads(x: Array, weights: DeformWeights) -> tuple[Array, Array]:
    """What the heads say, [rows, 16] and [rows, S]."""
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


def _expanded(x: Array, layer: Affine, network: str, knots: Array | None) -> Array:
    """A layer of the heads as one product with the columns side by side."""
    if network == "taylor":
        columns = jnp.concatenate([jax.nn.silu(x), x, x * x], axis=1)
    elif network == "mlp":
        columns = jax.nn.relu(x)
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
