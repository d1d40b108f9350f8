"""Adam with one learning rate per kind of parameter (the groups of the original code).

The moments are one tree shaped like the parameters, so density control can move and clear those
of single Gaussians; the rates are applied afterwards, leaf by leaf.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from egs_jax.config import EXTENT, OptimConfig
from egs_jax.triplane import is_plane_parameter

ADAM = optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-15)


def init(params: Any) -> optax.OptState:
    """Fresh moments for `params`."""
    return ADAM.init(params)


def group(path: tuple) -> str:
    """The learning-rate group of a parameter: an `OptimConfig` field."""
    names = [getattr(key, "name", getattr(key, "key", None)) for key in path]
    if names[0] == "gaussians":
        return names[1]
    return "planes" if is_plane_parameter(path) else "networks"


def rate(config: OptimConfig, name: str, count: Int[Array, ""]) -> Float[Array, ""]:
    """Learning rate of a group after `count` updates: log-linear from start to end."""
    value = getattr(config, name)
    if not isinstance(value, tuple):
        return jnp.float32(value * config.rate_scale)
    start, end = (jnp.log(jnp.float32(v * EXTENT * config.rate_scale)) for v in value)
    share = jnp.clip(count / config.decay_steps, 0.0, 1.0)
    return jnp.exp(start + (end - start) * share)


def update(
    config: OptimConfig, grads: Any, state: optax.OptState, params: Any, scale: Float[Array, ""]
) -> tuple[Any, optax.OptState]:
    """One Adam step; every rate is multiplied by `scale`. Returns new parameters and moments."""
    count = state.count
    steps, state = ADAM.update(grads, state)
    params = jax.tree_util.tree_map_with_path(
        lambda path, p, s: p - scale * rate(config, group(path), count) * s, params, steps
    )
    return params, state
