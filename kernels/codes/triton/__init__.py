"""NVIDIA GPUs: `move_by_codes` and `read_codes`.

`codes` launches the kernel of `codes_kernels`, `reading` that of `reading_kernels`.
"""
