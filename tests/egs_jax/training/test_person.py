"""A person, whose Gaussians move with head or body: trained, shared out, stored, drawn.

On the painted clip, whose ball stands still, under a drive whose body does not.
"""

import dataclasses
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import AUDIO_DIM, micro_config

from egs_jax.avatar import precomputed as prepared
from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.draw import infer_step
from egs_jax.data.dataset import Dataset
from egs_jax.model import forward as model
from egs_jax.training import parallel
from egs_jax.training import step as train
from egs_jax.training.checkpoint import Checkpoints, state_sha256

STATIC, DEFORM = 20, 10
# Networks that compile soonest, without dropout and noise, of which devices draw their own.
PLAIN = {"decoder": "mlp", "token_kan": "mlp", "hash_levels": 1, "dropout": 0.0}
FAST = {"xla_backend_optimization_level": 0}


class Course(NamedTuple):
    """Both stages on one device."""

    config: Any
    data: Any
    losses: dict[str, list[float]]
    start: Any
    first: Any
    """After one step."""
    static_end: Any
    handed: Any
    end: Any


def copy(tree):
    return jax.tree.map(jnp.copy, tree)


def with_bodies(drive):
    """The drive with a body that leans to the side, more in every frame of the batch."""
    bodies = np.array(drive.viewmats)
    angle = 0.05 * np.arange(1, len(bodies) + 1, dtype=np.float32)
    bodies[:, 0, 0] = bodies[:, 1, 1] = np.cos(angle)
    bodies[:, 0, 1], bodies[:, 1, 0] = -np.sin(angle), np.sin(angle)
    bodies[:, 0, 3] += 0.3
    return drive.replace(bodies=bodies)


def batch_of(config, data, step):
    batch = data.batch(config, step)
    return batch.replace(drive=with_bodies(batch.drive))


@pytest.fixture(scope="module")
def course(painted):
    config, data = micro_config(painted), Dataset.open(painted)
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, **PLAIN, body="person"),
        loss=dataclasses.replace(config.loss, hearing_noise=0.0),
        schedule=dataclasses.replace(config.schedule, batch=4, static_batch=4),
    )
    losses = {"static": [], "deform": []}
    start = state = train.init_state(config, data)
    start = copy(state)
    for step in range(STATIC + DEFORM):
        if step == STATIC:
            static_end, state = copy(state), train.hand_over(config, state)
            handed = copy(state)
        state, metrics = train.train_step(config, state, batch_of(config, data, step))
        first = copy(state) if step == 0 else first
        losses[config.stage(step)].append(float(metrics["loss"]))
        if train.densifies(config, step):
            state = train.densify_step(config, state)
    return Course(config, data, losses, start, first, static_end, handed, state)


def skins(state):
    return np.asarray(state.params["gaussians"].logit_skins)[np.asarray(state.alive)]


@pytest.mark.parametrize("stage", ["static", "deform"])
def test_a_person_learns(course, stage):
    losses = course.losses[stage]
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])
    assert int(course.end.bad_streak) == 0


def test_weights_learn_in_both_stages(course):
    start = skins(course.start)
    np.testing.assert_allclose(np.abs(start), 4, atol=1e-4)  # the painted face has no height
    assert 0.3 < np.mean(start > 0) < 0.7
    states = (course.static_end, course.handed, course.end)
    before, handed, after = (np.asarray(s.params["gaussians"].logit_skins) for s in states)
    assert np.abs(skins(course.static_end)).max() > 4.1 and np.ptp(np.abs(before)) > 0.2
    np.testing.assert_array_equal(before, handed)
    changed = np.abs(after - before)[np.asarray(course.end.alive)]
    rate = course.config.optim.logit_skins * course.config.optim.rate_scale
    assert rate < changed.max() < 1.1 * DEFORM * rate


def test_every_stage_and_the_avatar_draw_the_same(course):
    """At the hand-over, where no delta moves anything yet."""
    config, data, state = course.config, course.data, course.static_end
    drive = with_bodies(data.drive(np.arange(2), config.model.window_frames))

    def picture(state, stage):
        forward = jax.jit(
            lambda params, drive: model.forward(config, params, state.alive, drive, stage)[0].rgb,
            compiler_options=FAST,
        )
        return forward(state.params, drive)

    static, deform = picture(state, "static"), picture(course.handed, "deform")
    np.testing.assert_allclose(static, deform, atol=2e-5)
    avatar = Avatar.of_state(config, course.handed, data)
    avatar = dataclasses.replace(avatar, sh_degree=3)
    np.testing.assert_allclose(infer_step(avatar, drive).rgb, deform, atol=2e-5)
    with_head = infer_step(avatar, drive.replace(bodies=None)).rgb
    assert np.abs(with_head - deform).max() > 0.05


def test_an_avatar_of_a_person_keeps_to_the_poses_of_its_training(course):
    """Tokens and colors; the camera is where the drive says."""
    config, data = course.config, course.data
    avatar = Avatar.of_state(config, course.end, data)
    drive = with_bodies(data.drive(np.arange(2), config.model.window_frames))
    turned = np.array(drive.viewmats)
    turned[:, :3, :3] = [[0.8, 0, 0.6], [0, 1, 0], [-0.6, 0, 0.8]]
    far = drive.replace(viewmats=turned)
    free = avatar.prepared.replace(limits=None)
    pose, listen = (jax.jit(f, static_argnums=0) for f in (prepared.pose, prepared.listen))
    told, free_told = (listen(config, kept, far)[0] for kept in (avatar.prepared, free))
    assert np.abs(told - free_told).max() > 1e-3
    (_, views), (_, free_views) = (pose(config, kept, far) for kept in (avatar.prepared, free))
    np.testing.assert_array_equal(free_views, turned)
    assert np.abs(views - turned).max() > 0.1
    # In the training frames, which all are inside, it draws what it would without limits.
    rgb = infer_step(avatar, drive).rgb
    without = jax.jit(prepared.render, static_argnums=0)(config, free, drive).rgb
    np.testing.assert_allclose(rgb, without, atol=2e-5)


def test_a_head_has_no_limits(painted):
    data, config = Dataset.open(painted), micro_config(painted)
    state = train.abstract_state(config, AUDIO_DIM)
    assert state.params["gaussians"].logit_skins is None
    assert Avatar.of_state(config, state.replace(step=1), data).limits is None


@pytest.mark.parametrize("way", [pytest.param("pmap", marks=pytest.mark.slow), "shard_map"])
def test_devices_share_frames_and_their_bodies(course, way):
    """The state after a step of the static stage is that of one device."""
    several = dataclasses.replace(course.config, devices=4, parallel=way)
    state = parallel.replicate(several, copy(course.start))
    batch = parallel.Splitter(several)(batch_of(several, course.data, 0))
    state, _ = parallel.train_step(several, state, batch)
    got, want = (
        jax.tree.map(np.float64, (s.opt_state["gaussians"].mu, s.stats))
        for s in (state, course.first)
    )
    whole = max(np.linalg.norm(leaf) for leaf in jax.tree.leaves(want[0]))
    error = lambda a, b: np.linalg.norm(a - b) / (np.linalg.norm(b) + 1e-3 * whole)
    assert np.any(want[0].logit_skins)
    assert max(jax.tree.leaves(jax.tree.map(error, got, want))) < 3e-4


def test_a_person_comes_back_from_disk_and_is_no_head(course, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(30, course.end)
    back = checkpoints.load(train.abstract_state(course.config, AUDIO_DIM))
    chex.assert_trees_all_equal(back, course.end)
    assert state_sha256(back) == state_sha256(course.end)
    head = dataclasses.replace(course.config.model, body="head")
    head = dataclasses.replace(course.config, model=head)
    with pytest.raises(Exception, match=r"\['logit_skins'\] has shape \(256,\), this config"):
        checkpoints.load(train.abstract_state(head, AUDIO_DIM))
    checkpoints.close()
