"""Where somebody speaks in many sounds at once, on JAX's device: `media.voice_activity` there.

On a GPU hundreds of sounds are judged in the time of one, and the host is left to others. All goes
there in one copy, and comes back in one: each of many would take the host as long. The
probabilities are those of NumPy up to rounding.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from egs_jax.media.voice_activity import Judged, Memory, judged, network
from egs_jax.runtime.one_copy import Told, locked, packed, told_of, unpacked

CHUNKS = 7
"""Programs take so many chunks of each sound or a multiple: those of 0.2 s are 6 or 7."""
SOUNDS = 32
"""So many sounds, or a multiple."""


def run_on_device(memory: Memory, chunks: np.ndarray, counts: np.ndarray) -> Judged:
    """Judge chunks of several sounds, as `voice_activity.Run` says."""
    steps, sounds = chunks.shape[:2]
    own = np.pad(chunks.swapaxes(0, 1), ((0, 0), (0, -steps % CHUNKS), (0, 0)))
    given = memory, counts, own
    rows = np.pad(packed(given), ((0, -sounds % SOUNDS), (0, 0)))
    found = np.asarray(_run(told_of(given), _on_device(), rows))[:sounds]
    after, speaks = unpacked(told_of((memory, own[..., 0])), found)
    return speaks[:, :steps].T, after


@functools.cache
def _on_device() -> dict[str, Array]:
    return jax.device_put(network())


@functools.partial(jax.jit, static_argnums=0)
def _run(
    told: Told, network: dict[str, Array], rows: Float[Array, "S n"]
) -> Float[Array, "S m"]:  # fmt: skip
    """Judge; rows of memory, counts and chunks -> rows of memory and probabilities."""
    before, counts, chunks = unpacked(told, rows)
    with jax.default_matmul_precision("highest"):
        found, after = judged(
            jnp, network, before, chunks.swapaxes(0, 1), counts.astype(jnp.int32)
        )  # fmt: skip
    return locked(packed((after, found.T), jnp))
