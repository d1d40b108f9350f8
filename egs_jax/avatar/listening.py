"""How much each Gaussian listens to each token: the attention of an avatar's networks, P G.

A share says where a token is heard, not what that does: one that never changes may have all of it
and move nothing. Letters as in `model.attention`. Before: `avatar`; after: `serve.view`.
"""

import dataclasses
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from egs_jax.avatar import precomputed as prepared
from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.precomputed import Prepared
from egs_jax.avatar.speech_batches import speech_batches
from kernels.deform import token_shares

listen = jax.jit(prepared.listen, static_argnums=0)
"""`precomputed.listen`, compiled."""


def in_float32(avatar: Avatar) -> Avatar:
    """Return the avatar without Triton, whose bfloat16 would hide what a weak token moves."""
    return dataclasses.replace(avatar, config=dataclasses.replace(avatar.config, rasterizer="xla"))


def token_names(avatar: Avatar) -> list[str]:
    """Name the tokens in their order; sound by its offset to the frame [video frames]."""
    model = avatar.config.model
    sound = [f"sound {k:+d}" for k in avatar.clip_scene.layout.offsets(model.window_frames)]
    if model.resolved.ppe == "token":
        sound = ["sound"]
    lips = [] if model.architecture == "parity" else ["lips"]
    return [*sound, "eyes", "pose", "null", *lips]


def token_groups(names: list[str]) -> dict[str, list[int]]:
    """Return the places of each kind of tokens."""
    kinds: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        kinds.setdefault(name.split()[0], []).append(place)
    return kinds


def mean_shares(kept: Prepared, mixes: Float[Array, "B A T"]) -> Float[Array, "N T"]:
    """Return P G of every Gaussian, averaged over frames.

    Args:
      kept: What no frame changes.
      mixes: G of every frame.
    """
    static = None if kept.static_mix is None else kept.static_mix.astype(jnp.float32)
    return token_shares(static, mixes.mean(axis=0, keepdims=True))[0]


def speech_shares(
    avatar: Avatar, chunks: Iterable[np.ndarray]
) -> dict[str, Float32[np.ndarray, " N"]]:
    """Return how much each live Gaussian listens to each kind of tokens, averaged over a speech.

    Args:
      avatar: With its networks.
      chunks: The speech, 16 kHz.

    Returns:
      The shares by kind; those of a Gaussian sum to one.

    Raises:
      InputError: if the avatar came from a file.
    """
    avatar = in_float32(avatar)
    kept, sums, count = avatar.prepared, 0.0, 0
    for batch in speech_batches(avatar, chunks):
        _, mixes = listen(avatar.config, kept, batch.drive.replace(backgrounds=None))
        sums = sums + mixes[batch.first : batch.first + len(batch.frames)].sum(axis=0)
        count += len(batch.frames)
    shares = np.asarray(mean_shares(kept, sums[None] / count))[np.asarray(kept.alive)]
    groups = token_groups(token_names(avatar))
    return {kind: shares[:, places].sum(axis=1) for kind, places in groups.items()}
