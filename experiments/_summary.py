"""Means and spreads over seeds of the cases of an experiment, for its tables and its figure."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr


class Metric(NamedTuple):
    """A column."""

    label: str
    value: Callable[[dict], float | None]
    """The value of a case; None where it could not be computed."""
    digits: int
    better: str
    """"higher", "lower" or "nearer 1"."""


class Spread(NamedTuple):
    """Values over seeds."""

    mean: float
    std: float | None
    """Deviation of a sample (n - 1); None for a single value."""
    count: int


def mouth_margin(case: dict) -> float | None:
    """Return by how much the mouth follows its own sound better than shifted sound."""
    pair = case["mouth_r"], case["mouth_r_shift_p95"]
    return None if None in pair else pair[0] - pair[1]


QUALITY = (
    Metric("PSNR head, dB", lambda c: c["psnr_head"], 2, "higher"),
    Metric("LPIPS", lambda c: c["lpips"], 4, "lower"),
    Metric("LMD, px", lambda c: c["lmd"], 3, "lower"),
    Metric("mouth r", lambda c: c["mouth_r"], 2, "higher"),
    Metric("mouth r less shifted p95", mouth_margin, 2, "higher"),
    Metric("silence, percentile", lambda c: c["mouth_silence_percentile"], 1, "lower"),
)

CURVE = (
    Metric("PSNR head, dB", lambda c: c["psnr_head"], 2, "higher"),
    Metric("PSNR lips, dB", lambda c: c["psnr_lips"], 2, "higher"),
    Metric("LPIPS", lambda c: c["lpips"], 4, "lower"),
    Metric("LMD, px", lambda c: c["lmd"], 2, "lower"),
    Metric("mouth r", lambda c: c["mouth_r"], 2, "higher"),
    Metric("mouth gain", lambda c: c["mouth_gain"], 2, "nearer 1"),
)
"""What is shown over seconds of video."""


def grouped(cases: Sequence[dict], *names: str) -> dict[tuple, list[dict]]:
    """Group cases by their values of `names`, in the order of their first case."""
    groups: dict[tuple, list[dict]] = {}
    for case in cases:
        groups.setdefault(tuple(case[name] for name in names), []).append(case)
    return groups


def spread_of(values: Sequence[float | None]) -> Spread | None:
    """Return mean and standard deviation of the values there are; None if there is none."""
    found = [value for value in values if value is not None]
    if not found:
        return None
    std = float(np.std(found, ddof=1)) if len(found) > 1 else None
    return Spread(float(np.mean(found)), std, len(found))


def paired(cases: Sequence[dict], base: Sequence[dict], metric: Metric) -> Spread | None:
    """Return differences to the base's case of the same seed."""
    others = {case["seed"]: metric.value(case) for case in base}
    pairs = [(metric.value(case), others.get(case["seed"])) for case in cases]
    return spread_of([a - b for a, b in pairs if a is not None and b is not None])


def stands_out(gap: Spread) -> bool:
    """Say whether a mean difference is larger than its own deviation."""
    return gap.std is not None and abs(gap.mean) > gap.std


def by_chance(count: int) -> float:
    """Return how often `stands_out` is true of `count` differences between equals (normal ones)."""
    return float(2 * stdtr(count - 1, -(count**0.5)))


def shown(spread: Spread | None, digits: int, *, signed: bool = False) -> str:
    """Write such as "31.74 ± 0.12"; a single value stands alone, none is a dash."""
    if spread is None:
        return "-"
    mean = f"{spread.mean:{'+' if signed else ''}.{digits}f}"
    return mean if spread.std is None else f"{mean} ± {spread.std:.{digits}f}"


def seconds_to(points: list[tuple[float, float]], psnr: float) -> float | None:
    """Find when a course first reaches a PSNR, between its points; None if it never does."""
    for (t0, p0), (t1, p1) in zip(points, points[1:], strict=False):
        if p0 < psnr <= p1:
            return t0 + (t1 - t0) * (psnr - p0) / (p1 - p0)
    return points[0][0] if points and points[0][1] >= psnr else None
