"""A baked avatar of the right shapes and random small patterns, to time its drawing."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from egs_jax.avatar.baked import Baked, nothing, said
from egs_jax.avatar.baking import CODES, SHINE_CODES, sample_of
from egs_jax.avatar.precomputed import Spatial, assemble
from egs_jax.config import Config
from egs_jax.model.limits import Limits
from egs_jax.types import Drive
from kernels.codes import FORM, Patterns

STEP = 1e-7
"""What a count of a pattern is: pictures stay what they are."""


def random_baked(
    config: Config, networks: Mapping[str, Any], spatial: Spatial, limits: Limits | None,
    drive: Drive,
) -> Baked:  # fmt: skip
    """Bake nothing: the cloud as it is, patterns and reader at random.

    Args:
      config: Of the avatar.
      networks: Parameters of its networks, {module name: parameters}.
      spatial: What is known of its Gaussians.
      limits: Of a person's poses; None: there are none.
      drive: Of some frames, of which shapes count.
    """
    rng = np.random.default_rng(0)
    cloud, (count, n_harmonics, _) = spatial.canonical, spatial.canonical.sh.shape
    chosen = sample_of(count)
    some = spatial.at(chosen)._replace(canonical=nothing(len(chosen), 1), skins=None)
    sample = assemble(config, networks, some, config.model.sh_degree, limits)
    told = jax.eval_shape(partial(said, config.drawing), sample, drive).shape[1] * FORM

    def patterns(many: int, numbers: int) -> Patterns:
        counts = rng.integers(-127, 128, (many, numbers, count), np.int8)
        return Patterns(jnp.asarray(counts), jnp.full((many, numbers), STEP))

    reader = rng.normal(0, told**-0.5, (CODES, told))
    return Baked(
        cloud=cloud,
        form=patterns(CODES, FORM),
        shine=patterns(SHINE_CODES, 11 + 3 * n_harmonics - FORM),
        sample=sample,
        follows=jnp.asarray(rng.normal(0, 0.1, (CODES, SHINE_CODES)), jnp.float32),
        sample_mean=jnp.zeros((told // FORM, FORM)),
        weights=jnp.ones((told // FORM, FORM)),
        reader=jnp.asarray(reader, jnp.float32),
        ranges=jnp.asarray(np.outer([-3, 3], np.ones(CODES)), jnp.float32),
        alive=spatial.alive,
        offsets=jnp.zeros((count, 2)),
        skins=spatial.skins,
    )
