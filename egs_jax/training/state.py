"""The state of training: everything that a step changes."""

from typing import Any

import flax.struct
from jaxtyping import Array, Bool, Float, Int

from egs_jax.training.density import DensityStats
from egs_jax.types import Params


class TrainState(flax.struct.PyTreeNode):
    """Everything that a step changes; nothing else is remembered."""

    step: Int[Array, ""]
    params: Params
    alive: Bool[Array, " N"]
    """Slots in use; outside `params`, since it is not differentiable."""
    opt_state: Any
    stats: DensityStats
    deforming: Bool[Array, ""]
    """True after the static stage has been handed over."""
    rate_scale: Float[Array, ""]
    """Multiplies every learning rate; halved when a run had to go back to a checkpoint."""
    bad_streak: Int[Array, ""]
    """Steps in a row, up to now, whose loss or gradient was not finite (their updates skipped)."""
    dropped: Int[Array, ""]
    """Gaussians that density control wanted to add so far but had no slot for."""
