"""The definition of `deform`, by Gaussian and head; every implementation is tested by it.

It takes the heads' layers apart, as a model has them, and so tests how `pack_heads` lays them out.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.deform.types import HEADS, Affine, Deformed, DeformInputs, Knots, Network, Norm


def deform_reference(
    network: Network,
    canonical: DeformInputs,
    features: Float[Array, "N D"],
    static_mix: Float[Array, "N A"],
    dynamic_mix: Float[Array, "B A T"],
    tokens: Float[Array, "B T D"],
    *,
    gain: float,
    epsilon: float,
    norm1: Norm,
    ffn_in: Affine,
    ffn_out: Affine,
    norm2: Norm,
    hidden: Affine,
    heads: Mapping[str, Affine],
    knots: Knots | None,
) -> Deformed:
    """Deform canonical Gaussians by the tokens of every frame.

    Args:
      network: What the heads are made of.
      canonical: See `deform`; likewise the four after it.
      features: f.
      static_mix: P.
      dynamic_mix: G.
      tokens: S.
      gain: See `DeformWeights`; likewise the five after it.
      epsilon: See there.
      norm1: See there.
      ffn_in: See there.
      ffn_out: See there.
      norm2: See there.
      hidden: See `pack_heads`; likewise the two after it.
      heads: See there.
      knots: See there.

    Returns:
      Activated attributes.
    """

    def normalise(x: Array, norm: Norm) -> Array:
        x = x - x.mean()
        return x / jnp.sqrt((x**2).mean() + epsilon) * norm.scale + norm.bias

    def layer(x: Array, weights: Affine, knots: Array | None) -> Array:
        columns = expand(network, x, knots, len(weights.kernel))
        return weights.bias + sum(c @ k for c, k in zip(columns, weights.kernel, strict=True))

    def one(canonical: DeformInputs, f: Array, p: Array, mix: Array, tokens: Array) -> Deformed:
        x = normalise(f + gain * (p @ mix @ tokens), norm1)
        x = x + jnp.maximum(x @ ffn_in.kernel + ffn_in.bias, 0) @ ffn_out.kernel + ffn_out.bias
        x = normalise(x, norm2)
        units = jnp.split(layer(x, hidden, knots and knots.hidden), len(HEADS))
        own_knots = [None] * len(HEADS) if knots is None else jnp.split(knots.heads, len(HEADS))
        delta = {
            name: layer(part, heads[name], own)
            for name, part, own in zip(HEADS, units, own_knots, strict=True)
        }
        n_colors = canonical.sh.size
        return Deformed(
            means=canonical.means + delta["means"],
            quats=canonical.quats + delta["quats"],
            scales=jnp.exp(canonical.log_scales + delta["log_scales"]),
            opacities=jax.nn.sigmoid(canonical.logit_opacities + delta["logit_opacities"][0]),
            sh=canonical.sh + delta["sh"][:n_colors].reshape(canonical.sh.shape),
        )

    frame = jax.vmap(one, in_axes=(0, 0, 0, None, None))
    return jax.vmap(frame, in_axes=(None, None, None, 0, 0))(
        canonical, features, static_mix, dynamic_mix, tokens
    )


def expand(network: Network, x: Array, knots: Array | None, n_columns: int) -> list[Array]:
    """Return the columns that a layer of the heads makes of its inputs [in] (see `types`)."""
    if network == "mlp":
        return [jnp.maximum(x, 0)]
    silu = x / (1 + jnp.exp(-x))
    if network == "taylor":
        return [silu, x, x**2]
    return [silu, *_splines(x, knots.T, order=knots.shape[1] - n_columns)]


def _splines(x: Float[Array, " in"], t: Float[Array, "knots in"], order: int) -> Array:
    """Evaluate the B-splines [count, in] on each input's knots by Cox and de Boor's recursion."""
    if order == 0:
        return jnp.where((x >= t[:-1]) & (x < t[1:]), 1.0, 0.0)
    lower = _splines(x, t, order - 1)
    share = (x - t[:-order]) / (t[order:] - t[:-order])  # of a lower spline's support, before x
    return share[:-1] * lower[:-1] + (1 - share[1:]) * lower[1:]
