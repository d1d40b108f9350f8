"""The demo performer's parts around the face: eyes, teeth, tongue, ears, hair, neck, clothes.

Parametric surfaces in centimeters in the axes of the canonical face (see `head`); every grid is
wound so that it faces outwards.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from scipy.interpolate import CubicSpline

from egs_jax.performer import anatomy
from egs_jax.performer.mesh import grid_triangles, normalize


@dataclass(frozen=True)
class Part:
    """A surface: points and coords [V, 3], triangles [F, 3], weights [V]; see `HeadModel`."""

    points: np.ndarray
    triangles: np.ndarray
    material: int
    coords: np.ndarray
    torso_weight: np.ndarray = field(default=None)
    jaw_weight: np.ndarray = field(default=None)
    shade: np.ndarray = field(default=None)

    def __post_init__(self) -> None:
        for name, value in (("torso_weight", 0.0), ("jaw_weight", 0.0), ("shade", 1.0)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, np.full(len(self.points), value))


def _tube(
    y: np.ndarray, radius_x: np.ndarray, radius_z: np.ndarray, z: np.ndarray, power: float, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """Make a stack of super-ellipses from top to bottom: points [rows * n, 3] and triangles."""
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
    round_ = lambda v: np.sign(v) * np.abs(v) ** power
    points = np.stack(
        [
            radius_x[:, None] * round_(np.sin(angle))[None, :],
            np.repeat(y[:, None], n, axis=1),
            z[:, None] + radius_z[:, None] * round_(np.cos(angle))[None, :],
        ],
        axis=-1,
    )
    return points.reshape(-1, 3), grid_triangles(len(y), n, closed=True)[:, ::-1]


def _profile(knots: list[tuple[float, ...]], rows: int) -> np.ndarray:
    """Interpolate knots smoothly (first number the parameter, here y) at `rows` even places."""
    table = np.array(sorted(knots))
    y = np.linspace(table[-1, 0], table[0, 0], rows)
    return np.column_stack([y, CubicSpline(table[:, 0], table[:, 1:])(y)])


def _eyeball(center: np.ndarray) -> Part:
    """Make the front half of a sphere; painted by the direction from its center."""
    polar = np.linspace(0, 0.55 * np.pi, 14)[:, None]
    around = np.linspace(0, 2 * np.pi, 32, endpoint=False)[None, :]
    direction = np.stack(
        [
            np.sin(polar) * np.cos(around),
            np.sin(polar) * np.sin(around),
            np.cos(polar) + 0 * around,
        ],
        axis=-1,
    ).reshape(-1, 3)
    triangles = grid_triangles(14, 32, closed=True)[:, ::-1]
    return Part(center + anatomy.EYE_RADIUS * direction, triangles, anatomy.EYE, direction)


def _teeth(*, upper: bool) -> Part:
    """Make an arch of teeth; coordinates: (place along the arch, height above the edge, row)."""
    x = np.linspace(-2.3, 2.3, 40)
    height = np.linspace(0, 1, 6)
    bulge = 0.10 * np.sin(np.pi * (0.2 + 0.8 * height))
    edge, gum, front = (-4.62, -3.3, 4.62) if upper else (-4.72, -5.7, 4.42)
    top_down = height[::-1] if upper else height
    y = edge + (gum - edge) * top_down
    points = np.stack(
        [
            np.repeat(x[None], 6, 0),
            np.repeat(y[:, None], 40, 1) + 0.05 * (x**2)[None] * (1 if upper else -0.5),
            front - 0.30 * (x**2)[None] + bulge[:, None],
        ],
        axis=-1,
    ).reshape(-1, 3)
    arc = np.repeat((x * (1 + 0.06 * x**2))[None], 6, 0).reshape(-1)
    coords = np.column_stack(
        [arc, np.repeat(top_down * abs(gum - edge), 40), np.full(240, float(upper))]
    )
    triangles = grid_triangles(6, 40, closed=False)[:, ::-1]
    return Part(
        points, triangles, anatomy.TEETH, coords, jaw_weight=np.full(240, 0.0 if upper else 1.0)
    )


def _tongue() -> Part:
    """Make a flat ellipsoid that lies on the lower jaw."""
    polar = np.linspace(0.02, np.pi - 0.02, 14)
    points, triangles = _tube(
        -5.35 + 0.6 * np.cos(polar),
        1.7 * np.sin(polar),
        1.9 * np.sin(polar),
        np.full(14, 2.35),
        1.0,
        24,
    )
    return Part(points, triangles, anatomy.TONGUE, points, jaw_weight=np.full(len(points), 1.0))


def _ear(side: float) -> Part:
    """Make one ear: a tilted oval dish with a rolled rim; `side` is -1 (image left) or 1."""
    rings, n = 18, 36
    radius = np.linspace(0.02, 1, rings)[:, None]
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)[None, :]
    back = (
        radius * np.cos(angle) * (1.62 + 0.25 * np.sin(angle))
    )  # wider at the top than at the lobe
    up = radius * np.sin(angle) * 3.0 - 0.25 * back
    rim = np.exp(-(((radius - 0.80) / 0.11) ** 2)) * smooth(-0.9, 0.2, np.sin(angle))
    inner = np.exp(-(((radius - 0.47) / 0.10) ** 2)) * smooth(-0.5, 0.5, np.cos(angle))
    dish = np.exp(-(((back + 0.45) / 0.55) ** 2) - ((up + 0.3) / 0.9) ** 2)
    out = 0.42 * rim + 0.26 * inner - 0.55 * dish - 1.3 * smooth(0.86, 1.06, radius + 0 * angle)
    x = 7.75 + 0.46 * (back + 1.3) + 0.89 * out
    z = -3.1 - 0.89 * (back + 1.3) + 0.46 * out
    points = np.stack([side * x, 0.9 + up, z], axis=-1).reshape(-1, 3)
    triangles = grid_triangles(rings, n, closed=True)
    shade = (1 - 0.55 * dish - 0.18 * (1 - rim) * (radius < 0.8)).reshape(-1)
    # From outside the angle runs clockwise on the right side and counter-clockwise on the left.
    coords = np.column_stack([np.full(len(points), 8.6), np.full(len(points), -1.0), points[:, 2]])
    triangles = triangles[:, ::-1] if side < 0 else triangles
    return Part(points, triangles, anatomy.SKIN, coords, shade=shade)


def smooth(low: float, high: float, x: Float[np.ndarray, "*S"]) -> Float[np.ndarray, "*S"]:
    """Return `anatomy.smoothstep`, shorter for the formulas here."""
    return anatomy.smoothstep(low, high, x)


def _hair_cap(oval: np.ndarray) -> Part:
    """Make hair over the skull, combed back; coordinates: (strand, way, height)."""
    n, rows = 168, 32
    place = np.linspace(-18, 18, n, endpoint=False)  # along the oval: 0 forehead, +-9 ears, 18 chin
    knots = np.concatenate([oval, oval[:1]])
    border = CubicSpline(np.arange(37), knots, bc_type="periodic")(place % 36)
    from_top = np.abs(place)
    part = np.exp(-(((place + 2.2) / 0.25) ** 2))  # the parting, left of the middle in the image
    line = np.interp(
        from_top, [0, 3, 4.5, 5.6, 6.6, 7.5, 8.5, 36], [0.0, 0.0, 0.01, 0.03, 0.10, 0.2, 0.3, 0.34]
    )
    rng = np.random.default_rng(5)
    fine = _strand_noise(rng, n, 3)
    coarse = _strand_noise(rng, n, 8)
    line = line + 0.004 * fine + 0.005 * coarse + 0.012 * part
    t = np.linspace(-0.03, 1, rows)[:, None] ** np.ones(n)[None]
    t = line[None] - 0.03 + (1.0 - line[None] + 0.03) * np.linspace(0, 1, rows)[:, None] ** 1.3
    points = np.empty((rows, n, 3))
    for i in range(n):
        points[:, i] = anatomy.skull_path(border[i : i + 1], t[:, i])[:, 0]
    into = t - line[None]
    top = smooth(9.0, 3.0, from_top)[None]
    volume = 0.30 + 1.35 * top
    rise = smooth(-0.02, 0.16, into) * (1 - 0.30 * part[None] * smooth(0.5, 0.0, into))
    height = -0.28 * smooth(0.02, -0.03, into) + volume * rise
    height = height + (0.045 * fine + 0.07 * coarse)[None] * smooth(0.0, 0.08, into) * smooth(
        1.0, 0.6, t
    )
    outward = points - np.array([0.0, 2.0, -4.5])
    outward /= np.linalg.norm(outward, axis=-1, keepdims=True)
    points = points + height[..., None] * outward
    strand = np.repeat(place[None], rows, 0) + 0.35 * into * np.sin(place * 1.3)[None]
    coords = np.stack([strand * 1.6, t * 16, height], axis=-1).reshape(-1, 3)
    shade = (
        0.72 + 0.28 * smooth(0.0, 0.10, into) - 0.25 * part[None] * smooth(0.5, 0.0, into)
    ).reshape(-1)
    return Part(
        points.reshape(-1, 3),
        grid_triangles(rows, n, closed=True),
        anatomy.HAIR,
        coords,
        shade=shade,
    )


def _strand_noise(rng: np.random.Generator, n: int, width: float) -> np.ndarray:
    """Draw periodic smooth noise [n] of unit variance, correlated over `width` samples."""
    spectrum = np.fft.rfft(rng.normal(size=n))
    spectrum *= np.exp(-0.5 * (np.arange(len(spectrum)) * width * 2 / n) ** 2)
    noise = np.fft.irfft(spectrum, n)
    return (noise - noise.mean()) / noise.std()


def _hair_fall() -> Part:
    """Make long hair behind ears and neck, down to the shoulders: one wavy tube."""
    n, rows = 132, 28
    knots = [(7, 5.6, 3.6, -7.4), (3, 8.0, 4.6, -7.0), (-2, 8.7, 4.6, -6.9), (-8, 9.0, 4.2, -6.4)]
    knots += [(-13, 9.5, 4.0, -5.6), (-18, 8.8, 3.6, -5.0)]
    y, rx, rz, z = _profile(knots, rows).T
    points, triangles = _tube(y, rx, rz, z, 0.75, n)
    rng = np.random.default_rng(8)
    fine = np.tile(_strand_noise(rng, n, 2.5), rows)
    coarse = np.tile(_strand_noise(rng, n, 9), rows)
    angle = np.tile(np.linspace(0, 2 * np.pi, n, endpoint=False), rows)
    wave = 0.28 * np.sin(points[:, 1] * 0.55 + 1.0 + 1.2 * coarse) * smooth(2, -8, points[:, 1])
    puff = 1 + 0.010 * fine + 0.022 * coarse
    coords = np.column_stack([angle * 9.5 + 0.1 * wave, points[:, 1], 0.5 + 0.2 * coarse])
    points = points * np.column_stack([puff, np.ones(len(puff)), puff])
    points[:, 0] += wave * np.sign(points[:, 0]) * 0.9
    shade = 0.16 + 0.84 * smooth(5.2, 8.6, np.abs(points[:, 0]))
    return Part(
        points,
        triangles,
        anatomy.HAIR,
        coords,
        shade=shade,
        torso_weight=0.35 * smooth(-2, -16, points[:, 1]),
    )


def _lock(side: float, tilt: float, radius: float, seed: int) -> Part:
    """Make a strand that sweeps from the parting over the temple and falls before the ear.

    Args:
      side: -1 (image left) or 1.
      tilt: How far back it leaves the parting [radians or so].
      radius: Of its thickest place [cm].
      seed: Of its small irregularities.
    """
    rows, n = 40, 12
    rng = np.random.default_rng(seed)
    along = np.linspace(0, 1, 6)[:, None]
    start, stop = (
        np.array([-0.16 * side - 0.12, 0.74, 0.66 - tilt]),
        np.array([0.96, 0.16, 0.20 - tilt]),
    )
    direction = normalize(start * np.cos(along * np.pi / 2) + stop * np.sin(along * np.pi / 2))
    if side < 0:
        direction = normalize(direction + np.array([-0.10, 0, 0]) * (1 - along))
    skull = 1 / np.linalg.norm(direction / anatomy.SKULL_RADII, axis=1, keepdims=True)
    over = anatomy.SKULL_CENTER + direction * (skull + 2.05 - 1.15 * along)
    fall = np.array([[8.05, 0.8, -1.9], [7.75, -3.8, -1.5], [7.55, -8.4, -0.3], [8.0, -12.6, 0.5]])
    fall = np.concatenate([fall, [[7.5, -16.2, 1.4]]]) + tilt * np.array([1.6, 0.0, -4.0])
    fall[:, 0] += rng.uniform(-0.3, 0.3, 5)
    knots = np.concatenate([over, fall])
    place = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(knots, axis=0), axis=1))])
    t = np.linspace(0, 1, rows)
    spline = CubicSpline(place / place[-1], knots)
    path, tangent = spline(t), normalize(spline(t, 1))
    axis = np.column_stack([0 * t, np.clip(path[:, 1], -30, 3.4), np.full(rows, -4.0)])
    across = normalize(np.cross(tangent, normalize(path - axis)))
    out = np.cross(across, tangent)
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
    width = radius * (0.35 + 0.65 * smooth(0, 0.2, t)) * (0.06 + 0.94 * smooth(1.0, 0.6, t))
    width = width[:, None, None] * (1 + 0.10 * _strand_noise(rng, n, 1.5))[None, :, None]
    ring = (
        0.55 * np.cos(angle)[:, None] * out[:, None]
        + 1.4 * np.sin(angle)[:, None] * across[:, None]
    )
    points = (path[:, None] + width * ring).reshape(-1, 3) * np.array([side, 1, 1])
    triangles = grid_triangles(rows, n, closed=True)
    corner = points[triangles]
    normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    from_path = corner.mean(axis=1) - (path * np.array([side, 1, 1]))[triangles.min(axis=1) // n]
    triangles = triangles[:, ::-1] if (normal * from_path).sum(axis=1).mean() < 0 else triangles
    coords = np.column_stack(
        [np.tile(np.sin(angle), rows) * 1.6 + 7 * seed, np.repeat(t, n) * 26, 0 * points[:, 0]]
    )
    weight = 0.30 * smooth(-2, -16, points[:, 1])
    shade = np.tile(0.8 + 0.2 * np.cos(angle), rows)
    return Part(points, triangles, anatomy.HAIR, coords, torso_weight=weight, shade=shade)


def _neck() -> Part:
    """Make the neck and the slope of the shoulders above the collar."""
    knots = [
        (-3.5, 4.4, 3.8, -4.0),
        (-8, 4.9, 4.9, -3.7),
        (-11, 5.1, 5.0, -4.0),
        (-13.5, 5.9, 5.3, -4.3),
    ]
    knots += [(-16, 7.0, 5.5, -4.6), (-18, 8.5, 5.6, -4.8)]
    y, rx, rz, z = _profile(knots, 34).T
    points, triangles = _tube(y, rx, rz, z, 0.95, 56)
    x, front = points[:, 0], points[:, 2] > -3
    cords = np.exp(-(((np.abs(x) - (1.1 + 0.28 * (points[:, 1] + 15.5))) / 0.75) ** 2))
    notch = np.exp(-((x / 1.0) ** 2) - ((points[:, 1] + 15.2) / 0.9) ** 2)
    points[:, 2] += front * (0.22 * cords * smooth(-8, -11, points[:, 1]) - 0.4 * notch)
    shade = 0.62 + 0.38 * smooth(-9.5, -14.0, points[:, 1])
    coords = np.column_stack([np.full(len(points), 8.6), np.full(len(points), -9.9), points[:, 2]])
    return Part(
        points,
        triangles,
        anatomy.SKIN,
        coords,
        torso_weight=smooth(-6, -14, points[:, 1]),
        shade=shade,
    )


def _clothes() -> list[Part]:
    """Make a knitted sweater with a round collar."""
    knots = [(-14.6, 7.6, 6.1, -4.2), (-15.6, 10.2, 6.8, -4.2), (-17.2, 14.6, 7.6, -4.2)]
    knots += [(-19.2, 17.8, 8.2, -4.1), (-22.5, 19.4, 8.8, -4.0), (-30, 20.0, 9.5, -3.8)]
    y, rx, rz, z = _profile(knots, 28).T
    points, triangles = _tube(y, rx, rz, z, 0.9, 72)
    dip = smooth(-19.5, -14.6, points[:, 1]) * smooth(-4.0, 2.0, points[:, 2])
    points[:, 1] -= 2.1 * dip  # the neckline hangs lower in front
    rng = np.random.default_rng(3)
    for _ in range(9):  # a few soft folds
        c = rng.uniform([-17, -27, -2], [17, -17, 5])
        along = rng.uniform(-0.8, 0.8)
        d = (points[:, 0] - c[0]) * np.sin(along) + (points[:, 1] - c[1]) * np.cos(along)
        e = (points[:, 0] - c[0]) * np.cos(along) - (points[:, 1] - c[1]) * np.sin(along)
        points[:, 2] += 0.28 * np.exp(-((d / 0.9) ** 2) - (e / 4.0) ** 2)
    body = Part(points, triangles, anatomy.CLOTH, points, torso_weight=np.ones(len(points)))
    around = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    across = np.linspace(0, 2 * np.pi, 10)
    rim_y = -14.7 - 2.1 * smooth(-4.0, 2.0, -4.2 + 6.1 * np.cos(around))
    out = 0.62 * np.cos(across)[:, None]
    collar = np.stack(
        [
            (7.45 + out) * np.sin(around)[None],
            rim_y[None] + 0.78 * np.sin(across)[:, None],
            -4.2 + (6.0 + out) * np.cos(around)[None],
        ],
        axis=-1,
    ).reshape(-1, 3)
    ribs = np.column_stack([np.tile(around * 90, 10), np.full(len(collar), 100.0), collar[:, 2]])
    faces = grid_triangles(10, 90, closed=True)
    return [body, Part(collar, faces, anatomy.CLOTH, ribs, torso_weight=np.ones(len(collar)))]


def build_parts(oval: Float[np.ndarray, "36 3"]) -> list[Part]:
    """Build all parts but the face; `oval` is its border, where the hair begins."""
    eyes = [_eyeball(center) for center in anatomy.EYE_CENTERS]
    mouth = [_teeth(upper=True), _teeth(upper=False), _tongue()]
    locks = [
        _lock(side, tilt, radius, seed + (side > 0))
        for side in (-1.0, 1.0)
        for tilt, radius, seed in ((0.0, 0.60, 30), (0.14, 0.8, 40), (0.30, 0.95, 50))
    ]
    return (
        eyes
        + mouth
        + locks
        + [_ear(-1.0), _ear(1.0), _hair_cap(oval), _hair_fall(), _neck(), *_clothes()]
    )
