"""The training loop: the only place with a clock, files and a progress bar around the pure steps.

A run can be killed at any moment: the next one goes on from the last checkpoint and ends with the
same bits as an uninterrupted run (on a CPU, and unless it had to go back because of bad steps).
SIGTERM and Ctrl-C save the step in hand first.
"""

import contextlib
import dataclasses
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from rich.progress import Progress

from egs_jax.config import Config
from egs_jax.data.dataset import Dataset
from egs_jax.data.folder import FILES
from egs_jax.runtime.consent import CONSENT
from egs_jax.runtime.device import explain_exhaustion, is_exhaustion, say_device
from egs_jax.runtime.environment import find_devices
from egs_jax.runtime.errors import InputError, TrainingError
from egs_jax.runtime.prefetch import prefetch
from egs_jax.runtime.progress import progress
from egs_jax.runtime.stopping import stop_requests
from egs_jax.training import hosts, parallel
from egs_jax.training import step as train
from egs_jax.training.checkpoint import Checkpoints, NoCheckpoints, newest_step, state_sha256
from egs_jax.training.compile_ahead import CompiledAhead
from egs_jax.training.expected_time import expectation
from egs_jax.training.frames_on_device import BatchSource, batch_source
from egs_jax.training.monitor import BadSteps, FinishedStep, Monitor
from egs_jax.training.run_folder import NoLog, RunLog, start_run
from egs_jax.training.state import TrainState
from egs_jax.types import Batch, Metrics
from kernels import dispatch

MAX_ROLLBACKS = 3
"""Times a run may go back (each halves the learning rates) before it gives up."""


@dataclasses.dataclass(frozen=True)
class Run:
    """All that the parts of one call of `fit` share."""

    config: Config
    dataset: Dataset
    source: BatchSource
    programs: CompiledAhead
    checkpoints: Checkpoints | NoCheckpoints
    stop: threading.Event
    """Set by SIGTERM or Ctrl-C on this host."""


def fit(config: Config, dataset: Dataset, *, run_dir: str | Path) -> TrainState:
    """Train to the end of the schedule, resuming if `run_dir` holds a checkpoint.

    Of several `hosts` all call this with the same arguments, and host 0 uses `run_dir`.

    Writes `config.json`, `environment.json`, `metrics.jsonl`, `tensorboard/` and `checkpoints/`
    into `run_dir` and prints the state's SHA-256.

    Raises:
      InputError: a run folder of other settings, a damaged checkpoint, a clip too short, no clean
        room behind a whole person that the config does not name outright.
      TrainingError: the loss stayed non-finite after going back `MAX_ROLLBACKS` times, the device
        ran out of memory, or devices that share the frames disagree.
      OSError: a checkpoint could not be written, or be read though it is whole; it is untouched.
      KeyboardInterrupt: SIGTERM or Ctrl-C came; the last finished step is saved.
    """
    run_dir = Path(run_dir)
    config = dataclasses.replace(config, size=config.size or dataset.width)
    find_devices()
    with _named_exhaustion():
        parallel.check(config)
        _say_device(config, newest_step(run_dir))
    _check_plate(config, dataset)
    _check_length(dataset)
    print(CONSENT)
    checkpoints: Checkpoints | NoCheckpoints = NoCheckpoints()
    if hosts.first():
        start_run(run_dir, config, dataset.meta)
        checkpoints = Checkpoints(run_dir, config.schedule.keep_checkpoints)
    with contextlib.closing(checkpoints), stop_requests() as stop, _named_exhaustion():
        frames = dataset.view(config.size, config.model.resolved.body)
        done = checkpoints.latest() or 0
        source = batch_source(config, frames) if done < config.total_steps else frames
        programs = CompiledAhead(config, source, dataset.audio_dim, done)
        run = Run(config, dataset, source, programs, checkpoints, stop)
        state = _resume(run)
        if hosts.any_of(stop.is_set()):
            raise KeyboardInterrupt
        log = RunLog(run_dir, int(state.step)) if hosts.first() else NoLog()
        with contextlib.closing(log):
            if int(state.step) < config.total_steps:
                state = _train(run, state, log)
            digest = state_sha256(state)
            log.write({"step": int(state.step), "state_sha256": digest})
    print(f"state_sha256 {digest}")
    return state


def _train(run: Run, state: TrainState, log: RunLog | NoLog) -> TrainState:
    """Do the remaining steps; after bad ones go back and try again with lower learning rates."""
    with progress(run.config.total_steps, "train", quiet=not hosts.first()) as bar:
        while True:
            rate_scale = float(state.rate_scale)
            try:
                return _steps(run, state, log, bar)
            except BadSteps as bad:
                state = _roll_back(run, rate_scale / 2, bad.step)
                log.rewind(int(state.step))


def _steps(run: Run, state: TrainState, log: RunLog | NoLog, bar: Progress) -> TrainState:
    """Do the remaining steps.

    The host looks at a step while the device works on later ones; it waits for the newest step
    only where something is saved.
    """
    config, schedule, deforming = run.config, run.config.schedule, bool(state.deforming)
    monitor = Monitor(config, run.dataset, log, bar)
    batches = batches_from(config, run.source, int(state.step))
    for step in range(int(state.step), config.total_steps):
        if config.stage(step) == "deform" and not deforming:
            run.programs.wait("deform")
            state, deforming = train.hand_over(config, state), True
        batch = next(batches)
        run.programs.wait(batch.stage)
        state, metrics = parallel.train_step(config, state, batch)
        if train.densifies(config, step):
            run.programs.wait("densify")
            state = train.densify_step(config, state)
        done = step + 1
        last = done == config.total_steps
        logs = last or done % schedule.log_every == 0
        stopping = (logs or jax.process_count() == 1) and hosts.any_of(run.stop.is_set())
        saves = last or stopping or done % schedule.checkpoint_every == 0
        facts = _facts(config, state, logs, saves)
        monitor.add(FinishedStep(done, metrics, facts), wait=saves)
        if saves:
            run.checkpoints.save(done, state)
        if stopping and not last:
            run.checkpoints.wait()
            raise KeyboardInterrupt
    run.checkpoints.wait()
    return state


def batches_from(config: Config, source: BatchSource, step: int) -> Iterator[Batch]:
    """Return the batches from `step` on, the next one made while the current one is used."""
    batches = (source.batch(config, number) for number in itertools.count(step))
    return map(parallel.Splitter(config), prefetch(batches, 1))


def _facts(config: Config, state: TrainState, logs: bool, saves: bool) -> Metrics:
    """Ask, without waiting, for what is logged of a state and what must be 0 of several devices."""
    facts = train.cloud_facts(state) if logs else {}
    if config.devices > 1 and (logs or saves):
        facts["devices_differ"] = parallel.difference(config, state)
    return facts


def _resume(run: Run, rate_scale: float | None = None) -> TrainState:
    """Return the last checkpoint's state, or the first, with other learning rates if told so."""
    if run.checkpoints.latest() is None:
        state = train.init_state(run.config, run.dataset)
    else:
        state = run.checkpoints.load(train.abstract_state(run.config, run.dataset.audio_dim))
        check_lips(run.config, state, run.dataset)
        print(f"resuming at step {int(state.step)}")
    if rate_scale is not None:
        scale, streak = jax.numpy.float32(rate_scale), jax.numpy.int32(0)
        state = state.replace(rate_scale=scale, bad_streak=streak)
    return parallel.replicate(run.config, state)


def check_lips(config: Config, state: TrainState, dataset: Dataset) -> None:
    """Refuse a dataset that fits lips otherwise than that of a checkpoint, as after a new prior.

    Raises:
      InputError: if so.
    """
    if not config.model.fits_lips:
        return
    kept = np.asarray(state.params["networks"]["tokens"]["lips_reader"]["kernel"])
    fitted = dataset.fitted_lips().reader.kernel
    if not np.allclose(kept, fitted, rtol=0, atol=0.01 * np.abs(kept).max()):
        raise InputError(
            f"{dataset.folder}: its sound tells lips otherwise than when this run began; put back, "
            f"or take away, its {FILES['lips_prior']}, or name a new --run-dir"
        )


def _roll_back(run: Run, rate_scale: float, step: int) -> TrainState:
    """Go back to the last checkpoint with lower learning rates: the same steps may succeed."""
    if rate_scale < 0.5**MAX_ROLLBACKS:
        raise TrainingError(
            f"training diverged near step {step} after {MAX_ROLLBACKS} attempts with "
            "lower learning rates; lower --optim.rate-scale or look at the frames of these steps"
        )
    state = _resume(run, rate_scale)
    print(f"going back to step {int(state.step)}, learning rates times {rate_scale}")
    return state


@contextlib.contextmanager
def _named_exhaustion() -> Iterator[None]:
    """Say what to lower where the device has too little memory, or who else has it."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if not is_exhaustion(error):
            raise
        remedy = (
            "add --frames-on host to the same command, or lower --schedule.batch, --size or "
            "--densify.capacity and name a new --run-dir"
        )
        raise TrainingError(explain_exhaustion(error, remedy)) from error


def _say_device(config: Config, done: int) -> None:
    """Print the first line: the device, and how long what is left to do is expected to take."""
    triton = config.rasterizer != "xla" and dispatch.is_default()
    left = done < config.total_steps
    kernels = "triton" if triton else "xla"
    after = expectation(config, config.size, done, kernels) if left else ": nothing is left to do"
    say_device("training", config.devices, after)


def _check_length(dataset: Dataset) -> None:
    count = len(dataset.train_frames)
    if count < 2:
        raise InputError(f"{dataset.folder}: {count} training frames; use a longer video")
    seconds = count / dataset.fps
    if seconds < 30:
        print(
            f"only {seconds:.0f} s of training video: expect a stiff mouth on new speech; "
            "3 to 5 minutes are best"
        )


def _check_plate(config: Config, dataset: Dataset) -> None:
    """Refuse a whole person before a room that moves, unless that is asked for by its name."""
    verdict, why = dataset.plate_fault
    if verdict == "ok" or not config.model.is_person:
        return
    if verdict == "bad" and config.model.body is None:
        raise InputError(
            f"{dataset.folder}: no clean room for an avatar of a whole person: {why}; add "
            "--model.body head, or film again in one place with the camera standing still"
        )
    print(f"{why}: expect a blurred room, or train with --model.body head in a new --run-dir")
