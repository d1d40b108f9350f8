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


def draw(*shape):
    return np.float32(np.random.default_rng(0).normal(size=shape))


def started(module, x):
    """Fresh parameters, as NumPy's."""
    return jax.device_get(jax.jit(module.init)(jax.random.key(0), x))["params"]


def applied(module, params, x):
    return np.asarray(jax.jit(module.apply)({"params": params}, x))


def silu(x):
    return x / (1 + np.exp(-x))


def test_taylor_layer_by_hand():
    layer = KANLayer(1)
    params = {
        "base": np.float32([[2.0]]),
        "powers": np.float32([[[0.5]], [[3.0]], [[-1.0]]]),
        "bias": np.float32([0.25]),
    }
    x = 1.5
    want = 2 * silu(x) + 0.5 + 3 * x - x * x + 0.25
    np.testing.assert_allclose(applied(layer, params, np.float32([x])), [want], rtol=1e-6)


def test_taylor_layer_equals_the_sum_over_powers():
    layer, x = KANLayer(5), draw(4, 2, 7)
    params = started(layer, x)
    assert count(params) == 7 * 5 * 4 + 5
    want = silu(x) @ params["base"] + params["bias"]
    for k in range(3):
        want = want + x**k @ params["powers"][k]
    np.testing.assert_allclose(applied(layer, params, x), want, atol=2e-6)


def test_taylor_start_has_the_stated_spread():
    params = started(KANLayer(400), draw(1, 100))
    assert abs(float(params["powers"].std()) / (1 / (100 * 3**0.5)) - 1) < 0.02
    assert 0.099 < np.abs(params["base"]).max() <= 0.1
    assert 0.095 < np.abs(params["bias"]).max() <= 0.1


def test_zero_start_is_exactly_zero_and_learns():
    layer = KANLayer(6, start="zero")
    x = np.tanh(draw(9, 4))
    params = started(layer, x)
    np.testing.assert_array_equal(applied(layer, params, x), 0.0)
    gradient = jax.jit(jax.grad(lambda p, x: jnp.sum(layer.apply({"params": p}, x))))
    grads = jax.device_get(gradient(params, x))
    assert all(np.isfinite(grads[n]).all() and (grads[n] != 0).all() for n in params)


def test_columns_of_a_layer_by_hand():
    one = lambda *values: np.float32([[[v]] for v in values])
    params = dict(base=one(2.0)[0], powers=one(0.5, 3.0, -1.0), bias=np.float32([0.25]))
    columns = jax.device_get(layer_columns("taylor", params))
    np.testing.assert_array_equal(columns.kernel[:, 0, 0], [2.0, 3.0, -1.0])
    np.testing.assert_array_equal(columns.bias, [0.75])  # the constant term is part of it
    linear = layer_columns("mlp", dict(kernel=np.ones((2, 3)), bias=np.zeros(3)))
    assert linear.kernel.shape == (1, 2, 3)


def test_small_start_is_a_tenth():
    x = draw(9, 4)
    for network in ("kan", "mlp"):
        full = started(make_layer(network, 3), x)
        small = started(make_layer(network, 3, start="small"), x)
        name = "base" if network == "kan" else "kernel"
        np.testing.assert_allclose(small[name], 0.1 * full[name], rtol=1e-5)
        np.testing.assert_array_equal(small["bias"], 0.0)


def test_a_relu_stands_between_layers_where_asked_for():
    x = draw(9, 4)
    free, cut = Block(8, 3), Block(8, 3, relu=True)
    params = fill(free, x)["params"]
    hidden = applied(KANLayer(8), params["hidden"], x)
    assert (hidden < -0.1).any()
    for block, between in ((free, hidden), (cut, np.maximum(hidden, 0))):
        want = applied(KANLayer(3), params["out"], between)
        np.testing.assert_allclose(applied(block, params, x), want, atol=1e-5)


def test_block_gradients_equal_differences_and_are_finite_at_zero():
    block = Block(8, 3)
    x = 0.9 * np.tanh(draw(6, 4))
    params = jax.device_get(fill(block, x)["params"])
    loss = jax.jit(lambda p, x: jnp.sum(jnp.sin(block.apply({"params": p}, x))))
    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
    grads = jax.device_get(gradient(params, x))
    rng = np.random.default_rng(2)
    direction = jax.tree.map(lambda v: np.float32(rng.normal(size=v.shape)), (params, x))
    move = lambda e: loss(*jax.tree.map(lambda v, d: v + np.float32(e) * d, (params, x), direction))
    inner = sum(jax.tree.leaves(jax.tree.map(np.vdot, grads, direction)))
    np.testing.assert_allclose(inner, (move(1e-3) - move(-1e-3)) / 2e-3, rtol=2e-2, atol=2e-2)
    at_zero = jax.device_get(gradient(params, np.zeros_like(x)))
    chex.assert_tree_all_finite(at_zero)


def test_mlp_takes_the_kans_place():
    block, x = Block(128, 3, network="mlp"), draw(5, 64)
    params = started(block, x)
    assert count(params) == 8707
    hidden = np.maximum(x @ params["hidden"]["kernel"] + params["hidden"]["bias"], 0)
    want = hidden @ params["out"]["kernel"] + params["out"]["bias"]
    np.testing.assert_allclose(applied(block, params, x), want, atol=1e-5)
    merged = started(Linear(640, fan_out=128), x)["kernel"]
    assert 0.98 < np.abs(merged).max() / (6 / 192) ** 0.5 <= 1.0
    with pytest.raises(ValueError, match="network"):
        make_layer("tree", 3)
