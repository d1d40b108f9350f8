"""Kernels of a program are found wherever they are in it and compiled side by side."""

import threading

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import Primitive
from jax.interpreters import mlir

from kernels import compile_kernels, dispatch, precompile

WAIT = 20  # seconds until a test that compiles one after the other gives up


@pytest.fixture
def kernel(monkeypatch):
    """A stand-in for a Triton kernel: how many are compiled at a time is told by a barrier."""
    monkeypatch.setattr(dispatch, "is_default", lambda: True)
    together, compiled = threading.Barrier(3), []
    primitive = Primitive(precompile.KERNEL_CALL)
    primitive.def_abstract_eval(lambda x, *, number: x)

    def lower(_, x, *, number):
        compiled.append(number)
        if len(compiled) <= together.parties:
            together.wait(WAIT)
        return [x]

    mlir.register_lowering(primitive, lower)
    return lambda x, number: primitive.bind(x, number=number), compiled


def test_each_is_compiled_once_and_all_at_the_same_time(kernel):
    call, compiled = kernel

    @jax.jit
    def program(x):
        x = call(call(x, 0), 0)
        x = jax.lax.cond(x[0] > 0, lambda v: call(v, 1), lambda v: v, x)
        return jax.jit(lambda v: call(v, 2))(x)

    compile_kernels(program, jnp.ones(3))
    assert sorted(compiled) == [0, 1, 2]


def test_nothing_happens_where_no_kernel_would_be_compiled():
    compile_kernels(None)  # not even traced
