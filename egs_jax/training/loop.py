"""The training loop: the only place with a clock, files and a progress bar around the pure steps.

A run can be killed at any moment: the next one goes on from the last checkpoint and ends with the
same bits as an uninterrupted run (on a CPU, and unless it had to go back because of bad steps).
SIGTERM and Ctrl-C save the step in hand first.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from rich.progress import Progress

from egs_jax.config import Config, Stage
from egs_jax.data.dataset import Dataset
from egs_jax.runtime.consent import CONSENT
from egs_jax.runtime.errors import InputError, TrainingError
from egs_jax.runtime.prefetch import ahead
from egs_jax.runtime.progress import progress
from egs_jax.training import hosts, parallel
from egs_jax.training import step as train
from egs_jax.training.checkpoint import Checkpoints, state_sha256
from egs_jax.training.frames_on_device import BatchSource, batch_source
from egs_jax.training.run_folder import RunLog, start_run
from egs_jax.training.state import TrainState
from egs_jax.types import Batch, Metrics

BAD_STEPS = 3
"""Non-finite steps in a row after which the run goes back to its last checkpoint."""
MAX_ROLLBACKS = 3
"""Times a run may go back (each halves the learning rates) before it gives up."""
IN_FLIGHT = 4
"""Steps that a GPU or TPU may be at work on while the host looks at the one before them."""


def fit(config: Config, dataset: Dataset, *, run_dir: str | Path) -> TrainState:
    """Train to the end of the schedule, resuming if `run_dir` holds a checkpoint.

    Of several `hosts` all call this with the same arguments, and host 0 uses `run_dir`.

    Writes `config.json`, `metrics.jsonl`, `tensorboard/` and `checkpoints/` into `run_dir` and
    prints the state's SHA-256.

    Raises:
      InputError: a run folder of other settings, a damaged checkpoint, a clip too short.
      TrainingError: the loss stayed non-finite after going back `MAX_ROLLBACKS` times, the device
        ran out of memory, or devices that share the frames disagree.
      OSError: a checkpoint could not be written; earlier ones are untouched.
      KeyboardInterrupt: SIGTERM or Ctrl-C came; the last finished step is saved.
    """
    run_dir = Path(run_dir)
    config = dataclasses.replace(config, size=config.size or dataset.width)
    _check_length(dataset)
    parallel.check(config)
    print(CONSENT)
    checkpoints = hosts.Nothing()
    if hosts.first():
        start_run(run_dir, config)
        checkpoints = Checkpoints(run_dir, config.schedule.keep_checkpoints)
    try:
        with _stop_requests() as stop, _named_exhaustion():
            frames, done = dataset.resized(config.size), checkpoints.latest() or 0
            source = batch_source(config, frames) if done < config.total_steps else frames
            kernels_of = _compiled_kernels(config, source, dataset.audio_dim, done)
            state = _resume(config, dataset, checkpoints)
            if hosts.any_of(stop.is_set()):
                raise KeyboardInterrupt
            log = RunLog(run_dir, int(state.step)) if hosts.first() else hosts.Nothing()
            try:
                state = _loop(config, dataset, source, kernels_of, state, checkpoints, log, stop)
                digest = state_sha256(state)
                log.write({"step": int(state.step), "state_sha256": digest})
            finally:
                log.close()
    finally:
        checkpoints.close()
    print(f"state_sha256 {digest}")
    return state


def _loop(
    config: Config, dataset: Dataset, source: BatchSource, kernels_of: dict[Stage, Future],
    state: TrainState, checkpoints: Checkpoints, log: RunLog, stop: threading.Event,
) -> TrainState:  # fmt: skip
    """Run the remaining steps.

    The host looks at a step while the device works on later ones; it waits for the newest step
    only where something is saved.
    """
    if int(state.step) == config.total_steps:
        return state
    schedule = config.schedule
    step, deforming = int(state.step), bool(state.deforming)
    batches, unseen = prefetch(config, source, step), Unseen(config, dataset, log)
    most_unseen = _most_unseen()
    bar = progress(config.total_steps, "train", quiet=not hosts.first())
    with bar, _second_stage_compiled(config, source, kernels_of, state) as second_stage:
        while step < config.total_steps:
            if config.stage(step) == "deform" and not deforming:
                second_stage.wait()
                state, deforming = train.hand_over(config, state), True
            batch = next(batches)
            _wait(kernels_of, batch.stage)
            state, metrics = parallel.train_step(config, state, batch)
            if train.densifies(config, step):
                state = train.densify_step(config, state)
            step += 1
            last = step == config.total_steps
            logs = last or step % schedule.log_every == 0
            stopping = (logs or jax.process_count() == 1) and hosts.any_of(stop.is_set())
            saves = last or stopping or step % schedule.checkpoint_every == 0
            unseen.add(step, metrics, _facts(config, state, logs, saves))
            bad = unseen.look(0 if saves else most_unseen, bar)
            if bad is not None:
                state = _roll_back(config, dataset, state, checkpoints, bad)
                step, deforming = int(state.step), bool(state.deforming)
                batches, unseen = prefetch(config, source, step), Unseen(config, dataset, log)
                log.rewind(step)
                continue
            if saves:
                checkpoints.save(step, state)
            if stopping and not last:
                checkpoints.wait()
                raise KeyboardInterrupt
    checkpoints.wait()
    return state


def _compiled_kernels(
    config: Config, source: BatchSource, audio_dim: int, done: int
) -> dict[Stage, Future]:
    """For each stage after `done` steps, what ends when a thread has compiled its Triton kernels.

    They need shapes alone, so this goes on while the first state is made. If it fails, the stage's
    first step compiles them itself, and names what is wrong. A process that is told to stop
    meanwhile ends when they are done, seconds later.
    """
    if jax.default_backend() == "cpu":  # where there are none
        return {}
    # The next step, and the first of the second stage.
    steps = sorted({done, max(done, config.schedule.static_steps)})
    state = parallel.abstract(config, train.abstract_state(config, audio_dim))
    split, pool = parallel.Splitter(config), concurrent.futures.ThreadPoolExecutor(1)
    kernels_of = {
        config.stage(step): pool.submit(
            parallel.compile_kernels, config, state, split(source.batch(config, step))
        )
        for step in steps
        if step < config.total_steps
    }
    pool.shutdown(wait=False)
    return kernels_of


def _wait(kernels_of: dict[Stage, Future], stage: Stage) -> None:
    if stage in kernels_of:
        kernels_of[stage].exception()  # waits as `result` does, and raises nothing


@contextlib.contextmanager
def _second_stage_compiled(
    config: Config, source: BatchSource, kernels_of: dict[Stage, Future], state: TrainState
) -> Iterator[threading.Event]:
    """An event that comes when the second stage's programs are there, while the first one trains.

    A thread does a few of its steps on a copy of the state; nothing comes of them. Another does
    the same for the program that changes the cloud.
    """
    compiled = threading.Event()
    first = config.schedule.static_steps
    if int(state.step) >= first or first == config.total_steps or not _compiles_ahead(config):
        compiled.set()
        yield compiled
        return

    def compile_stage(state: TrainState) -> None:
        try:
            state = train.hand_over(config, state)
            split = parallel.Splitter(config)
            _wait(kernels_of, "deform")
            # Only some of the steps may have the perceptual loss.
            for number in range(first, first + config.loss.perceptual_every):
                batch = split(source.batch(config, number))
                state, _ = parallel.train_step(config, state, batch)
            jax.block_until_ready(state)
        finally:
            compiled.set()  # what went wrong goes wrong in the run's own step too, and is named

    # By way of the host: to copy fifty shapes on a GPU takes as many small programs.
    copy = lambda: jax.device_put(jax.tree.map(np.array, jax.device_get(state)))
    pool = concurrent.futures.ThreadPoolExecutor(2)
    pool.submit(compile_stage, copy())
    if any(train.densifies(config, number) for number in range(int(state.step), first)):
        pool.submit(train.densify_step, config, copy())
    try:
        yield compiled
    finally:
        pool.shutdown(wait=False)


def _compiles_ahead(config: Config) -> bool:
    """Not on a CPU, whose cores are busy, nor, to be careful, on several devices.

    NVIDIA warns that a process of several may hang where CUDA waits for all of them, as it does to
    free memory, while they wait for each other in a sum (JAX-Toolbox, `GPU_performance.md`).
    """
    return jax.default_backend() != "cpu" and config.devices == 1


def _most_unseen() -> int:
    return 1 if jax.default_backend() == "cpu" else IN_FLIGHT


class Step(NamedTuple):
    """A step that the device may still be at work on."""

    number: int
    """Of steps done with it."""
    metrics: Metrics
    facts: Metrics
    """Of the cloud after it, where it is to be logged; else nothing."""


class Unseen:
    """Steps that the host has not looked at."""

    def __init__(self, config: Config, dataset: Dataset, log: RunLog):
        """Start with none."""
        self._config, self._dataset, self._log = config, dataset, log
        self._steps: collections.deque[Step] = collections.deque()
        self._clock: tuple[int, float] | None = None
        self._told_overflow = False

    def add(self, number: int, metrics: Metrics, facts: Metrics) -> None:
        """Remember a step."""
        self._steps.append(Step(number, metrics, facts))

    def look(self, keep: int, bar: Progress) -> int | None:
        """Look at all but the last `keep`: name bad batches, log what is to be logged.

        Returns:
          None, or the step at which so many in a row were bad that the run must go back.
        """
        while len(self._steps) > keep:
            step = self._steps.popleft()
            streak = int(step.metrics["bad_streak"])
            if streak:
                self._tell_bad(step.number - 1, streak, bar)
            if streak >= BAD_STEPS:
                return step.number
            if step.facts.pop("devices_differ", 0):
                raise TrainingError(
                    f"the devices' copies of the parameters differ at step {step.number}: a device "
                    "or its link is at fault; checkpoints are sound, train on one device to go on "
                    "from the last"
                )
            if step.facts:
                record = self._record(step)
                self._log.write(record)
                self._tell_overflow(record, bar)
                bar.update(0, note=f"loss {record['loss']:.4f} psnr {record['psnr']:.1f}")
            bar.update(0, completed=step.number)
        return None

    def _tell_bad(self, number: int, streak: int, bar: Progress) -> None:
        frames = ", ".join(map(str, self._dataset.picks(self._config, number).frames))
        bar.console.print(
            f"step {number} (frames {frames}): loss or gradient not finite, update skipped; "
            f"{streak} in a row",
            soft_wrap=True,
        )

    def _tell_overflow(self, record: dict, bar: Progress) -> None:
        """Say once that not everything is drawn."""
        if record["raster_overflow"] == 0 or self._told_overflow:
            return
        self._told_overflow = True
        bar.console.print(
            f"step {record['step']}: the rasterizer has no room for "
            f"{math.ceil(record['raster_overflow'])} of a frame's pairs of Gaussian and tile and "
            "leaves the farthest out; in a new run raise --densify.capacity",
            soft_wrap=True,
        )

    def _record(self, step: Step) -> dict[str, float | int | str | None]:
        """One line of `metrics.jsonl`."""
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


@contextlib.contextmanager
def _named_exhaustion() -> Iterator[None]:
    """Say what to lower where the device has too little memory."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise TrainingError(
            "the device ran out of memory; add --frames-on host to the same command, or lower "
            "--schedule.batch, --size or --densify.capacity and name a new --run-dir"
        ) from error


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


def _facts(config: Config, state: TrainState, logs: bool, saves: bool) -> Metrics:
    """Of a state, without waiting: what is logged and, of several devices, what must be 0."""
    facts = train.cloud_facts(state) if logs else {}
    if config.devices > 1 and (logs or saves):
        facts["devices_differ"] = parallel.difference(config, state)
    return facts


def prefetch(config: Config, source: BatchSource, step: int) -> Iterator[Batch]:
    """Batches from `step` on, the next one made while the current one is used."""
    batches = (source.batch(config, number) for number in itertools.count(step))
    return map(parallel.Splitter(config), ahead(batches, 1))


def _resume(config: Config, dataset: Dataset, checkpoints: Checkpoints) -> TrainState:
    if checkpoints.latest() is None:
        return parallel.share(config, train.init_state(config, dataset))
    state = checkpoints.load(train.abstract_state(config, dataset.audio_dim))
    print(f"resuming at step {int(state.step)}")
    return parallel.share(config, state)


def _roll_back(
    config: Config, dataset: Dataset, state: TrainState, checkpoints: Checkpoints, step: int
) -> TrainState:
    """The last checkpoint with halved learning rates, so that the same steps may succeed."""
    scale = float(state.rate_scale) / 2
    if scale < 0.5**MAX_ROLLBACKS:
        raise TrainingError(
            f"training diverged near step {step} after {MAX_ROLLBACKS} attempts with "
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
