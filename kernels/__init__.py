"""Kernels usable alone: `rasterize`, a differentiable Gaussian splatting rasterizer, and others.

op -> implementations -> status:
  * `rasterize` -> "xla" (plain JAX; CPU, GPU, TPU; the oracle of the others); "triton" (Triton
    kernels through jax-triton; NVIDIA GPUs, and anywhere, slowly, in Triton's interpreter).
  * `deform` (attention, normalised layers and heads that move every Gaussian in every frame) ->
    "xla"; "triton", forward only.
  * `mean_ssim` (how alike images are, as a loss) -> "xla"; "triton", forward and back.

Nothing here knows of talking heads, and nothing here imports `egs_jax`.
"""

from kernels.deform import deform
from kernels.rasterize.api import RasterizeAux, RasterizeOutput, rasterize
from kernels.ssim import mean_ssim

__all__ = ["RasterizeAux", "RasterizeOutput", "deform", "mean_ssim", "rasterize"]
