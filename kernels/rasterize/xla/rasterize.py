"""`rasterize` in plain JAX: projection -> binning -> blending, differentiated by JAX."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kernels._sharding import match_varying
from kernels._written import written
from kernels.rasterize.fold_frames import fold_frames
from kernels.rasterize.types import (
    Background,
    BlendSpec,
    Bytes,
    Gaussians,
    Images,
    Settings,
)
from kernels.rasterize.xla.binning import TILE, TileLists, build_tile_lists, tile_grid
from kernels.rasterize.xla.blend import blend
from kernels.rasterize.xla.projection import Splats, project, radii_of


def render(
    settings: Settings,
    gaussians: Gaussians,
    alive: Bool[Array, "B N"],
    viewmats: Float[Array, "B 4 4"],
    Ks: Float[Array, "B 3 3"],
    background: Background,
) -> Images:
    """Draw Gaussians with XLA operations; arguments and results as of Triton's `render`."""
    splats = match_varying(project_all(settings, gaussians, alive, viewmats, Ks))
    lists = list_tiles(settings.spec, settings.capacity, splats)
    return composite(settings.spec, splats, lists, background)


def project_all(
    settings: Settings, gaussians: Gaussians, alive: Array, viewmats: Array, Ks: Array,
    shown: bool = False,
) -> Splats:  # fmt: skip
    """Project Gaussians, which frames may share, into every frame."""
    n_frames = viewmats.shape[0]
    spread = lambda v: jnp.broadcast_to(v, (n_frames, *v.shape[1:]))
    gaussians, alive = jax.tree.map(spread, (gaussians, alive))
    return project(
        gaussians, alive, settings.camera(viewmats, Ks), sh_degree=settings.sh_degree,
        alpha_min=settings.spec.alpha_min, shown=shown,
    )  # fmt: skip


def list_tiles(spec: BlendSpec, capacity: int, splats: Splats) -> TileLists:
    """Which splats every tile meets, nearest first; without a gradient."""
    bin_splats = partial(
        build_tile_lists, width=spec.width, height=spec.height, alpha_min=spec.alpha_min,
        capacity=capacity,
    )  # fmt: skip
    return fold_frames(bin_splats)(jax.lax.stop_gradient(splats))


def composite(spec: BlendSpec, splats: Splats, lists: TileLists, background: Background) -> Images:
    """Blend the colors and depths of listed splats over a background."""
    features = jnp.concatenate([splats.colors, splats.depths[..., None]], axis=-1)
    images, left, radii = _blended(spec, splats, features, lists)
    rgb = _over(background, images[..., :-1], left)
    return Images(rgb, images[..., -1], left, lists.n_instances, radii)


def _blended(
    spec: BlendSpec, splats: Splats, features: Array, lists: TileLists
) -> tuple[Array, Array, Array]:
    """Images of features, the light left, and radii."""
    accumulated, left = blend(spec, _splat_shapes(splats), features, lists)
    images = _tiles_to_image(jnp.moveaxis(accumulated, 2, -1), spec.width, spec.height)
    left = _tiles_to_image(left, spec.width, spec.height)
    radii = jnp.where(lists.on_image, radii_of(jax.lax.stop_gradient(splats)), 0.0)
    return images, left, radii.astype(jnp.int32)


def _over(background: Background, rgb: Array, left: Array) -> Array:
    """Add what shines through."""
    if background is not None:
        if background.dtype == jnp.uint8:
            background = background.astype(rgb.dtype) / 255
        behind = background if background.ndim == rgb.ndim else background[:, None, None]
        rgb = rgb + left[..., None] * behind
    return rgb


def render_bytes(
    settings: Settings,
    gaussians: Gaussians,
    alive: Bool[Array, "B N"],
    viewmats: Float[Array, "B 4 4"],
    Ks: Float[Array, "B 3 3"],
    background: Background,
) -> Bytes:
    """Draw Gaussians as they are shown, without depths; arguments as `render`."""
    spec = settings.spec._replace(median=False)
    # What moved the Gaussians is not to be computed again by everything that reads them.
    gaussians = written(Gaussians, alive, *gaussians)
    splats = project_all(settings, gaussians, alive, viewmats, Ks, shown=True)
    splats = match_varying(jax.lax.stop_gradient(splats))
    lists = list_tiles(spec, settings.capacity, splats)
    images, left, radii = _blended(spec, splats, splats.colors, lists)
    to_bytes = lambda image: jnp.rint(jnp.clip(image, 0, 1) * 255).astype(jnp.uint8)
    rgb = to_bytes(_over(background, images, left))
    return Bytes(rgb, to_bytes(1.0 - left), lists.n_instances, radii)


def _splat_shapes(splats: Splats) -> Float[Array, "B N 6"]:
    """Collect the numbers of a splat's shape for blending: x, y, p, s, q, log opacity."""
    safe_variance = splats.cov_xx
    return jnp.stack(
        [
            splats.means2d[..., 0],
            splats.means2d[..., 1],
            0.5 / safe_variance,
            splats.cov_xy / safe_variance,
            0.5 * safe_variance / splats.cov_det,
            jnp.log(splats.opacities),
        ],
        axis=-1,
    )


def _tiles_to_image(tiles: Float[Array, "B T 256 ..."], width: int, height: int) -> Array:
    """Put tiles side by side and cut what lies past the image: [B, H, W, ...]."""
    columns, rows = tile_grid(width, height)
    channels = tiles.shape[3:]
    grid = tiles.reshape(-1, rows, columns, TILE, TILE, *channels)
    image = jnp.swapaxes(grid, 2, 3).reshape(-1, rows * TILE, columns * TILE, *channels)
    return image[:, :height, :width]
