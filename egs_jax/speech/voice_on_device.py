"""Where somebody speaks in many sounds at once, on JAX's device: `media.voice_activity` there.

On a GPU hundreds of sounds are judged in the time of one, and the host is left to others. All goes
there in one copy, and comes back in one: each of many would take the host as long. The
probabilities are those of NumPy up to rounding.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from egs_jax.media.voice_activity import CHUNK, Judged, Memory, judged, network

CHUNKS = 7
"""Programs take so many chunks of each sound or a multiple: those of 0.2 s are 6 or 7."""
SOUNDS = 32
"""So many sounds, or a multiple."""


def run_on_device(memory: Memory, chunks: np.ndarray, counts: np.ndarray) -> Judged:
    """Judge chunks of several sounds, as `voice_activity.Run` says."""
    steps, sounds = chunks.shape[:2]
    shapes = tuple(part.shape[1:] for part in memory)
    columns = [*memory, counts, chunks.swapaxes(0, 1)]
    rows = np.concatenate([part.reshape(sounds, -1) for part in columns], 1, dtype=np.float32)
    padded = np.pad(rows, ((0, -sounds % SOUNDS), (0, -steps % CHUNKS * CHUNK)))
    found = np.asarray(_run(shapes, _on_device(), padded))[:sounds]
    after, rest = _split(found, shapes)
    return rest[:, :steps].T, Memory(*after)


def _split(rows: Float[Array, "S n"], shapes: Sequence[tuple]) -> tuple[list[Array], Array]:
    """Return arrays of these shapes that lie in rows, and the rest of the rows."""
    parts, at = [], 0
    for shape in shapes:
        size = int(np.prod(shape))
        parts.append(rows[:, at : at + size].reshape(-1, *shape))
        at += size
    return parts, rows[:, at:]


@functools.cache
def _on_device() -> dict[str, Array]:
    return jax.device_put(network())


@functools.partial(jax.jit, static_argnums=0)
def _run(
    shapes: tuple[tuple, ...], network: dict[str, Array], rows: Float[Array, "S n"]
) -> Float[Array, "S m"]:
    """Judge; rows of memory, a count and chunks -> rows of memory and probabilities."""
    (*before, counts), chunks = _split(rows, (*shapes, ()))
    chunks = chunks.reshape(len(rows), -1, CHUNK).swapaxes(0, 1)

    def step(memory: Memory, now: tuple[Array, Array]) -> tuple[Memory, Array]:
        chunk, number = now
        peak = jnp.maximum(memory.peak, 1e-5)  # of those that only fill their number
        speaks, after = judged(jnp, network, memory._replace(peak=peak), chunk)
        goes = number < counts
        chosen = lambda new, old: jnp.where(goes.reshape(-1, *[1] * (new.ndim - 1)), new, old)
        return jax.tree.map(chosen, after, memory), speaks

    with jax.default_matmul_precision("highest"):
        numbers = jnp.arange(len(chunks), dtype=jnp.float32)
        memory, found = jax.lax.scan(step, Memory(*before), (chunks, numbers))
    return jnp.concatenate([*(part.reshape(len(rows), -1) for part in memory), found.T], axis=1)
