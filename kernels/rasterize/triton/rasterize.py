"""Rendering on an NVIDIA GPU: projection, lists and blending by Triton kernels, and the way back.

`projection` -> `binning` -> `blend`, then the same kernels' adjoints in one
pullback, so that what passes between the stages needs to suit only them. Every sum has a fixed
order: the same call gives the same bits. Computes in float32.

Arrays that all frames share come with one frame and stay so; the gradient of such an array is
summed over the frames inside the kernel.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Bool, Float, PyTree

from kernels._sharding import match_varying
from kernels.rasterize.fold_frames import fold_frames
from kernels.rasterize.triton.binning import QuarterLists, build_quarter_lists
from kernels.rasterize.triton.blend import MAX_COLORS, blend_backward, blend_forward
from kernels.rasterize.triton.projection import Projected, project_backward, project_triton
from kernels.rasterize.triton.reverse_only import once, reverse_only
from kernels.rasterize.types import Background, Bytes, Gaussians, Images, Settings
from kernels.rasterize.xla.projection import MAX_NUMBER

MAX_HARMONIC_COLORS = 3  # per launch: their coefficients stay in registers


class _Inputs(NamedTuple):
    """Every array; axis 0 has the frames, or one for all frames."""

    gaussians: Gaussians
    alive: Bool[Array, "B N"]
    viewmats: Float[Array, "B 4 4"]
    Ks: Float[Array, "B 3 3"]
    background: Background


def render(
    settings: Settings,
    gaussians: Gaussians,
    alive: Bool[Array, "B N"],
    viewmats: Float[Array, "B 4 4"],
    Ks: Float[Array, "B 3 3"],
    background: Background,
) -> Images:
    """Draw Gaussians; differentiable in every array of floats, in reverse mode alone.

    Args:
      settings: Sizes and thresholds.
      gaussians: One set per frame, or one frame for all; likewise `alive`.
      alive: False draws nothing.
      viewmats: World -> camera, per frame.
      Ks: Intrinsics, per frame [pixels].
      background: Colors per pixel or per frame; black if None.

    Returns:
      Images of every frame. More channels than a launch takes are drawn by several.

    Raises:
      ValueError: if an array has more numbers than 32 bits can count.
    """
    inputs = _Inputs(gaussians, alive, viewmats, Ks, background)
    inputs = reverse_only(inputs)
    return _in_launches(settings, partial(_render, settings), inputs)


def render_bytes(settings: Settings, *arrays: Any) -> Bytes:
    """Draw Gaussians as they are shown; arguments and errors as `render`."""
    show = fold_frames(partial(_show, settings))
    return _in_launches(settings, show, jax.lax.stop_gradient(_Inputs(*arrays)))


def _in_launches(settings: Settings, draw: Callable[[_Inputs], Any], inputs: _Inputs) -> Any:
    """Draw the channels of each launch, and put them side by side."""
    images = [draw(part) for part in _launches(settings, inputs)]
    if len(images) == 1:
        return images[0]
    return images[0]._replace(rgb=jnp.concatenate([image.rgb for image in images], axis=-1))


def _launches(settings: Settings, inputs: _Inputs) -> list[_Inputs]:
    """Split the channels into launches, each with all Gaussians and as many as it takes."""
    inputs = match_varying(inputs)
    inputs = jax.tree.map(_in_float32, inputs)
    colors, background = inputs.gaussians.colors, inputs.background
    if background is not None:  # the kernels read one per frame
        n_frames = inputs.viewmats.shape[0]
        background = jnp.broadcast_to(background, (n_frames, *background.shape[1:]))
    at_once = MAX_COLORS if settings.sh_degree is None else MAX_HARMONIC_COLORS
    if colors.shape[-1] > at_once:  # a launch sees only its own channels
        bounded = jnp.all(jnp.abs(colors) < MAX_NUMBER, axis=tuple(range(2, colors.ndim)))
        inputs = inputs._replace(alive=inputs.alive & bounded)
    parts = []
    for first in range(0, colors.shape[-1], at_once):
        some = slice(first, first + at_once)
        gaussians = inputs.gaussians._replace(colors=colors[..., some])
        behind = None if background is None else background[..., some]
        parts.append(inputs._replace(gaussians=gaussians, background=behind))
    return parts


def _in_float32(value: Array) -> Array:
    """A number as the kernels take it; truths and bytes stay."""
    return value if value.dtype in (jnp.bool_, jnp.uint8) else value.astype(jnp.float32)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _render(settings: Settings, inputs: _Inputs) -> Images:
    return fold_frames(partial(_forward, settings))(inputs)[0]


def _render_forward(settings: Settings, primals: PyTree) -> tuple[Images, tuple]:
    inputs = once(jax.tree.map(lambda p: p.value, primals, is_leaf=_is_primal))
    camera_gradient = primals.viewmats.perturbed or primals.Ks.perturbed
    offset_gradient = primals.gaussians.means2d_offset.perturbed
    # Empty tuples or None, because what is saved for the way back may hold only arrays.
    wanted = tuple(() if wants else None for wants in (camera_gradient, offset_gradient))
    image, saved = fold_frames(partial(_forward, settings))(inputs)
    return image, (inputs, saved, wanted)


def _is_primal(value: Any) -> bool:
    return hasattr(value, "perturbed")


def _render_backward(settings: Settings, residuals: tuple, cotangents: Images) -> tuple:
    inputs, saved, wanted = residuals
    rgb, depth, left = (None if isinstance(v, SymbolicZero) else once(v) for v in cotangents[:3])
    if rgb is None:
        rgb = jnp.zeros(cotangents.rgb.shape, jnp.float32)
    backward = partial(_backward, settings, *(wants is not None for wants in wanted))
    return (fold_frames(backward)(inputs, saved, rgb, depth, left),)


_render.defvjp(_render_forward, _render_backward, symbolic_zeros=True)


def _forward(settings: Settings, inputs: _Inputs) -> tuple[Images, tuple]:
    """The images, and what the way back needs."""
    projected, lists, n_colors = _arranged(settings, inputs)
    rgb, depth, left, stops = blend_forward(
        settings.spec, projected.splats, inputs.background, lists, n_colors
    )
    image = Images(rgb, depth, left, lists.n_instances, projected.radii)
    return image, (projected.splats, lists, left, stops)


def _show(settings: Settings, inputs: _Inputs) -> Bytes:
    projected, lists, n_colors = _arranged(settings, inputs)
    rgb, alpha = blend_forward(
        settings.spec, projected.splats, inputs.background, lists, n_colors, as_bytes=True
    )
    return Bytes(rgb, alpha, lists.n_instances, projected.radii)


def _arranged(settings: Settings, inputs: _Inputs) -> tuple[Projected, QuarterLists, int]:
    """Splats, which of them each quarter of a tile meets, and how many colors they have."""
    spec = settings.spec
    projected = project_triton(
        inputs.gaussians, inputs.alive, settings.camera(inputs.viewmats, inputs.Ks),
        sh_degree=settings.sh_degree, alpha_min=spec.alpha_min,
    )  # fmt: skip
    lists = build_quarter_lists(
        projected.ellipses, projected.keys, projected.tiles, projected.sums,
        width=spec.width, height=spec.height, capacity=settings.capacity,
    )  # fmt: skip
    return projected, lists, inputs.gaussians.colors.shape[-1]


def _backward(
    settings: Settings, camera_gradient: bool, offset_gradient: bool, inputs: _Inputs,
    saved: tuple, grad_rgb: Array, grad_depth: Array | None, grad_left: Array | None,
) -> _Inputs:  # fmt: skip
    """Gradients of every array, summed over the frames where they share it; None if not wanted."""
    splats, lists, left, stops = saved
    n_colors = inputs.gaussians.colors.shape[-1]
    sums = blend_backward(
        settings.spec, splats, inputs.background, lists, left, stops, grad_rgb, grad_depth,
        grad_left, n_colors,
    )  # fmt: skip
    gaussians, viewmats, Ks = project_backward(
        inputs.gaussians, inputs.alive, settings.camera(inputs.viewmats, inputs.Ks), sums,
        sh_degree=settings.sh_degree, alpha_min=settings.spec.alpha_min,
        depth_gradient=grad_depth is not None, camera_gradient=camera_gradient,
        offset_gradient=offset_gradient,
    )  # fmt: skip
    background = None
    if inputs.background is not None and inputs.background.dtype != jnp.uint8:
        background = left[..., None] * grad_rgb
        if inputs.background.ndim == 2:
            background = jnp.sum(background, axis=(1, 2))
    return _Inputs(gaussians, None, viewmats, Ks, background)
