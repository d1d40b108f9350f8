"""The definition of `move_by_codes`, by frame and Gaussian; what both implementations must do."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.codes.types import FORM, Patterns
from kernels.deform.types import Deformed, DeformInputs


def move_by_codes_reference(
    cloud: DeformInputs, form: Patterns, shine: Patterns, codes: Float[Array, "B K"],
    shine_codes: Float[Array, "B k"],
) -> Deformed:  # fmt: skip
    """Move canonical Gaussians; arguments and results as `move_by_codes`."""

    def one(
        cloud: DeformInputs, form_counts: Array, shine_counts: Array, codes: Array,
        shine_codes: Array,
    ) -> Deformed:  # fmt: skip
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

    frame = jax.vmap(one, in_axes=(0, 2, 2, None, None))
    return jax.vmap(frame, in_axes=(None, None, None, 0, 0))(
        cloud, form.counts, shine.counts, codes, shine_codes
    )
