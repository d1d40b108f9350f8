"""Gaussians, networks, and the one forward pass."""
