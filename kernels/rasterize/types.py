"""Arguments and results of `rasterize` and of its two implementations."""

from typing import NamedTuple

from jaxtyping import Array, Float, Int, UInt8

Background = (
    Float[Array, "B H Wd D"] | UInt8[Array, "B H Wd D"] | Float[Array, "B D"] | UInt8[Array, "B D"]
    | None
)  # fmt: skip
"""Colors per pixel or per frame, of bytes 255 times as large; black if None."""


class Gaussians(NamedTuple):
    """One set of Gaussians per frame, as `rasterize` takes them, with one leading axis."""

    means: Float[Array, "B N 3"]
    quats: Float[Array, "B N 4"]
    scales: Float[Array, "B N 3"]
    opacities: Float[Array, "B N"]
    colors: Float[Array, "B N ..."]
    means2d_offset: Float[Array, "B N 2"]


class Camera(NamedTuple):
    """A pinhole camera per frame; the image size and the planes are Python numbers."""

    viewmats: Float[Array, "B 4 4"]
    Ks: Float[Array, "B 3 3"]
    width: int
    height: int
    near_plane: float
    eps2d: float
    antialias: bool = False


class BlendSpec(NamedTuple):
    """Static numbers of the blending (hashable)."""

    width: int
    height: int
    alpha_max: float
    alpha_min: float
    transmittance_min: float
    deterministic: bool
    median: bool = False  # the depth is one splat's, not a sum


class Settings(NamedTuple):
    """Numbers that are known when the program is compiled (hashable)."""

    spec: BlendSpec
    near_plane: float
    eps2d: float
    sh_degree: int | None
    capacity: int
    antialias: bool = False

    def camera(self, viewmats: Float[Array, "B 4 4"], Ks: Float[Array, "B 3 3"]) -> Camera:
        """The cameras of a batch of frames."""
        spec = self.spec
        return Camera(
            viewmats, Ks, spec.width, spec.height, self.near_plane, self.eps2d, self.antialias
        )


class Images(NamedTuple):
    """Images of a batch of frames; no gradient flows through the last two."""

    rgb: Float[Array, "B H Wd D"]  # background included
    depth: Float[Array, "B H Wd"]  # sum of camera z * weight, or the median splat's z
    left: Float[Array, "B H Wd"]  # light that is left: 1 - alpha
    n_instances: Int[Array, " B"]  # (Gaussian, 16-px tile) pairs wanted
    radii: Int[Array, "B N"]  # see `RasterizeAux`


class Bytes(NamedTuple):
    """Images of a batch of frames as they are shown; no gradient flows through them."""

    rgb: UInt8[Array, "B H Wd D"]  # background included
    alpha: UInt8[Array, "B H Wd"]
    n_instances: Int[Array, " B"]  # as in `Images`
    radii: Int[Array, "B N"]


class RasterizeAux(NamedTuple):
    """Counts and sizes beside the images; no gradient flows through them."""

    n_instances: Int[Array, "*lead"]  # (Gaussian, 16-px tile) pairs wanted
    overflow: Int[Array, "*lead"]  # pairs dropped because they exceed the capacity
    radii: Int[Array, "*lead N"]  # ceil(3 sigma of the longest axis) [pixels]; 0 = culled


class RasterizeOutput(NamedTuple):
    """Images of `rasterize`."""

    rgb: Float[Array, "*lead H Wd D"] | UInt8[Array, "*lead H Wd D"]  # with the background
    alpha: Float[Array, "*lead H Wd"] | UInt8[Array, "*lead H Wd"]  # 1 - transmittance
    depth: Float[Array, "*lead H Wd"] | None  # by `depth_kind`, of camera z [scene units]
    aux: RasterizeAux
