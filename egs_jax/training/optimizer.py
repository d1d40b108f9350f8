"""Adam with one learning rate per kind of parameter (the groups of the original code).

Moments of the Gaussians are shaped like them, so density control can move and clear those of
single ones. Network parameters are joined into one vector per group, which keeps the compiled step
small: there are over a hundred of them.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from egs_jax.config import EXTENT, OptimConfig
from egs_jax.model.triplane import is_plane_parameter

ADAM = optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-15)
OptState = dict[str, Any]
"""{"gaussians", "planes", "networks"}: moments of each part."""


def init(params: Any) -> OptState:
    """Fresh moments for `params`."""
    return {name: ADAM.init(part) for name, part in _parts(params).items()}


def rate(config: OptimConfig, name: str, count: Int[Array, ""]) -> Float[Array, ""]:
    """Learning rate of a group after `count` updates: log-linear from start to end."""
    value = getattr(config, name)
    if not isinstance(value, tuple):
        return jnp.float32(value * config.rate_scale)
    start, end = (jnp.log(jnp.float32(v * EXTENT * config.rate_scale)) for v in value)
    share = jnp.clip(count / config.decay_steps, 0.0, 1.0)
    return jnp.exp(start + (end - start) * share)


def update(
    config: OptimConfig,
    grads: Any,
    state: OptState,
    params: Any,
    scale: Float[Array, ""],
    *,
    warmup_steps: int = 0,
) -> tuple[Any, OptState]:
    """One Adam step.

    Args:
      config: Rates.
      grads: Gradients, shaped like `params`.
      state: Moments.
      params: {"gaussians", "networks"}.
      scale: Multiplies every rate.
      warmup_steps: Updates over which the rates of planes and networks rise linearly.

    Returns:
      New parameters and moments.
    """
    steps, moments = {}, {}
    for name, part in _parts(grads).items():
        count = state[name].count
        step, moments[name] = ADAM.update(part, state[name])
        if name == "gaussians":
            steps[name] = jax.tree_util.tree_map_with_path(
                lambda path, s, count=count: scale * rate(config, path[-1].name, count) * s, step
            )
        else:
            warmth = jnp.minimum(1.0, (count + 1) / (warmup_steps + 1))
            steps[name] = warmth * scale * rate(config, name, count) * step
    networks = params["networks"]
    changes = _split(networks, steps["planes"], steps["networks"])
    params = {
        "gaussians": jax.tree.map(jnp.subtract, params["gaussians"], steps["gaussians"]),
        "networks": jax.tree.map(jnp.subtract, networks, changes),
    }
    return params, moments


def _parts(params: Any) -> dict[str, Any]:
    """The Gaussians, and the planes and the other network parameters as one vector each."""
    leaves = jax.tree_util.tree_flatten_with_path(params["networks"])[0]
    planes = [leaf for path, leaf in leaves if is_plane_parameter(path)]
    others = [leaf for path, leaf in leaves if not is_plane_parameter(path)]
    return {
        "gaussians": params["gaussians"],
        "planes": ravel_pytree(planes)[0],
        "networks": ravel_pytree(others)[0],
    }


def _split(networks: Any, planes: Float[Array, " P"], others: Float[Array, " M"]) -> Any:
    """Undo `_parts`: cut the two vectors into leaves shaped like those of `networks`."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(networks)
    place = {True: 0, False: 0}
    pieces = []
    for path, leaf in leaves:
        is_plane = is_plane_parameter(path)
        vector, start = (planes if is_plane else others), place[is_plane]
        pieces.append(vector[start : start + leaf.size].reshape(leaf.shape))
        place[is_plane] += leaf.size
    return jax.tree.unflatten(structure, pieces)
