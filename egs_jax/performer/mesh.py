"""Triangle-mesh tools of the demo performer: Loop subdivision, lofts, a vectorized z-buffer.

Conventions: points [V, 3], triangles int [F, 3] counter-clockwise seen from outside in right-
handed axes (x right, y up, z towards the viewer); the rasterizer takes image axes (x right, y
down, pixel centers at integer + 0.5) in which those triangles run clockwise. Plain NumPy, no
state.
"""

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

_NOTHING = np.iinfo(np.int64).max  # what the z-buffer holds where there is no triangle


def loop_subdivision(
    triangles: Int[np.ndarray, "F 3"], num_vertices: int
) -> tuple[sp.csr_matrix, Int[np.ndarray, "F_new 3"]]:
    """Return one step of Loop's subdivision as a matrix: it costs one product per frame.

    Weights of Loop (1987) with Warren's beta and the cubic B-spline rule on borders. The first
    `num_vertices` rows are the old vertices, the rest the middles of edges.

    Args:
      triangles: Vertex indices of a manifold mesh, borders allowed.
      num_vertices: V, number of old vertices.

    Returns:
      The matrix [V + E, V] and the new triangles.
    """
    corners = triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    opposite = triangles[:, [2, 0, 1]].reshape(-1)
    edges, edge_of, count = np.unique(
        np.sort(corners, axis=1), axis=0, return_inverse=True, return_counts=True
    )
    edge_of = edge_of.reshape(-1)
    num_edges, border = len(edges), count == 1

    end_weight = np.where(border, 0.5, 0.375)
    ids = num_vertices + np.arange(num_edges)
    rows = [ids, ids, num_vertices + edge_of]
    cols = [edges[:, 0], edges[:, 1], opposite]
    vals = [end_weight, end_weight, np.where(border[edge_of], 0.0, 0.125)]

    degree = np.bincount(edges.reshape(-1), minlength=num_vertices)
    on_border = np.zeros(num_vertices, bool)
    on_border[edges[border].reshape(-1)] = True
    beta = np.where(degree == 3, 3 / 16, 3 / (8 * np.maximum(degree, 1)))
    for a, b in ((0, 1), (1, 0)):
        here, other = edges[:, a], edges[:, b]
        smooth = np.where(on_border[here], np.where(border, 0.125, 0.0), beta[here])
        rows.append(here)
        cols.append(other)
        vals.append(smooth)
    everyone = np.arange(num_vertices)
    rows.append(everyone)
    cols.append(everyone)
    vals.append(np.where(on_border, 0.75, 1 - degree * beta))

    matrix = sp.coo_matrix(
        (np.concatenate(vals), (np.concatenate(rows), np.concatenate(cols))),
        shape=(num_vertices + num_edges, num_vertices),
    ).tocsr()
    m01, m12, m20 = (num_vertices + edge_of.reshape(-1, 3)).T
    v0, v1, v2 = triangles.T
    parts = [(v0, m01, m20), (v1, m12, m01), (v2, m20, m12), (m01, m12, m20)]
    return matrix, np.concatenate([np.stack(part, axis=1) for part in parts])


def strip(
    ring_a: Int[np.ndarray, " n"] | list[int],
    ring_b: Int[np.ndarray, " n"] | list[int],
    *,
    closed: bool = True,
) -> Int[np.ndarray, "F 3"]:
    """Return 2 n triangles between two rows of ids; they face left of `ring_a`."""
    a, b = np.asarray(ring_a), np.asarray(ring_b)
    a2, b2 = np.roll(a, -1), np.roll(b, -1)
    if not closed:
        a, b, a2, b2 = a[:-1], b[:-1], a2[:-1], b2[:-1]
    return np.concatenate([np.stack([a, a2, b2], 1), np.stack([a, b2, b], 1)])


def grid_triangles(rows: int, columns: int, *, closed: bool) -> Int[np.ndarray, "F 3"]:
    """Return triangles of a [rows, columns] grid; `closed` joins the last column to the first."""
    ids = np.arange(rows * columns).reshape(rows, columns)
    return np.concatenate([strip(ids[i], ids[i + 1], closed=closed) for i in range(rows - 1)])


def vertex_normals(
    points: Float[np.ndarray, "V 3"], triangles: Int[np.ndarray, "F 3"], gather: sp.csr_matrix
) -> Float[np.ndarray, "V 3"]:
    """Return area-weighted unit normals.

    Args:
      points: Vertices.
      triangles: Vertex indices.
      gather: Incidence matrix [V, F] of `incidence`.
    """
    corners = points[triangles]
    a, b = (corners[:, 1] - corners[:, 0]).T, (corners[:, 2] - corners[:, 0]).T
    cross = [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
    return normalize(gather @ np.stack(cross, axis=1))


def normalize(vectors: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Return unit vectors; zero stays zero."""
    length = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    return vectors / np.maximum(length, 1e-12)[:, None]


def incidence(triangles: Int[np.ndarray, "F 3"], num_vertices: int) -> sp.csr_matrix:
    """Return the matrix [V, F] that is 1 where a triangle touches a vertex."""
    faces = np.repeat(np.arange(len(triangles)), 3)
    ones = np.ones(len(faces), np.float32)
    return sp.csr_matrix(
        (ones, (triangles.reshape(-1), faces)), shape=(num_vertices, len(triangles))
    )


def _ragged(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return, for counts [n], the owner and the place within its owner of every element."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)


def rasterize_triangles(
    points2d: Float[np.ndarray, "V 2"],
    depths: Float[np.ndarray, " V"],
    triangles: Int[np.ndarray, "F 3"],
    width: int,
    height: int,
) -> tuple[Int[np.ndarray, " P"], Int[np.ndarray, " P"], Float[np.ndarray, "P 3"]]:
    """Find the visible triangle at every pixel center, by scanlines and a 64-bit z-buffer.

    Every triangle is cut into rows, every row into pixels, and one `minimum.at` over
    (depth, triangle) packed in an integer settles visibility: the result does not depend on order.

    Args:
      points2d: Projected vertices [pixels].
      depths: Camera depth of the vertices, positive.
      triangles: Vertex indices; those that face away are culled.
      width: Image width [pixels].
      height: Image height [pixels].

    Returns:
      Flat indices of covered pixels, their triangles and barycentric weights
      (linear in the image: triangles of a few pixels need no perspective correction).
    """
    x, y, z = (column[triangles].T for column in (points2d[:, 0], points2d[:, 1], depths))  # [3, F]
    area = (x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0])
    front = np.flatnonzero((area < -1e-9) & (_least(z) > 0))
    x, y, z, area = x[:, front], y[:, front], z[:, front], area[front]
    # Edge function of corner k is a*px + b*py + c, divided by the area: the barycentric weight.
    x1, x2, y1, y2 = x[[1, 2, 0]], x[[2, 0, 1]], y[[1, 2, 0]], y[[2, 0, 1]]
    a, b, c = (y1 - y2) / area, (x2 - x1) / area, (x1 * y2 - x2 * y1) / area  # [3, F]

    # Rows of pixels of every triangle.
    top = np.maximum(np.ceil(_least(y) - 0.5), 0).astype(np.int64)
    bottom = np.minimum(np.floor(-_least(-y) - 0.5), height - 1).astype(np.int64)
    owner, place = _ragged(np.maximum(bottom - top + 1, 0))
    row = top[owner] + place
    slope = a[:, owner]
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = -(b[:, owner] * (row + 0.5) + c[:, owner]) / slope
    lower = -_least(np.where(slope > 0, -crossing, np.inf))
    upper = _least(np.where(slope < 0, crossing, np.inf))
    first = np.ceil(np.clip(lower, 0, width) - 0.5 - 1e-6).astype(np.int64).clip(0)
    last = np.floor(np.clip(upper, -1, width) - 0.5 + 1e-6).astype(np.int64)

    # Pixels of every row; depth is linear along it, in units of 2^-30 of the scene's range.
    near, far = depths.min(), depths.max()
    z = (z - near) / (far - near + 1e-9) * 2**30
    dx, dy, dc = (a * z).sum(axis=0), (b * z).sum(axis=0), (c * z).sum(axis=0)
    start = dx[owner] * (first + 0.5) + dy[owner] * (row + 0.5) + dc[owner]
    span, place = _ragged(np.maximum(last - first + 1, 0))
    depth = np.clip(start[span] + dx[owner][span] * place, 0, 2**31)
    key = (depth.astype(np.int64) << 24) | owner[span]
    buffer = np.full(width * height, _NOTHING)
    np.minimum.at(buffer, (row * width + first)[span] + place, key)
    pixels = np.flatnonzero(buffer != _NOTHING)
    face = buffer[pixels] & (2**24 - 1)
    px, py = pixels % width + 0.5, pixels // width + 0.5
    weights = np.clip(a[:, face] * px + b[:, face] * py + c[:, face], 0, 1).astype(np.float32)
    return pixels, front[face], (weights / (weights[0] + weights[1] + weights[2])).T


def _least(rows: np.ndarray) -> np.ndarray:
    """Return the minimum over the three rows of [3, n]; much faster than over a short axis."""
    return np.minimum(np.minimum(rows[0], rows[1]), rows[2])
