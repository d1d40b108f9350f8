"""The cloud of points that training starts from: the person's face, and a shell for the rest.

Three parts, in world units (OpenCV axes, head about +-0.8): the face, drawn uniformly over the area
of the person's own mean mesh; the inside of the mouth, a curved sheet behind the lips, so that
teeth have points to grow from; and the shell of skull, hair and ears: the surface of the visual
hull of the head masks of many frames. A head that hardly turns leaves the hull's depth open, so the
hull is also held between the two halves of an ellipsoid whose front half is fitted to the rim of
the face and whose back half is as deep as heads are. Colors are means over the frames that see a
point.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy import ndimage
from scipy.spatial import cKDTree

from egs_jax.face.mesh import FACE_OVAL, LIPS_OUTER, NUM_MESH_VERTICES
from egs_jax.runtime.errors import InputError
from kernels.checks import typechecked

_FACE_SHARE, _MOUTH_SHARE = 0.45, 0.04
_VIEWS = 48  # frames to use, spread evenly over the clip
_GRID = 64  # voxels a side of the hull
_KEEP = 0.96  # share of the masks that a voxel must be in: forgives a few bad masks
_SEEN = 0.1  # share of the masks that must show it: what lies mostly outside is not needed
_UNSEEN_SHARE = 0.2  # density of the shell where no camera looks, against where one does
_BACK_DEPTH = 1.15  # from the ears' roots back, in half the distance between them
_EAR_THICKNESS = 0.15  # likewise


@typechecked
def head_cloud(
    mean_shape: Float[np.ndarray, "478 3"],
    triangles: Int[np.ndarray, "F 3"],
    viewmats: Float[np.ndarray, "T 4 4"],
    K: Float[np.ndarray, "3 3"],
    head_mask: Callable[[int], np.ndarray],
    frames: Sequence | np.ndarray,
    num_points: int = 25_000,
    seed: int = 0,
) -> tuple[Float[np.ndarray, "P 3"], UInt8[np.ndarray, "P 3"]]:
    """Make the initial cloud.

    Args:
      mean_shape: The person's mean landmarks, world units.
      triangles: Vertex numbers of the face mesh.
      viewmats: World-to-camera transforms.
      K: Intrinsics in pixels.
      head_mask: Gives the head mask of a frame, bool [H, W].
      frames: The video, indexed by frame: uint8 [H, W, 3] each; a memory map will do.
      num_points: Points to make.
      seed: Of the random numbers.

    Returns:
      points: float32 [num_points, 3], world units.
      colors: uint8 [num_points, 3], RGB.

    Raises:
      InputError: If the masks leave no head.
      ValueError: If `num_points` is too small for the parts.
    """
    if num_points < 100:
        raise ValueError(f"num_points: got {num_points}, expected at least 100; use 20000 or more")
    random = np.random.default_rng(seed)
    count = len(viewmats)
    views = np.unique(np.linspace(0, count - 1, min(_VIEWS, count)).round().astype(int))
    masks = np.stack([np.asarray(head_mask(int(view)), bool) for view in views])
    shape = mean_shape.astype(np.float64)
    cameras = (viewmats[views].astype(np.float64), K.astype(np.float64))

    num_face, num_mouth = round(_FACE_SHARE * num_points), round(_MOUTH_SHARE * num_points)
    face, face_normals = _sample_mesh(shape, triangles, num_face, random)
    mouth = _sample_mouth(shape, num_mouth, random)
    shell, shell_normals = _sample_shell(
        shape, cameras, masks, num_points - num_face - num_mouth, random
    )
    points = np.concatenate([face, mouth, shell])
    # The mouth's sheet has no side of its own: it is colored as if it always faced the camera.
    normals = np.concatenate([face_normals, np.zeros_like(mouth), shell_normals])
    colors = _colors(points, normals, cameras, masks, [frames[int(view)] for view in views])
    return points.astype(np.float32), colors


def _sample_mesh(
    shape: np.ndarray, triangles: np.ndarray, count: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw points uniformly over the mesh's area; return them and their outward unit normals."""
    corners = shape[:NUM_MESH_VERTICES][triangles]  # [F, 3, 3]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(cross, axis=1)
    chosen = random.choice(len(triangles), count, p=area / area.sum())
    u, v = random.uniform(size=(2, count))
    root = np.sqrt(u)
    weights = np.stack([1 - root, root * (1 - v), root * v], 1)  # uniform in a triangle
    points = np.einsum("pc,pcd->pd", weights, corners[chosen])
    normals = cross[chosen] / np.maximum(area[chosen], 1e-12)[:, None]
    outward = np.sign(np.einsum("pd,pd->p", normals, points - _center(shape)))
    return points, normals * np.where(outward == 0, 1.0, outward)[:, None]


def _center(shape: np.ndarray) -> np.ndarray:
    """Return a point inside the skull: between the ears' roots, a little behind them."""
    width = abs(float(shape[454, 0] - shape[234, 0]))
    return 0.5 * (shape[234] + shape[454]) + np.asarray([0.0, 0.0, 0.15 * width])


def _sample_mouth(shape: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Draw points on a sheet behind the lips, curved like the rows of teeth."""
    lips = shape[LIPS_OUTER]
    middle, half = lips.mean(0), 0.5 * float(np.ptp(lips[:, 0]))
    across, down = random.uniform(-0.8, 0.8, count), random.uniform(-0.55, 0.55, count)
    depth = 0.25 + 0.5 * across**2 + random.uniform(-0.05, 0.05, count)
    return middle + half * np.stack([across, down, depth], 1)


def _project(points: np.ndarray, viewmat: np.ndarray, K: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return columns, rows (whole pixels) and whether the point is in front of the camera."""
    camera = points @ viewmat[:3, :3].T + viewmat[:3, 3]
    depth = np.maximum(camera[:, 2], 1e-6)
    columns = np.floor(camera[:, 0] / depth * K[0, 0] + K[0, 2]).astype(np.int64)
    rows = np.floor(camera[:, 1] / depth * K[1, 1] + K[1, 2]).astype(np.int64)
    return columns, rows, camera[:, 2] > 1e-3


def _lookup(mask: np.ndarray, columns: np.ndarray, rows: np.ndarray, outside: bool) -> np.ndarray:
    height, width = mask.shape
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    value = mask[np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)]
    return np.where(inside, value, outside)


def _hull(
    shape: np.ndarray, cameras: tuple[np.ndarray, np.ndarray], masks: np.ndarray
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Carve a box around the head by the masks: which voxels remain, and the voxels' axes."""
    oval = shape[FACE_OVAL]
    width, height = np.ptp(oval[:, 0]), np.ptp(oval[:, 1])
    center = _center(shape)
    low = [center[0] - 1.1 * width, oval[:, 1].min() - 0.7 * height, shape[:, 2].min()]
    high = [center[0] + 1.1 * width, oval[:, 1].max() + 0.1 * height, center[2] + 1.1 * width]
    axes = [np.linspace(a, b, _GRID) for a, b in zip(low, high, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3).astype(np.float32)
    misses, hits = np.zeros((2, len(grid)), np.int32)
    alive = np.arange(len(grid))
    viewmats, K = (camera.astype(np.float32) for camera in cameras)
    for viewmat, mask in zip(viewmats, masks, strict=True):
        columns, rows, front = _project(grid[alive], viewmat, K)
        # What lies outside the picture is not known to be empty: hair is often cut by its edge.
        misses[alive] += ~(front & _lookup(mask, columns, rows, outside=True))
        hits[alive] += front & _lookup(mask, columns, rows, outside=False)
        alive = alive[misses[alive] <= (1 - _KEEP) * len(masks)]
    inside = np.zeros(len(grid), bool)
    inside[alive[hits[alive] >= _SEEN * len(masks)]] = True
    return inside.reshape(_GRID, _GRID, _GRID), axes


def _limit_depth(inside: np.ndarray, axes: list[np.ndarray], shape: np.ndarray) -> np.ndarray:
    """Hold the hull between the front and back halves of a head-like ellipsoid."""
    center = _center(shape)
    plane = _piece(inside[:, :, _nearest(axes[2], center[2])], [axes[0], axes[1]], center[:2])
    if not plane.any():
        raise InputError("head masks: they leave no head; check that the video shows one face")
    columns, rows = np.flatnonzero(plane.any(1)), np.flatnonzero(plane.any(0))
    x_low, x_high = axes[0][columns[[0, -1]]]
    y_low, y_high = axes[1][rows[[0, -1]]]
    middle = np.asarray([x_low + x_high, y_low + y_high]) / 2
    half = np.maximum([0.47 * (x_high - x_low), 0.5 * (y_high - y_low)], 1e-3)

    def bulge(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        squared = ((x - middle[0]) / half[0]) ** 2 + ((y - middle[1]) / half[1]) ** 2
        return np.sqrt(np.maximum(1.0 - squared, 0.0))

    x, y, z = np.meshgrid(*axes, indexing="ij")
    depth = bulge(x, y)
    # Front: z = base - front * bulge, fitted to the rim of the face above the ears' roots.
    ears = 0.5 * (shape[234] + shape[454])
    rim = shape[FACE_OVAL]
    rim = rim[rim[:, 1] <= ears[1] + 1e-6]
    rise = bulge(rim[:, 0], rim[:, 1])
    base = float(center[2])
    front = max(float(rise @ (base - rim[:, 2]) / max(rise @ rise, 1e-9)), 0.5 * half[0])
    misfit = rim[:, 2] - base + front * rise
    near = _near(x[..., 0], y[..., 0], rim[:, :2], misfit, 0.3 * half[0])
    ahead = base - front * depth + near[..., None]
    # Back: half an ellipsoid from the same middle plane to where skulls end.
    width = float(np.linalg.norm(shape[454] - shape[234]))
    behind = base + np.maximum(ears[2] + _BACK_DEPTH * 0.5 * width - base, 0.3 * width) * depth
    # Ears and hair outside the ellipsoid are plates around the ears' plane, not nothing.
    plate = _EAR_THICKNESS * width
    inside = inside & (z >= np.minimum(ahead, ears[2] - 0.5 * plate))
    inside = inside & (z <= np.maximum(behind, ears[2] + plate))
    return _piece(inside, axes, center)


def _near(
    x: np.ndarray, y: np.ndarray, places: np.ndarray, values: np.ndarray, reach: float
) -> np.ndarray:
    """Spread values over their neighborhood: their mean close by, nothing far away."""
    square = (x[..., None] - places[:, 0]) ** 2 + (y[..., None] - places[:, 1]) ** 2
    weight = np.exp(-0.5 * square / reach**2)
    return (weight @ values) / (weight.sum(-1) + 0.1)


def _nearest(axis: np.ndarray, value: float) -> int:
    return int(np.abs(axis - value).argmin())


def _piece(inside: np.ndarray, axes: list[np.ndarray], center: np.ndarray) -> np.ndarray:
    """Keep the connected piece around `center`; other pieces come from other things in the room."""
    labels, _ = ndimage.label(inside)
    here = labels[tuple(_nearest(axis, c) for axis, c in zip(axes, center, strict=True))]
    return (labels == here) if here else np.zeros_like(inside)


def _sample_shell(
    shape: np.ndarray,
    cameras: tuple[np.ndarray, np.ndarray],
    masks: np.ndarray,
    count: int,
    random: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw points on the surface of the hull, except under the face; return outward normals too."""
    inside, axes = _hull(shape, cameras, masks)
    inside = _limit_depth(inside, axes, shape)
    solid = _blur(inside.astype(np.float32))
    gradient = np.stack(np.gradient(solid, *[axis[1] - axis[0] for axis in axes]), -1)
    padded = np.pad(inside, 1)
    core = np.ones_like(inside)
    for axis in range(3):
        for step in (-1, 1):
            core &= np.roll(padded, step, axis)[1:-1, 1:-1, 1:-1]
    surface = np.argwhere(inside & ~core)
    places = np.stack([axis[index] for axis, index in zip(axes, surface.T, strict=True)], 1)
    # The face's own mesh stands for the front: drop what lies before or just behind it.
    oval = shape[FACE_OVAL, :2]
    keep = ~(_in_polygon(places[:, :2], oval) & (places[:, 2] < _center(shape)[2]))
    if not keep.any():
        raise InputError("head masks: they leave no head; check that the video shows one face")
    surface, places = surface[keep], places[keep]
    normals = -gradient[tuple(surface.T)]
    normals /= np.maximum(np.linalg.norm(normals, axis=1), 1e-12)[:, None]
    seen = np.max([_facing(places, normals, viewmat) for viewmat in cameras[0]], axis=0) > 0.0
    share = np.where(seen, 1.0, _UNSEEN_SHARE)
    chosen = random.choice(len(places), count, p=share / share.sum())
    pitch = np.asarray([axis[1] - axis[0] for axis in axes])
    return places[chosen] + random.uniform(-0.5, 0.5, (count, 3)) * pitch, normals[chosen]


def _facing(points: np.ndarray, normals: np.ndarray, viewmat: np.ndarray) -> np.ndarray:
    """Return the cosine between normals and the direction to the camera."""
    towards = -viewmat[:3, :3].T @ viewmat[:3, 3] - points
    length = np.maximum(np.linalg.norm(towards, axis=1), 1e-9)
    return np.einsum("pd,pd->p", normals, towards) / length


def _blur(volume: np.ndarray) -> np.ndarray:
    """Blur a volume a little along its three axes."""
    for axis in range(3):
        volume = (np.roll(volume, 1, axis) + 2 * volume + np.roll(volume, -1, axis)) / 4
    return volume


def _in_polygon(points: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    """Tell which points [N, 2] lie in a polygon [M, 2] (crossing rule)."""
    x, y = points.T
    inside = np.zeros(len(points), bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, 0), strict=True):
        crosses = (y0 > y) != (y1 > y)
        slope = (x1 - x0) / (y1 - y0) if y1 != y0 else 0.0
        inside ^= crosses & (x < x0 + slope * (y - y0))
    return inside


def _colors(
    points: np.ndarray,
    normals: np.ndarray,
    cameras: tuple[np.ndarray, np.ndarray],
    masks: np.ndarray,
    images: list[np.ndarray],
) -> np.ndarray:
    """Average the color over the views that see a point's front; unseen ones ask a neighbor."""
    viewmats, K = cameras
    total, weight = np.zeros((len(points), 3)), np.zeros(len(points))
    sheet = ~normals.any(1)
    for viewmat, mask, image in zip(viewmats, masks, images, strict=True):
        columns, rows, front = _project(points, viewmat, K)
        facing = np.where(sheet, 1.0, _facing(points, normals, viewmat))
        # Edges of masks mix with the background: stay a little inside.
        core = cv2.erode(mask.view(np.uint8), np.ones((3, 3), np.uint8)) > 0
        seen = front & (facing > 0.1) & _lookup(core, columns, rows, outside=False)
        share = np.where(seen, facing**2, 0.0)
        height, width = mask.shape
        pixel = np.asarray(image)[np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)]
        total += share[:, None] * pixel
        weight += share
    known = weight > 0
    colors = total / np.maximum(weight, 1e-12)[:, None]
    if known.any() and not known.all():
        nearest = cKDTree(points[known]).query(points[~known])[1]
        colors[~known] = colors[known][nearest]
    return np.clip(np.round(colors), 0, 255).astype(np.uint8)
