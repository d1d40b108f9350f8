"""Arrays inside a `shard_map`: over which axes of the mesh they vary."""

from typing import Any

import jax
from jaxtyping import Array


def match_varying(tree: Any) -> Any:
    """Make all arrays vary over the same axes of a `shard_map` mesh; outside one, do nothing.

    The pullback of a custom gradient must vary exactly as its input does. Broadcasting the inputs
    beforehand leaves the sum over the mesh to JAX.
    """
    leaves = jax.tree.leaves(tree)
    axes = frozenset().union(*map(_varying_axes, leaves))

    def widen(leaf: Array) -> Array:
        missing = tuple(axes - _varying_axes(leaf))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(widen, tree) if axes else tree


def _varying_axes(value: Array) -> frozenset[str]:
    """Mesh axes over which a value varies inside a `shard_map`."""
    kind = jax.typeof(value)
    if hasattr(kind, "manual_axis_type"):  # jax 0.11
        return kind.manual_axis_type.varying
    return getattr(kind, "vma", frozenset())  # jax 0.10
