"""Random inputs of `sample_planes`, what it computes in float64, and its sums in integers."""

from types import SimpleNamespace

import numpy as np

from kernels.planes import HASH_PRIME, Levels

SMALL = Levels((4, 8, 16), 64)  # a dense level, two hashed ones


def make_case(count=50, levels=SMALL, planes=3, features=1, seed=0, exponents=(0, 0)):
    """Tables, points and cotangents, these of magnitudes from two to the one to the other power."""
    rng = np.random.default_rng(seed)
    shape = (planes, len(levels.resolutions), count, features)
    sizes = 2.0 ** rng.uniform(*exponents, size=shape) if exponents[0] < exponents[1] else 1.0
    return SimpleNamespace(
        levels=levels,
        tables=rng.normal(size=(planes, levels.layout().entries, features)).astype(np.float32),
        points=rng.uniform(0, 1, (2, planes, count)).astype(np.float32),
        cotangents=(rng.normal(size=shape) * sizes).astype(np.float32),
    )


def corners_of(case, plane, level, point, dtype=np.float64):
    """Entry and weight of each corner around a point."""
    cells, starts, hashed, _ = case.levels.layout()
    cells = int(cells[level])
    scaled = [dtype(case.points[side, plane, point]) * dtype(cells) for side in (0, 1)]
    x, y = (min(max(int(np.floor(value)), 0), cells - 1) for value in scaled)
    wx, wy = scaled[0] - dtype(x), scaled[1] - dtype(y)
    for dy in (0, 1):
        for dx in (0, 1):
            entry = (y + dy) * (cells + 1) + x + dx
            if hashed[level]:
                entry = ((x + dx) ^ ((y + dy) * HASH_PRIME % 2**32)) % case.levels.table_size
            weights = (wy if dy else dtype(1) - wy), (wx if dx else dtype(1) - wx)
            yield int(starts[level]) + entry, weights


def by_hand(case):
    """Values, and the gradient of the tables, point by point in float64."""
    values, gradient = np.zeros(case.cotangents.shape), np.zeros(case.tables.shape)
    for plane, level, point in np.ndindex(*case.cotangents.shape[:3]):
        for entry, (wy, wx) in corners_of(case, plane, level, point):
            values[plane, level, point] += wy * wx * case.tables[plane, entry].astype(np.float64)
            gradient[plane, entry] += wy * wx * case.cotangents[plane, level, point]
    return values, gradient


def in_integers(case):
    """The gradient of the tables by Python's integers: exact sums of whole units."""
    largest = float(np.max(np.abs(case.cotangents)))
    shift = 62 - case.points.shape[2].bit_length() - int(np.frexp(largest)[1])
    sums = np.zeros(case.tables.shape, object)
    for plane, level, point, feature in np.ndindex(*case.cotangents.shape):
        cotangent = case.cotangents[plane, level, point, feature]
        for entry, (wy, wx) in corners_of(case, plane, level, point, np.float32):
            contribution = np.float32(np.float32(cotangent * wy) * wx)
            sums[plane, entry, feature] += int(np.ldexp(np.float64(contribution), shift))
    # An array of int64 refuses what does not fit, and rounds to float32 once.
    return np.ldexp(sums.astype(np.int64).astype(np.float32), -shift)
