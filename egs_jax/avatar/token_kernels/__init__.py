"""Tokens of frames from their sound, eyes and pose: the small networks as one Triton kernel."""
