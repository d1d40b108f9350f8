"""Tile rasterizer of 3-D Gaussians: projection -> binning -> blending, each a pure function."""

from kernels.rasterize.api import rasterize
from kernels.rasterize.eager import capacity_for
from kernels.rasterize.stages import blend, project, tile_lists
from kernels.rasterize.types import RasterizeAux, RasterizeOutput

__all__ = [
    "RasterizeAux",
    "RasterizeOutput",
    "blend",
    "capacity_for",
    "project",
    "rasterize",
    "tile_lists",
]
