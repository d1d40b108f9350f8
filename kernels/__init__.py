"""Kernels usable alone: `rasterize`, a differentiable Gaussian splatting rasterizer, and others.

Each has an implementation "xla", plain JAX for any machine, and one "triton", for NVIDIA GPUs (and
anywhere, slowly, in Triton's interpreter):
  * `rasterize`: Gaussians to images; `project`, `tile_lists` and `blend` are its stages, for colors
    of one's own ("xla" only), and `capacity_for` finds how much room a scene needs;
  * `deform`: attention, normalized layers and heads that move every Gaussian in every frame;
    "triton" goes forward only;
  * `move_by_codes`: fixed patterns times a few numbers a frame, which move every Gaussian likewise;
  * `read_codes` of `kernels.codes`: those numbers of a frame, by how a few Gaussians moved;
  * `decode_heads` of `kernels.deform`: the last part of it, for training;
  * `mean_ssim`: how alike images are, as a loss;
  * `sample_planes`: bilinear reads of dense or hashed planes; with "triton" the gradient of the
    tables repeats bit for bit on a GPU.

`implementations` tells which one each of them had, and `compile_kernels` compiles the Triton
kernels of a whole program side by side. README.md here says how the folders are laid out.

Nothing here knows of talking heads, and nothing here imports `egs_jax`.
"""

from kernels.codes import move_by_codes
from kernels.deform import deform
from kernels.dispatch import implementations
from kernels.planes import sample_planes
from kernels.precompile import compile_kernels
from kernels.rasterize import (
    RasterizeAux,
    RasterizeOutput,
    blend,
    capacity_for,
    project,
    rasterize,
    tile_lists,
)
from kernels.ssim import mean_ssim

__all__ = [
    "RasterizeAux",
    "RasterizeOutput",
    "blend",
    "capacity_for",
    "compile_kernels",
    "deform",
    "implementations",
    "mean_ssim",
    "move_by_codes",
    "project",
    "rasterize",
    "sample_planes",
    "tile_lists",
]
