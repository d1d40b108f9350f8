"""The definitions of `move_by_codes`, by frame and Gaussian, and `read_codes`, by frame and code.

What both implementations must do.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.codes.types import FORM, REACH, Patterns
from kernels.deform.types import Deformed, DeformInputs


def move_by_codes_reference(
    cloud: DeformInputs, form: Patterns, shine: Patterns,
    follows: Float[Array, "K k"], codes: Float[Array, "B K"],
) -> Deformed:  # fmt: skip
    """Move canonical Gaussians; arguments and results as `move_by_codes`."""

    def one(cloud: DeformInputs, form_counts: Array, shine_counts: Array, codes: Array) -> Deformed:
        shine_codes = jnp.sum(codes[:, None] * follows, axis=0)
        by_form = jnp.sum(codes[:, None] * form.steps * form_counts, axis=0)
        by_shine = jnp.sum(shine_codes[:, None] * shine.steps * shine_counts, axis=0)
        colors = jnp.concatenate([by_form[11:FORM], by_shine])
        return Deformed(
            means=cloud.means + by_form[0:3],
            quats=cloud.quats + by_form[6:10],
            scales=jnp.exp(cloud.log_scales + by_form[3:6]),
            opacities=jax.nn.sigmoid(cloud.logit_opacities + by_form[10]),
            sh=cloud.sh + colors.reshape(cloud.sh.shape),
        )

    frame = jax.vmap(one, in_axes=(0, 2, 2, None))
    return jax.vmap(frame, in_axes=(None, None, None, 0))(cloud, form.counts, shine.counts, codes)


def read_codes_reference(
    moved: Deformed, mean: Float[Array, "S 14"], weights: Float[Array, "S 14"],
    reader: Float[Array, "K L"], ranges: Float[Array, "2 K"],
) -> Float[Array, "B K"]:  # fmt: skip
    """Read the codes; arguments and results as `read_codes`."""

    def one(moved: Deformed, shares: Array, limits: Array) -> Array:
        logits = jnp.log(moved.opacities) - jnp.log(1 - moved.opacities)
        parts = moved.means, jnp.log(moved.scales), moved.quats, logits[:, None], moved.sh[:, 0]
        form = jnp.concatenate(parts, axis=1)  # [S, 14]
        code = jnp.sum((form - mean) * weights * shares.reshape(form.shape))
        middle, half = (limits[0] + limits[1]) / 2, (limits[1] - limits[0]) / 2
        end = middle + jnp.sign(code - middle) * half
        held = end + REACH * half * jnp.tanh((code - end) / (REACH * half))
        return jnp.where((limits[0] <= code) & (code <= limits[1]), code, held)

    frame = jax.vmap(one, in_axes=(None, 0, 1))
    return jax.vmap(frame, in_axes=(0, None, None))(moved, reader, ranges)
