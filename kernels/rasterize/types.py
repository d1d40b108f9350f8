"""What both ways of rendering, `xla_path` and `triton_path`, take and give."""

from typing import NamedTuple

from jaxtyping import Array, Float, Int

from kernels.rasterize.blend_xla import BlendSpec
from kernels.rasterize.projection import Camera


class Settings(NamedTuple):
    """Numbers that are known when the program is compiled (hashable)."""

    spec: BlendSpec
    near_plane: float
    eps2d: float
    sh_degree: int | None
    capacity: int

    def camera(self, viewmats: Float[Array, "B 4 4"], Ks: Float[Array, "B 3 3"]) -> Camera:
        """The cameras of a batch of frames."""
        spec = self.spec
        return Camera(viewmats, Ks, spec.width, spec.height, self.near_plane, self.eps2d)


class Images(NamedTuple):
    """Images of a batch of frames; no gradient flows through the last two."""

    rgb: Float[Array, "B H Wd D"]  # background included
    depth: Float[Array, "B H Wd"]  # sum of camera z * weight
    left: Float[Array, "B H Wd"]  # light that is left: 1 - alpha
    n_instances: Int[Array, " B"]  # (Gaussian, 16-px tile) pairs wanted
    radii: Int[Array, "B N"]  # see `RasterizeAux`
