"""NVIDIA GPUs: `deform` and `decode_heads`.

A file `X.py` launches the Triton kernels of `X_kernels.py`; both share `layer_kernels`.
"""
