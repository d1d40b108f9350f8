"""NVIDIA GPUs: `move_by_codes`; `codes` launches the kernel of `codes_kernels`."""
