"""Plain JAX: `sample_planes` for any machine."""
