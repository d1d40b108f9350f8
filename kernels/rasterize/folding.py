"""One `vmap` rule for every stage that takes a leading axis of frames: fold the new axis into it.

The generic rule would batch the loops and sorts inside a stage, which keeps every lane running
until the slowest is done and turns slices into gathers. Folding costs nothing and gives the same
numbers.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, PyTree


def fold_frames(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Give `function` a batching rule that folds the mapped axis into axis 0.

    Args:
      function: Its arrays, in and out, all have the frames as axis 0, and frames do not mix.

    Returns:
      The same function; `vmap` of it, also nested, is one call with more frames.
    """
    folded = custom_vmap(function)

    @folded.def_vmap
    def rule(axis_size: int, in_batched: PyTree, *arrays: PyTree) -> tuple[PyTree, PyTree]:
        def fold(value: Array, is_batched: bool) -> Array:
            if not is_batched:
                value = jnp.broadcast_to(value[None], (axis_size, *value.shape))
            return value.reshape(axis_size * value.shape[1], *value.shape[2:])

        def unfold(value: Array) -> Array:
            return value.reshape(axis_size, value.shape[0] // axis_size, *value.shape[1:])

        outputs = jax.tree.map(unfold, folded(*jax.tree.map(fold, arrays, tuple(in_batched))))
        return outputs, jax.tree.map(lambda _: True, outputs)

    return folded


def match_varying(tree: Any) -> Any:
    """Make all arrays vary over the same axes of a `shard_map` mesh; outside one, do nothing.

    The pullback of a custom gradient must vary exactly as its input does. Broadcasting the inputs
    beforehand leaves the sum over the mesh to JAX.
    """
    leaves = jax.tree.leaves(tree)
    axes = frozenset().union(*(getattr(jax.typeof(leaf), "vma", ()) for leaf in leaves))

    def widen(leaf: Array) -> Array:
        missing = tuple(axes - jax.typeof(leaf).vma)
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(widen, tree) if axes else tree
