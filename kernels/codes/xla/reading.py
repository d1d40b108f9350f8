"""`read_codes` in plain JAX, differentiable, for any machine; and its parts."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.codes.types import REACH
from kernels.deform.types import Deformed


def read_codes_xla(
    moved: Deformed, mean: Float[Array, "S 14"], weights: Float[Array, "S 14"],
    reader: Float[Array, "K L"], ranges: Float[Array, "2 K"],
) -> Float[Array, "B K"]:  # fmt: skip
    """Read the codes; arguments and results as `read_codes`."""
    form = before_activation(moved)
    flat = ((form - mean[None]) * weights[None]).reshape(len(form), -1)
    # The other way around a CPU takes 60 us longer for one frame.
    codes = jnp.matmul(reader, flat.T, precision=jax.lax.Precision.HIGHEST)
    return limited(codes.T, ranges)


def before_activation(moved: Deformed) -> Float[Array, "B N D"]:
    """Return all numbers of Gaussians as they are before activation, in the order of `types`."""
    harmonics = moved.sh.reshape(*moved.sh.shape[:2], -1)
    opacities = jax.scipy.special.logit(moved.opacities)[..., None]
    parts = [moved.means, jnp.log(moved.scales), moved.quats, opacities, harmonics]
    return jnp.concatenate(parts, axis=-1)


def limited(codes: Float[Array, "B K"], ranges: Float[Array, "2 K"]) -> Float[Array, "B K"]:
    """Bring codes beyond the range seen softly back to near it; inside nothing changes."""
    middle, half = (ranges[0] + ranges[1]) / 2, (ranges[1] - ranges[0]) / 2
    beyond = (codes - middle[None]) / half[None]
    held = jnp.sign(beyond) * soft(jnp.abs(beyond)) * half[None] + middle[None]
    return jnp.where(jnp.abs(beyond) <= 1, codes, held)


def soft(value: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Limit a number >= 0 to 1 + REACH: the identity up to 1, with one slope on both sides."""
    return jnp.where(value <= 1, value, 1 + REACH * jnp.tanh((value - 1) / REACH))
