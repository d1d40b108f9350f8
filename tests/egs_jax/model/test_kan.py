"""KAN layers against plain formulas."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import fill

from egs_jax.model.kan import Block, KANLayer, Linear, layer_columns, make_layer


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def silu(x):
    return x / (1 + np.exp(-x))


def test_taylor_layer_by_hand():
    layer = KANLayer(1)
    params = {
        "base": jnp.array([[2.0]]),
        "powers": jnp.array([[[0.5]], [[3.0]], [[-1.0]]]),
        "bias": jnp.array([0.25]),
    }
    x = 1.5
    want = 2 * silu(x) + 0.5 + 3 * x - x * x + 0.25
    np.testing.assert_allclose(
        jax.jit(layer.apply)({"params": params}, jnp.array([x])), [want], rtol=1e-6
    )


def test_taylor_layer_equals_the_sum_over_powers(getkey):
    layer, x = KANLayer(5), np.array(jax.random.normal(getkey(), (4, 2, 7)))
    params = jax.jit(layer.init)(getkey(), jnp.asarray(x))["params"]
    assert count(params) == 7 * 5 * 4 + 5
    want = silu(x) @ np.asarray(params["base"]) + np.asarray(params["bias"])
    for k in range(3):
        want = want + x**k @ np.asarray(params["powers"])[k]
    np.testing.assert_allclose(
        jax.jit(layer.apply)({"params": params}, jnp.asarray(x)), want, atol=2e-6
    )


def test_taylor_start_has_the_stated_spread(getkey):
    params = KANLayer(400).init(getkey(), jnp.zeros((1, 100)))["params"]
    assert abs(float(params["powers"].std()) / (1 / (100 * 3**0.5)) - 1) < 0.02
    assert 0.099 < float(jnp.abs(params["base"]).max()) <= 0.1
    assert 0.095 < float(jnp.abs(params["bias"]).max()) <= 0.1


def test_zero_start_is_exactly_zero_and_learns(getkey):
    layer = KANLayer(6, start="zero")
    x = jax.random.uniform(getkey(), (9, 4), minval=-1, maxval=1)
    params = jax.jit(layer.init)(getkey(), x)["params"]
    np.testing.assert_array_equal(jax.jit(layer.apply)({"params": params}, x), 0.0)
    grads = jax.grad(lambda p: jnp.sum(jax.jit(layer.apply)({"params": p}, x)))(params)
    assert all(np.isfinite(grads[n]).all() and (grads[n] != 0).all() for n in params)


def test_columns_of_a_layer_by_hand():
    one = lambda *values: jnp.array([[[v]] for v in values])
    params = dict(base=one(2.0)[0], powers=one(0.5, 3.0, -1.0), bias=jnp.array([0.25]))
    columns = layer_columns("taylor", params)
    np.testing.assert_array_equal(columns.kernel[:, 0, 0], [2.0, 3.0, -1.0])
    np.testing.assert_array_equal(columns.bias, [0.75])  # the constant term is part of it
    linear = layer_columns("mlp", dict(kernel=jnp.ones((2, 3)), bias=jnp.zeros(3)))
    assert linear.kernel.shape == (1, 2, 3)


def test_small_start_is_a_tenth(getkey):
    x = jax.random.normal(getkey(), (9, 4))
    key = getkey()
    for network in ("kan", "mlp"):
        full = make_layer(network, 3).init(key, x)["params"]
        small = make_layer(network, 3, start="small").init(key, x)["params"]
        name = "base" if network == "kan" else "kernel"
        np.testing.assert_allclose(small[name], 0.1 * full[name], rtol=1e-5)
        np.testing.assert_array_equal(small["bias"], 0.0)


def test_a_relu_stands_between_layers_where_asked_for(getkey):
    x = jax.random.normal(getkey(), (9, 4))
    free, cut = Block(8, 3), Block(8, 3, relu=True)
    params = fill(free, x)["params"]
    layer = lambda size, name, value: KANLayer(size).apply({"params": params[name]}, value)
    hidden = layer(8, "hidden", x)
    assert (hidden < -0.1).any()
    for block, between in ((free, hidden), (cut, jax.nn.relu(hidden))):
        want = layer(3, "out", between)
        np.testing.assert_allclose(block.apply({"params": params}, x), want, atol=1e-5)


def test_block_gradients_equal_differences_and_are_finite_at_zero(getkey):
    block = Block(8, 3)
    x = jax.random.uniform(getkey(), (6, 4), minval=-0.9, maxval=0.9)
    params = fill(block, x)["params"]
    loss = jax.jit(lambda p, x: jnp.sum(jnp.sin(block.apply({"params": p}, x))))
    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
    grads = gradient(params, x)
    rng = np.random.default_rng(2)
    direction = jax.tree.map(lambda v: jnp.asarray(rng.normal(size=v.shape)), (params, x))
    move = lambda e: loss(*jax.tree.map(lambda v, d: v + e * d, (params, x), direction))
    inner = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, grads, direction)))
    np.testing.assert_allclose(inner, (move(1e-3) - move(-1e-3)) / 2e-3, rtol=2e-2, atol=2e-2)
    at_zero = gradient(params, jnp.zeros_like(x))
    chex.assert_tree_all_finite(at_zero)


def test_mlp_takes_the_kans_place(getkey):
    block = Block(128, 3, network="mlp")
    x = jax.random.normal(getkey(), (5, 64))
    params = block.init(getkey(), x)["params"]
    assert count(params) == 8707
    p = jax.tree.map(np.asarray, params)
    hidden = np.maximum(np.asarray(x) @ p["hidden"]["kernel"] + p["hidden"]["bias"], 0)
    want = hidden @ p["out"]["kernel"] + p["out"]["bias"]
    np.testing.assert_allclose(block.apply({"params": params}, x), want, atol=1e-5)
    merged = Linear(640, fan_out=128).init(getkey(), x)["params"]["kernel"]
    assert 0.98 < float(jnp.abs(merged).max()) / (6 / 192) ** 0.5 <= 1.0
    with pytest.raises(ValueError, match="network"):
        make_layer("tree", 3)
