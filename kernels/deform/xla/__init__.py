"""Plain JAX: `deform` and `decode_heads` for any machine."""
