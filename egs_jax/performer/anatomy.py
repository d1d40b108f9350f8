"""Materials, eyes and skull, on which the demo performer's face and the parts around it agree.

Lengths are centimeters in the axes of the canonical face, as in `head`.
"""

import numpy as np
from jaxtyping import Float

SKIN, EYE, TEETH, MOUTH, TONGUE, HAIR, CLOTH = range(7)
EYE_CENTERS = np.array([[-3.15, 2.64, 2.3], [3.15, 2.64, 2.3]])
EYE_RADIUS = 1.6
SKULL_CENTER = np.array([0.0, 3.4, -3.6])
SKULL_RADII = np.array([7.75, 8.9, 9.4])


def smoothstep(low: float, high: float, x: Float[np.ndarray, "*S"]) -> Float[np.ndarray, "*S"]:
    """Return 0 below `low`, 1 above `high`, a cubic in between (either order of the two)."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def skull_path(
    border: Float[np.ndarray, "n 3"], t: Float[np.ndarray, " m"]
) -> Float[np.ndarray, "m n 3"]:
    """Return points on the way from the face's border to the back of the head.

    Args:
      border: Points on the face's oval [cm].
      t: Share of the way, 0 on the border, 1 at the back.

    Returns:
      Points [cm]: directions turn evenly about the skull's middle while the distance goes
      over from the border's to that of the skull's ellipsoid.
    """
    arm = border - SKULL_CENTER
    radius = np.linalg.norm(arm, axis=1)
    start = arm / radius[:, None]
    back = np.array([0.0, -0.12, -0.9928])
    angle = np.arccos(np.clip(start @ back, -1, 1))
    t = t[:, None]
    a, b = np.sin((1 - t) * angle) / np.sin(angle), np.sin(t * angle) / np.sin(angle)
    direction = a[..., None] * start + b[..., None] * back  # [m, n, 3]
    ellipsoid = 1 / np.linalg.norm(direction / SKULL_RADII, axis=-1)
    mix = smoothstep(-0.08, 0.5, t) - smoothstep(-0.08, 0.5, np.zeros(1)) * (1 - t)
    distance = (1 - mix) * radius + mix * ellipsoid
    return SKULL_CENTER + distance[..., None] * direction
