"""Where somebody speaks in many sounds at once, on JAX's device: `media.voice_activity` there.

On a GPU hundreds of sounds are judged in the time of one, and the host is left to others. The
probabilities are those of NumPy up to rounding.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from egs_jax.media.voice_activity import Judged, Memory, judged, network

CHUNKS = 7
"""Programs take so many chunks of each sound or a multiple: those of 0.2 s are 6 or 7."""
SOUNDS = 32
"""So many sounds, or a multiple."""


def run_on_device(memory: Memory, chunks: np.ndarray, counts: np.ndarray) -> Judged:
    """Judge chunks of several sounds, as `voice_activity.Run` says."""
    steps, sounds = chunks.shape[:2]
    more = -sounds % SOUNDS
    pad = lambda values: np.pad(values, [(0, more)] + [(0, 0)] * (values.ndim - 1))
    chunks = np.pad(chunks, ((0, -steps % CHUNKS), (0, more), (0, 0)))
    going = np.arange(len(chunks))[:, None] < pad(counts)[None]
    found, after = jax.device_get(_run(_on_device(), Memory(*map(pad, memory)), chunks, going))
    return found[:steps, :sounds], Memory(*(values[:sounds] for values in after))


@functools.cache
def _on_device() -> dict[str, Array]:
    return jax.device_put(network())


@jax.jit
def _run(network: dict[str, Array], memory: Memory, chunks: Array, going: Array) -> Judged:
    def step(memory: Memory, now: tuple[Array, Array]) -> tuple[Memory, Array]:
        chunk, goes = now
        peak = jnp.maximum(memory.peak, 1e-5)  # of those that only fill their number
        speaks, after = judged(jnp, network, memory._replace(peak=peak), chunk)
        chosen = lambda new, old: jnp.where(goes.reshape(-1, *[1] * (new.ndim - 1)), new, old)
        return jax.tree.map(chosen, after, memory), speaks

    with jax.default_matmul_precision("highest"):
        memory, found = jax.lax.scan(step, memory, (chunks, going))
    return found, memory
