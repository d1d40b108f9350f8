"""A trained avatar -> a baked one: the patterns by which its Gaussians move, and how to read them.

Before: `precomputed`, the exact way to draw; after: `baked`, what this makes. The patterns are the
leading singular vectors of what the decoder says in frames of the clip's training part, every
attribute in units of its own root mean square. (Frames with other lids, poses and sound put
together are no better: 0.2 dB less on held-out frames of a 10 s clip.)
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float16, Int

from egs_jax.avatar.baked import Baked, said
from egs_jax.avatar.precomputed import Prepared, Spatial, assemble
from egs_jax.config import Config
from egs_jax.data.dataset import Dataset
from egs_jax.model.limits import Limits
from egs_jax.runtime.progress import progress
from egs_jax.types import Drive
from kernels.codes import FORM, Patterns
from kernels.deform import DeformInputs

CODES = 32
"""K, numbers a frame. (A person of 10 s, 256 px: 48 dB to the exact pictures with 16 of them, 51.5
with 32.)"""
SHINE_CODES = 4
"""Codes that move colors by direction, which are most of a Gaussian's numbers and move least."""
SAMPLE = 512
"""S, Gaussians whose decoder is exact."""
FRAMES = 160
"""Training frames that are looked at, evenly spaced."""
SILENT = 8
"""How many of them hear silence as well."""
AT_ONCE = 4
"""Frames that are decoded at once."""
BLOCK = 4096
"""Gaussians whose numbers are made float32 at once."""
LEAST = 1e-7
"""Share of the leading pattern's motion below which there is nothing but rounding."""
ROUGH = 0.25
"""Error of a later pattern's counts, of the first one's."""
WIDEST = 0.9999
"""Quantile of a pattern's numbers that the greatest count stands for."""


class Trained(NamedTuple):
    """An avatar as training left it."""

    config: Config
    networks: Mapping[str, Any]
    """Their parameters, {module name: parameters}."""
    spatial: Spatial
    """What is known of its Gaussians; those that live count."""
    sh_degree: int
    """Degree of spherical harmonics that is drawn."""
    limits: Limits | None
    """Of a person's poses; None: there are none."""

    @property
    def live(self) -> Spatial:
        """What is known of the live Gaussians."""
        return self.spatial.at(np.flatnonzero(self.spatial.alive))

    def prepared(self, spatial: Spatial) -> Prepared:
        """Return the exact decoder of some Gaussians."""
        return assemble(self.config, self.networks, spatial, self.sh_degree, self.limits)


def bake(trained: Trained, dataset: Dataset) -> Baked:
    """Bake an avatar by the clip that it was trained on."""
    return bake_motions(trained, motions_of(trained, dataset))


def bake_motions(
    trained: Trained, motions: Float16[np.ndarray, "F N D"], most: int = CODES
) -> Baked:
    """Bake an avatar whose motions are known (`motions_of`), to at most so many codes a frame."""
    live = trained.live
    mean = motions.mean(axis=0, dtype=np.float32).astype(np.float16).astype(np.float32)
    patterns, codes, units = principal_patterns(motions - mean.astype(np.float16), most)
    count = len(mean)
    chosen = sample_of(count)
    seen = patterns[:, chosen].reshape(len(patterns), -1)
    reader = np.linalg.pinv(seen.T.astype(np.float64)).T / np.tile(units, len(chosen))[:, None]
    counts, steps = counted(patterns, codes.std(axis=0), units)
    parts = counts.transpose(0, 2, 1)
    shine = slice(0, min(SHINE_CODES, len(parts)))
    sample = trained.prepared(_added_to_nothing(live.at(chosen))._replace(skins=None))
    return Baked(
        cloud=_moved(live.canonical, mean),
        form=Patterns(jnp.asarray(parts[:, :FORM]), jnp.asarray(steps[:, :FORM])),
        shine=Patterns(jnp.asarray(parts[shine, FORM:]), jnp.asarray(steps[shine, FORM:])),
        sample=sample,
        sample_mean=jnp.asarray(mean[chosen]),
        reader=jnp.asarray(reader, jnp.float32),
        ranges=jnp.asarray(np.stack([codes.min(axis=0), codes.max(axis=0)])),
        alive=jnp.ones(count, bool),
        offsets=jnp.zeros((count, 2)),
        skins=_halved(live.skins),
    )


def sample_of(count: int) -> Int[np.ndarray, " S"]:
    """Return which of `count` Gaussians stay exact."""
    chosen = np.random.default_rng(0).choice(count, min(SAMPLE, count), replace=False)
    return np.sort(chosen)


def principal_patterns(
    motions: Float[np.ndarray, "F N D"], most: int
) -> tuple[Float[np.ndarray, "K N D"], Float[np.ndarray, "F K"], Float[np.ndarray, " D"]]:
    """Return the leading patterns of what Gaussians do about their mean.

    Returns:
      The patterns, unit vectors, at most `most` and fewer where there is no more motion; the codes
      of every frame; and the units of the D numbers in which both are told.
    """
    count = motions.shape[1]
    blocks = [slice(i, i + BLOCK) for i in range(0, count, BLOCK)]
    wide = lambda block: motions[:, block].astype(np.float32)
    squares = sum(np.square(wide(block)).sum(axis=(0, 1), dtype=np.float64) for block in blocks)
    units = np.float32(np.maximum(np.sqrt(squares / (len(motions) * count)), 1e-12))
    flat = lambda block: (wide(block) / units).reshape(len(motions), -1)
    gram = sum(np.float64(flat(block) @ flat(block).T) for block in blocks)
    values, vectors = np.linalg.eigh(gram)
    leading = [k for k in np.argsort(values)[::-1][:most] if values[k] > LEAST * values.max()]
    sizes = np.sqrt(values[leading])
    mix = np.float32(vectors[:, leading] / sizes)
    made = [(mix.T @ flat(block)).reshape(len(leading), -1, motions.shape[2]) for block in blocks]
    return np.concatenate(made, axis=1), np.float32(vectors[:, leading] * sizes), units


def counted(
    patterns: Float[np.ndarray, "K N D"],
    spread: Float[np.ndarray, " K"],
    units: Float[np.ndarray, " D"],
) -> tuple[np.ndarray, Float[np.ndarray, "K D"]]:
    """Round patterns to counts of 8 bits.

    A step of a pattern is the finer, the more its code moves, so that no pattern adds more than
    a share of the first one's error, whose steps are as fine as 8 bits allow. Most counts of the
    later patterns are small, and pack well.

    Args:
      patterns: Unit vectors.
      spread: Standard deviation of each one's code.
      units: Of the D numbers.

    Returns:
      Counts int8 [K, N, D], and what a count is of every pattern and number.
    """
    widest = np.quantile(np.abs(patterns), WIDEST, axis=(1, 2)) / 127
    steps = np.maximum(widest, ROUGH * widest[0] * spread[0] / np.maximum(spread, 1e-12))
    counts = np.clip(np.rint(patterns / steps[:, None, None]), -127, 127).astype(np.int8)
    return counts, np.float32(steps[:, None] * units[None])


def motions_of(trained: Trained, dataset: Dataset) -> Float16[np.ndarray, "F N D"]:
    """Return what the decoder says of the live Gaussians in F frames of the clip; some silent."""
    config, whole = trained.config, trained.prepared(_added_to_nothing(trained.live))
    frames = dataset.train_frames
    frames = frames[np.unique(np.linspace(0, len(frames) - 1, FRAMES).astype(int))]
    window = config.model.window_frames
    hush = dataset.drive(frames[:: max(1, len(frames) // SILENT)][:SILENT], window)
    hush = hush.replace(audio_windows=dataset.silence(len(hush.eyes), window))
    whole_clip = [dataset.drive(frames[i : i + AT_ONCE], window)
                  for i in range(0, len(frames), AT_ONCE)]  # fmt: skip
    drives = [*whole_clip, *(_part(hush, i) for i in range(0, len(hush.eyes), AT_ONCE))]
    with progress(len(drives), "bake", "step") as bar:
        found = [_said(config.drawing, whole, drive) for drive in bar.track(drives, task_id=0)]
    return np.concatenate(found)


def _added_to_nothing(spatial: Spatial) -> Spatial:
    """Return Gaussians that are 0 before anything is said of them."""
    return spatial._replace(canonical=jax.tree.map(jnp.zeros_like, spatial.canonical))


def _part(drive: Drive, start: int) -> Drive:
    return jax.tree.map(lambda value: value[start : start + AT_ONCE], drive)


def _said(config: Config, whole: Prepared, drive: Drive) -> np.ndarray:
    short = len(drive.eyes)
    padded = jax.tree.map(lambda v: np.concatenate([v, np.repeat(v[-1:], AT_ONCE - short, 0)]),
                          drive.replace(backgrounds=None))  # fmt: skip
    return np.asarray(_said_program(config, whole, padded)[:short], np.float16)


_said_program = jax.jit(said, static_argnums=0)


def _moved(cloud: DeformInputs, mean: Float[np.ndarray, "N D"]) -> DeformInputs:
    """Return a cloud moved by what the decoder says on average; all but places in 16 bits."""
    return DeformInputs(
        means=cloud.means + mean[:, 0:3],
        log_scales=_halved(cloud.log_scales + mean[:, 3:6]),
        quats=_halved(cloud.quats + mean[:, 6:10]),
        logit_opacities=_halved(cloud.logit_opacities + mean[:, 10]),
        sh=_halved(cloud.sh + mean[:, 11:].reshape(cloud.sh.shape)),
    )


def _halved(values: Array | None) -> Array | None:
    """Round to what a file keeps, so that an avatar draws the same from it."""
    return None if values is None else values.astype(jnp.float16).astype(jnp.float32)
