"""The definition of `rasterize` for one frame; every implementation is tested by it.

Every pixel looks at every Gaussian, O(N H W); matrices are multiplied as the papers write them;
gradients come from `jax.grad`. It shares no code with the implementations. Call it inside
`jax.enable_x64(True)`.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

TIGHT = 2e-5
"""Distance from a threshold, in units of the logarithm, in which float32 may decide otherwise."""


def rasterize_reference(
    arrays: dict[str, Array],
    width: int,
    height: int,
    *,
    sh_degree: int | None = None,
    near_plane: float = 0.2,
    eps2d: float = 0.3,
    alpha_max: float = 0.99,
    alpha_min: float = 1 / 255,
    transmittance_min: float = 1e-4,
    depth_kind: str = "accumulated",
    antialias: bool = False,
    pairs: Bool[Array, "N H Wd"] | None = None,
) -> tuple[Float[Array, "H Wd D"], Float[Array, "H Wd"], Float[Array, "H Wd"], Bool[Array, "H Wd"]]:
    """Draw one frame.

    Args:
      arrays: `means`, `quats`, `scales`, `opacities`, `colors`, `viewmats`, `Ks`, `backgrounds` and
        `means2d_offset` of `rasterize`, without leading axes.
      width: See `rasterize`; likewise the other numbers.
      height: See there.
      sh_degree: See there.
      near_plane: See there.
      eps2d: See there.
      alpha_max: See there.
      alpha_min: See there.
      transmittance_min: See there.
      depth_kind: See there.
      antialias: See there.
      pairs: (Gaussian, pixel) pairs that may be drawn; all if None.

    Returns:
      rgb, alpha and depth; and where no pair is so close to a threshold that float32 may decide
      otherwise.
    """
    means2d, inverse, z, opacities, colors, visible = _splats(
        arrays, width, height, sh_degree, near_plane, eps2d, alpha_min, antialias
    )
    order = jnp.argsort(jnp.where(visible, z, jnp.inf), stable=True)
    means2d, inverse, z, colors = means2d[order], inverse[order], z[order], colors[order]
    visible, opacities = visible[order], opacities[order]
    x, y = jnp.meshgrid(jnp.arange(width) + 0.5, jnp.arange(height) + 0.5)
    d = jnp.stack([x, y], -1)[None] - means2d[:, None, None, :]  # [N, H, W, 2]
    power = 0.5 * jnp.einsum("nhwi,nij,nhwj->nhw", d, inverse, d)
    raw = opacities[:, None, None] * jnp.exp(-power)
    alpha = jnp.where(raw < alpha_max, raw, alpha_max)
    allowed = visible[:, None, None] & (True if pairs is None else pairs[order])
    alpha = jnp.where(allowed & (raw >= alpha_min), alpha, 0.0)
    after = jnp.cumprod(1 - alpha, axis=0)
    before = jnp.concatenate([jnp.ones_like(after[:1]), after[:-1]])
    drawn = after >= transmittance_min
    weights = jnp.where(drawn, alpha * before, 0.0)
    left = jnp.prod(jnp.where(drawn, 1 - alpha, 1.0), axis=0)
    rgb = jnp.einsum("nhw,nd->hwd", weights, colors) + left[..., None] * arrays["backgrounds"]
    close = allowed & (jnp.abs(jnp.log(raw / alpha_min)) < TIGHT)
    close |= allowed & (jnp.abs(jnp.log(raw / alpha_max)) < TIGHT)
    close |= (jnp.abs(jnp.log(after / transmittance_min)) < TIGHT) & (alpha > 0)
    depth = jnp.einsum("nhw,n->hw", weights, z)
    if depth_kind == "expected":
        depth = depth / jnp.where(left < 1, 1 - left, 1.0)
    if depth_kind == "median":
        some = weights > 0
        last = len(z) - 1 - jnp.argmax((some & (before > 0.5))[::-1], axis=0)
        depth = jnp.where(jnp.any(some, axis=0), z[last], 0.0)
        close |= (jnp.abs(jnp.log(before / 0.5)) < TIGHT) & some
    return rgb, 1 - left, depth, ~jnp.any(close, axis=0)


def sh_basis(degree: int, d: Float[Array, "N 3"]) -> Float[Array, "N K"]:
    """Evaluate real spherical harmonics with the signs of 3DGS in unit directions."""
    x, y, z = d[:, 0], d[:, 1], d[:, 2]
    one = jnp.ones_like(x)
    s = np.sqrt
    pi = np.pi
    basis = [one * 0.5 * s(1 / pi)]
    c = s(3 / (4 * pi))
    basis += [-c * y, c * z, -c * x]
    c = 0.5 * s(15 / pi)
    basis += [c * x * y, -c * y * z, 0.25 * s(5 / pi) * (2 * z**2 - x**2 - y**2), -c * x * z]
    basis += [0.25 * s(15 / pi) * (x**2 - y**2)]
    c = 0.25 * s(35 / (2 * pi))
    e = 0.25 * s(21 / (2 * pi))
    basis += [
        -c * y * (3 * x**2 - y**2),
        0.5 * s(105 / pi) * x * y * z,
        -e * y * (4 * z**2 - x**2 - y**2),
        0.25 * s(7 / pi) * z * (2 * z**2 - 3 * x**2 - 3 * y**2),
        -e * x * (4 * z**2 - x**2 - y**2),
        0.25 * s(105 / pi) * z * (x**2 - y**2),
        -c * x * (x**2 - 3 * y**2),
    ]
    return jnp.stack(basis[: (degree + 1) ** 2], axis=1)


def _rotation(q: Float[Array, "4"]) -> Float[Array, "3 3"]:
    w, x, y, z = q / jnp.sqrt(q @ q)
    skew = jnp.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return jnp.eye(3) + 2 * w * skew + 2 * skew @ skew


@partial(jax.jit, static_argnames=("width", "height", "sh_degree", "antialias"))
def _splats(
    a: dict[str, Array], width: int, height: int, sh_degree: int | None, near_plane: float,
    eps2d: float, alpha_min: float, antialias: bool = False,
) -> tuple[Array, ...]:  # fmt: skip
    """Centers, inverse covariances, depths, opacities, colors and a mask of what can draw."""
    R, t = a["viewmats"][:3, :3], a["viewmats"][:3, 3]
    K = a["Ks"]
    p = a["means"] @ R.T + t
    z = p[:, 2]
    f, c = jnp.stack([K[0, 0], K[1, 1]]), jnp.stack([K[0, 2], K[1, 2]])
    size = jnp.array([width, height], float)
    means2d = f * p[:, :2] / z[:, None] + c + a["means2d_offset"]
    ratio = p[:, :2] / z[:, None]
    clamped = jnp.clip(ratio, -(c + 0.15 * size) / f, (1.15 * size - c) / f)
    ratio = jnp.where(clamped == ratio, ratio, jax.lax.stop_gradient(clamped))
    zero = jnp.zeros_like(z)
    J = jnp.stack(
        [
            jnp.stack([f[0] / z, zero, -f[0] * ratio[:, 0] / z], -1),
            jnp.stack([zero, f[1] / z, -f[1] * ratio[:, 1] / z], -1),
        ],
        axis=1,
    )
    M = jax.vmap(_rotation)(a["quats"]) * a["scales"][:, None, :]
    cov3d = M @ jnp.swapaxes(M, 1, 2)
    sharp = J @ R @ cov3d @ R.T @ jnp.swapaxes(J, 1, 2)
    cov = sharp + eps2d * jnp.eye(2)
    opacities = a["opacities"]
    if antialias:
        ratio = jnp.linalg.det(sharp) / jnp.linalg.det(cov)
        some = ratio > 0
        opacities = opacities * jnp.where(some, jnp.sqrt(jnp.where(some, ratio, 1.0)), 0.0)
    colors = a["colors"]
    if sh_degree is not None:
        direction = a["means"] + R.T @ t
        direction = direction / jnp.linalg.norm(direction, axis=1, keepdims=True)
        basis = sh_basis(sh_degree, direction)
        colors = jnp.einsum("nk,nkd->nd", basis, colors[:, : basis.shape[1]])
        colors = jnp.where(colors > -0.5, colors + 0.5, 0.0)
    visible = (z >= near_plane) & (opacities >= alpha_min)
    return means2d, jnp.linalg.inv(cov), z, opacities, colors, visible


def tile_pairs_reference(
    arrays: dict[str, Array],
    width: int,
    height: int,
    *,
    near_plane: float = 0.2,
    eps2d: float = 0.3,
    alpha_min: float = 1 / 255,
    antialias: bool = False,
) -> tuple[Bool[np.ndarray, "N rows columns"], Float[np.ndarray, " N"]]:
    """Find the tiles that each Gaussian touches, and the Gaussians' depths.

    A tile is touched if the ellipse of alpha >= `alpha_min` meets the rectangle of its pixels'
    centers. The least power over the rectangle is found on its border, or is zero inside: a search
    over the edges, unlike the intervals of the implementations.
    """
    means2d, inverse, z, opacities, _, visible = map(
        np.asarray, _splats(arrays, width, height, None, near_plane, eps2d, alpha_min, antialias)
    )
    level = np.log(np.maximum(opacities, 1e-300) / alpha_min)
    rows, columns = -(-height // 16), -(-width // 16)
    pairs = np.zeros((len(z), rows, columns), bool)
    for n in np.flatnonzero(visible):
        for r in range(rows):
            for c in range(columns):
                low = np.array([16 * c + 0.5, 16 * r + 0.5]) - means2d[n]
                high = np.minimum([16 * c + 15.5, 16 * r + 15.5], [width - 0.5, height - 0.5])
                high = high - means2d[n]
                pairs[n, r, c] = _least_power(low, high, inverse[n]) <= level[n]
    return pairs, np.where(visible, z, np.inf)


def _least_power(low: np.ndarray, high: np.ndarray, inverse: np.ndarray) -> float:
    if np.all(low <= 0) and np.all(high >= 0):
        return 0.0
    least = np.inf
    for axis in (0, 1):
        for fixed in (low[axis], high[axis]):
            other = 1 - axis
            free = np.clip(-inverse[0, 1] * fixed / inverse[other, other], low[other], high[other])
            d = np.zeros(2)
            d[axis], d[other] = fixed, free
            least = min(least, 0.5 * d @ inverse @ d)
    return least
