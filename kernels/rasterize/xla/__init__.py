"""Plain JAX: projection -> binning -> blending, joined by `rasterize`; for any machine."""
