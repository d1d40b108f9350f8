"""`rasterize`: 3-D Gaussians to color, alpha and depth images, differentiable in every array.

Math (3DGS, arXiv:2308.04079, eq. 5, 6 and 3): the 2-D covariance is J W S S^T W^T J^T + eps2d I; a
pixel at d from the center gets alpha = min(alpha_max, opacity exp(-d^T cov^-1 d / 2)); splats are
composited front to back with weight alpha * T.

The pipeline, each stage a module of `xla` and of `triton`: `projection` -> `binning` -> `blend`,
joined by `rasterize`. Modules of `triton` are imported when they are used.
"""

from functools import partial
from typing import Any

import jax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, UInt8

from kernels import dispatch
from kernels.rasterize.arguments import check_static, to_frames
from kernels.rasterize.eager import check_numbers, tell_of_images
from kernels.rasterize.given import as_arrays, as_numbers
from kernels.rasterize.images import output_of
from kernels.rasterize.types import BlendSpec, RasterizeOutput, Settings
from kernels.rasterize.xla.binning import default_capacity

STATIC = (
    "width", "height", "sh_degree", "near_plane", "eps2d", "alpha_max", "alpha_min",
    "transmittance_min", "capacity", "implementation", "deterministic", "as_bytes", "depth_kind",
    "antialias",
)  # fmt: skip


def rasterize(
    means: ArrayLike,
    quats: ArrayLike,
    scales: ArrayLike,
    opacities: ArrayLike,
    colors: ArrayLike,
    viewmats: ArrayLike,
    Ks: ArrayLike,
    width: int,
    height: int,
    *,
    sh_degree: int | None = None,
    backgrounds: ArrayLike | None = None,
    means2d_offset: ArrayLike | None = None,
    alive: ArrayLike | None = None,
    near_plane: float = 0.2,
    eps2d: float = 0.3,
    alpha_max: float = 0.99,
    alpha_min: float = 1 / 255,
    transmittance_min: float = 1e-4,
    capacity: int | None = None,
    implementation: str | None = None,
    deterministic: bool = True,
    as_bytes: bool = False,
    depth_kind: str = "accumulated",
    antialias: bool = False,
) -> RasterizeOutput:
    """Rasterize 3-D Gaussians.

    Arrays are JAX's or NumPy's, or lists; integers count as floats. Leading axes broadcast: one set
    of Gaussians under many cameras, or one set per frame. Pixel centers lie at integer + 0.5: a
    Gaussian on the optical axis with cx = W/2 lands on the corner between the four middle pixels.
    Already jitted; works under `jit`, `grad`, `vmap` (which folds into the frames) and `shard_map`.
    Shapes are static: other data never recompile. "xla" has forward mode as well (`jvp`, `jacfwd`,
    `hessian`, `jvp` of `grad`); "triton" refuses it by name.

    Outside of any transformation the numbers are looked at too: scales and opacities that are
    logarithms or logits, cameras that are no rigid transforms in OpenCV's axes, or intrinsics that
    are not in pixels raise; pairs beyond the capacity, or all Gaussians behind the camera, are
    warned of once on the logger `kernels`. That waits for the images: put a loop into `jit`.

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
      colors: [..., N, D], any D, bytes count 255 as one; with `sh_degree` [..., N, K, D] spherical
        harmonics, K at least (sh_degree + 1)^2, color = max(0, 0.5 + sum).
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
        Then draw once, and pass `capacity=kernels.capacity_for(out.aux)` from there on: the most
        instances of a frame, dropped ones included, with a fifth to spare.
      implementation: "xla"; "triton"; None picks "triton" on an NVIDIA GPU where it can run, else
        "xla". Triton computes in float32.
      deterministic: False allows XLA sums in any order (off the CPU: less memory).
      as_bytes: `rgb` and `alpha` as bytes, clipped and rounded, for a screen or a file; no `depth`
        and no gradient. Spares Triton's kernels most of what they write.
      depth_kind: "accumulated": sum of z * weight. "expected": that over alpha. "median": z of the
        last drawn splat in front of which more than half of the light is left (2DGS,
        arXiv:2403.17888), whose gradient goes to that splat alone. All are 0 where nothing is.
      antialias: Scale every opacity by sqrt(det(cov - eps2d I) / det(cov)), so that a splat smaller
        than a pixel does not grow brighter by the blur (Mip-Splatting, arXiv:2311.16493; gsplat's
        "antialiased"). Such a splat is culled when its scaled opacity is under `alpha_min`.

    Returns:
      Images and `aux`.

    Raises:
      NotImplementedError: if the implementation asked for cannot run; the message says why.
      ValueError: if an argument makes no sense: its name, what is expected, what it is, in a line.
    """
    dispatch.check_implementation(implementation)
    numbers = as_numbers(
        dict(
            width=width, height=height, sh_degree=sh_degree, near_plane=near_plane, eps2d=eps2d,
            alpha_max=alpha_max, alpha_min=alpha_min, transmittance_min=transmittance_min,
            capacity=capacity, deterministic=deterministic, as_bytes=as_bytes, antialias=antialias,
            implementation=implementation, depth_kind=depth_kind,
        )
    )  # fmt: skip
    checked = numbers.keys() - {"implementation", "deterministic", "antialias"}
    check_static(**{name: numbers[name] for name in checked})
    arrays = as_arrays(
        dict(
            means=means, quats=quats, scales=scales, opacities=opacities, colors=colors,
            viewmats=viewmats, Ks=Ks, backgrounds=backgrounds, means2d_offset=means2d_offset,
            alive=alive,
        ),
        numbers["sh_degree"],
    )  # fmt: skip
    check_numbers(arrays, numbers["width"])
    out = _rasterize(**arrays, **numbers)
    if numbers["capacity"] is None:
        size = numbers["width"], numbers["height"]
        numbers["capacity"] = default_capacity(arrays["means"].shape[-2], *size)
    tell_of_images(out, arrays, numbers["near_plane"], numbers["capacity"])
    return out


@partial(jax.jit, static_argnames=STATIC)
def _rasterize(
    means: Float[Array, "*#lead N 3"],
    quats: Float[Array, "*#lead N 4"],
    scales: Float[Array, "*#lead N 3"],
    opacities: Float[Array, "*#lead N"],
    colors: Float[Array, "..."],
    viewmats: Float[Array, "*#lead 4 4"],
    Ks: Float[Array, "*#lead 3 3"],
    backgrounds: Float[Array, "..."] | UInt8[Array, "..."] | None,
    means2d_offset: Float[Array, "*#lead N 2"] | None,
    alive: Bool[Array, "*#lead N"] | None,
    *,
    width: int,
    height: int,
    sh_degree: int | None,
    near_plane: float,
    eps2d: float,
    alpha_max: float,
    alpha_min: float,
    transmittance_min: float,
    capacity: int | None,
    implementation: str | None,
    deterministic: bool,
    as_bytes: bool,
    depth_kind: str,
    antialias: bool,
) -> RasterizeOutput:
    """Draw what `rasterize` was given, made arrays and checked."""
    arrays: dict[str, Any] = dict(
        means=means, quats=quats, scales=scales, opacities=opacities, colors=colors,
        means2d_offset=means2d_offset, alive=alive, viewmats=viewmats, Ks=Ks,
        backgrounds=backgrounds,
    )  # fmt: skip
    frames, dtype = to_frames(arrays, width, height, sh_degree)
    if capacity is None:
        capacity = default_capacity(frames.n_gaussians, width, height)
    spec = BlendSpec(
        width, height, alpha_max, alpha_min, transmittance_min, deterministic,
        depth_kind == "median",
    )  # fmt: skip
    settings = Settings(spec, near_plane, eps2d, sh_degree, capacity, antialias)
    if dispatch.uses_triton("rasterize", implementation, None):
        from kernels.rasterize.triton import rasterize as path
    else:
        from kernels.rasterize.xla import rasterize as path
    render = path.render_bytes if as_bytes else path.render
    images = render(settings, *frames[:5])
    return output_of(images, depth_kind, frames.lead, frames.n_gaussians, capacity, dtype)
