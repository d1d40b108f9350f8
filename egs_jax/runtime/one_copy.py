"""Arrays side by side in one, so that all go to a device, or come back, in one copy.

Every copy of a call takes its host as long as the copying itself, unless arrays are large; least
takes one that is a part of the program itself, to page-locked memory (`locked`) or from there
(`staged`, and `landed` in the program).
"""

import ctypes
import math
import threading
from collections import defaultdict
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Num

_LOCK = threading.Lock()
_FREE: "defaultdict[tuple[tuple[int, ...], Any], list[Staged]]" = defaultdict(list)
"""Rows in page-locked memory that nobody uses, by shape and type."""

Told = tuple[Any, tuple[tuple[int, ...], ...]]
"""How a tree's arrays lie in rows: its structure, and the shape of a row of each. Static."""


def told_of(tree: Any) -> Told:
    """Return what `unpacked` has to know of a tree of arrays, each of as many rows."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple(leaf.shape[1:] for leaf in leaves)


def packed(tree: Any, xp: Any = np, dtype: Any = np.float32) -> Num[Any, "B M"]:
    """Lay arrays of B rows each side by side.

    Args:
      tree: Of numbers that `dtype` can hold.
      xp: `numpy`, or `jax.numpy` on a device.
      dtype: Of what is returned.
    """
    return xp.concatenate(_columns(tree), axis=1, dtype=dtype)


def _columns(tree: Any) -> list[Any]:
    leaves = jax.tree.leaves(tree)
    return [leaf.reshape(len(leaf), math.prod(leaf.shape[1:])) for leaf in leaves]


class Staged(NamedTuple):
    """Rows as `packed` lays them, in memory that a program fetches them from by itself."""

    rows: Num[Array | np.ndarray, "B M"]
    """What the program is given, and calls `landed` on."""
    memory: Num[np.ndarray, "B M"] | None
    """The same, to be written while `rows` are held; None: they are NumPy's."""


def staged(tree: Any, dtype: Any = np.float32) -> Staged:
    """Do the same as `packed`, on a GPU in page-locked memory, which whoever is done releases.

    A call that is given NumPy's rows copies them once more, and waits until another thread has
    brought them to the device: 0.60 ms for a frame over a plate instead of 0.50 (an H200). JAX
    holds that its arrays never change; these do, but only between `release` and the next `staged`,
    when no program reads them.
    """
    if not _stages():
        return Staged(packed(tree, dtype=dtype), None)
    columns = _columns(tree)
    shape = len(columns[0]), sum(column.shape[1] for column in columns)
    with _LOCK:
        free = _FREE[shape, dtype]
        held = free.pop() if free else None
    held = held or _page_locked(shape, dtype)
    np.concatenate(columns, axis=1, out=held.memory)
    return held


def release(held: Staged) -> None:
    """Let rows of `staged` be used again: their program has come to its end."""
    if held.memory is not None:
        with _LOCK:
            _FREE[held.memory.shape, held.memory.dtype.type].append(held)


def landed(rows: Num[Array, "B M"]) -> Num[Array, "B M"]:
    """Return rows of `staged` on the device; for programs."""
    return jax.device_put(rows, jax.memory.Space.Device) if _stages() else rows


def _stages() -> bool:
    return jax.default_backend() == "gpu"


def _page_locked(shape: tuple[int, int], dtype: Any) -> Staged:
    [device] = jax.device_put(0).devices()  # where programs run that are not told
    kind = jax.sharding.SingleDeviceSharding(device, memory_kind="pinned_host")
    rows = jax.block_until_ready(jax.device_put(np.empty(shape, dtype), kind))
    memory = (ctypes.c_byte * rows.nbytes).from_address(rows.unsafe_buffer_pointer())
    return Staged(rows, np.frombuffer(memory, dtype).reshape(shape))


def unpacked(told: Told, rows: Num[Array | np.ndarray, "B M"]) -> Any:
    """Return the arrays of `packed`, of its type, where they are."""
    structure, shapes = told
    leaves, at = [], 0
    for shape in shapes:
        size = math.prod(shape)
        leaves.append(rows[:, at : at + size].reshape(len(rows), *shape))
        at += size
    return jax.tree.unflatten(structure, leaves)


def locked(tree: Any) -> Any:
    """Return arrays in page-locked memory, for results of programs; on a CPU as they are.

    NumPy sees them there without a copy. (An array of 60 KB is at the host of an H200 after 0.10 ms
    instead of 0.26, for half of the host's work.) Whoever keeps a part of one keeps all of it.
    """
    if jax.default_backend() == "cpu":
        return tree
    return jax.device_put(tree, jax.memory.Space.Host)
