"""NVIDIA GPUs: projection -> binning -> blending, joined by `rasterize`.

A file `X.py` launches the Triton kernels of `X_kernels.py`.
"""
