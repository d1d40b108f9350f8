"""Density control: rounds worked out by hand, accounting over random clouds, one trace."""

import functools
from types import SimpleNamespace
from unittest import mock

import chex
import jax
import numpy as np
import pytest

from egs_jax.model.gaussians import Gaussians, empty_gaussians
from egs_jax.training import density

OFF = {"prune_opacity": 0.0, "prune_radius": np.inf, "prune_scale": np.inf}
ON = {"prune_opacity": 0.005, "prune_radius": 20.0, "prune_scale": 0.1}


@functools.partial(jax.jit, static_argnames="split_oversized")
def planned(*arguments, **thresholds):
    """A round, and the plan that it carried out."""
    plans, plan = [], density._plan
    keep = lambda *a, **k: plans.append(plan(*a, **k)) or plans[0]
    with mock.patch.object(density, "_plan", keep):
        return density.densify(*arguments, **thresholds), plans[0]


def densify(*arguments, **thresholds):
    """Call with every threshold given, so that one program serves all rounds of one capacity."""
    result, plan = jax.device_get(planned(*arguments, **ON | thresholds))
    return SimpleNamespace(**vars(result), plan=plan)


def random_cloud(seed: int, capacity: int, share_alive: float = 0.6):
    """A cloud, its live slots, moments that tell the slots apart, and statistics."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    over_rows = lambda x, like: x.reshape((-1,) + (1,) * (like.ndim - 1))
    cloud = Gaussians(
        means=normal(capacity, 3),
        log_scales=-4.0 + normal(capacity, 3),
        quats=normal(capacity, 4),
        logit_opacities=3.0 * normal(capacity),
        sh0=normal(capacity, 1, 3),
        shN=normal(capacity, 15, 3),
    )
    alive = rng.random(capacity) < share_alive
    empty = jax.device_get(empty_gaussians(capacity))
    cloud = jax.tree.map(lambda x, e: np.where(over_rows(alive, x), x, e), cloud, empty)
    slots = np.arange(1.0, capacity + 1, dtype=np.float32)
    marks = lambda x: np.broadcast_to(over_rows(slots, x), x.shape)
    moments = {"mu": jax.tree.map(marks, cloud), "count": np.int32(7), "other": np.ones(3)}
    stats = density.DensityStats(
        grad_sum=np.float32(rng.random(capacity) * 0.01),
        count=rng.integers(0, 9, capacity, dtype=np.int32),
        max_radii=np.float32(rng.random(capacity) * 30),
    )
    return jax.device_put((cloud, alive, moments, stats))


def hand_made(scales, gradients, alive, opacities=None, radii=None):
    """A cloud of isotropic Gaussians at x = 1, 2, ... with the given figures."""
    n, f32 = len(scales), np.float32
    opacities = np.full(n, 0.5) if opacities is None else np.asarray(opacities)
    cloud = jax.device_get(empty_gaussians(n)).replace(
        means=np.arange(1, n + 1, dtype=f32)[:, None] * np.eye(3, dtype=f32)[:1],
        log_scales=f32(np.log(np.repeat(np.array(scales)[:, None], 3, 1))),
        logit_opacities=f32(np.log(opacities / (1 - opacities))),
    )
    stats = density.DensityStats(
        grad_sum=f32(2 * np.array(gradients)),
        count=np.full(n, 2, np.int32),
        max_radii=f32(np.zeros(n) if radii is None else radii),
    )
    moments = np.arange(1, n + 1, dtype=f32)
    return jax.device_put((cloud, np.array(alive, bool), moments, stats))


def counts(out):
    """What became of how many: "dropped" wanted to grow and found no slot."""
    split, born = int(out.plan.split.sum()), int((out.plan.slots < len(out.alive)).sum())
    return {"cloned": born - split, "split": split, "pruned": int(out.plan.prune.sum()),
            "dropped": int(out.dropped), "alive": int(out.alive.sum())}  # fmt: skip


def test_accumulate_by_hand():
    accumulate = jax.jit(density.accumulate, static_argnums=(3, 4))
    stats = density.init_stats(3)
    grad = np.float32([[[3e-3, 4e-3], [1, 1], [0, 2e-3]], [[1e-3, 0], [0, 0], [0, 0]]])
    radii = np.int32([[5, 0, 2], [7, 0, 0]])
    stats = jax.device_get(accumulate(stats, grad, radii, 200, 100))
    first = np.hypot(3e-3 * 100, 4e-3 * 50)
    np.testing.assert_allclose(stats.grad_sum, [first + 1e-3 * 100, 0, 2e-3 * 50], rtol=1e-6)
    np.testing.assert_array_equal(stats.count, [2, 0, 1])
    wide = 512 / 200  # radii are told in pixels of an image 512 wide
    np.testing.assert_allclose(stats.max_radii, [7 * wide, 0, 2 * wide], rtol=1e-6)
    twice = accumulate(stats, grad, np.float32(radii / 2), 200, 100)
    np.testing.assert_allclose(twice.grad_sum, 2 * stats.grad_sum, rtol=1e-6)
    np.testing.assert_array_equal(twice.max_radii, stats.max_radii)


def test_small_is_cloned_large_is_split():
    cloud, alive, moments, stats = hand_made(
        [0.005, 0.05, 0.05, 1, 1], [0.002, 0.002, 0.0005, 9, 9], [1, 1, 1, 0, 0]
    )
    out = densify(jax.random.key(0), cloud, alive, moments, stats, extent=1.0, **OFF)
    assert counts(out) == {"cloned": 1, "split": 1, "pruned": 0, "dropped": 0, "alive": 5}
    scales, x = np.exp(out.gaussians.log_scales[:, 0]), np.asarray(out.gaussians.means)
    np.testing.assert_allclose(scales[[0, 2]], [0.005, 0.05], rtol=1e-5)
    np.testing.assert_array_equal(x[0], [1, 0, 0])
    # Equal gradients: the lower slot goes first, to the first free slot.
    np.testing.assert_array_equal(x[3], x[0])
    np.testing.assert_allclose(scales[[1, 4]], 0.05 / 1.6, rtol=1e-5)
    for child in (1, 4):
        assert 0 < np.linalg.norm(x[child] - [2, 0, 0]) < 0.05 * 5
    assert np.linalg.norm(x[1] - x[4]) > 0
    # The clone's source and the bystander keep their moments; every new one starts at zero.
    np.testing.assert_array_equal(out.moments_tree, [1, 0, 3, 0, 0])
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(out.stats))


def test_pruning_rules_and_their_switches():
    figures = hand_made(
        [0.05, 0.05, 0.2, 0.05], [0] * 4, [1] * 4, opacities=[0.004, 0.5, 0.5, 0.5],
        radii=[0, 21, 0, 20],
    )  # fmt: skip
    out = densify(jax.random.key(0), *figures, extent=1.0)
    np.testing.assert_array_equal(out.alive, [0, 0, 0, 1])
    np.testing.assert_array_equal(out.moments_tree, [0, 0, 0, 4])
    empty = jax.device_get(empty_gaussians(4))
    for leaf, dead in zip(jax.tree.leaves(out.gaussians), jax.tree.leaves(empty), strict=True):
        np.testing.assert_array_equal(leaf[:3], dead[:3])
    for off, survivor in (("prune_opacity", 0), ("prune_radius", 1), ("prune_scale", 2)):
        one_off = densify(jax.random.key(0), *figures, extent=1.0, **{off: OFF[off]})
        np.testing.assert_array_equal(np.nonzero(one_off.alive)[0], [survivor, 3])
    kept = densify(jax.random.key(0), *figures, extent=1.0, **OFF)
    assert np.all(kept.alive)


def test_what_is_too_wide_may_be_split_instead():
    """Slots 0 and 1 are too wide on screen and in the world, 2 is faint, 3 as it should be."""
    case = dict(scales=[0.02, 0.3, 0.02, 0.02, 0.01, 0.01], gradients=[1e-5, 2e-5, 0, 0, 0, 0],
                radii=[25, 10, 30, 5, 0, 0])  # fmt: skip
    opacities = [0.5, 0.5, 0.001, 0.5, 0.5, 0.5]
    arrays = hand_made(**case, alive=[True] * 4 + [False] * 2, opacities=opacities)
    result = densify(jax.random.key(0), *arrays, extent=1.0, split_oversized=True)
    assert counts(result) == {"cloned": 0, "split": 2, "pruned": 1, "dropped": 0, "alive": 5}
    widths = np.exp(result.gaussians.log_scales[:, 0])
    np.testing.assert_allclose(widths[[0, 1, 3]], [0.02 / 1.6, 0.3 / 1.6, 0.02], rtol=1e-5)
    # Only the faint one's slot is free: the larger gradient has it, the other stays as it is.
    arrays = hand_made(**case, alive=[True] * 6, opacities=opacities)
    result = densify(jax.random.key(0), *arrays, extent=1.0, split_oversized=True)
    assert counts(result) == {"cloned": 0, "split": 1, "pruned": 1, "dropped": 1, "alive": 6}
    widths = np.exp(result.gaussians.log_scales[:, 0])
    np.testing.assert_allclose(widths[[0, 1]], [0.02, 0.3 / 1.6], rtol=1e-5)


def test_a_split_mends_what_is_only_a_little_too_large():
    figures = hand_made([0.15, 0.5, 0.01, 1], [1, 1, 0, 0], [1, 1, 1, 0])
    out = densify(jax.random.key(0), *figures, extent=1.0)
    assert counts(out) == {"cloned": 0, "split": 1, "pruned": 1, "dropped": 0, "alive": 3}
    # Slot 1 was pruned and took the second child at once: its old moment must be gone.
    np.testing.assert_array_equal(out.moments_tree, [0, 0, 3, 0])
    np.testing.assert_allclose(np.exp(out.gaussians.log_scales[:2, 0]), 0.15 / 1.6, rtol=1e-5)


def test_largest_gradients_win_when_slots_run_out():
    figures = hand_made([0.005] * 5, [0.002, 0.009, 0.004, 0.0001, 0], [1, 1, 1, 1, 0])
    out = densify(jax.random.key(0), *figures, extent=1.0, **OFF)
    assert counts(out) == {"cloned": 1, "split": 0, "pruned": 0, "dropped": 2, "alive": 5}
    np.testing.assert_array_equal(out.gaussians.means[4], [2, 0, 0])


def test_full_cloud_drops_all_and_still_prunes():
    figures = hand_made([0.005, 0.2], [1, 1], [1, 1])
    out = densify(jax.random.key(0), *figures, extent=1.0, **OFF)
    assert counts(out) == {"cloned": 0, "split": 0, "pruned": 0, "dropped": 2, "alive": 2}
    np.testing.assert_array_equal(out.moments_tree, [1, 2])
    # Twice too large to keep, wants to split (0.125 would do), but slot 0 is in use: removed.
    out = densify(jax.random.key(0), *figures, extent=1.0, **{**OFF, "prune_scale": 0.15})
    assert counts(out) == {"cloned": 0, "split": 0, "pruned": 1, "dropped": 2, "alive": 1}


def test_no_live_gaussians_is_no_error():
    cloud, _, moments, stats = random_cloud(0, 40)
    out = densify(jax.random.key(0), cloud, np.zeros(40, bool), moments, stats, extent=1.0)
    assert counts(out) == {"cloned": 0, "split": 0, "pruned": 0, "dropped": 0, "alive": 0}
    chex.assert_tree_all_finite(out.gaussians)


@pytest.mark.parametrize("share_alive", [0.3, 0.8, 1.0])
def test_accounting_over_random_clouds(share_alive):
    for seed in range(6):
        figures = random_cloud(seed, 40, share_alive)
        out = densify(jax.random.key(seed), *figures, extent=2.0)
        cloud, alive, moments, _ = jax.device_get(figures)
        told, before = counts(out), int(np.sum(alive))
        assert told["alive"] <= 40
        assert told["alive"] == before + told["cloned"] + told["split"] - told["pruned"]
        assert told["pruned"] > 0 and told["cloned"] + told["split"] + told["dropped"] > 0
        chex.assert_tree_all_finite(out.gaussians)
        # A moment either is zero in every leaf or is the slot's own, with its Gaussian unmoved.
        assert out.moments_tree["count"] == 7 and np.all(out.moments_tree["other"] == 1)
        kept = np.asarray(out.moments_tree["mu"].logit_opacities) != 0
        for new, mark in zip(
            jax.tree.leaves(out.moments_tree["mu"]), jax.tree.leaves(moments["mu"]), strict=True
        ):
            np.testing.assert_array_equal(new[kept], mark[kept])
            assert not np.any(new[~kept])
        for new, old in zip(jax.tree.leaves(out.gaussians), jax.tree.leaves(cloud), strict=True):
            np.testing.assert_array_equal(new[kept], old[kept])
        assert np.all(~kept | np.asarray(alive & out.alive))
        assert np.sum(kept) == before - told["pruned"] - told["split"]


def test_same_key_same_cloud_other_key_other_samples():
    arguments = random_cloud(3, 40)
    a, b, c = (densify(jax.random.key(k), *arguments, extent=2.0) for k in (1, 1, 2))
    same = jax.tree.map(lambda x, y: bool(np.array_equal(x, y)), a.gaussians, b.gaussians)
    assert all(jax.tree.leaves(same))
    assert counts(a)["split"] > 0
    assert not np.array_equal(a.gaussians.means, c.gaussians.means)


def test_samples_follow_the_covariance():
    """Half a turn about z plus unequal axes: the samples' covariance is R S S R^T."""
    n = 4000
    cloud = empty_gaussians(n).replace(
        quats=np.tile(np.float32([[np.cos(0.3), 0, 0, np.sin(0.3)]]) * 2, (n, 1)),
        log_scales=np.tile(np.float32(np.log([[0.3, 0.1, 0.02]])), (n, 1)),
    )
    offsets = np.asarray(jax.jit(density._sample_offsets)(jax.random.key(0), cloud), np.float64)
    c, s = np.cos(0.6), np.sin(0.6)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    expected = turn @ np.diag([0.09, 0.01, 0.0004]) @ turn.T
    np.testing.assert_allclose(np.cov(offsets.T), expected, atol=0.09 * 5 * (2 / n) ** 0.5)
    np.testing.assert_allclose(np.mean(offsets, 0), 0, atol=5 * 0.3 / n**0.5)


def test_the_drawn_cloud_is_judged_and_the_stored_one_edited():
    cloud, alive, moments, stats = hand_made([0.005, 0.05], [1, 0], [1, 0])
    drawn = cloud.replace(log_scales=cloud.log_scales + np.log(10.0))
    out = densify(jax.random.key(0), cloud, alive, moments, stats, extent=1.0, drawn=drawn, **OFF)
    assert counts(out)["split"] == 1 and counts(out)["cloned"] == 0
    np.testing.assert_allclose(np.exp(out.gaussians.log_scales), 0.005 / 1.6, rtol=1e-5)


def test_thresholds_and_live_counts_never_retrace():
    traces = []

    @jax.jit
    def round_of(key, cloud, alive, moments, stats, thresholds):
        traces.append(1)
        return density.densify(key, cloud, alive, moments, stats, **thresholds)

    arguments = random_cloud(1, 30)
    for k, radius in enumerate((20.0, np.inf, 3.0)):
        thresholds = {"extent": 1.0 + k, "prune_radius": radius, "grad_threshold": 1e-3 * k}
        out = round_of(jax.random.key(k), *arguments, thresholds)
        arguments = (out.gaussians, out.alive, out.moments_tree, random_cloud(k, 30)[3])
    assert len(traces) == 1
