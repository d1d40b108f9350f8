"""The training loop: the only place with a clock, files and a progress bar around the pure steps.

Batches are prepared one step ahead by a thread. A run can be killed at any moment: the next one
goes on from the last checkpoint and ends with the same bits as an uninterrupted run (on CPU).
SIGTERM and Ctrl-C save the step in hand first.
"""

import contextlib
import dataclasses
import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array
from rich.progress import Progress

from egs_jax import train
from egs_jax.ahead import ahead
from egs_jax.checkpoint import Checkpoints, state_sha256
from egs_jax.config import Config
from egs_jax.dataset import Dataset
from egs_jax.errors import InputError, TrainingError
from egs_jax.run_log import CONSENT, RunLog, progress, start_run
from egs_jax.types import Batch, Metrics, TrainState

BAD_STEPS = 3
"""Non-finite steps in a row after which the run goes back to its last checkpoint."""
MAX_ROLLBACKS = 3
"""Times a run may go back (each halves the learning rates) before it gives up."""


def fit(config: Config, dataset: Dataset, *, run_dir: str | Path) -> TrainState:
    """Train to the end of the schedule, resuming if `run_dir` holds a checkpoint.

    Writes `config.json`, `metrics.jsonl`, `tensorboard/` and `checkpoints/` into `run_dir` and
    prints the state's SHA-256.

    Raises:
      InputError: a run folder of other settings, a damaged checkpoint, a clip too short.
      TrainingError: the loss stayed non-finite after going back `MAX_ROLLBACKS` times.
      OSError: a checkpoint could not be written; earlier ones are untouched.
      KeyboardInterrupt: SIGTERM or Ctrl-C came; the last finished step is saved.
    """
    run_dir = Path(run_dir)
    config = dataclasses.replace(config, size=config.size or dataset.width)
    _check_length(dataset)
    print(CONSENT)
    start_run(run_dir, config)
    checkpoints = Checkpoints(run_dir, config.schedule.keep_checkpoints)
    try:
        with _stop_requests() as stop:
            state = _resume(config, dataset, checkpoints)
            if stop.is_set():
                raise KeyboardInterrupt
            log = RunLog(run_dir, int(state.step))
            try:
                state = _loop(config, dataset, state, checkpoints, log, stop)
                digest = state_sha256(state)
                log.write({"step": int(state.step), "state_sha256": digest})
            finally:
                log.close()
    finally:
        checkpoints.close()
    print(f"state_sha256 {digest}")
    return state


def _loop(
    config: Config, dataset: Dataset, state: TrainState, checkpoints: Checkpoints, log: RunLog,
    stop: threading.Event,
) -> TrainState:  # fmt: skip
    """Run the remaining steps.

    The host looks at a step while the device works on the next one; it waits for the newest step
    only where something is logged or saved.
    """
    schedule, clock = config.schedule, _Clock()
    step, deforming = int(state.step), bool(state.deforming)
    batches, unseen = prefetch(config, dataset, step), []
    with progress(config.total_steps, "train") as bar:
        while step < config.total_steps:
            if config.stage(step) == "deform" and not deforming:
                state, deforming = train.hand_over(config, state), True
            state, metrics = train.train_step(config, state, next(batches))
            if train.densifies(config, step):
                state = train.densify_step(config, state)
            unseen.append((step, metrics["bad_streak"]))
            step += 1
            last = step == config.total_steps
            logs = last or step % schedule.log_every == 0
            stopping = stop.is_set()
            saves = last or stopping or step % schedule.checkpoint_every == 0
            kept = 0 if logs or saves else 1
            if _longest_streak(config, dataset, unseen, kept, bar) >= BAD_STEPS:
                state = _roll_back(config, dataset, state, checkpoints)
                step, deforming = int(state.step), bool(state.deforming)
                batches, unseen, clock = prefetch(config, dataset, step), [], _Clock()
                log.rewind(step)
                continue
            if logs:
                record = _record(config, state, metrics, clock.rate(step))
                log.write(record)
                bar.update(0, note=f"loss {record['loss']:.4f} psnr {record['psnr']:.1f}")
            bar.update(0, completed=step)
            if saves:
                checkpoints.save(step, state)
            if stopping and not last:
                raise KeyboardInterrupt
    return state


@contextlib.contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """An event that SIGTERM or Ctrl-C sets; the next one does what it did before.

    An interrupt in the middle of a step can leave a lock of a library taken, and closing the log
    would then wait for it for ever; or it falls into a callback of JAX, where it is ignored.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals belong to the main thread
        return

    def request(*_: object) -> None:
        stop.set()
        restore()
        os.write(2, b"stopping after this step; once more stops at once\n")  # print may be at work

    def restore() -> None:
        for name, handler in before.items():
            signal.signal(name, handler)

    before = {name: signal.signal(name, request) for name in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        restore()


class _Clock:
    """Steps per second since the last question."""

    def __init__(self) -> None:
        self._step, self._time = None, time.perf_counter()

    def rate(self, step: int) -> float | None:
        now = time.perf_counter()
        rate = None if self._step is None else (step - self._step) / (now - self._time)
        self._step, self._time = step, now
        return rate


def _record(
    config: Config, state: TrainState, metrics: Metrics, rate: float | None
) -> dict[str, float | int | str | None]:
    """One line of `metrics.jsonl`."""
    step = int(state.step)
    return {
        "step": step,
        "stage": config.stage(step - 1),
        **{name: float(value) for name, value in metrics.items()},
        "num_gaussians": int(np.sum(state.alive)),
        "densify_dropped": int(state.dropped),
        "steps_per_second": rate,
    }


def _longest_streak(
    config: Config, dataset: Dataset, unseen: list[tuple[int, Array]], kept: int, bar: Progress
) -> int:
    """Take all but `kept` steps off `unseen` (step, bad streak), naming the batches of bad ones."""
    longest = 0
    while len(unseen) > kept:
        step, streak = unseen.pop(0)
        longest = max(longest, int(streak))
        if int(streak):
            frames = ", ".join(str(frame) for frame in dataset.batch_frames(config, step)[0])
            bar.console.print(
                f"step {step} (frames {frames}): loss or gradient not finite, update skipped; "
                f"{int(streak)} in a row",
                soft_wrap=True,
            )
    return longest


def prefetch(config: Config, dataset: Dataset, step: int) -> Iterator[Batch]:
    """Batches from `step` on, the next one made while the current one is used."""
    data = dataset.resized(config.size)
    batches = (data.batch(config, number) for number in itertools.count(step))
    return map(jax.device_put, ahead(batches, 1))


def _resume(config: Config, dataset: Dataset, checkpoints: Checkpoints) -> TrainState:
    if checkpoints.latest() is None:
        return train.init_state(config, dataset)
    state = checkpoints.load(train.abstract_state(config, dataset.audio_dim))
    print(f"resuming at step {int(state.step)}")
    return state


def _roll_back(
    config: Config, dataset: Dataset, state: TrainState, checkpoints: Checkpoints
) -> TrainState:
    """The last checkpoint with halved learning rates, so that the same steps may succeed."""
    scale = float(state.rate_scale) / 2
    if scale < 0.5**MAX_ROLLBACKS:
        raise TrainingError(
            f"training diverged near step {int(state.step)} after {MAX_ROLLBACKS} attempts with "
            "lower learning rates; lower --optim.rate-scale or look at the frames of these steps"
        )
    state = _resume(config, dataset, checkpoints)
    print(f"going back to step {int(state.step)}, learning rates times {scale}")
    return state.replace(rate_scale=jax.numpy.float32(scale), bad_streak=jax.numpy.int32(0))


def _check_length(dataset: Dataset) -> None:
    start, stop = dataset.splits["train"]
    if stop - start < 2:
        raise InputError(f"{dataset.folder}: {stop - start} training frames; use a longer video")
    seconds = (stop - start) / dataset.fps
    if seconds < 30:
        print(
            f"only {seconds:.0f} s of training video: expect a stiff mouth on new speech; "
            "3 to 5 minutes are best"
        )
