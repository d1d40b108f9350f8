"""A person, whose Gaussians move with head or body: what learns, what is stored, what is drawn.

That both stages and the avatar draw the same, and that devices share frames with their bodies, is
tested with everything else: tests train persons.
"""

import dataclasses

import chex
import jax
import numpy as np
import pytest
from helpers import AUDIO_DIM, micro_config

from egs_jax.avatar import precomputed as prepared
from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.draw import infer_step
from egs_jax.data.dataset import Dataset
from egs_jax.model.skinning import GAIN, NODES, REACH
from egs_jax.training import step as train
from egs_jax.training.checkpoint import Checkpoints, state_sha256

pytestmark = pytest.mark.xdist_group("trained_run")


def test_weights_learn_from_a_ramp_along_the_neck(trained_run, painted):
    config = micro_config(painted)
    start = train.init_state(config, Dataset.open(painted))
    skins = lambda state: np.asarray(state.params["networks"]["skins"]["grid"]) * GAIN
    first, free = skins(start), np.linspace(-REACH, REACH, NODES) >= 0  # from the ears down
    np.testing.assert_allclose(np.abs(first[:, free]), 4, atol=1e-4)  # the face has no height
    changed = np.abs(skins(trained_run.state) - first)
    rate = GAIN * config.optim.networks[0] * config.optim.rate_scale
    assert 1e-3 < changed[:, free].max() < 1.1 * config.total_steps * rate
    assert changed[:, ~free].max() == 0


@pytest.mark.slow
def test_gaussians_of_a_person_stay_short(trained_run, painted):
    config, dataset = micro_config(painted), Dataset.open(painted)
    most = lambda state: np.exp(
        np.ptp(np.sort(state.params["gaussians"].log_scales)[:, 1:], axis=1)
    )
    long = dataclasses.replace(config, model=dataclasses.replace(config.model, elongation=1.01))
    batch = dataset.batch(config, 0)
    grown = most(train.train_step(config, train.init_state(config, dataset), batch)[0])
    kept = most(train.train_step(long, train.init_state(long, dataset), batch)[0])
    assert grown.max() > 1.02
    assert kept.max() < 1.0101
    assert most(trained_run.state).max() <= config.model.elongation * (1 + 1e-5)


def test_an_avatar_keeps_to_the_poses_of_its_training(trained_run, painted):
    """Tokens and colors; the camera is where the drive says."""
    avatar = Avatar.load(trained_run.folder, exact=True)
    config, data = avatar.config, avatar.dataset
    drive = data.drive(np.arange(2), config.model.window_frames)
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
    (cloud, views), (free_cloud, _) = (
        pose(config, kept, drive) for kept in (avatar.prepared, free)
    )
    np.testing.assert_array_equal(views, drive.viewmats)
    chex.assert_trees_all_close(cloud, free_cloud, atol=2e-6)


def test_an_avatar_draws_the_body_where_it_is_told(trained_run):
    avatar = Avatar.load(trained_run.folder, exact=True)
    drive = avatar.dataset.drive(np.arange(2), avatar.config.model.window_frames)
    aside = np.array(drive.bodies)
    aside[:, 0, 3] += 1.0
    pictures = [infer_step(avatar, d).rgb for d in (drive, drive.replace(bodies=aside))]
    assert np.abs(pictures[0] - pictures[1]).max() > 0.01


def test_a_head_has_no_limits(painted):
    config = micro_config(painted)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, body="head"))
    state = train.abstract_state(config, AUDIO_DIM)
    assert "skins" not in state.params["networks"]
    data = Dataset.open(painted, body="head")
    assert Avatar.of_state(config, state.replace(step=1), data).limits is None


def test_a_person_comes_back_from_disk_and_is_no_head(trained_run, tmp_path):
    config, state = Avatar.load(trained_run.folder, exact=True).config, trained_run.state
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(40, state)
    back = checkpoints.load(train.abstract_state(config, AUDIO_DIM))
    chex.assert_trees_all_equal(back, state)
    assert state_sha256(back) == state_sha256(state)
    head = dataclasses.replace(config, model=dataclasses.replace(config.model, body="head"))
    with pytest.raises(Exception, match=r"\['networks'\].* has shape .* this config makes"):
        checkpoints.load(train.abstract_state(head, AUDIO_DIM))
    checkpoints.close()
