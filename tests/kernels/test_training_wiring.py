"""Two mini trainings, one by XLA and one by Triton's interpreter, take the same course.

Every kernel of the training step runs where the step calls it: what is tested is that it gets the
right arrays and that its gradients go to the right parameters.
"""

import importlib.util
from dataclasses import replace

import jax
import numpy as np
import pytest
from helpers import micro_config

from egs_jax.data.dataset import Dataset
from egs_jax.training.step import hand_over, init_state, step, step_arguments
from kernels import dispatch, implementations

KERNELS = ("decode_heads", "mean_ssim", "rasterize", "sample_planes")
STEPS = 2
"""Steps of each stage."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("triton") is None, reason="triton is not installed (Linux only)"
    ),
]


def losses_of(config, dataset):
    """Loss of every step."""
    # A program of its own: `jitted_step` may hold one that was traced with the other kernels.
    run = jax.jit(lambda *arguments: step(config.program, *arguments))
    state = init_state(config, dataset)
    losses = []
    for number in range(2 * STEPS):
        if number == STEPS:
            state = hand_over(config, state)
        _, *arguments = step_arguments(config, state, dataset.batch(config, number))
        state, metrics = run(*arguments)
        losses.append(float(metrics["loss"]))
    return np.array(losses)


def test_training_by_triton_takes_the_course_of_training_by_xla(painted, monkeypatch):
    """Two steps of each stage: the second of each is drawn with what the first one learned.

    Adam's first step moves every parameter by its whole rate, so a gradient of the wrong sign or
    parameter shows in the next loss. Sums in another order made a difference of 5e-7; the heads'
    operands of 8 bits in the deformation stage make none yet, because their deltas start at zero.
    """
    config = micro_config(painted)
    schedule = replace(
        config.schedule, static_steps=STEPS, deform_steps=STEPS, static_batch=1, batch=1
    )
    densify = replace(config.densify, capacity=16, points=12)
    config = replace(config, size=32, schedule=schedule, densify=densify)
    dataset = Dataset.open(painted)
    want = losses_of(replace(config, rasterizer="xla"), dataset)
    monkeypatch.setattr(dispatch, "_choices", {})
    monkeypatch.setattr(dispatch, "is_default", lambda: True)  # as on a GPU
    # Fewer programs, each of which takes some seconds in Python, add up the same sum.
    monkeypatch.setattr(importlib.import_module("kernels.deform.triton.heads"), "PROGRAMS", 4)
    jax.clear_caches()
    got = losses_of(config, dataset)
    picked = implementations()
    monkeypatch.undo()
    jax.clear_caches()  # what was traced so must not serve other tests
    assert {picked[name] for name in KERNELS} == {"triton"}
    np.testing.assert_allclose(got, want, rtol=1e-5)
    assert np.any(got != want)  # another order of sums
