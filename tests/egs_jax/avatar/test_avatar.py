"""Loading an avatar: the newest checkpoint, and every way in which a folder can be wrong."""

import chex
import pytest
from helpers import micro_config

from egs_jax.avatar.avatar import Avatar
from egs_jax.data.dataset import Dataset
from egs_jax.runtime.errors import InputError
from egs_jax.training import step as train
from egs_jax.training.checkpoint import Checkpoints
from egs_jax.training.run_folder import start_run


def test_avatar_is_the_newest_checkpoint(trained_run):
    avatar = Avatar.load(trained_run.folder)
    for mine, theirs in ((avatar.params, trained_run.state.params),
                         (avatar.alive, trained_run.state.alive)):  # fmt: skip
        chex.assert_trees_all_equal(mine, theirs)
    assert avatar.dataset.width == avatar.config.size
    assert avatar.prepared is avatar.prepared  # computed once


def test_run_that_cannot_speak_yet_is_refused(painted, tmp_path):
    config = micro_config(painted)
    start_run(tmp_path, config)
    with pytest.raises(InputError, match="no checkpoint yet; train this run first"):
        Avatar.load(tmp_path)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(0, train.init_state(config, Dataset.open(painted)))
    checkpoints.close()
    with pytest.raises(InputError, match=r"\(step 0\) has not learned any speech yet.*step 21"):
        Avatar.load(tmp_path)


def test_a_checkpoint_that_cannot_be_read_is_closed(painted, tmp_path, monkeypatch):
    closed = []
    start_run(tmp_path, micro_config(painted))
    Checkpoints(tmp_path).close()  # an empty folder
    close = Checkpoints.close
    monkeypatch.setattr(Checkpoints, "close", lambda self: (closed.append(self), close(self)))
    with pytest.raises(InputError, match="no checkpoint; train this run first"):
        Avatar.load(tmp_path)
    assert len(closed) == 1
