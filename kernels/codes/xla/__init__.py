"""Plain JAX: `move_by_codes` for any machine."""
