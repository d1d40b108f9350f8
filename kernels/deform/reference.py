"""The definition of `deform`, by Gaussian and head; every implementation is tested by it.

It takes the heads' layers apart, as a model has them, and so tests how `pack_heads` lays them out.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.deform.types import HEADS, Affine, Deformed, DeformInputs, Network, Norm


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
      hidden: See `pack_heads`; likewise `heads`.
      heads: See there.

    Returns:
      Activated attributes.
    """

    def normalize(x: Array, norm: Norm) -> Array:
        x = x - x.mean()
        return x / jnp.sqrt((x**2).mean() + epsilon) * norm.scale + norm.bias

    def layer(x: Array, weights: Affine, is_first: bool) -> Array:
        columns = expand(network, x, is_first)
        return weights.bias + sum(c @ k for c, k in zip(columns, weights.kernel, strict=True))

    def one(canonical: DeformInputs, f: Array, p: Array, mix: Array, tokens: Array) -> Deformed:
        x = normalize(f + gain * (p @ mix @ tokens), norm1)
        x = x + jnp.maximum(x @ ffn_in.kernel + ffn_in.bias, 0) @ ffn_out.kernel + ffn_out.bias
        x = normalize(x, norm2)
        units = zip(HEADS, jnp.split(layer(x, hidden, True), len(HEADS)), strict=True)
        delta = {name: layer(unit, heads[name], False) for name, unit in units}
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


def expand(network: Network, x: Array, is_first: bool) -> list[Array]:
    """Return the columns that a layer of the heads makes of its inputs [in] (see `types`)."""
    if network == "taylor":
        return [x / (1 + jnp.exp(-x)), x, x**2]
    if network == "plain_mlp" and is_first:
        return [x]
    return [jnp.maximum(x, 0)]
