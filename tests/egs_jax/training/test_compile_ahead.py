"""Programs compiled ahead are those that are called: nothing is compiled twice."""

import contextlib
import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import micro_config

from egs_jax.data.dataset import Dataset
from egs_jax.training import parallel
from egs_jax.training import step as train
from egs_jax.training.compile_ahead import CompiledAhead

CALLED = ("jit(change)", "jit(hand_over)", "jit(step)")


@pytest.fixture
def small_programs(monkeypatch):
    """Programs with the arguments of the real ones that compile in no time."""

    def step(config, seed, state, batch, frozen):
        dark = jnp.sum(batch.targets) + (0 if frozen is None else jnp.sum(frozen))
        return state.replace(step=state.step + 1), {"loss": dark}

    def change(config, seed, state):
        return state.replace(dropped=state.dropped + 1)

    def hand_over(config, state):
        return state.replace(deforming=jnp.bool_(True))

    made = {
        "jitted_step": jax.jit(step, static_argnames="config", donate_argnames="state"),
        "jitted_densify": jax.jit(change, static_argnums=0, donate_argnums=2),
        "jitted_hand_over": jax.jit(hand_over, static_argnums=0, donate_argnums=1),
    }
    for name, program in made.items():
        monkeypatch.setattr(train, name, program)
    monkeypatch.setattr(train, "frozen_network", lambda: jnp.arange(3.0))
    return made


def settings(painted, every=2):
    config = micro_config(painted)
    loss = dataclasses.replace(config.loss, perceptual=0.1, perceptual_every=every)
    return dataclasses.replace(config, loss=loss)


@contextlib.contextmanager
def logged(caplog):
    """Log what is compiled, in all threads."""
    jax.config.update("jax_log_compiles", True)
    try:
        with caplog.at_level(logging.WARNING):
            yield
    finally:
        jax.config.update("jax_log_compiles", False)


def compiled_names(caplog):
    told = (record.getMessage() for record in caplog.records)
    return sorted(text.split()[1] for text in told if text.startswith("Compiling jit("))


def test_what_was_compiled_ahead_is_not_compiled_again(
    painted, small_programs, monkeypatch, caplog
):
    config, data = settings(painted), Dataset.open(painted)
    zeros = lambda leaf: np.zeros(leaf.shape, leaf.dtype)
    state = jax.tree.map(zeros, train.abstract_state(config, data.audio_dim))
    state = parallel.replicate(config, state)
    split = parallel.Splitter(config)
    batches = {number: split(data.batch(config, number)) for number in (0, 1, 20, 21)}
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with logged(caplog):
        programs = CompiledAhead(config, data, data.audio_dim, 0)
        for name in ("static", "densify", "deform"):
            programs.wait(name)
        steps = ["jit(step)"] * 4  # either stage, with and without the perceptual network
        assert [n for n in compiled_names(caplog) if n in CALLED] == [
            "jit(change)", "jit(hand_over)", *steps,
        ]  # fmt: skip
        for number, batch in batches.items():
            if number == 20:
                state = train.hand_over(config, state)
            state, metrics = parallel.train_step(config, state, batch)
            assert metrics["loss"] > 0
        state = train.densify_step(config, state)
        assert len([name for name in compiled_names(caplog) if name in CALLED]) == 6
    assert int(state.step) == 4 and int(state.dropped) == 1 and bool(state.deforming)


@pytest.mark.parametrize(("done", "names"), [(7, "static"), (20, "deform"), (30, "deform")])
def test_only_what_is_to_come_is_compiled(
    painted, small_programs, monkeypatch, caplog, done, names
):
    config, data = settings(painted, every=1), Dataset.open(painted)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with logged(caplog):
        programs = CompiledAhead(config, data, data.audio_dim, done)
        for name in ("static", "densify", "deform"):
            programs.wait(name)
    expected = {"static": 2, "deform": 1}[names]
    assert compiled_names(caplog).count("jit(step)") == expected
    assert compiled_names(caplog).count("jit(hand_over)") == (done <= 20)


def test_a_failure_ahead_is_told_once_and_training_goes_on(
    painted, small_programs, monkeypatch, caplog
):
    def compile_kernels(*_):
        raise TypeError("compile_kernels() got\nan argument that is new")

    config, data = settings(painted), Dataset.open(painted)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(parallel, "compile_kernels", compile_kernels)
    programs = CompiledAhead(config, data, data.audio_dim, 0)
    for _ in range(3):  # as before every step
        programs.wait("static")
    programs.wait("densify")  # has no kernels
    reason = "(TypeError: compile_kernels() got an argument that is new)"
    told = f"static: not compiled ahead, so this start is slower {reason}"
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [("WARNING", told)]


def test_a_cpu_compiles_nothing_ahead(painted, small_programs, caplog):
    config, data = settings(painted), Dataset.open(painted)
    with logged(caplog):
        CompiledAhead(config, data, data.audio_dim, 0).wait("static")
    assert compiled_names(caplog) == []
