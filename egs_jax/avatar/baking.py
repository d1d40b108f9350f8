"""A trained avatar -> a baked one: the patterns by which its Gaussians move, and how to read them.

Before: `precomputed`, the exact way to draw; after: `baked`, what this makes. The patterns are the
leading singular vectors of what the decoder says in frames of the clip's training part, of form and
of shine apart; least squares say what shine does by the codes of form. Every number of every
Gaussian counts as much as pictures depend on it. Adam has measured that: the mean
square of a loss's gradient by a number is, for losses of absolute differences, what that number
does to pictures, squared. (Frames with other poses and sound put together are no better: 0.2 dB
less on held-out frames of a 10 s clip.)
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float16, Int

from egs_jax.avatar.baked import Baked, nothing, rounded_up, said
from egs_jax.avatar.precomputed import Prepared, Spatial, assemble
from egs_jax.config import Config
from egs_jax.data.dataset import Dataset
from egs_jax.model.forward import canonical
from egs_jax.model.gaussians import Gaussians
from egs_jax.model.limits import Limits
from egs_jax.runtime.progress import progress
from egs_jax.types import Drive
from kernels.codes import FORM, Patterns
from kernels.deform import DeformInputs

CODES = 24
"""K, numbers a frame. (A person of 10 s, 256 px, speech of others: 51 dB to the exact pictures with
16 of them, 54 with 24, 56 with 32.)"""
SHINE_CODES = 4
"""Patterns of colors by direction, which are most of a Gaussian's numbers and move least."""
SAMPLE = 256
"""S, Gaussians whose decoder is exact."""
FRAMES = 96
"""Training frames that are looked at, evenly spaced."""
SHUT = 16
"""Further ones, whose lids are shut most: blinks are few and short."""
SILENT = 8
"""How many of them hear silence as well."""
AT_ONCE = 4
"""Frames that are decoded at once."""
BLOCK = 4096
"""Gaussians whose numbers are made float32 at once."""
LEAST = 1e-7
"""Share of the leading pattern's motion below which there is nothing but rounding."""
SMALLEST = 1e-20
"""Least square of motion, where nothing moves."""
ROUGH = 2.0
"""Most error of a later pattern's counts, of the first one's. (With
0.25, 1, 2, 3 a `tiny` avatar has 65.1, 64.8, 63.7, 63.2 dB to the exact pictures and 2.0, 1.4, 1.1,
0.9 MB of them.)"""
FLOOR = 0.3
"""Least weight of a number, of the root mean square over all Gaussians."""
RIDGE = 1e-3
"""Share of the leading code's spread below which a code says nothing of shine."""
WIDEST = 0.9999
"""Quantile of a pattern's numbers that the greatest count stands for."""


class Trained(NamedTuple):
    """An avatar as training left it."""

    config: Config
    networks: Mapping[str, Any]
    """Their parameters, {module name: parameters}."""
    spatial: Spatial
    """What is known of its Gaussians; those that live count."""
    weights: Float[np.ndarray, "n D"]
    """How much pictures depend on each number of the live ones; any unit."""
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


def weights_of(
    config: Config, seen: Gaussians, alive: Bool[Array, " N"]
) -> Float[np.ndarray, "n D"]:
    """Return how much pictures depend on each number of the live Gaussians.

    Args:
      config: Networks.
      seen: Mean squares of the loss's gradient by what is trained of all.
      alive: Those that live.
    """
    parts = jax.device_get(canonical(config.model, seen))
    columns = [parts.means, parts.log_scales, parts.quats, parts.logit_opacities, parts.sh]
    live = np.flatnonzero(alive)
    table = np.concatenate([part[live].reshape(len(live), -1) for part in columns], axis=1)
    return np.sqrt(np.maximum(table, 0))


def bake(trained: Trained, dataset: Dataset) -> Baked:
    """Bake an avatar by the clip that it was trained on."""
    return bake_motions(trained, motions_of(trained, dataset))


def bake_motions(
    trained: Trained, motions: Float16[np.ndarray, "F N D"], most: int = CODES
) -> Baked:
    """Bake an avatar whose motions are known (`motions_of`), to at most so many codes a frame."""
    live, weights = trained.live, floored(trained.weights)
    mean = motions.mean(axis=0, dtype=np.float32).astype(np.float16).astype(np.float32)
    moved = motions - mean.astype(np.float16)
    form, codes = principal_patterns(moved[..., :FORM], weights[:, :FORM], most)
    shine, follows = principal_patterns(moved[..., FORM:], weights[:, FORM:], SHINE_CODES)
    count = len(mean)
    chosen = sample_of(count)
    # As a file keeps them.
    weighed = np.asarray(_halved(jnp.asarray(weights[chosen, :FORM] / weights[:, :FORM].mean())))
    seen = (form[:, chosen] * weighed).reshape(len(form), -1)
    reader = np.linalg.pinv(seen.T.astype(np.float64))
    some = live.at(chosen)._replace(canonical=nothing(len(chosen), 1), skins=None)
    baked = Baked(
        cloud=_moved(live.canonical, mean),
        form=counted(form, codes.std(axis=0), weights[:, :FORM]),
        shine=counted(shine, follows.std(axis=0), weights[:, FORM:]),
        follows=jnp.asarray(np.linalg.lstsq(codes, follows, rcond=RIDGE)[0]),
        sample=trained.prepared(some),
        sample_mean=jnp.asarray(mean[chosen, :FORM]),
        weights=jnp.asarray(weighed),
        reader=_halved(jnp.asarray(reader, jnp.float32)),
        ranges=jnp.asarray(np.stack([codes.min(axis=0), codes.max(axis=0)])),
        alive=jnp.ones(count, bool),
        offsets=jnp.zeros((count, 2)),
        skins=_halved(live.skins),
    )
    return rounded_up(baked)


def sample_of(count: int) -> Int[np.ndarray, " S"]:
    """Return which of `count` Gaussians stay exact."""
    chosen = np.random.default_rng(0).choice(count, min(SAMPLE, count), replace=False)
    return np.sort(chosen)


def floored(weights: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    """Let no number of a Gaussian count for nothing: nobody saw much of it, or it never moved."""
    squares = np.square(np.float64(weights))
    least = np.maximum(FLOOR**2 * squares.mean(axis=0), 1e-12 * squares.max() + 1e-30)
    return np.float32(np.sqrt(squares + least))


def principal_patterns(
    motions: Float[np.ndarray, "F N D"], weights: Float[np.ndarray, "N D"], most: int
) -> tuple[Float[np.ndarray, "K N D"], Float[np.ndarray, "F K"]]:
    """Return the leading patterns of what Gaussians do about their mean.

    Args:
      motions: About their mean.
      weights: How much each number counts.
      most: Patterns at most; fewer where there is no more motion, at least one of any numbers.

    Returns:
      The patterns, of one length where numbers count as they weigh, and the codes of every frame,
      of which the leading one has a mean square of 1.
    """
    count, numbers = motions.shape[1:]
    if not numbers:  # colors without further harmonics
        return np.zeros((0, count, 0), np.float32), np.zeros((len(motions), 0), np.float32)
    blocks = [slice(i, i + BLOCK) for i in range(0, count, BLOCK)]
    wide = lambda block: motions[:, block].astype(np.float32)
    flat = lambda block: (wide(block) * weights[block]).reshape(len(motions), -1)
    gram = sum(np.float64(flat(block) @ flat(block).T) for block in blocks)
    values, vectors = np.linalg.eigh(gram)
    order = np.argsort(values)[::-1][:most]
    leading = [k for k in order if values[k] > LEAST * values.max()] or [order[0]]
    sizes = np.sqrt(np.maximum(values[leading], SMALLEST))
    unit = sizes[0] / np.sqrt(len(motions))
    mix = np.float32(vectors[:, leading] / sizes * unit)
    plain = lambda block: wide(block).reshape(len(motions), -1)
    made = [(mix.T @ plain(block)).reshape(len(leading), -1, numbers) for block in blocks]
    return np.concatenate(made, axis=1), np.float32(vectors[:, leading] * sizes / unit)


def counted(
    patterns: Float[np.ndarray, "K N D"],
    spread: Float[np.ndarray, " K"],
    weights: Float[np.ndarray, "N D"],
) -> Patterns:
    """Round patterns to counts of 8 bits.

    A step is the finer, the more its code moves and the more its numbers weigh, so that nothing
    adds more than a share of the error of the first pattern's, whose steps are as fine as 8 bits
    allow. Most counts of the later patterns are small, and pack well.

    Args:
      patterns: As they move Gaussians.
      spread: Standard deviation of each one's code.
      weights: Of all numbers.

    Returns:
      The patterns as counts, and what a count is of every pattern and number.
    """
    if not patterns.size:
        count, numbers = weights.shape
        return Patterns(jnp.zeros((len(patterns), numbers, count), jnp.int8),
                        jnp.zeros((len(patterns), numbers)))  # fmt: skip
    weight = np.sqrt(np.square(weights).mean(axis=0))
    finest = np.quantile(np.abs(patterns), WIDEST, axis=1) / 127
    seen = np.maximum(spread[:, None] * weight[None], 1e-30)
    allowed = ROUGH * np.median(finest[0] * seen[0]) / seen
    steps = np.maximum(np.maximum(finest, allowed), 1e-30)
    counts = np.clip(np.rint(patterns / steps[:, None]), -127, 127).astype(np.int8)
    return Patterns(jnp.asarray(counts.transpose(0, 2, 1)), jnp.asarray(steps, jnp.float32))


def motions_of(trained: Trained, dataset: Dataset) -> Float16[np.ndarray, "F N D"]:
    """Return what the decoder says of the live Gaussians in F frames of the clip; some silent."""
    config, live = trained.config, trained.live
    window, harmonics = config.model.window_frames, live.canonical.sh.shape[1]
    whole = trained.prepared(live._replace(canonical=nothing(len(live.features), harmonics)))
    frames = frames_to_look_at(dataset)
    hush = dataset.drive(frames[:: max(1, len(frames) // SILENT)][:SILENT], window)
    hush = hush.replace(audio_windows=dataset.silence(len(hush.eyes), window))
    whole_clip = [dataset.drive(frames[i : i + AT_ONCE], window)
                  for i in range(0, len(frames), AT_ONCE)]  # fmt: skip
    drives = [*whole_clip, *(_part(hush, i) for i in range(0, len(hush.eyes), AT_ONCE))]
    with progress(len(drives), "bake", "step") as bar:
        found = [_said(config.drawing, whole, drive) for drive in bar.track(drives, task_id=0)]
    return np.concatenate(found)


def frames_to_look_at(dataset: Dataset) -> Int[np.ndarray, " F"]:
    """Return training frames, evenly spaced, and those with the lids shut most."""
    frames = dataset.train_frames
    even = np.linspace(0, len(frames) - 1, FRAMES).astype(int)
    shut = np.argsort(-np.asarray(dataset.arrays["blink"])[frames], kind="stable")[:SHUT]
    return frames[np.union1d(even, shut)]


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
