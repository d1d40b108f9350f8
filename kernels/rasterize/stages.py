"""The stages of `rasterize` as functions, for who brings colors of their own or blends many times.

    splats = project(means, quats, scales, opacities, viewmats, Ks, width, height)
    lists = tile_lists(splats, width, height)
    colors = network(splats.depths, ...)                    # [..., N, D], any D, finite
    out = blend(splats, lists, width, height, colors=colors, backgrounds=backgrounds)

Composed inside one `jit` they give the bits of `rasterize(..., implementation="xla")`: plain JAX on
every device, with forward and reverse mode, `vmap` and leading axes. Gradients flow through
`project` and `blend`; lists have none. On a GPU `rasterize` itself is far faster where colors do
not hang on what is projected: compute them first, and pass them as `colors`.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, PyTree

from kernels._sharding import match_varying
from kernels.checks import require
from kernels.rasterize.arguments import (
    check_colors,
    check_static,
    flatten_frames,
    is_per_pixel,
    leading_axes,
    to_frames,
)
from kernels.rasterize.eager import check_numbers
from kernels.rasterize.given import as_arrays, as_numbers
from kernels.rasterize.images import output_of
from kernels.rasterize.types import BlendSpec, RasterizeOutput, Settings
from kernels.rasterize.xla import rasterize as xla
from kernels.rasterize.xla.binning import TileLists, default_capacity, tile_grid
from kernels.rasterize.xla.projection import Splats


def project(
    means: ArrayLike,
    quats: ArrayLike,
    scales: ArrayLike,
    opacities: ArrayLike,
    viewmats: ArrayLike,
    Ks: ArrayLike,
    width: int,
    height: int,
    *,
    colors: ArrayLike | None = None,
    sh_degree: int | None = None,
    means2d_offset: ArrayLike | None = None,
    alive: ArrayLike | None = None,
    near_plane: float = 0.2,
    eps2d: float = 0.3,
    alpha_min: float = 1 / 255,
    antialias: bool = False,
) -> Splats:
    """Project Gaussians into images: the first stage of `rasterize`, whose arguments these are.

    Args:
      means: See `rasterize`, likewise all that is not named here.
      quats: See there.
      scales: See there.
      opacities: See there.
      viewmats: See there.
      Ks: See there.
      width: See there.
      height: See there.
      colors: None for who passes colors to `blend`; then `splats.colors` has no channels.
      sh_degree: See there.
      means2d_offset: See there.
      alive: See there.
      near_plane: See there.
      eps2d: See there.
      alpha_min: See there; the same for `tile_lists` and `blend`.
      antialias: See there; `splats.opacities` are the scaled ones.

    Returns:
      Centers [pixels], depths, 2-D covariances with their determinant, opacities and colors, by the
      leading axes of the arguments. A culled Gaussian has harmless numbers, and `visible` is False.

    Raises:
      ValueError: as `rasterize`.
    """
    numbers = as_numbers(
        dict(
            width=width, height=height, sh_degree=sh_degree, near_plane=near_plane, eps2d=eps2d,
            alpha_min=alpha_min, antialias=antialias,
        )
    )  # fmt: skip
    check_static(**{name: numbers[name] for name in numbers.keys() - {"antialias"}})
    given: dict[str, Any] = dict(
        means=means, quats=quats, scales=scales, opacities=opacities, viewmats=viewmats, Ks=Ks,
        means2d_offset=means2d_offset, alive=alive,
    )  # fmt: skip
    has_colors = colors is not None
    require(has_colors or sh_degree is None, "sh_degree: expected None without colors; pass both")
    arrays = as_arrays(given | (dict(colors=colors) if has_colors else {}), numbers["sh_degree"])
    check_numbers(arrays, numbers["width"])
    return _project(arrays, **numbers)


@partial(
    jax.jit,
    static_argnames=(
        "width", "height", "sh_degree", "near_plane", "eps2d", "alpha_min", "antialias"
    ),
)  # fmt: skip
def _project(
    arrays: dict[str, Any], *, width: int, height: int, sh_degree: int | None, near_plane: float,
    eps2d: float, alpha_min: float, antialias: bool,
) -> Splats:  # fmt: skip
    means = arrays["means"]
    own = "colors" in arrays
    colors = arrays.get("colors", jnp.zeros((means.shape[-2], 1), means.dtype))
    frames, dtype = to_frames(
        arrays | dict(colors=colors, backgrounds=None), width, height, sh_degree
    )
    gaussians = frames.gaussians
    if not own:
        gaussians = gaussians._replace(colors=gaussians.colors[..., :0])
    spec = BlendSpec(width, height, 1.0, alpha_min, 0.0, True)
    settings = Settings(spec, near_plane, eps2d, sh_degree, 1, antialias)
    splats = xla.project_all(settings, gaussians, frames.alive, frames.viewmats, frames.Ks)
    return jax.tree.map(lambda v: _unfold(v[:, : frames.n_gaussians], frames.lead), splats)


def tile_lists(
    splats: Splats, width: int, height: int, *, capacity: int | None = None,
    alpha_min: float = 1 / 255,
) -> TileLists:  # fmt: skip
    """Sort splats into lists of every 16-pixel tile, nearest first: the second stage.

    Args:
      splats: Of `project`.
      width: See `rasterize`, likewise the others.
      height: See there.
      capacity: See there.
      alpha_min: See there; the same as of `project`.

    Returns:
      Lists, without a gradient: `ids` has the Gaussians of tile t from `starts[t]` on,
      `lengths[t]` of them; `n_instances` the pairs wanted, before the capacity.

    Raises:
      ValueError: if a number makes no sense.
    """
    _check_kind("splats", splats, Splats, "project")
    numbers = as_numbers(dict(width=width, height=height, capacity=capacity, alpha_min=alpha_min))
    check_static(**numbers)
    return _tile_lists(splats, **numbers)


@partial(jax.jit, static_argnames=("width", "height", "capacity", "alpha_min"))
def _tile_lists(
    splats: Splats, *, width: int, height: int, capacity: int | None, alpha_min: float
) -> TileLists:
    n_gaussians = splats.depths.shape[-1]
    if capacity is None:
        capacity = default_capacity(n_gaussians, width, height)
    spec = BlendSpec(width, height, 1.0, alpha_min, 0.0, True)
    lead, frames = _fold(_pad_empty(splats))
    lists = xla.list_tiles(spec, capacity, frames)
    return jax.tree.map(lambda v: _unfold(v, lead), lists)


def blend(
    splats: Splats,
    lists: TileLists,
    width: int,
    height: int,
    *,
    colors: ArrayLike | None = None,
    backgrounds: ArrayLike | None = None,
    alpha_max: float = 0.99,
    alpha_min: float = 1 / 255,
    transmittance_min: float = 1e-4,
    depth_kind: str = "accumulated",
    deterministic: bool = True,
) -> RasterizeOutput:
    """Composite listed splats over a background: the third stage.

    Args:
      splats: Of `project`.
      lists: Of `tile_lists`, of these splats.
      width: See `rasterize`, likewise all that is not named here.
      height: See there.
      colors: [..., N, D], any D, one set for all frames or one per frame. They must be finite for
        every Gaussian, culled ones too. None takes `splats.colors`.
      backgrounds: See there.
      alpha_max: See there.
      alpha_min: See there; the same as of `project` and `tile_lists`.
      transmittance_min: See there.
      depth_kind: See there.
      deterministic: See there.

    Returns:
      Images and `aux`, as of `rasterize`.

    Raises:
      ValueError: if colors or backgrounds do not fit, or a number makes no sense.
    """
    _check_kind("splats", splats, Splats, "project")
    _check_kind("lists", lists, TileLists, "tile_lists")
    numbers = as_numbers(
        dict(
            width=width, height=height, alpha_max=alpha_max, alpha_min=alpha_min,
            transmittance_min=transmittance_min, depth_kind=depth_kind,
            deterministic=deterministic,
        )
    )  # fmt: skip
    check_static(**{name: numbers[name] for name in numbers.keys() - {"deterministic"}})
    colors = splats.colors if colors is None else colors
    arrays = as_arrays(dict(colors=colors, backgrounds=backgrounds), None)
    tiles = tile_grid(numbers["width"], numbers["height"])
    require(
        lists.lengths.shape[-1] == tiles[0] * tiles[1],
        f"lists: expected {tiles[0] * tiles[1]} tiles for {width} x {height} pixels, got "
        f"{lists.lengths.shape[-1]}; pass what tile_lists gave for this size",
    )
    *lead, n_gaussians = splats.depths.shape
    own = (*lead, max(1, n_gaussians))  # an empty set has a splat that is not drawn
    require(
        lists.heads.shape == own,
        f"lists: expected those of splats of shape {own}, got {lists.heads.shape}; pass what "
        "tile_lists gave for these splats",
    )
    return _blend(splats, lists, **arrays, **numbers)


@partial(
    jax.jit,
    static_argnames=(
        "width", "height", "alpha_max", "alpha_min", "transmittance_min", "depth_kind",
        "deterministic",
    ),
)  # fmt: skip
def _blend(
    splats: Splats, lists: TileLists, colors: Array, backgrounds: Array | None, *, width: int,
    height: int, alpha_max: float, alpha_min: float, transmittance_min: float, depth_kind: str,
    deterministic: bool,
) -> RasterizeOutput:  # fmt: skip
    n_gaussians, dtype = splats.depths.shape[-1], splats.depths.dtype
    check_colors(colors, n_gaussians, None)
    per_pixel = is_per_pixel(backgrounds, width, height, colors.shape[-1])
    lead = splats.depths.shape[:-1]
    trailing = dict(depths=1, colors=2, backgrounds=3 if per_pixel else 1)
    arrays = dict(depths=splats.depths, colors=colors, backgrounds=backgrounds)
    together = leading_axes(trailing, arrays)
    require(
        together == lead,
        f"colors, backgrounds: expected the leading axes {lead} of splats, got {together}; project "
        "as many frames",
    )
    spec = BlendSpec(
        width, height, alpha_max, alpha_min, transmittance_min, deterministic,
        depth_kind == "median",
    )  # fmt: skip
    colors = flatten_frames(colors.astype(dtype), lead, 2)
    colors = jnp.broadcast_to(colors, (math.prod(lead), *colors.shape[1:]))
    padded = _pad_empty(splats._replace(colors=colors.reshape(*lead, *colors.shape[1:])))
    frames, folded = _fold(padded)[1], _fold(lists)[1]
    behind = backgrounds
    if behind is not None:
        behind = behind if behind.dtype == jnp.uint8 else behind.astype(dtype)
        behind = flatten_frames(behind, lead, trailing["backgrounds"])
    images = xla.composite(spec, match_varying(frames), folded, behind)
    return output_of(images, depth_kind, lead, n_gaussians, lists.ids.shape[-1], dtype)


def _check_kind(name: str, value: Any, kind: type, stage: str) -> None:
    require(
        isinstance(value, kind),
        f"{name}: expected what kernels.{stage} gives, got {type(value).__name__}",
    )


def _fold(tree: PyTree) -> tuple[tuple[int, ...], PyTree]:
    """The leading axes, and arrays that have one instead; what they are says `depths` or `ids`."""
    first = tree.depths if isinstance(tree, Splats) else tree.n_instances[..., None]
    lead = first.shape[:-1]
    n_frames = math.prod(lead)
    return lead, jax.tree.map(lambda v: v.reshape(n_frames, *v.shape[len(lead) :]), tree)


def _unfold(value: Array, lead: tuple[int, ...]) -> Array:
    return value.reshape(*lead, *value.shape[1:])


def _pad_empty(splats: Splats) -> Splats:
    """Add an invisible splat to an empty set."""
    axis = splats.depths.ndim - 1
    if splats.depths.shape[axis]:
        return splats

    def pad(value: Array) -> Array:
        shape = (*value.shape[:axis], 1, *value.shape[axis + 1 :])
        return jnp.ones(shape, value.dtype) if value.dtype != bool else jnp.zeros(shape, bool)

    return Splats(*map(pad, splats))
