"""The host's look at finished steps, a few behind the device: it logs, warns and finds bad ones.

Before: `step`, `run_folder`; after: `loop`.
"""

import collections
import math
import time
from typing import NamedTuple

import jax
from rich.progress import Progress

from egs_jax.config import Config
from egs_jax.data.dataset import Dataset
from egs_jax.runtime.errors import TrainingError
from egs_jax.training.run_folder import NoLog, RunLog
from egs_jax.types import Metrics

BAD_STEPS = 3
"""Non-finite steps in a row after which a run goes back to its last checkpoint."""
IN_FLIGHT = 4
"""Steps that a GPU or TPU may be at work on while the host looks at the one before them."""


class BadSteps(Exception):
    """Raised for so many bad steps in a row that the run must go back."""

    def __init__(self, step: int):
        """Name the number of steps done by then."""
        super().__init__(step)
        self.step = step


class FinishedStep(NamedTuple):
    """A step that the device may still be at work on."""

    number: int
    """Steps done with it."""
    metrics: Metrics
    facts: Metrics
    """Facts of the cloud after it, where it is to be logged; else nothing."""


class Monitor:
    """Looks at steps in turn, so that the device never waits for the host to look."""

    def __init__(self, config: Config, dataset: Dataset, log: RunLog | NoLog, bar: Progress):
        """Start with no step."""
        self._config, self._dataset, self._log, self._bar = config, dataset, log, bar
        self._waiting: collections.deque[FinishedStep] = collections.deque()
        self._behind = steps_behind()
        self._clock: tuple[int, float] | None = None
        self._told_overflow = False

    def add(self, step: FinishedStep, *, wait: bool) -> None:
        """Take a step, and look at those before it that are due; with `wait`, at all.

        Raises:
          BadSteps: `BAD_STEPS` in a row had a loss or gradient that was not finite.
          TrainingError: the devices' copies of the parameters differ.
        """
        self._waiting.append(step)
        while len(self._waiting) > (0 if wait else self._behind):
            self._look(self._waiting.popleft())

    def _look(self, step: FinishedStep) -> None:
        streak = int(step.metrics["bad_streak"])
        if streak:
            self._tell_bad(step.number - 1, streak)
        if streak >= BAD_STEPS:
            raise BadSteps(step.number)
        if step.facts.pop("devices_differ", 0):
            raise TrainingError(
                f"the devices' copies of the parameters differ at step {step.number}: a device or "
                "its link is at fault; checkpoints are sound, train on one device to go on from "
                "the last"
            )
        if step.facts:
            record = self._record(step)
            self._log.write(record)
            self._tell_overflow(record)
            self._bar.update(0, note=f"loss {record['loss']:.4f} psnr {record['psnr']:.1f}")
        self._bar.update(0, completed=step.number)

    def _record(self, step: FinishedStep) -> dict[str, float | int | str | None]:
        """Make one line of `metrics.jsonl`."""
        metrics, facts = jax.device_get((step.metrics, step.facts))
        now, before = time.perf_counter(), self._clock
        self._clock = step.number, now
        return {
            "step": step.number,
            "stage": self._config.stage(step.number - 1),
            **{name: float(value) for name, value in metrics.items()},
            **{name: int(value) for name, value in facts.items()},
            "steps_per_second": before and (step.number - before[0]) / (now - before[1]),
        }

    def _tell_bad(self, number: int, streak: int) -> None:
        frames = ", ".join(map(str, self._dataset.drawn_frames(self._config, number).frames))
        self._bar.console.print(
            f"step {number} (frames {frames}): loss or gradient not finite, update skipped; "
            f"{streak} in a row",
            soft_wrap=True,
        )

    def _tell_overflow(self, record: dict) -> None:
        """Say once that not everything is drawn."""
        if record["raster_overflow"] == 0 or self._told_overflow:
            return
        self._told_overflow = True
        self._bar.console.print(
            f"step {record['step']}: the rasterizer has no room for "
            f"{math.ceil(record['raster_overflow'])} of a frame's pairs of Gaussian and tile and "
            "leaves the farthest out; in a new run raise --densify.capacity",
            soft_wrap=True,
        )


def steps_behind() -> int:
    """Return how many steps the host's look is behind: of a CPU, the one that it computes."""
    return 1 if jax.default_backend() == "cpu" else IN_FLIGHT
