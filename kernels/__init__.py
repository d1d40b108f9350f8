"""Kernels usable alone: `rasterize`, a differentiable Gaussian splatting rasterizer, and others.

op -> implementations -> status:
  * `rasterize` -> "xla" (plain JAX; CPU, GPU, TPU; the oracle of the others); "triton" (Triton
    kernels through jax-triton; NVIDIA GPUs, and anywhere, slowly, in Triton's interpreter).
  * `deform` (attention, normalised layers and heads that move every Gaussian in every frame) ->
    "xla"; "triton", forward only.
  * `decode_heads` of `kernels.deform` (the last part of it, for training) -> "xla"; "triton",
    forward and back.
  * `tokens.frame_tokens` (small networks that condition a frame, in one launch) -> "triton" only,
    forward only; its twin is the modules whose weights it takes.
  * `mean_ssim` (how alike images are, as a loss) -> "xla"; "triton", forward and back.
  * `sample_planes` (bilinear reads of dense or hashed planes) -> "xla"; "triton": the same values,
    and a gradient of the tables that, by construction, repeats bit for bit on a GPU.

`compile_kernels` has the Triton kernels of a whole program compiled side by side.

Nothing here knows of talking heads, and nothing here imports `egs_jax`.
"""

from kernels.deform import deform
from kernels.dispatch import implementations
from kernels.planes import sample_planes
from kernels.precompile import compile_kernels
from kernels.rasterize import RasterizeAux, RasterizeOutput, rasterize
from kernels.ssim import mean_ssim

__all__ = [
    "RasterizeAux",
    "RasterizeOutput",
    "compile_kernels",
    "deform",
    "implementations",
    "mean_ssim",
    "rasterize",
    "sample_planes",
]
