"""`deform` in plain JAX against its definition in float64."""

import importlib
from types import SimpleNamespace
from typing import get_args

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.deform import deform
from kernels.deform.cases import make_case, pack
from kernels.deform.reference import deform_reference
from kernels.deform.types import Network


def defined(case):
    """What the definition makes of a case."""
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        arrays, weights = jax.tree.map(np.float64, (case.arrays, case.weights))
        exact = jax.jit(deform_reference, static_argnums=0)(case.network, *arrays, **weights)
    return jax.tree.map(np.float32, exact)


@pytest.mark.parametrize("network", get_args(Network))
@pytest.mark.parametrize("k", [1, 9])
def test_jax_equals_the_definition(network, k):
    case = make_case(network, k=k)
    got = deform(*case.arrays, pack(case), implementation="xla")
    chex.assert_trees_all_close(got, defined(case), rtol=2e-5, atol=2e-5)


def test_without_agents_every_gaussian_has_its_own_mix():
    case = make_case("taylor", agents=5)  # as many as Gaussians
    canonical, features, _, dynamic, tokens = case.arrays
    got = deform(canonical, features, None, dynamic, tokens, pack(case), implementation="xla")
    identity = np.eye(5, dtype=np.float32)
    case.arrays = (canonical, features, identity, dynamic, tokens)
    chex.assert_trees_all_close(got, defined(case), rtol=2e-5, atol=2e-5)
    with pytest.raises(ValueError, match="expected one row for each of 5 Gaussians"):
        deform(canonical, features, None, dynamic[:, :4], tokens, pack(case))


def test_blocks_of_a_cpu_hold_every_gaussian_once(monkeypatch):
    """Seven Gaussians in blocks of three or two: the last block is filled up."""
    monkeypatch.setattr(importlib.import_module("kernels.deform.xla.deform"), "BLOCK_ROWS", (2, 3))
    case = make_case("taylor", n=7)
    got = deform(*case.arrays, pack(case), implementation="xla")
    chex.assert_trees_all_close(got, defined(case), rtol=2e-5, atol=2e-5)


def test_bfloat16_operands_stay_close_and_keep_float32_results():
    case = make_case("taylor", d=32, units=32, ffn=64)
    got = deform(*case.arrays, pack(case, jnp.bfloat16), implementation="xla")
    want = deform(*case.arrays, pack(case), implementation="xla")
    for value, expected in zip(*jax.device_get((got, want)), strict=True):
        error = np.max(np.abs(value - expected)) / np.max(np.abs(expected))
        assert value.dtype == jnp.float32 and 0 < error < 0.02


def test_gradient_of_every_input_and_weight():
    case = make_case("taylor", n=3, frames=1)

    def loss(arrays, weights):
        case.weights = weights
        out = deform(*arrays, pack(case), implementation="xla")
        return sum(jnp.sum(jnp.sin(value)) for value in out)

    weights = case.weights
    static = {name: weights.pop(name) for name in ("gain", "epsilon")}
    gradient = jax.jit(jax.grad(lambda a, w: loss(a, w | static), argnums=(0, 1)))
    gradients = jax.device_get(gradient(case.arrays, weights))
    chex.assert_tree_all_finite(gradients)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradients))


def test_what_makes_no_sense_is_refused():
    case = make_case("taylor")
    weights = pack(case)
    run = lambda arrays=case.arrays, w=weights, **o: deform(*arrays, w, **o)
    with pytest.raises(ValueError, match="implementation: expected None, 'xla' or 'triton'"):
        run(implementation="cuda")
    with pytest.raises(ValueError, match="canonical: expected shapes"):
        run((case.arrays[0]._replace(quats=case.arrays[0].means), *case.arrays[1:]))
    with pytest.raises(ValueError, match="16 columns of color for 1 harmonics, got 32"):
        case.k = 9
        few = case.arrays[0]._replace(sh=case.arrays[0].sh[:, :1])
        run((few, *case.arrays[1:]), pack(case))
    with pytest.raises(ValueError, match="heads: expected"):
        pack(SimpleNamespace(**vars(case) | dict(weights=case.weights | dict(heads={}))))
    with pytest.raises(ValueError, match=r"heads\['log_scales'\]: expected a kernel \(1, 4, 3\)"):
        pack(SimpleNamespace(**vars(case) | dict(network="mlp")))
