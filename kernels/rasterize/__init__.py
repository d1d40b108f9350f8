"""Tile rasterizer of 3-D Gaussians: projection -> binning -> blending, each a pure function."""

from kernels.rasterize.api import rasterize
from kernels.rasterize.types import RasterizeAux, RasterizeOutput

__all__ = ["RasterizeAux", "RasterizeOutput", "rasterize"]
