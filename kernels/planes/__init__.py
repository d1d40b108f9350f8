"""Features read bilinearly from planes of several resolutions, and their exact, repeatable sums."""

from kernels.planes.api import sample_planes
from kernels.planes.types import HASH_PRIME, Levels, spatial_hash

__all__ = ["HASH_PRIME", "Levels", "sample_planes", "spatial_hash"]
