"""A training step with the Triton kernels leaves no sum of floats to the order of a GPU's threads.

JAX's own scatter-adds are atomics there. (Products and convolutions repeat if the same algorithms
are picked, which is up to XLA's flags; integers add up to the same bits in any order.)
"""

import importlib.util
from collections.abc import Iterator
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from helpers import micro_config, traced_apart
from jax.extend.core import subjaxprs

from egs_jax.data.dataset import Dataset
from egs_jax.training.step import (
    abstract_state,
    jitted_densify,
    jitted_step,
    seed_of,
    step_arguments,
)
from kernels import dispatch

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed (Linux only)"
)


def equations(jaxpr) -> Iterator:
    """All equations, those of inner programs as well."""
    yield from jaxpr.eqns
    for inner in subjaxprs(jaxpr):
        yield from equations(inner)


def in_any_order(traced) -> list[str]:
    """Scatters and the like that add floats up where two of them may meet."""
    names = ("scatter-add", "scatter_add", "scatter-mul", "select_and_scatter_add")
    return [
        str(equation)
        for equation in equations(traced.jaxpr.jaxpr)
        if equation.primitive.name in names
        and jnp.issubdtype(equation.outvars[0].aval.dtype, jnp.floating)
        and not equation.params.get("unique_indices", False)
    ]


def test_what_is_looked_for_is_found():
    rows, index = jnp.zeros((4, 2)), jnp.zeros(3, int)
    assert in_any_order(jax.jit(jax.grad(lambda r: jnp.sum(r[index] ** 2))).trace(rows))
    pooled = lambda x: jnp.sum(jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (2,), (1,), "SAME"))
    assert in_any_order(jax.jit(jax.grad(pooled)).trace(jnp.arange(5.0)))


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """None picks Triton; what was traced so must not serve other tests, in the interpreter."""
    with traced_apart("float32"), monkeypatch.context() as patched:
        patched.setattr(dispatch, "is_default", lambda: True)
        yield


@pytest.mark.parametrize("architecture", ["paper", "parity"])
def test_steps_of_training_add_in_a_fixed_order(painted, architecture, as_on_a_gpu):
    config = micro_config(painted)
    config = replace(config, model=replace(config.model, architecture=architecture))
    dataset = Dataset.open(painted)
    state = abstract_state(config, dataset.audio_dim)
    for step in (0, config.schedule.static_steps):
        traced = jitted_step.trace(*step_arguments(config, state, dataset.batch(config, step)))
        assert "pure_callback" in {e.primitive.name for e in equations(traced.jaxpr.jaxpr)}
        assert not in_any_order(traced)
    assert not in_any_order(jitted_densify.trace(config.program, seed_of(config), state))
