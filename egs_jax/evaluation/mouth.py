"""How far the mouth opens and whether it shuts: both ends of its opening, and lip closures.

The opening is `mouth_opening` of landmarks, which one network finds on true frames and on renders.
What is shut and what is open is told by the person's own training frames. T frames on one line of
time, NaN where one is left out or shows no face.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from egs_jax.evaluation.metrics import SHIFT_RUNS, Figure

Opening = Float[np.ndarray, " T"]

REST, WIDE = 0.05, 0.9
"""Quantiles of the training frames' opening: a mouth at rest, and one wide open. Farther out are
yawns, laughs and slips of the landmark network."""
SHUT, OPEN = 0.2, 0.35
"""Openings as shares of the way from rest to wide: below the first the lips are shut, above the
second open. On the training frames of three dev clips (Obama, tedlieu, the performer) the number
of closures is the same for any `SHUT` from 0.18 to 0.2 (16, 87, 17), and hardly another one for any
`OPEN` from 0.3 to 0.45."""
SHUT_RENDER = 0.25
"""The same as `SHUT` of a render. A landmark's noise may lift an opening that is just shut: of two
measures of the same mouth with a noise of 0.005 each, 98 to 99 % of the closures of one close in
the other, at 0.2 only 90 to 98 %."""
LEAST_WAY = 0.03
"""Least way from rest to wide: below, that noise alone would open and shut the mouth."""
LONGEST = 0.5
"""A closure is no longer than that [s]; a mouth that is shut for longer pauses."""
WITHIN = 2
"""Frames by which a render may close too early or too late."""
TENTH, LEAST_FRAMES = 0.1, 20


class Levels(NamedTuple):
    """Openings of one person."""

    shut: float
    """At most this in a closure of the true mouth."""
    shut_render: float
    """At most this where a render counts as shut."""
    open: float
    """At least this before and after a closure."""


def levels_of(opening: Opening) -> Levels | None:
    """Return what is shut and open of a person whose training frames open so far.

    None if the mouth hardly moves in them.
    """
    rest, wide = np.quantile(opening[np.isfinite(opening)], (REST, WIDE))
    if not wide - rest >= LEAST_WAY:
        return None
    return Levels(*(float(rest + share * (wide - rest)) for share in (SHUT, SHUT_RENDER, OPEN)))


def closures_of(opening: Opening, levels: Levels | None, fps: float) -> Int[np.ndarray, " K"]:
    """Find where a mouth shuts between two openings, as for m, b and p (and in short pauses).

    Args:
      opening: Of the true mouth. Nothing is found across a frame that has none.
      levels: What is shut and open; None: nobody knows, and nothing is found.
      fps: Frames per second.

    Returns:
      Of every closure the middle one of its shut frames, ascending.
    """
    found: list[int] = []
    if levels is None:
        return np.array(found, int)
    wide = np.flatnonzero(opening >= levels.open)
    for before, after in zip(wide, wide[1:], strict=False):
        between = opening[before + 1 : after]
        shut = np.flatnonzero(between <= levels.shut)
        if shut.size and np.isfinite(between).all() and len(between) <= round(LONGEST * fps):
            found.append(before + 1 + shut[len(shut) // 2])
    return np.array(found, int)


def closed_share(
    rendered: Opening, closures: Int[np.ndarray, " K"], levels: Levels | None
) -> Figure:
    """Return the share of the true closures that close in a render at nearly the same time.

    Args:
      rendered: Opening of the renders; one without a face is not shut.
      closures: `closures_of` the true mouth.
      levels: What is shut and open.

    Returns:
      In [0, 1]; None if there is no closure, or nobody knows what is one.
    """
    if levels is None:
        return Figure(None, "the mouth hardly moves in training: no telling what is shut")
    if not len(closures):
        return Figure(None, "no lip closure: the true mouth never shuts between two openings")
    shut = rendered <= levels.shut_render
    near = [shut[max(place - WITHIN, 0) : place + WITHIN + 1] for place in closures]
    return Figure(float(np.mean([each.any() for each in near])))


def shifted_share(
    runs: list[Opening], closures: Int[np.ndarray, " K"], levels: Levels | None
) -> Figure:
    """Return the 95th percentile of `closed_share` over runs of the opening, shifted in time.

    A mouth that is always shut, or flutters, closes as often in these.
    """
    shares = [closed_share(run, closures, levels) for run in runs]
    missing = next((share for share in shares if share.value is None), None)
    if missing is not None:
        return missing
    if len(shares) < SHIFT_RUNS:
        return Figure(None, f"{len(shares)} shifted runs; {SHIFT_RUNS} are needed")
    return Figure(float(np.percentile([share.value for share in shares], 95.0)))


def end_errors(rendered: Opening, true: Opening) -> tuple[Figure, Figure]:
    """Return by how much a render opens too far where the true mouth is widest, and narrowest.

    Returns:
      Mean of rendered less true opening over the tenth of the frames whose true opening is largest,
      and over that whose is smallest, both as a share of the way between the true means of the two
      tenths. At the widest a mouth that opens too little has a negative error, at the narrowest one
      that does not shut a positive. None with fewer than 20 frames, or if the mouth does not move.
    """
    both = np.isfinite(rendered) & np.isfinite(true)
    if both.sum() < LEAST_FRAMES:
        short = f"only {int(both.sum())} of {both.size} frames have both values"
        return Figure(None, short), Figure(None, short)
    order = np.flatnonzero(both)[np.argsort(true[both], kind="stable")]
    count = math.ceil(TENTH * len(order))
    ends = order[-count:], order[:count]
    way = float(true[ends[0]].mean() - true[ends[1]].mean())
    if way < LEAST_WAY:
        still = "the true mouth hardly moves"
        return Figure(None, still), Figure(None, still)
    widest, narrowest = (float((rendered[end] - true[end]).mean()) / way for end in ends)
    return Figure(widest), Figure(narrowest)
