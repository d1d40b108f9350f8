"""Tile rasterizer of 3-D Gaussians: projection -> binning -> blending, each a pure function."""

from kernels.rasterize.api import RasterizeAux, RasterizeOutput, rasterize

__all__ = ["RasterizeAux", "RasterizeOutput", "rasterize"]
