"""KAN layers against scipy's B-splines and plain formulas; grid updates keep the function."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import fill
from scipy.interpolate import BSpline

from egs_jax.model.kan import (
    INPUTS,
    Block,
    KANLayer,
    Linear,
    bspline_basis,
    make_layer,
    uniform_knots,
    update_all_grids,
    update_grid,
)


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def silu(x):
    return x / (1 + np.exp(-x))


def increasing_knots(rng, rows, number):
    return np.cumsum(rng.uniform(0.1, 0.6, (rows, number)), axis=1) - 2.0


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


@pytest.mark.parametrize("basis", ["taylor", "bspline"])
def test_zero_start_is_exactly_zero_and_learns(getkey, basis):
    layer = KANLayer(6, basis=basis, start="zero")
    x = jax.random.uniform(getkey(), (9, 4), minval=-1, maxval=1)
    params = jax.jit(layer.init)(getkey(), x)["params"]
    np.testing.assert_array_equal(jax.jit(layer.apply)({"params": params}, x), 0.0)
    grads = jax.grad(lambda p: jnp.sum(jax.jit(layer.apply)({"params": p}, x)))(params)
    names = ("base", "bias", "powers" if basis == "taylor" else "scaler")
    assert all(np.isfinite(grads[n]).all() and (grads[n] != 0).all() for n in names)


def test_small_start_is_a_tenth(getkey):
    x = jax.random.normal(getkey(), (9, 4))
    key = getkey()
    for network in ("kan", "mlp"):
        full = make_layer(network, 3).init(key, x)["params"]
        small = make_layer(network, 3, start="small").init(key, x)["params"]
        name = "base" if network == "kan" else "kernel"
        np.testing.assert_allclose(small[name], 0.1 * full[name], rtol=1e-5)
        np.testing.assert_array_equal(small["bias"], 0.0)


def test_cubic_basis_at_a_knot_is_one_four_one_sixths():
    knots = uniform_knots(1, 5, 3, (0.0, 5.0))
    values = bspline_basis(jnp.array([2.0]), knots, 3)[:, 0]
    np.testing.assert_allclose(values, np.array([0, 0, 1, 4, 1, 0, 0, 0]) / 6, atol=1e-6)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_basis_and_slope_equal_scipy(order):
    rng = np.random.default_rng(order)
    knots = increasing_knots(rng, 2, 12)
    x = rng.uniform(knots[:, 0], knots[:, -1], (40, 2))
    args = jnp.asarray(knots, jnp.float32), order
    got = bspline_basis(jnp.asarray(x, jnp.float32), *args)
    one_slope = jax.jacfwd(lambda v, t: bspline_basis(v[None], t[None], order))
    slope = jax.jit(jax.vmap(jax.vmap(one_slope)))(
        jnp.asarray(x, jnp.float32), jnp.broadcast_to(args[0][None], (40, 2, 12))
    )
    for i in range(2):
        for j in range(12 - order - 1):
            one = BSpline.basis_element(knots[i, j : j + order + 2], extrapolate=False)
            np.testing.assert_allclose(got[:, j, i], np.nan_to_num(one(x[:, i])), atol=2e-5)
            if order > 1:  # the slope of order 1 jumps at knots
                want = np.nan_to_num(one.derivative()(x[:, i]))
                np.testing.assert_allclose(slope[:, i, j, 0], want, atol=1e-4)


def test_basis_sums_to_one_inside_and_vanishes_outside():
    knots = jnp.asarray(increasing_knots(np.random.default_rng(0), 1, 12), jnp.float32)
    inside = jnp.linspace(knots[0, 3] + 1e-4, knots[0, -4] - 1e-4, 50)[:, None]
    np.testing.assert_allclose(bspline_basis(inside, knots, 3).sum(axis=1), 1.0, atol=1e-5)
    outside = jnp.array([[knots[0, 0] - 0.1], [knots[0, -1] + 0.1]])
    np.testing.assert_array_equal(bspline_basis(outside, knots, 3), 0.0)


def test_bspline_layer_equals_scipy(getkey):
    layer, x = KANLayer(3, basis="bspline"), np.random.default_rng(1).uniform(-0.99, 0.99, (20, 4))
    params = jax.jit(layer.init)(getkey(), jnp.asarray(x, jnp.float32))["params"]
    assert count(params) == 4 * 3 * (1 + 8 + 1) + 3 + 4 * 12
    p = jax.tree.map(np.asarray, params)
    want = silu(x) @ p["base"] + p["bias"]
    for i in range(4):
        curve = BSpline(p["knots"][i], p["spline"][:, i] * p["scaler"][i], 3)
        want = want + curve(x[:, i])
    got = jax.jit(layer.apply)({"params": params}, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(got, want, atol=1e-5)


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


@pytest.mark.parametrize("basis", ["taylor", "bspline"])
def test_block_gradients_equal_differences_and_are_finite_at_zero(getkey, basis):
    block = Block(8, 3, basis=basis)
    x = jax.random.uniform(getkey(), (6, 4), minval=-0.9, maxval=0.9)
    params = fill(block, x)["params"]
    loss = jax.jit(lambda p, x: jnp.sum(jnp.sin(block.apply({"params": p}, x))))
    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
    grads = gradient(params, x)
    rng = np.random.default_rng(2)
    direction = jax.tree.map(lambda v: jnp.asarray(rng.normal(size=v.shape)), (params, x))
    if basis == "bspline":
        assert not jnp.any(grads[0]["hidden"]["knots"])  # constants: no gradient
        for name in ("hidden", "out"):
            direction[0][name]["knots"] = jnp.zeros_like(direction[0][name]["knots"])
    move = lambda e: loss(*jax.tree.map(lambda v, d: v + e * d, (params, x), direction))
    inner = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, grads, direction)))
    np.testing.assert_allclose(inner, (move(1e-3) - move(-1e-3)) / 2e-3, rtol=2e-2, atol=2e-2)
    at_zero = gradient(params, jnp.zeros_like(x))
    chex.assert_tree_all_finite(at_zero)


def cubic_layer(getkey, rng):
    """A B-spline layer whose edges are cubic polynomials on all of its grid."""
    layer = KANLayer(4, basis="bspline")
    params = jax.jit(layer.init)(getkey(), jnp.zeros((1, 3)))["params"]
    sites = jnp.linspace(-0.999, 0.999, 100)
    design = np.asarray(bspline_basis(jnp.tile(sites[:, None], (1, 3)), params["knots"], 3))
    polynomials = np.polynomial.polynomial.polyval(np.asarray(sites), rng.normal(size=(4, 3, 4)))
    solved = [np.linalg.lstsq(design[:, :, i], polynomials[i].T, rcond=None)[0] for i in range(3)]
    return layer, {**params, "spline": jnp.asarray(np.stack(solved, 1), jnp.float32)}


def test_update_grid_keeps_cubics_exactly_and_follows_the_data(getkey):
    rng = np.random.default_rng(5)
    layer, params = cubic_layer(getkey, rng)
    x = jnp.asarray(rng.beta(2, 5, (3000, 3)) * 1.2 - 0.3, jnp.float32)
    new = jax.jit(update_grid)(params, x)
    before, after = (jax.jit(layer.apply)({"params": p}, x) for p in (params, new))
    np.testing.assert_allclose(after, before, atol=3e-4 * float(jnp.abs(before).max()))
    knots = np.asarray(new["knots"])
    assert (np.diff(knots, axis=1) > 0).all()
    assert (knots[:, 3] <= x.min(axis=0)).all() and (knots[:, -4] > x.max(axis=0)).all()
    share = [np.mean((np.asarray(x)[:, 0] >= a) & (np.asarray(x)[:, 0] < b))
             for a, b in zip(knots[0, 3:-4], knots[0, 4:-3], strict=True)]  # fmt: skip
    assert min(share) > 0.1 and max(share) < 0.35  # near a fifth each; an equal spacing: 0.01
    assert {k: v.shape for k, v in new.items()} == {k: v.shape for k, v in params.items()}


def test_update_grid_is_the_best_fit_for_any_spline(getkey):
    rng = np.random.default_rng(6)
    layer = KANLayer(2, basis="bspline")
    params = jax.jit(layer.init)(getkey(), jnp.zeros((1, 2)))["params"]
    params["spline"] = jax.random.normal(getkey(), params["spline"].shape)
    x = jnp.asarray(rng.uniform(-0.9, 0.6, (2000, 2)), jnp.float32)
    new = jax.jit(update_grid)(params, x)
    old_values = np.asarray(bspline_basis(x, params["knots"], 3), np.float64)
    design = np.asarray(bspline_basis(x, new["knots"], 3), np.float64)
    for i in range(2):
        target = old_values[:, :, i] @ np.asarray(params["spline"], np.float64)[:, i]
        best = np.linalg.lstsq(design[:, :, i], target, rcond=None)[1]
        residual = design[:, :, i] @ np.asarray(new["spline"], np.float64)[:, i] - target
        np.testing.assert_allclose((residual**2).sum(axis=0), best, rtol=1e-3, atol=1e-6)


def test_update_grid_survives_constant_and_half_zero_inputs(getkey):
    layer = KANLayer(2, basis="bspline")
    params = jax.jit(layer.init)(getkey(), jnp.zeros((1, 3)))["params"]
    z = np.random.default_rng(0).normal(size=500)
    x = jnp.asarray(np.stack([np.full(500, 0.3), np.maximum(z, 0) / 4, np.full(500, 7.0)], 1))
    new = jax.jit(update_grid)(params, x.astype(jnp.float32))
    chex.assert_tree_all_finite(new)
    assert (np.diff(new["knots"], axis=1) > 0).all()
    before, after = (
        jax.jit(layer.apply)({"params": p}, x.astype(jnp.float32)) for p in (params, new)
    )
    np.testing.assert_allclose(after, before, atol=2e-3)
    with pytest.raises(ValueError, match="B-spline"):
        update_grid({"kernel": 1, "bias": 2}, x.astype(jnp.float32))


def test_update_all_grids_keeps_a_block(getkey):
    block = Block(8, 3, basis="bspline")
    x = jax.random.normal(getkey(), (800, 4)) * 0.2 + 0.3
    variables = fill(block, x)
    assert set(variables) == {"params"}
    before, captured = jax.jit(lambda v, x: block.apply(v, x, mutable=[INPUTS]))(variables, x)
    params = jax.jit(update_all_grids)(variables["params"], captured[INPUTS])
    for name in ("hidden", "out"):
        assert (params[name]["knots"] != variables["params"][name]["knots"]).any()
    after = jax.jit(block.apply)({"params": params}, x)
    # Off the data's splines the fit is a best one, not exact: 5 % of the function's spread.
    error = np.sqrt(np.mean(np.square(np.asarray(after - before))))
    assert error < 0.05 * float(before.std())


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
