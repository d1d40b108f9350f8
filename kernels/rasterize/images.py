"""Images of frames as they are returned: by the leading axes of the arguments, with one depth."""

import jax.numpy as jnp

from kernels.rasterize.types import Bytes, Images, RasterizeAux, RasterizeOutput


def output_of(
    images: Images | Bytes, depth_kind: str, lead: tuple[int, ...], n_gaussians: int, capacity: int,
    dtype: jnp.dtype,
) -> RasterizeOutput:  # fmt: skip
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
    alpha = 1.0 - left
    if depth_kind == "expected":
        depth = depth / jnp.where(alpha > 0, alpha, 1.0)
    return RasterizeOutput(rgb, alpha, depth, aux)
