"""The PyTrees that flow through the pipeline; shapes and units of everything are said here once.

Axis letters: B frames of a batch, N Gaussians (capacity), T frames of a clip, W frames of the
audio window, R 50 Hz rows per window entry (16), F audio features, H and Wd image height and
width. Images are uint8 [H,Wd,3] on disk and at the border, float32 in [0,1] inside.
"""

from typing import Any

import flax.struct
from jaxtyping import Array, Float, Int, UInt8

from egs_jax.config import Stage

Params = dict[str, Any]
"""{"gaussians": `Gaussians`, "networks": {module name: Flax parameters}}: everything trained."""
Metrics = dict[str, Float[Array, ""]]


class Camera(flax.struct.PyTreeNode):
    """One pinhole camera, OpenCV axes."""

    viewmat: Float[Array, "4 4"]
    """World (head space) -> camera."""
    K: Float[Array, "3 3"]
    """Intrinsics, pixels; pixel centers lie at integers + 0.5."""
    width: int = flax.struct.field(pytree_node=False)
    height: int = flax.struct.field(pytree_node=False)


class Drive(flax.struct.PyTreeNode):
    """Sound, eyes and poses that move the head in B frames, and what it is drawn over."""

    audio_windows: Float[Array, "B W R F"]
    """Sound around each frame, silence where there is none."""
    eyes: Float[Array, " B"]
    """Blink in [0,1]; 1 is shut."""
    viewmats: Float[Array, "B 4 4"]
    """World -> camera: the head's pose, since the head is the world."""
    Ks: Float[Array, "B 3 3"]
    """Intrinsics, pixels."""
    backgrounds: UInt8[Array, "B H Wd 3"]
    """The room without the person; for a head alone, the frame with its head painted out."""
    bodies: Float[Array, "B 4 4"] | None = None
    """Body -> camera, where body space is head space at rest; None: all moves with the head."""
    lips: Float[Array, "B 2"] | None = None
    """What the lips' token says (`Dataset.lip_shapes`), in training; None: what the sound tells."""


class Batch(flax.struct.PyTreeNode):
    """B training frames: what rendering needs (`drive`) and what only the loss needs."""

    drive: Drive
    targets: UInt8[Array, "B H Wd 3"]
    """What the render must reproduce."""
    masks: UInt8[Array, "B H Wd"]
    """Where it must be opaque: 255 inside, 0 outside."""
    lips_rects: Int[Array, "B 4"]
    """row_min, row_max, col_min, col_max; maxima exclusive."""
    eyes_rects: Int[Array, "B 4"]
    """Likewise around both eyes."""
    entries: Float[Array, "M R F"]
    """Sound around single other frames, without a picture."""
    entry_noise: Float[Array, " F"]
    """Standard deviation of the noise that the step adds to it."""
    lip_shapes: Float[Array, "M 2"]
    """Their lips (`Dataset.lip_shapes`)."""
    stage: Stage = flax.struct.field(pytree_node=False)
    perceptual: bool = flax.struct.field(pytree_node=False)
    """True where this step's loss has its perceptual term."""


class RenderOutput(flax.struct.PyTreeNode):
    """B drawn frames."""

    rgb: Float[Array, "B H Wd 3"]
    """Head over background, in [0,1] up to the color's own overshoot."""
    alpha: Float[Array, "B H Wd"]
    depth: Float[Array, "B H Wd"]
    """Sum of depth times weight, world units."""
