"""NVIDIA GPUs: `mean_ssim`, one kernel forward and one back."""
