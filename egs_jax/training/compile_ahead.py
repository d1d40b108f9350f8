"""A run's programs, compiled in threads before they are needed, from shapes alone.

Compiling takes most of the time until a GPU's first step, and with the second stage's programs as
long again (`experiments/tried.md`): so both stages begin at once, while frames are read and the
first state is made, and the second goes on while the first trains. JAX finds what was compiled when
the program is called. Before: `parallel`; after: `loop`.
"""

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any, Literal

import jax

from egs_jax.config import Config, Stage
from egs_jax.training import parallel
from egs_jax.training import step as train
from egs_jax.training.frames_on_device import BatchSource
from egs_jax.training.state import TrainState
from egs_jax.types import Batch

LOGGER = logging.getLogger("egs_jax")
Program = Literal["static", "densify", "deform"]
"""A stage's steps, with the hand-over that begins the second, or the change of the cloud."""


class CompiledAhead:
    """Programs that threads are compiling; wait for one before it is first called."""

    def __init__(self, config: Config, source: BatchSource, audio_dim: int, done: int):
        """Begin with all that a run needs after `done` steps.

        Not on a CPU, whose cores are busy. Of several devices only the Triton kernels are compiled
        here: NVIDIA warns that a process of several may hang where a program is loaded while they
        wait for each other in a sum (JAX-Toolbox, `GPU_performance.md`).

        A process that is told to stop meanwhile ends when they are done, seconds later.
        """
        self._programs: dict[Program, Future] = {}
        if jax.default_backend() == "cpu":
            return
        shapes = parallel.abstract_replicated(config, train.abstract_state(config, audio_dim))
        pool, one_at_a_time = ThreadPoolExecutor(3), Lock()
        for stage, batches in _examples(config, source, done).items():
            begins = stage == "deform" and done <= config.schedule.static_steps
            self._programs[stage] = pool.submit(
                _compile_stage, config, shapes, batches, begins, one_at_a_time
            )
        changes = any(train.densifies(config, step) for step in range(done, config.total_steps))
        if changes and config.devices == 1:
            arguments = config.program, train.seed_of(config), shapes
            self._programs["densify"] = pool.submit(_compile, train.jitted_densify, arguments)
        pool.shutdown(wait=False)

    def wait(self, program: Program) -> None:
        """Return when a program is there, or failed, which is told once.

        A fault of the program itself comes up again, by name, in its first call; one of compiling
        ahead only costs time at every start.
        """
        future = self._programs.pop(program, None)
        if future is not None and (error := future.exception()) is not None:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            LOGGER.warning("%s: not compiled ahead, so this start is slower (%s)", program, reason)


def _examples(config: Config, source: BatchSource, done: int) -> dict[Stage, list[Batch]]:
    """Return batches of every kind that is to come: each makes a program of its own."""
    kinds: dict[tuple[Stage, bool], int] = {}
    for first in (done, max(done, config.schedule.static_steps)):
        for step in range(first, min(first + config.loss.perceptual_every, config.total_steps)):
            kinds.setdefault((config.stage(step), config.has_perceptual(step)), step)
    split, examples = parallel.Splitter(config), {}
    for (stage, _), step in kinds.items():
        examples.setdefault(stage, []).append(split(source.batch(config, step)))
    return examples


def _compile_stage(
    config: Config, shapes: TrainState, batches: list[Batch], begins: bool, one_at_a_time: Lock
) -> None:
    """Compile a stage's programs, the hand-over too if the deformation stage still `begins`.

    Its Triton kernels come after those of the stage before: they keep all cores busy.
    """
    for batch in batches:
        with one_at_a_time:
            parallel.compile_kernels(config, shapes, batch)
        if config.devices == 1:
            _compile(*parallel.step_program(config, shapes, batch))
    if config.devices == 1 and begins:
        _compile(train.jitted_hand_over, (config.program, shapes))


def _compile(program: jax.stages.Wrapped, arguments: tuple[Any, ...]) -> None:
    program.lower(*arguments).compile()
