"""Projection on a GPU: one Triton kernel from Gaussians to all that lists and blending read.

Same mathematics, culling and gradients as `xla.projection`, in float32; one difference:
coefficients of harmonics beyond the degree are not read, not even to see that they are finite. The
adjoint computes the projection again from the inputs, which is cheaper than to keep it.

Place in the pipeline: (1) of 3; after: `binning`.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import ShapeDtypeStruct
from jaxtyping import Array, Bool, Float, Int, UInt

from kernels import launch
from kernels.checks import require
from kernels.rasterize.triton import projection_adjoint_kernels, projection_kernels
from kernels.rasterize.triton.binning import CHUNK
from kernels.rasterize.types import Camera, Gaussians
from kernels.rasterize.xla.binning import SLACK_POWER, tile_grid
from kernels.rasterize.xla.blend import N_SHAPE

N_CAMERA = 16  # numbers of a camera's gradient: rows of [W | w], fx, fy, cx, cy
BLOCK = CHUNK  # Gaussians per program, one per lane
# A program walks over several frames and loads what they share once, as long as there are still so
# many programs: what a large GPU holds at once.
MIN_PROGRAMS = 1500
MAX_NUMBERS = 2**31  # the kernels' indices have 32 bits


class Projected(NamedTuple):
    """Gaussians on the images. A culled one is in no list."""

    splats: Float[Array, "B N1 S"]  # what blending reads; last a dummy that draws nothing
    ellipses: Float[Array, "B N 8"]  # x, y, a, b, c, det, level (-1: culled), depth
    keys: UInt[Array, "B N"]  # order of depth, culled ones last
    tiles: Int[Array, "B N"]  # tiles of 16 pixels that it meets
    sums: Int[Array, "B M"]  # of `tiles`, by chunk of BLOCK Gaussians
    radii: Int[Array, "B N"]  # as in `RasterizeAux`


def project_triton(
    gaussians: Gaussians,
    alive: Bool[Array, "#B N"],
    camera: Camera,
    *,
    sh_degree: int | None,
    alpha_min: float,
) -> Projected:
    """Project Gaussians, evaluate their colors, and count what they touch.

    Args:
      gaussians: Float32; axis 0 of each array has the frames, or one that all frames share.
      alive: False draws nothing.
      camera: Cameras, one per frame.
      sh_degree: Degree of the harmonics in `gaussians.colors`, or None for plain colors.
      alpha_min: Least opacity that draws.

    Returns:
      Splats and their footprints, with culled ones harmless.

    Raises:
      ValueError: if an array has more numbers than 32 bits can count.
    """
    n_frames, n_gaussians = camera.viewmats.shape[0], gaussians.means.shape[1]
    arrays, constants = _arguments(gaussians, alive, camera, sh_degree, alpha_min)
    stride = -(-(N_SHAPE + constants["CHANNELS"] + 1) // 4) * 4
    _require_countable(n_frames * (n_gaussians + 1) * stride, n_frames)
    n_chunks = -(-(n_gaussians + 1) // BLOCK)  # with the dummy
    at_once = _frames_per_program(n_frames, n_chunks)
    per_gaussian = (n_frames, n_gaussians)
    count = ShapeDtypeStruct(per_gaussian, jnp.int32)
    outputs = launch.triton_call(
        projection_kernels.project_kernel, *arrays,
        outputs=(
            ShapeDtypeStruct((n_frames, n_gaussians + 1, stride), jnp.float32),
            ShapeDtypeStruct((*per_gaussian, 8), jnp.float32),
            ShapeDtypeStruct(per_gaussian, jnp.uint32), count,
            ShapeDtypeStruct((n_frames, n_chunks), jnp.int32), count,
        ),
        grid=n_chunks * (n_frames // at_once), CHUNKS=n_chunks, FRAMES=at_once, STRIDE=stride,
        COLUMNS=tile_grid(camera.width, camera.height)[0],
        LEVEL_MIN=2.0 * (float(np.log(alpha_min)) - SLACK_POWER), **constants,
    )  # fmt: skip
    return Projected(*outputs)


def project_backward(
    gaussians: Gaussians,
    alive: Bool[Array, "#B N"],
    camera: Camera,
    sums: Float[Array, "B N R"],
    *,
    sh_degree: int | None,
    alpha_min: float,
    depth_gradient: bool,
    camera_gradient: bool,
    offset_gradient: bool,
) -> tuple[Gaussians, Float[Array, "B 4 4"] | None, Float[Array, "B 3 3"] | None]:
    """Gradients of all arrays from the sums of the walk back over the pixels.

    Sums over frames and, for the camera, over Gaussians have a fixed order.

    Args:
      gaussians: As for `project_triton`; likewise `alive`, `camera`, `sh_degree`, `alpha_min`.
      alive: See above.
      camera: See above.
      sums: Per Gaussian, with g the cotangent of ln alpha and a, c the two linear forms of its
        power, sums over pixels of g, g a, g c, g a a, g a c, g c c; then cotangents of the colors
        and, with `depth_gradient`, of the depth.
      sh_degree: See above.
      alpha_min: See above.
      depth_gradient: Whether `sums` has the depth.
      camera_gradient: Whether gradients of the cameras are wanted.
      offset_gradient: Whether that of `gaussians.means2d_offset` is wanted, which is None if not.

    Returns:
      Gradients shaped as `gaussians`, summed over frames where axis 0 has one; those of
      `camera.viewmats` and `camera.Ks`, or None.
    """
    n_frames, n_gaussians, n_row = sums.shape
    arrays, constants = _arguments(gaussians, alive, camera, sh_degree, alpha_min)
    _require_countable(sums.size, n_frames)
    n_chunks = -(-n_gaussians // BLOCK)
    wanted = gaussians if offset_gradient else gaussians[:-1]
    is_shared = any(value.shape[0] < n_frames for value in wanted)
    at_once = n_frames if is_shared else _frames_per_program(n_frames, n_chunks)
    offsets = gaussians.means2d_offset.shape if offset_gradient else (1,)
    partials = (n_frames, n_chunks, N_CAMERA) if camera_gradient else (1,)
    outputs = launch.triton_call(
        projection_adjoint_kernels.project_backward_kernel, *arrays, sums,
        outputs=(
            *(ShapeDtypeStruct(value.shape, jnp.float32) for value in gaussians[:-1]),
            ShapeDtypeStruct(offsets, jnp.float32), ShapeDtypeStruct(partials, jnp.float32),
        ),
        grid=n_chunks * (n_frames // at_once), CHUNKS=n_chunks, FRAMES=at_once, ROW=n_row,
        DEPTH=int(depth_gradient), CAMERA_GRADIENT=int(camera_gradient),
        OFFSET_GRADIENT=int(offset_gradient), **constants,
    )  # fmt: skip
    shift = outputs[5] if offset_gradient else None
    grads = Gaussians(*(*outputs[:5], shift))
    if not camera_gradient:
        return grads, None, None
    totals = jnp.sum(outputs[-1], axis=1)
    viewmats = jnp.pad(totals[:, :12].reshape(-1, 3, 4), ((0, 0), (0, 1), (0, 0)))
    zero = jnp.zeros_like(totals[:, 0])
    fx, fy, cx, cy = (totals[:, i] for i in range(12, 16))
    Ks = jnp.stack([fx, zero, cx, zero, fy, cy, zero, zero, zero], axis=-1).reshape(-1, 3, 3)
    return grads, viewmats, Ks


def _arguments(
    gaussians: Gaussians, alive: Array, camera: Camera, sh_degree: int | None, alpha_min: float
) -> tuple[tuple[Array, ...], dict]:
    """Arrays and compile-time numbers that both kernels take."""
    colors = gaussians.colors
    n_channels = colors.shape[-1]
    n_basis = 1 if sh_degree is None else (sh_degree + 1) ** 2
    _require_countable(max(value.size for value in gaussians), camera.viewmats.shape[0])
    fields = Gaussians._fields[:-1] + ("offsets", "alive")
    flags = {
        name.upper(): int(value.shape[0] > 1)
        for name, value in zip(fields, (*gaussians, alive), strict=True)
    }
    constants = dict(
        N=gaussians.means.shape[1], CHANNELS=n_channels,
        DEGREE=-1 if sh_degree is None else sh_degree, USED=n_basis * n_channels,
        LENGTH=int(np.prod(colors.shape[2:])), WIDTH=camera.width, HEIGHT=camera.height,
        NEAR=float(camera.near_plane), EPS=float(camera.eps2d), ALPHA_MIN=float(alpha_min),
        ANTIALIAS=int(camera.antialias), BLOCK=BLOCK, ASM=not launch.is_interpreting(),
    )  # fmt: skip
    return (*gaussians, alive, camera.viewmats, camera.Ks), constants | flags


def _frames_per_program(n_frames: int, n_chunks: int) -> int:
    """Most frames that divide evenly and leave enough programs; 1 if there are none."""
    return max(
        count for count in range(1, n_frames + 1)
        if n_frames % count == 0 and (count == 1 or n_chunks * (n_frames // count) >= MIN_PROGRAMS)
    )  # fmt: skip


def _require_countable(numbers: int, n_frames: int) -> None:
    require(
        numbers < MAX_NUMBERS,
        f"frames: expected arrays of fewer than {MAX_NUMBERS} numbers, got {numbers} for "
        f"{n_frames} frames; render fewer frames at once",
    )
