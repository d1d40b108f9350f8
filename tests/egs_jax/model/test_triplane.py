"""Tri-planes: against loops in numpy, exact on linear functions, gradients by differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from egs_jax.model.triplane import (
    DENSE_AXES,
    HASH_AXES,
    DenseTriplane,
    HashTriplane,
    is_plane_parameter,
    level_resolutions,
    make_triplane,
    squeezed,
)

SMALL = {"levels": 3, "base_resolution": 4, "top_resolution": 16, "table_size": 64}


def points(count, bound, seed=0):
    return np.random.default_rng(seed).uniform(-bound, bound, (count, 3)).astype(np.float32)


def started(module, means):
    """Fresh parameters, as NumPy's."""
    return jax.device_get(jax.jit(module.init)(jax.random.key(0), means))["params"]


def applied(module, params, means):
    return np.asarray(jax.jit(module.apply)({"params": params}, means))


def corners(coordinate, cells):
    """First vertex and weight of the second, by hand."""
    first = min(max(int(np.floor(coordinate)), 0), cells - 1)
    return first, coordinate - first


def hash_reference(module, tables, means):
    resolutions, starts, hashed, _ = module.grids.layout()
    out = np.zeros((len(means), 3, len(resolutions), module.features_per_level))
    for n, mean in enumerate(means):
        unit = np.clip((mean.astype(np.float64) / module.bound + 1) / 2, 0, 1)
        for plane, (first_axis, second_axis) in enumerate(HASH_AXES):
            for level, cells in enumerate(resolutions):
                x, wx = corners(unit[first_axis] * cells, cells)
                y, wy = corners(unit[second_axis] * cells, cells)
                for dx in (0, 1):
                    for dy in (0, 1):
                        if hashed[level]:
                            product = (y + dy) * 2654435761 % 2**32
                            index = ((x + dx) ^ product) % module.table_size
                        else:
                            index = (y + dy) * (cells + 1) + x + dx
                        weight = (wx if dx else 1 - wx) * (wy if dy else 1 - wy)
                        out[n, plane, level] += weight * tables[plane, starts[level] + index]
    return out.reshape(len(means), -1)


def dense_reference(module, params, means):
    out = []
    for n in range(len(means)):
        flipped = np.clip(-means[n].astype(np.float64) / module.bound, -1, 1)
        levels = []
        for level, size in enumerate(module.resolutions):
            planes, product = params[f"planes_{level}"], 1.0
            for plane, (column_axis, row_axis) in enumerate(DENSE_AXES):
                c, wc = corners((flipped[column_axis] + 1) / 2 * (size - 1), size - 1)
                r, wr = corners((flipped[row_axis] + 1) / 2 * (size - 1), size - 1)
                p = planes[plane]
                top = p[r, c] * (1 - wc) + p[r, c + 1] * wc
                bottom = p[r + 1, c] * (1 - wc) + p[r + 1, c + 1] * wc
                product = product * (top * (1 - wr) + bottom * wr)
            levels.append(product)
        out.append(np.concatenate(levels))
    return np.array(out)


def test_resolutions_and_layout_of_the_default_grid():
    module = HashTriplane(bound=1.0)
    resolutions, starts, hashed, entries = module.grids.layout()
    assert (resolutions[0], resolutions[-1], module.out_dim) == (64, 512, 36)
    ratio = resolutions[1:] / resolutions[:-1]
    np.testing.assert_allclose(ratio, 8 ** (1 / 11), rtol=0.01)
    # 65^2, 78^2, 94^2 and 114^2 vertices fit 2^14 entries, 138^2 do not.
    np.testing.assert_array_equal(hashed, np.arange(12) >= 4)
    assert entries == 65**2 + 78**2 + 94**2 + 114**2 + 8 * 2**14
    assert starts[4] == 65**2 + 78**2 + 94**2 + 114**2
    assert HashTriplane(bound=1.25).grids.resolutions[-1] == 640
    assert level_resolutions(1, 8, 99) == (8,)


@pytest.mark.parametrize("features", [1, 2])
def test_hash_triplane_equals_loops(features):
    module = HashTriplane(bound=1.5, features_per_level=features, table_scale=1.0, **SMALL)
    means = points(20, 1.8)  # some outside
    params = started(module, means)
    assert module.grids.layout()[2].tolist() == [False, True, True]
    got = applied(module, params, means)
    assert got.shape == (20, module.out_dim)
    want = hash_reference(module, params["tables"], means)
    np.testing.assert_allclose(got, want, atol=2e-5)


def test_dense_triplane_equals_loops_flips_and_clamps():
    module = DenseTriplane(bound=1.5, resolutions=(3, 5), channels=4)
    means = points(20, 1.8)
    params = started(module, means)
    got = applied(module, params, means)
    np.testing.assert_allclose(got, dense_reference(module, params, means), atol=1e-6)
    corner = applied(module, params, np.full((1, 3), 1.5, np.float32))
    first = np.prod(params["planes_0"][:, 0, 0], axis=0)  # +bound is vertex 0
    np.testing.assert_allclose(corner[0, :4], first, rtol=1e-6)
    outside = applied(module, params, np.full((1, 3), 9.0, np.float32))
    np.testing.assert_array_equal(outside, corner)


def test_dense_levels_reproduce_a_linear_function():
    """Bilinear reading of a linear function is that function, its slope the gradient."""
    module = HashTriplane(bound=2.0, levels=1, base_resolution=7, top_resolution=7)
    grid = np.linspace(-2, 2, 8)
    values = 0.3 * grid[None, :] - 0.7 * grid[:, None] + 0.2  # rows: second axis
    params = {"tables": np.float32(np.tile(values.reshape(1, -1, 1), (3, 1, 1)))}
    means = points(50, 1.99)
    out = applied(module, params, means)
    for plane, (a, b) in enumerate(HASH_AXES):
        want = 0.3 * means[:, a] - 0.7 * means[:, b] + 0.2
        np.testing.assert_allclose(out[:, plane], want, atol=1e-6)
    slope = jax.jit(jax.jacrev(lambda m: module.apply({"params": params}, m[None])[0]))(means[0])
    np.testing.assert_allclose(slope, [[0.3, -0.7, 0], [0, 0.3, -0.7], [0.3, 0, -0.7]], atol=1e-5)


@pytest.mark.parametrize(
    "module",
    [
        HashTriplane(bound=1.2, table_scale=1.0, **SMALL),
        DenseTriplane(bound=1.2, resolutions=(4, 6), channels=3),
    ],
)
def test_gradients_against_differences(module):
    means = points(16, 1.19)
    params = started(module, means)
    probe = np.float32(np.random.default_rng(2).normal(size=(16, module.out_dim)))

    @jax.jit
    def loss(params, means):
        return jnp.sum(module.apply({"params": params}, means) * probe)

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
    grad_params, grad_means = jax.device_get(gradient(params, means))
    if isinstance(module, HashTriplane):
        plain = lambda m: hash_reference(module, params["tables"], m)
    else:
        plain = lambda m: dense_reference(module, params, m)
    step = 1e-4  # the reference is smooth within a cell: keep differences that stay inside one
    for axis in range(3):
        shift = np.zeros(3, np.float32)
        shift[axis] = step
        up, down = plain(means + shift), plain(means - shift)
        middle = plain(means)
        straight = np.abs(up + down - 2 * middle).max(axis=1) < 1e-5
        difference = ((up - down) * probe).sum(axis=1) / (2 * step)
        assert straight.sum() >= 12
        np.testing.assert_allclose(grad_means[straight, axis], difference[straight], atol=0.02)
    rng = np.random.default_rng(1)
    direction = jax.tree.map(lambda p: np.float32(rng.normal(size=p.shape)), params)
    inner = sum(jax.tree.leaves(jax.tree.map(np.vdot, grad_params, direction)))
    move = lambda e: jax.tree.map(lambda p, d: p + np.float32(e) * d, params, direction)
    change = (loss(move(1e-2), means) - loss(move(-1e-2), means)) / 2e-2
    np.testing.assert_allclose(inner, change, rtol=5e-3, atol=5e-3)


def test_table_gradient_is_the_corner_weights_and_repeats_bitwise():
    module = HashTriplane(bound=1.0, **SMALL)
    means = points(300, 1.0)
    params = started(module, means)
    grad = jax.jit(jax.grad(lambda p, m: jnp.sum(module.apply({"params": p}, m))))
    first, second = (np.asarray(grad(params, means)["tables"]) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    _, starts, _, entries = module.grids.layout()
    for start, stop in zip(starts, [*starts[1:], entries], strict=True):
        np.testing.assert_allclose(first[:, start:stop].sum(axis=(1, 2)), 300.0, rtol=1e-5)


def test_outside_has_no_positional_gradient_and_nan_stays_where_it_is():
    module = HashTriplane(bound=1.0, table_scale=1.0, **SMALL)
    means = np.float32([[3.0, -3.0, 5.0], [0.1, 0.2, 0.3], [np.nan, 0.0, np.inf]])
    params = started(module, means)
    out = applied(module, params, means)
    total = lambda m: jnp.sum(module.apply({"params": params}, m)[:2])
    grad = np.asarray(jax.jit(jax.grad(total))(means))
    np.testing.assert_array_equal(grad[0], 0.0)
    assert np.isfinite(out[:2]).all() and np.isfinite(grad[:2]).all() and (grad[1] != 0).any()


def test_planes_are_told_from_networks():
    tree = {
        "encoder": {"triplane": {"tables": 1, "planes_0": 2}, "project": {"kernel": 3}},
        "deform": {"bias": 4},
    }
    labels = jax.tree_util.tree_map_with_path(lambda path, _: is_plane_parameter(path), tree)
    assert jax.tree.leaves(labels) == [False, False, True, True]
    assert not is_plane_parameter(("encoder", "hidden"))


def test_parity_count_of_the_dense_planes():
    module = make_triplane("dense", 1.0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 1_966_080
    assert module.out_dim == 64


def test_wrong_fields_are_named():
    with pytest.raises(ValueError, match="kind: expected one of"):
        make_triplane("grid", 1.0)
    with pytest.raises(ValueError, match="bound"):
        make_triplane("hash", 0.0)
    with pytest.raises(ValueError, match="table_size"):
        make_triplane("hash", 1.0, table_size=1000).grids.layout()


def test_space_beyond_the_inner_cube_is_squeezed_smoothly():
    inner, bound = 1.0, 1.5
    x = np.linspace(-30, 30, 6001, dtype=np.float32)
    points = np.stack([x, 0 * x, -x], axis=1)
    got = np.asarray(jax.jit(squeezed, static_argnums=(1, 2))(points, inner, bound))
    within = np.abs(x) <= inner
    np.testing.assert_array_equal(got[within], points[within])
    assert np.abs(got).max() < bound and np.all(np.diff(got[:, 0].astype(np.float64)) > 0)
    np.testing.assert_allclose(got[:, 2], -got[:, 0])
    slope = jax.jit(jax.vmap(jax.grad(lambda v: squeezed(v[None], inner, bound)[0, 0])))
    at = np.float32([[0.999, 0, 0], [1.001, 0, 0], [1.5, 0, 0]])
    np.testing.assert_allclose(np.asarray(slope(at))[:, 0], [1, 1, 0.25], atol=0.01)
