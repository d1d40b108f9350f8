"""Plain JAX: `move_by_codes` and, in `reading`, `read_codes` for any machine."""
