"""The training step: it learns, is pure, compiles once a stage, and never takes a NaN in."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import POINTS, micro_config

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.draw import infer_step
from egs_jax.config_text import options, override
from egs_jax.data.dataset import Dataset
from egs_jax.model import forward as model
from egs_jax.training import step as train
from egs_jax.training.checkpoint import state_sha256

STATIC, TOTAL = 20, 40
# They train by the programs of that run.
pytestmark = pytest.mark.xdist_group("trained_run")


@dataclasses.dataclass
class Course:
    """Both stages step by step, with copies of the states in between."""

    config: object
    data: Dataset
    metrics: list
    first: object
    static_end: object
    handed: object
    end: object
    traces: list
    """Programs of `step` before, after the static stage, after both."""


@jax.jit
def copy(tree):
    return jax.tree.map(jnp.copy, tree)


@pytest.fixture(scope="module")
def course(painted):
    config, data = micro_config(painted), Dataset.open(painted)
    traces, metrics = [train.jitted_step._cache_size()], []
    state = train.init_state(config, data)
    first = copy(state)
    for step in range(TOTAL):
        if step == STATIC:
            traces.append(train.jitted_step._cache_size())
            static_end, state = copy(state), train.hand_over(config, state)
            handed = copy(state)
        state, values = train.train_step(config, state, data.batch(config, step))
        metrics.append(jax.tree.map(float, values))
        if train.densifies(config, step):
            state = train.densify_step(config, state)
    traces.append(train.jitted_step._cache_size())
    return Course(config, data, metrics, first, static_end, handed, state, traces)


@pytest.mark.parametrize("stage", [slice(0, STATIC), slice(STATIC, TOTAL)])
def test_loss_falls_and_psnr_rises(course, stage):
    loss, psnr = ([m[name] for m in course.metrics[stage]] for name in ("loss", "psnr"))
    assert np.mean(loss[-5:]) < 0.8 * np.mean(loss[:5])
    assert np.mean(psnr[-5:]) > np.mean(psnr[:5]) + 1
    assert all(m["bad_streak"] == 0 for m in course.metrics)


def test_the_sound_alone_learns_to_tell_the_lips(course):
    heard = [m["hearing"] for m in course.metrics]
    assert np.mean(heard[-5:]) < 0.5 * np.mean(heard[:5])


def test_rates_fall_to_nothing_at_the_end(course):
    """Of 20 steps the last 4 have 4/4, 3/4, 2/4, 1/4 of the rate; Adam's first step is the rate."""
    assert course.config.optim.cooldown == 0.2
    batch = course.data.batch(course.config, STATIC)

    def longest(step):
        state = copy(course.handed).replace(step=jnp.int32(step))
        moved = train.train_step(course.config, state, batch)[0].params["gaussians"].means
        return float(jnp.max(jnp.abs(moved - course.handed.params["gaussians"].means)))

    rate = longest(STATIC)
    steps = (TOTAL - 5, TOTAL - 4, TOTAL - 3, TOTAL - 1)
    shares = [longest(step) / rate for step in steps]
    np.testing.assert_allclose(shares, [1, 1, 0.75, 0.25], rtol=1e-3)


def test_one_program_a_stage(course):
    """Programs that other tests of this process compiled serve here too."""
    before, static, both = course.traces
    assert static - before <= 1 and both - static <= 1 and both >= 2
    assert course.end.alive.shape == (256,)


def test_configs_that_differ_in_the_seed_share_their_programs(course):
    """And in where the run lies; in nothing else."""
    batch = course.data.batch(course.config, STATIC)
    programs = lambda: (train.jitted_step._cache_size(), train.jitted_densify._cache_size())
    before, moved = programs(), []
    for seed in (0, 2**32 - 1):
        other = dataclasses.replace(
            course.config, seed=seed, data_dir=f"elsewhere{seed}", preset="fast", frames_on="host"
        )
        state, _ = train.train_step(other, copy(course.handed), batch)
        moved.append(state_sha256(state.params))
        train.densify_step(other, copy(course.first))
    assert moved[0] != moved[1]  # the seed reaches dropout and noise
    assert programs() == before
    assert course.config.program != dataclasses.replace(course.config, devices=2).program


def test_course_equals_the_loop(course, trained_run):
    """Same seed, same bits; `fit` adds files and nothing else."""
    assert state_sha256(course.end) == state_sha256(trained_run.state)


@pytest.mark.parametrize("step", [0, STATIC])
def test_step_is_pure(course, step):
    state = course.handed if step else course.first
    before, batch = state_sha256(state), course.data.batch(course.config, step)
    results = [train.train_step(course.config, copy(state), batch) for _ in range(2)]
    assert state_sha256(results[0]) == state_sha256(results[1])
    assert state_sha256(state) == before != state_sha256(results[0][0])


def test_another_seed_is_another_start_and_other_batches(course):
    other = dataclasses.replace(course.config, seed=1)
    fresh = train.init_state(other, course.data)
    assert state_sha256(fresh) != state_sha256(course.first)
    assert state_sha256(train.init_state(course.config, course.data)) == state_sha256(course.first)
    drawn = [[course.data.drawn_frames(c, s).frames.tolist() for s in range(8)] for c in
             (course.config, other)]  # fmt: skip
    assert drawn[0] != drawn[1]


def test_abstract_state_is_shaped_like_the_real_one(course):
    shapes = train.abstract_state(course.config, course.data.audio_dim)
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes, course.end)


def test_hand_over_changes_no_pixel_and_forgets_moments(course):
    config, before, after = course.config, course.static_end, course.handed
    drive = course.data.drive(np.arange(4), config.model.window_frames)
    draw = jax.jit(
        functools.partial(model.forward, config, stage="static"),
        compiler_options={"xla_backend_optimization_level": 0},  # it runs once
    )
    pictures = [
        draw(before.params, before.alive, drive)[0].rgb,
        infer_step(Avatar.of_state(config, after, course.data), drive).rgb,
    ]
    np.testing.assert_allclose(*pictures, atol=1e-5)
    assert np.ptp(np.asarray(pictures[0])) > 0.3  # there is something to see
    assert bool(course.handed.deforming) and not bool(course.static_end.deforming)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(course.handed.opt_state))


def test_densification_is_due_by_the_schedule(course):
    due = [step + 1 for step in range(TOTAL) if train.densifies(course.config, step)]
    assert due == [5, 10, 15]  # every 5, later than 2, before 18


def test_rules_of_densification_begin_after_the_steps_that_their_help_names(course):
    """Nothing happens when just as many steps are done: one more is needed."""
    settings, help_of = course.config.densify, options(course.config)

    def alive_after(step, cloud, config=course.config, **stats):
        state = copy(course.first)
        stats = {name: jnp.full_like(getattr(state.stats, name), v) for name, v in stats.items()}
        state = state.replace(
            step=jnp.int32(step), stats=state.stats.replace(**stats),
            params=state.params | {"gaussians": state.params["gaussians"].replace(**cloud)},
        )  # fmt: skip
        return int(train.densify_step(config, state).alive.sum())

    grow = lambda step: alive_after(step, {}, grad_sum=1, count=1)
    all_faint = override(course.config, {"densify.prune_opacity": "1"})
    faint = lambda step: alive_after(step, {}, all_faint)
    large = lambda step: alive_after(step, {"log_scales": jnp.zeros((256, 3))})
    for name, rule in (("start", grow), ("prune_from", faint), ("prune_large_from", large)):
        first = getattr(settings, name)
        assert rule(first) == POINTS != rule(first + 1), name
        assert "after more steps than this" in " ".join(help_of[f"densify.{name}"][2].split())
    often = override(course.config, {"densify.every": "1"})
    due = [step + 1 for step in range(TOTAL) if train.densifies(often, step)]
    assert due == [*range(settings.prune_from + 1, settings.stop)]
    assert "after fewer steps than this" in help_of["densify.stop"][2]


def test_densify_step_counts_what_found_no_slot(course):
    """150 Gaussians that all want to grow fit 106 times into 256 slots."""
    wish = lambda s: s.replace(
        stats=s.stats.replace(grad_sum=jnp.ones(256), count=jnp.ones(256, jnp.int32))
    )
    early = train.densify_step(course.config, wish(copy(course.first)))  # before `start`
    assert int(early.alive.sum()) == POINTS and int(early.dropped) == 0
    state = wish(copy(course.first)).replace(step=jnp.int32(6))
    state = state.replace(opt_state=jax.tree.map(jnp.ones_like, state.opt_state))
    state = train.densify_step(course.config, state)
    assert int(state.alive.sum()) == 256 and int(state.dropped) == 2 * POINTS - 256
    assert not np.any(state.stats.count) and int(state.step) == 6
    moments = state.opt_state["gaussians"].mu.means
    assert not np.any(moments[POINTS:]) and np.any(moments[:POINTS])
    state = train.densify_step(course.config, wish(state))
    assert int(state.alive.sum()) == 256 and int(state.dropped) == 2 * POINTS  # 256 more


def poisoned(batch):
    windows = np.array(batch.drive.audio_windows)
    windows[0, 0, 0, 0] = np.nan
    return batch.replace(drive=batch.drive.replace(audio_windows=windows))


def test_a_batch_with_a_nan_changes_only_the_counts(course):
    state, config = copy(course.handed), course.config
    bad = poisoned(course.data.batch(config, STATIC))
    for streak in (1, 2, 3):
        state, metrics = train.train_step(config, state, bad)
        assert int(state.bad_streak) == metrics["bad_streak"] == streak
        for part in ("params", "opt_state", "stats", "alive"):
            assert state_sha256(getattr(state, part)) == state_sha256(getattr(course.handed, part))
    assert int(state.step) == STATIC + 3
    state, metrics = train.train_step(config, state, course.data.batch(config, STATIC + 3))
    assert int(state.bad_streak) == 0 and np.isfinite(metrics["loss"])
    assert state_sha256(state.params) != state_sha256(course.handed.params)


def test_infinite_gradient_of_a_finite_loss_is_seen():
    assert not train._all_finite({"a": jnp.ones(3), "b": jnp.array([1.0, jnp.inf])})
    assert not train._all_finite({"a": jnp.array([jnp.inf, -jnp.inf])})
    assert train._all_finite({"a": jnp.array([1e30, -1e30])})


@pytest.mark.parametrize("step", [0, STATIC])
def test_step_lowers_for_tpu(course, step):
    state = course.handed if step else course.first
    batch = course.data.batch(course.config, step)
    traced = train.jitted_step.trace(*train.step_arguments(course.config, state, batch))
    assert "stablehlo" in traced.lower(lowering_platforms=("tpu",)).as_text()[:100_000]
