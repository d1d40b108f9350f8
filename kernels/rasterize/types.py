"""What both ways of rendering, `xla_path` and `triton_path`, take and give."""

from typing import NamedTuple

from jaxtyping import Array, Float, Int

from kernels.rasterize.blend_xla import BlendSpec


class Settings(NamedTuple):
    """Numbers that are known when the program is compiled (hashable)."""

    spec: BlendSpec
    near_plane: float
    eps2d: float
    sh_degree: int | None
    capacity: int


class Images(NamedTuple):
    """Images of a batch of frames; no gradient flows through the last two."""

    rgb: Float[Array, "B H Wd D"]  # background included
    depth: Float[Array, "B H Wd"]  # sum of camera z * weight
    left: Float[Array, "B H Wd"]  # light that is left: 1 - alpha
    n_instances: Int[Array, " B"]  # (Gaussian, 16-px tile) pairs wanted
    radii: Int[Array, "B N"]  # see `RasterizeAux`
