"""`rasterize`: 3-D Gaussians to color, alpha and depth images, differentiable in every array.

Math (3DGS, arXiv:2308.04079, eq. 5, 6 and 3): the 2-D covariance is J W S S^T W^T J^T + eps2d I; a
pixel at d from the center gets alpha = min(alpha_max, opacity exp(-d^T cov^-1 d / 2)); splats are
composited front to back with weight alpha * T.

The pipeline, each stage a module of `xla` and of `triton`: `projection` -> `binning` -> `blend`,
joined by `rasterize`. Modules of `triton` are imported when they are used.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt8

from kernels import dispatch
from kernels.checks import typechecked
from kernels.rasterize.arguments import (
    check_colors,
    check_static,
    flatten_frames,
    leading_axes,
    pad_empty,
)
from kernels.rasterize.types import (
    BlendSpec,
    Bytes,
    Gaussians,
    Images,
    RasterizeAux,
    RasterizeOutput,
    Settings,
)
from kernels.rasterize.xla.binning import default_capacity

STATIC = (
    "width", "height", "sh_degree", "near_plane", "eps2d", "alpha_max", "alpha_min",
    "transmittance_min", "capacity", "implementation", "deterministic", "as_bytes",
)  # fmt: skip


@partial(jax.jit, static_argnames=STATIC)
@typechecked
def rasterize(
    means: Float[Array, "*#lead N 3"],
    quats: Float[Array, "*#lead N 4"],
    scales: Float[Array, "*#lead N 3"],
    opacities: Float[Array, "*#lead N"],
    colors: Float[Array, "..."],
    viewmats: Float[Array, "*#lead 4 4"],
    Ks: Float[Array, "*#lead 3 3"],
    width: int,
    height: int,
    *,
    sh_degree: int | None = None,
    backgrounds: Float[Array, "..."] | UInt8[Array, "..."] | None = None,
    means2d_offset: Float[Array, "*#lead N 2"] | None = None,
    alive: Bool[Array, "*#lead N"] | None = None,
    near_plane: float | int = 0.2,
    eps2d: float | int = 0.3,
    alpha_max: float | int = 0.99,
    alpha_min: float | int = 1 / 255,
    transmittance_min: float | int = 1e-4,
    capacity: int | None = None,
    implementation: str | None = None,
    deterministic: bool = True,
    as_bytes: bool = False,
) -> RasterizeOutput:
    """Rasterize 3-D Gaussians.

    Leading axes broadcast: one set of Gaussians under many cameras, or one set per frame. Pixel
    centers lie at integer + 0.5: a Gaussian on the optical axis with cx = W/2 lands on the corner
    between the four middle pixels. Already jitted; works under `jit`, `grad`, `vmap` (which folds
    into the frames) and `shard_map`. Shapes are static: other data never recompile.

    A Gaussian is culled, drawing nothing and with zero gradient, when it is not `alive`, nearer
    than `near_plane`, less opaque than `alpha_min`, or when any of its numbers is not finite (a
    zero quaternion too); its neighbors are unharmed. There is no cut at three standard deviations.

    Gradients are the true derivatives, zero where alpha is clamped and in a clamped color, for
    every array, backgrounds and cameras included; the clamped x/z of the Jacobian counts as
    constant. Skew `Ks[0, 1]` is not read. Sums run in a fixed order, so results repeat bit for bit
    on one device.

    Cost: time grows with `aux.n_instances`, memory with capacity and pixels, whatever the depth of
    the lists. 20,000 Gaussians at 512 px need 22 MiB of working memory on a CPU, 41 with gradients.

    Args:
      means: Centers [scene units, world].
      quats: Rotations (w, x, y, z), normalized here.
      scales: Standard deviations > 0 [scene units].
      opacities: In [0, 1].
      colors: [..., N, D], any D; with `sh_degree` [..., N, K, D] spherical harmonics, K at least
        (sh_degree + 1)^2, color = max(0, 0.5 + sum).
      viewmats: World -> camera, rigid, OpenCV axes.
      Ks: Intrinsics [pixels].
      width: Of the image [pixels].
      height: Of the image [pixels].
      sh_degree: 0 to 3, or None for plain colors.
      backgrounds: Per pixel if the last three axes are (height, width, D), else [..., D]; black if
        None. Bytes count 255 as one, and have no gradient.
      means2d_offset: Added to the projected centers [pixels]. Pass zeros: the cotangent is the
        screen-space gradient.
      alive: False draws nothing.
      near_plane: Least camera z [scene units].
      eps2d: Variance added to both axes of every splat [pixels^2].
      alpha_max: Alpha is clamped here.
      alpha_min: A (Gaussian, pixel) pair under it is skipped.
      transmittance_min: Compositing stops before the pair that would bring the transmittance under
        this (relative slack 2^-16, see `xla/blend.py`).
      capacity: Most (Gaussian, 16-px tile) instances per frame. None picks min(N T, 4 N + 64 T)
        for T tiles. What exceeds it is dropped, farthest first, and reported as `aux.overflow`.
      implementation: "xla"; "triton"; None picks "triton" on an NVIDIA GPU where it can run, else
        "xla". Triton computes in float32.
      deterministic: False allows XLA sums in any order (off the CPU: less memory).
      as_bytes: `rgb` and `alpha` as bytes, clipped and rounded, for a screen or a file; no `depth`
        and no gradient. Spares Triton's kernels most of what they write.

    Returns:
      Images and `aux`.

    Raises:
      NotImplementedError: if the implementation asked for cannot run; the message says why.
      ValueError: if a shape or a static number makes no sense.
    """
    check_static(
        width=width, height=height, sh_degree=sh_degree, capacity=capacity, eps2d=eps2d,
        alpha_max=alpha_max, alpha_min=alpha_min, transmittance_min=transmittance_min,
    )  # fmt: skip
    n_gaussians, n_channels = means.shape[-2], colors.shape[-1]
    check_colors(colors, n_gaussians, sh_degree)
    per_pixel = backgrounds is not None and backgrounds.shape[-3:] == (height, width, n_channels)
    arrays = dict(
        means=means, quats=quats, scales=scales, opacities=opacities, colors=colors,
        means2d_offset=means2d_offset, alive=alive, viewmats=viewmats, Ks=Ks,
        backgrounds=backgrounds,
    )  # fmt: skip
    trailing = dict(
        means=2, quats=2, scales=2, opacities=1, colors=2 if sh_degree is None else 3,
        means2d_offset=2, alive=1, viewmats=2, Ks=2, backgrounds=3 if per_pixel else 1,
    )  # fmt: skip
    lead = leading_axes(trailing, arrays)
    dtype = jnp.promote_types(jnp.result_type(means, scales, colors, viewmats), jnp.float32)
    if means2d_offset is None:
        arrays["means2d_offset"] = jnp.zeros((n_gaussians, 2), dtype)
    frames = {
        name: flatten_frames(arrays[name].astype(dtype), lead, trailing[name])
        for name in ("viewmats", "Ks", *Gaussians._fields)
    }
    viewmats, Ks = (
        jnp.broadcast_to(frames[name], (math.prod(lead), size, size))
        for name, size in (("viewmats", 4), ("Ks", 3))
    )
    alive = jnp.ones(n_gaussians, bool) if alive is None else alive
    gaussians = Gaussians(*(frames[name] for name in Gaussians._fields))
    gaussians, alive = pad_empty(gaussians, flatten_frames(alive, lead, 1))
    if capacity is None:
        capacity = default_capacity(n_gaussians, width, height)
    if backgrounds is not None:
        kind = jnp.uint8 if backgrounds.dtype == jnp.uint8 else dtype
        backgrounds = flatten_frames(backgrounds.astype(kind), lead, trailing["backgrounds"])
    spec = BlendSpec(width, height, alpha_max, alpha_min, transmittance_min, deterministic)
    settings = Settings(spec, near_plane, eps2d, sh_degree, capacity)
    if dispatch.uses_triton("rasterize", implementation, None):
        from kernels.rasterize.triton import rasterize as path
    else:
        from kernels.rasterize.xla import rasterize as path
    render = path.render_bytes if as_bytes else path.render
    images = render(settings, gaussians, alive, viewmats, Ks, backgrounds)
    return _unfolded(images, lead, n_gaussians, capacity, dtype)


def _unfolded(
    images: Images | Bytes, lead: tuple[int, ...], n_gaussians: int, capacity: int, dtype: jnp.dtype
) -> RasterizeOutput:
    """Give the images the leading axes of the arguments, and count what was dropped."""
    unfold = lambda value: value.reshape(*lead, *value.shape[1:])
    aux = RasterizeAux(
        n_instances=unfold(images.n_instances),
        overflow=unfold(jnp.maximum(images.n_instances - capacity, 0)),
        radii=unfold(images.radii[:, :n_gaussians]),
    )
    if isinstance(images, Bytes):
        return RasterizeOutput(unfold(images.rgb), unfold(images.alpha), None, aux)
    rgb, depth, left = (
        unfold(value).astype(dtype) for value in (images.rgb, images.depth, images.left)
    )
    return RasterizeOutput(rgb, 1.0 - left, depth, aux)
