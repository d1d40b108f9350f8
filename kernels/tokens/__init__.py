"""Tokens of frames from their sound, eyes and pose: small networks as one kernel."""

from kernels.tokens.frame_tokens import MOST_WINDOW, SHARED_MEMORY, WIDTH, frame_tokens, pack, sizes

__all__ = ["MOST_WINDOW", "SHARED_MEMORY", "WIDTH", "frame_tokens", "pack", "sizes"]
