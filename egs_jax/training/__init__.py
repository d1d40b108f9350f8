"""Batches -> a trained state: losses, steps, loop, checkpoints, several devices."""
