"""One `vmap` rule for every stage that takes a leading axis of frames: fold the new axis into it.

The generic rule would batch the loops and sorts inside a stage, which keeps every lane running
until the slowest is done and turns slices into gathers. Folding gives the same numbers; an array
that is not mapped is copied for every frame.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import ShapeDtypeStruct
from jax.custom_batching import custom_vmap
from jaxtyping import Array, PyTree

from kernels.checks import require


def fold_frames(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Give `function` a batching rule that folds the mapped axis into axis 0.

    Args:
      function: Its arrays, in and out, have the frames as axis 0, and frames do not mix; an input
        may have one frame for all. An output with one frame where the inputs have several is
        understood to be a sum over the frames.

    Returns:
      The same function; `vmap` of it, also nested, is one call with more frames.
    """
    folded = custom_vmap(function)

    @folded.def_vmap
    def rule(axis_size: int, in_batched: PyTree, *arrays: PyTree) -> tuple[PyTree, PyTree]:
        outputs = fold_call(function, folded, axis_size, tuple(in_batched), arrays)
        return outputs, jax.tree.map(lambda _: True, outputs)

    return folded


def fold_call(
    function: Callable[..., PyTree], folded: Callable[..., PyTree], axis_size: int, batched: PyTree,
    arrays: PyTree,
) -> PyTree:  # fmt: skip
    """Call with the mapped axis folded into the frames, and unfold the results.

    Args:
      function: As for `fold_frames`.
      folded: The same, as it is to be called with more frames.
      axis_size: Of the mapped axis.
      batched: Which arrays have it, as their axis 0.
      arrays: All arrays.

    Returns:
      The results, all with the mapped axis.
    """
    require(axis_size > 0, "vmap: expected at least one frame, got a mapped axis of length 0")
    own = jax.tree.map(lambda v, b: v.shape[1 if b else 0], arrays, batched)
    n_frames = max(jax.tree.leaves(own))

    def fold(value: Array, is_batched: bool) -> Array:
        if not is_batched:
            value = value[None]
        tail = value.shape[2:]
        value = jnp.broadcast_to(value, (axis_size, n_frames, *tail))
        return value.reshape(axis_size * n_frames, *tail)

    def unfold(value: Array, single: ShapeDtypeStruct) -> Array:
        value = value.reshape(axis_size, n_frames, *value.shape[1:])
        if single.shape[0] < n_frames:
            value = jnp.sum(value, axis=1, keepdims=True)
        return value

    def one(value: Array, is_batched: bool) -> ShapeDtypeStruct:
        return ShapeDtypeStruct(value.shape[is_batched:], value.dtype)

    single = jax.eval_shape(function, *jax.tree.map(one, arrays, batched))
    outputs = folded(*jax.tree.map(fold, arrays, batched))
    return jax.tree.map(unfold, outputs, single)
