"""Plain JAX: `mean_ssim` for any machine."""
