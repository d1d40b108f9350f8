"""The demo performer's looks: painted skin, soft light, and the picture of one pose.

Light is computed in linear RGB for every visible pixel of a picture twice as large as wanted: a
warm wrapped key light (the red channel wraps furthest, which reads as light scattering under the
skin), a cool fill, sky and ground, a rim light, and soft shadows from the blurred depth picture.
Camera axes are OpenCV's (+x right, +y down, +z away).
"""

from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from egs_jax.performer import anatomy, head
from egs_jax.performer.mesh import normalize, rasterize_triangles, vertex_normals

SUPERSAMPLE = 2
_TEXTURE_SCALE = 44  # pixels of the skin's texture per cm
_TEXTURE_CORNER = np.array([-9.0, 10.0])  # its upper left corner [cm]
_SKIN = np.array([0.63, 0.335, 0.225])
_LIP = np.array([0.52, 0.135, 0.125])
_BROW = np.array([0.075, 0.036, 0.02])


def _unit(*vector: float) -> np.ndarray:
    return (np.array(vector) / np.linalg.norm(vector)).astype(np.float32)


_KEY, _FILL = _unit(-0.55, -0.62, -0.72), _unit(0.85, -0.15, -0.55)
_RIM_LEFT, _RIM_RIGHT = _unit(-0.75, -0.45, 0.5), _unit(0.8, -0.5, 0.45)
_KEY_COLOR = np.array([1.12, 1.00, 0.86], np.float32)
_FILL_COLOR = np.array([0.15, 0.19, 0.27], np.float32)
_SKY, _GROUND = np.array([0.25, 0.27, 0.31], np.float32), np.array([0.17, 0.12, 0.10], np.float32)
_RIM_COLOR = np.array([1.0, 0.92, 0.80], np.float32)


def _to_texture(points: np.ndarray) -> np.ndarray:
    """Map rest positions [..., 2+] in cm to texture pixels [..., 2]."""
    return (points[..., :2] - _TEXTURE_CORNER) * np.array([1, -1]) * _TEXTURE_SCALE


def _mask(shape: tuple[int, int], polygon: np.ndarray, blur_cm: float) -> np.ndarray:
    """Draw a soft filled polygon [h, w, 1] from texture points [n, 2]."""
    image = np.zeros(shape, np.uint8)
    cv2.fillPoly(image, [np.round(polygon * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    soft = cv2.GaussianBlur(image.astype(np.float32) / 255, (0, 0), blur_cm * _TEXTURE_SCALE)
    return soft[..., None]


def _blob(grid: np.ndarray, x: float, y: float, sx: float, sy: float) -> np.ndarray:
    """Draw a Gaussian spot [h, w, 1], mirrored at x = 0; `grid` [h, w, 2] holds cm."""
    dx = (np.abs(grid[..., 0]) - x) / sx
    return np.exp(-(dx**2) - ((grid[..., 1] - y) / sy) ** 2)[..., None]


def _paint_brows(shape: tuple[int, int], rest: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the coverage [h, w, 1] of the eyebrows: some hundred fine hairs along each."""
    layer = np.zeros(shape, np.float32)
    rows = (
        ([70, 63, 105, 66, 107], [46, 53, 52, 65, 55]),
        ([300, 293, 334, 296, 336], [276, 283, 282, 295, 285]),
    )
    for side, (high, low) in zip((-1, 1), rows, strict=True):
        knots = np.linspace(0, 1, 5)  # 0 at the temple, 1 at the nose
        middle = 0.42 * rest[high, :2] + 0.58 * rest[low, :2]
        for _ in range(330):
            s, u = rng.uniform(0.03, 0.97), rng.normal() * 0.5
            at = np.array([np.interp(s, knots, middle[:, k]) for k in (0, 1)])
            half = 0.25 * np.interp(s, [0, 0.3, 0.8, 1.0], [0.25, 0.8, 1.15, 0.8])
            at[1] += np.clip(u, -1, 1) * half + np.interp(s, knots, [0.0, 0.10, 0.10, -0.02, -0.16])
            lean = np.deg2rad(np.interp(s, [0, 0.5, 0.85, 1], [-26, 2, 18, 42]) - 22 * u)
            step = rng.uniform(0.28, 0.5) * np.array([side * np.cos(lean), np.sin(lean)])
            ends = np.round(_to_texture(np.stack([at, at + step])) * 16).astype(int)
            stroke = np.zeros(shape, np.uint8)
            box = slice(max(ends[:, 1].min() // 16 - 4, 0), ends[:, 1].max() // 16 + 5)
            cv2.line(
                stroke[box],
                ends[0] - [0, box.start * 16],
                ends[1] - [0, box.start * 16],
                255,
                2,
                cv2.LINE_AA,
                4,
            )
            layer[box] = 1 - (1 - layer[box]) * (1 - 0.5 * stroke[box] / 255.0)
    return cv2.GaussianBlur(layer, (0, 0), 1.2)[..., None]


@lru_cache(maxsize=1)
def skin_texture() -> np.ndarray:
    """Paint the face once: linear RGB albedo and gloss [h, w, 4], seen from the front at rest."""
    rest = head.build_head().rest
    shape = (20 * _TEXTURE_SCALE, 18 * _TEXTURE_SCALE)
    rows, cols = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    grid = np.stack([cols, -rows], axis=-1) / _TEXTURE_SCALE + _TEXTURE_CORNER.astype(np.float32)
    rng = np.random.default_rng(11)
    noise = lambda sigma: _normalized(
        cv2.GaussianBlur(rng.normal(size=shape).astype(np.float32), (0, 0), sigma)
    )
    tone = 0.017 * noise(1.3) + 0.014 * noise(5) + 0.02 * noise(26)
    albedo = _SKIN * (1 + tone[..., None])
    gloss = 0.42 + 0.20 * _blob(grid, 0, 5.8, 3.5, 2.2) + 0.30 * _blob(grid, 0, 0.5, 0.7, 3.0)

    def tint(mask: np.ndarray, factors: tuple[float, float, float]) -> None:
        nonlocal albedo
        albedo = albedo * (1 + mask * (np.array(factors) - 1))

    tint(_blob(grid, 4.4, -0.9, 2.0, 1.6), (1.03, 0.80, 0.80))  # cheeks
    tint(_blob(grid, 0, -0.7, 1.1, 0.9), (1.02, 0.87, 0.86))  # tip of the nose
    tint(_blob(grid, 3.1, 3.55, 1.6, 0.55), (0.88, 0.76, 0.74))  # upper lids
    tint(_blob(grid, 2.9, 1.75, 1.3, 0.35), (0.95, 0.89, 0.90))  # below the eyes
    tint(_blob(grid, 0.0, -5.95, 1.3, 0.35), (0.90, 0.84, 0.82))  # below the lower lip
    tint(_blob(grid, 0.0, -2.75, 0.35, 0.5), (0.93, 0.88, 0.87))  # the groove above the upper lip
    tint(_blob(grid, 1.75, -1.45, 0.30, 0.60), (0.92, 0.82, 0.80))  # the wings of the nose
    nostril = rest[[79, 166, 75, 60, 20, 238, 239]]
    for mirror in ([1, 1, 1], [-1, 1, 1]):
        tint(_mask(shape, _to_texture(nostril * mirror), 0.10), (0.20, 0.09, 0.08))
    freckles = np.zeros(shape, np.uint8)
    for _ in range(110):
        spot = np.array([rng.normal() * 3.4, -0.4 + rng.normal() * 1.1])
        cv2.circle(
            freckles,
            np.round(_to_texture(spot) * 16).astype(int),
            int(rng.uniform(10, 24)),
            255,
            -1,
            cv2.LINE_AA,
            4,
        )
    tint(0.28 * cv2.GaussianBlur(freckles / 255.0, (0, 0), 1.0)[..., None], (0.8, 0.6, 0.5))

    lips = _mask(shape, _to_texture(rest[head.LIPS_OUTER]), 0.055)
    inner = head.LIPS_INNER_UP + head.LIPS_INNER_LOW
    seam = _mask(shape, _to_texture(rest[inner]), 0.09)
    creases = 1 + 0.10 * noise(2.2) * (0.5 + 0.5 * np.sin(cols * 0.35 + 3 * noise(12)))
    upper = anatomy.smoothstep(-4.30, -4.10, grid[..., 1])
    lip_color = _LIP * (creases * (1 - 0.16 * upper))[..., None]
    albedo = albedo * (1 - 0.9 * lips) + 0.9 * lips * lip_color
    tint(seam, (0.72, 0.58, 0.58))
    gloss = gloss * (1 - lips) + 1.25 * lips
    for up, low in zip(head.EYE_UP, head.EYE_LOW, strict=True):
        edge = _mask(shape, _to_texture(rest[up + low]), 0.05)
        albedo = albedo * (1 - edge) + edge * np.array([0.42, 0.17, 0.14])
    brows = _paint_brows(shape, rest, rng)
    albedo = albedo * (1 - 0.92 * brows) + 0.92 * brows * _BROW
    gloss = gloss * (1 - 0.8 * brows)
    return np.concatenate([albedo, gloss], axis=-1).astype(np.float32)


def _normalized(noise: np.ndarray) -> np.ndarray:
    return (noise - noise.mean()) / noise.std()


@lru_cache(maxsize=1)
def _strands() -> np.ndarray:
    """Draw noise [512, 2048] that is fine across columns and long along rows."""
    rng = np.random.default_rng(21)
    fine = cv2.GaussianBlur(rng.normal(size=(512, 2048)).astype(np.float32), (0, 0), 1.6, None, 40)
    wide = cv2.GaussianBlur(rng.normal(size=(512, 2048)).astype(np.float32), (0, 0), 9, None, 60)
    return 0.75 * _normalized(fine) + 0.45 * _normalized(wide)


def _sample(image: np.ndarray, x: np.ndarray, y: np.ndarray, border: int) -> np.ndarray:
    """Sample `image` bilinearly at pixels (x, y) [P], folded: remap wants a picture."""
    width = 2048
    pad = -len(x) % width
    fold = lambda v: np.pad(v.astype(np.float32), (0, pad)).reshape(-1, width)
    out = cv2.remap(image, fold(x), fold(y), cv2.INTER_LINEAR, borderMode=border)
    return out.reshape(-1, *image.shape[2:])[: len(x)]


@lru_cache(maxsize=4)
def background(size: int) -> np.ndarray:
    """Return a quiet room out of focus, uint8 [size, size, 3], the same in every frame."""
    rows, cols = np.mgrid[:size, :size].astype(np.float32) / size
    cool, warm = np.array([0.040, 0.105, 0.130]), np.array([0.50, 0.37, 0.25])
    glow = np.exp(-(((cols - 0.16) / 0.42) ** 2) - ((rows - 0.25) / 0.5) ** 2)[..., None]
    image = cool * (1.15 - 0.6 * rows[..., None]) + warm * 0.60 * glow
    rng = np.random.default_rng(4)
    for _ in range(16):
        x, y, r = rng.uniform(0, 1), rng.uniform(0, 0.75), rng.uniform(0.025, 0.065)
        disk = anatomy.smoothstep(r + 0.015, r - 0.015, np.hypot(cols - x, rows - y))
        color = np.array([0.9, 0.62, 0.32]) if rng.uniform() < 0.6 else np.array([0.25, 0.5, 0.55])
        image = image + (0.05 + 0.07 * rng.uniform()) * disk[..., None] * color
    vignette = 1 - 0.45 * ((cols - 0.5) ** 2 + (rows - 0.5) ** 2)[..., None]
    return _encode(image * vignette)


def _eye_albedo(direction: np.ndarray, gaze: tuple[float, float]) -> np.ndarray:
    """Return white, iris and pupil [P, 3] by the direction from the eyeball's center [P, 3]."""
    gx, gy = np.sin(gaze[0]), np.sin(gaze[1])
    forward = np.array([gx, gy, np.sqrt(1 - gx**2 - gy**2)])
    right = _unit(forward[2], 0, -forward[0])
    up = np.cross(forward, right)
    a, b = direction @ right * anatomy.EYE_RADIUS, direction @ up * anatomy.EYE_RADIUS
    radius, around = np.hypot(a, b), np.arctan2(b, a)
    fibres = 0.5 + 0.5 * np.sin(around * 23 + 2.5 * np.sin(around * 7)) * np.sin(around * 41 + 1)
    iris = np.array([0.045, 0.035, 0.02]) + (0.05 + 0.10 * fibres)[:, None] * np.array(
        [0.95, 0.66, 0.30]
    )
    warm = np.exp(-(((radius - 0.38) / 0.12) ** 2))[:, None] * np.array([0.20, 0.10, 0.02])
    lit = (1.0 - 0.55 * anatomy.smoothstep(-0.3, 0.5, b))[:, None]  # light pools opposite the key
    iris = (iris + warm) * lit * 1.5
    iris = iris * (1 - 0.82 * anatomy.smoothstep(0.58, 0.76, radius))[:, None]
    iris = iris * anatomy.smoothstep(0.30, 0.37, radius)[:, None] + 0.004
    white = np.array([0.74, 0.70, 0.68]) * np.ones((len(a), 1))
    white[:, 1:] *= (1 - 0.16 * anatomy.smoothstep(0.75, 1.4, radius))[:, None]
    lid = 1 - 0.5 * anatomy.smoothstep(0.10, 0.30, direction[:, 1])  # the shadow of the upper lid
    white, iris = white * lid[:, None], iris * lid[:, None]
    mask = anatomy.smoothstep(0.80, 0.72, radius)
    return white * (1 - mask[:, None]) + iris * mask[:, None]


def _tooth_albedo(coords: np.ndarray) -> np.ndarray:
    """Return enamel, the gaps between teeth and gums [P, 3]; coordinates of `parts`."""
    arc, height = np.abs(coords[:, 0]), coords[:, 1]
    gaps = np.array([0.0, 0.84, 1.50, 2.22])
    gap = np.exp(-(((arc[:, None] - gaps) / 0.045) ** 2)).max(axis=1)
    enamel = np.array([0.78, 0.73, 0.63]) * (1 - 0.42 * gap)[:, None]
    gum = anatomy.smoothstep(0.92, 1.04, height - 0.10 * gap)[:, None]
    return enamel * (1 - gum) + gum * np.array([0.42, 0.14, 0.13])


def _surface(
    coords: np.ndarray, material: np.ndarray, gaze: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return albedo [P, 3], gloss, specular power and normal jitter [P] of all visible pixels."""
    count = len(material)
    albedo, gloss = np.empty((count, 3), np.float32), np.empty(count, np.float32)
    power, jitter = np.full(count, 24, np.float32), np.zeros(count, np.float32)

    at = np.flatnonzero(material == anatomy.SKIN)
    xy = _to_texture(coords[at])
    painted = _sample(skin_texture(), xy[:, 0], xy[:, 1], cv2.BORDER_REPLICATE)
    albedo[at], gloss[at] = painted[:, :3], painted[:, 3]
    at = np.flatnonzero(material == anatomy.EYE)
    albedo[at] = _eye_albedo(coords[at], gaze)
    gloss[at], power[at] = 1.0, 90
    at = np.flatnonzero(material == anatomy.TEETH)
    albedo[at] = _tooth_albedo(coords[at]) * (1 - 0.10 * coords[at, :1] ** 2).clip(0.2)
    gloss[at], power[at] = 1.0, 60
    for kind, color, shine in (
        (anatomy.MOUTH, (0.10, 0.018, 0.018), 0.1),
        (anatomy.TONGUE, (0.36, 0.085, 0.085), 0.5),
    ):
        at = np.flatnonzero(material == kind)
        albedo[at], gloss[at] = color, shine
    at = np.flatnonzero(material == anatomy.HAIR)
    strand = _sample(_strands(), coords[at, 0] * 26, coords[at, 1] * 6, cv2.BORDER_WRAP)
    brown = np.array([0.078, 0.030, 0.014]) * (1 + 0.30 * strand)[:, None].clip(0.25, 2.2)
    albedo[at], gloss[at], power[at], jitter[at] = brown, 0.9 + 0.3 * strand, 22, 0.05 * strand
    at = np.flatnonzero(material == anatomy.CLOTH)
    x, y = coords[at, 0], coords[at, 1]
    knit = 0.5 + 0.28 * np.sin(x * 16 + 1.2 * np.sin(y * 22))
    rib = np.where(y > 50, 0.45 + 0.35 * np.sin(x), knit)  # the collar's paint has y = 100
    albedo[at] = np.array([0.030, 0.125, 0.150]) * (0.72 + 0.5 * rib)[:, None]
    gloss[at], power[at] = 0.05, 6
    return albedo, gloss, power, jitter


def _soft_shadow(pixels: np.ndarray, depth: np.ndarray, size: int, scale: float) -> np.ndarray:
    """Return how far pixels [P] lie behind what is around and towards the light, in [0, 1]."""
    image = np.full(size * size, depth.max(), np.float32)
    image[pixels] = depth
    image = image.reshape(size, size)
    small = cv2.resize(image, (size // 2, size // 2), interpolation=cv2.INTER_AREA)
    total = np.zeros_like(image)
    for blur_cm, shift_cm, reach_cm, weight in (
        (0.35, 0.2, 0.9, 0.32),
        (1.1, 0.9, 2.4, 0.42),
        (2.6, 2.0, 5.5, 0.42),
    ):
        blurred = cv2.GaussianBlur(small, (0, 0), max(blur_cm * scale / 2, 0.5))
        move = np.array(
            [[1, 0, shift_cm * scale / 2 * 0.6], [0, 1, shift_cm * scale / 2]], np.float32
        )
        blurred = cv2.warpAffine(blurred, move, small.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
        blurred = cv2.resize(blurred, (size, size), interpolation=cv2.INTER_LINEAR)
        total += weight * np.clip((image - blurred) / (reach_cm * head.UNITS_PER_CM), 0, 1)
    return total.reshape(-1)[pixels].clip(0, 1)


def _light(
    normal: np.ndarray, view: np.ndarray, surface: tuple[np.ndarray, ...], shade: np.ndarray,
    material: np.ndarray, shadow: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Return the linear RGB [P, 3] of lit pixels."""
    albedo, gloss, power, jitter = surface
    kinds = np.arange(anatomy.CLOTH + 1)
    soft = np.isin(kinds, (anatomy.SKIN, anatomy.TONGUE, anatomy.TEETH))[
        :, None
    ]  # what light enters
    wrap = np.where(soft, (0.42, 0.20, 0.13), 0.12).astype(np.float32)[material]
    dark = np.where(soft, (0.72, 0.86, 0.92), 0.85).astype(np.float32)[material]
    strength = np.where(kinds == anatomy.HAIR, 0.13, 0.115).astype(np.float32)[material]
    tint = np.where((kinds == anatomy.HAIR)[:, None], (1.0, 0.62, 0.40), _KEY_COLOR).astype(
        np.float32
    )
    edge = np.full(len(kinds), 0.10, np.float32)
    edge[[anatomy.SKIN, anatomy.HAIR]] = 0.34, 0.20

    key = np.maximum(((normal @ _KEY)[:, None] + wrap) / (1 + wrap), 0)
    block = 1 - shadow[:, None] * dark
    fill = np.maximum((normal @ _FILL + 0.35) / 1.35, 0)[:, None]
    sky = (0.5 - 0.5 * normal[:, 1])[:, None]
    ambient = (_GROUND + (_SKY - _GROUND) * sky) * (1 - 0.55 * shadow)[:, None]
    color = albedo * ((key * _KEY_COLOR + fill * _FILL_COLOR) * block + ambient) * shade[:, None]

    towards = np.einsum("ij,ij->i", normal, normalize(view + _KEY)) + jitter
    strength = strength * gloss * shade * (1 - 0.8 * shadow)
    color += (strength * np.clip(towards, 0, 1) ** power)[:, None] * tint[material]
    grazing = 1 - np.clip(np.einsum("ij,ij->i", normal, view), 0, 1)
    rim = np.maximum(normal @ _RIM_LEFT, 0) * 0.8 + np.maximum(normal @ _RIM_RIGHT, 0)
    amount = rim * grazing**2 * edge[material] * shade
    color += amount[:, None] * _RIM_COLOR * (0.35 + 0.65 * np.sqrt(albedo))
    return color


def _catch_light(image: np.ndarray, normal: np.ndarray, eye: np.ndarray) -> None:
    """Add the window's reflection to the eyes' pixels of `image` [P, 3] in place."""
    for direction, width, strength in (
        (_unit(-0.20, -0.24, -1), 0.085, 1.1),
        (_unit(0.24, 0.16, -1), 0.07, 0.18),
    ):
        distance = np.linalg.norm(normal[eye] - direction, axis=1)
        image[eye] += (strength * anatomy.smoothstep(width, width * 0.55, distance))[
            :, None
        ].astype(np.float32)


def _encode(linear: np.ndarray) -> np.ndarray:
    """Apply a soft shoulder and display gamma: linear RGB [P, 3] to uint8, by a (quick) table."""
    steps = np.linspace(0, 1, 4096) ** 2 * 4  # finer in the dark
    table = np.round(255 * (1 - np.exp(-1.55 * steps)) ** (1 / 2.2)).astype(np.uint8)
    return table[(np.sqrt(np.clip(linear, 0, 4) / 4) * 4095 + 0.5).astype(np.int32)]


def draw_pose(
    expression: head.Expression,
    viewmat: Float[np.ndarray, "4 4"],
    torso_viewmat: Float[np.ndarray, "4 4"],
    K: Float[np.ndarray, "3 3"],
    size: int,
) -> UInt8[np.ndarray, "size size 3"]:
    """Draw the performer.

    Args:
      expression: The face's expression.
      viewmat: World to camera of the head.
      torso_viewmat: The same for neck and shoulders; vertices in between are blended.
      K: Intrinsics [pixels of the wanted picture].
      size: Width and height of the picture [pixels].

    Returns:
      The picture, RGB.
    """
    model = head.build_head()
    large = size * SUPERSAMPLE
    world = head.to_world(head.pose_vertices(model, expression))
    weight = model.torso_weight[:, None]
    camera = (1 - weight) * (world @ viewmat[:3, :3].T + viewmat[:3, 3])
    camera += weight * (world @ torso_viewmat[:3, :3].T + torso_viewmat[:3, 3])
    projected = camera @ (K * [[SUPERSAMPLE], [SUPERSAMPLE], [1]]).T
    points2d, depths = projected[:, :2] / projected[:, 2:], camera[:, 2]
    normals = vertex_normals(camera, model.triangles, model.gather)
    pixels, faces, weights = rasterize_triangles(points2d, depths, model.triangles, large, large)

    columns = np.concatenate([normals, model.coords, model.shade[:, None], camera], axis=1).astype(
        np.float32
    )
    corner = model.triangles[faces]
    mixed = np.einsum("pkc,pk->pc", columns[corner], weights)
    normal, coords, shade, position = mixed[:, :3], mixed[:, 3:6], mixed[:, 6], mixed[:, 7:]
    normal, view = normalize(normal), normalize(-position)
    material = model.materials[faces]
    scale = K[0, 0] * SUPERSAMPLE * head.UNITS_PER_CM / viewmat[2, 3]  # pixels per cm
    shadow = _soft_shadow(pixels, position[:, 2], large, scale)
    surface = _surface(coords, material, expression.gaze)
    color = _light(normal, view, surface, shade, material, shadow)
    _catch_light(color, normal, np.flatnonzero(material == anatomy.EYE))

    picture = background(large).copy()
    picture.reshape(-1, 3)[pixels] = _encode(color)
    for row in model.lid_rows:
        line = np.round(points2d[row] * 16).astype(np.int32) - 8
        cv2.polylines(
            picture, [line], False, (34, 20, 16), max(round(0.105 * scale), 1), cv2.LINE_AA, 4
        )
    return cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
