"""Loading an avatar: the newest checkpoint, and every way in which a folder can be wrong."""

import json
import shutil

import chex
import pytest
from helpers import micro_config, tone

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.scene import scene_of
from egs_jax.data.dataset import Dataset
from egs_jax.media.audio_file import write_wav
from egs_jax.runtime.errors import InputError
from egs_jax.speech.level import SPEECH_LOUDNESS
from egs_jax.training import step as train
from egs_jax.training.checkpoint import Checkpoints
from egs_jax.training.run_folder import start_run


def test_avatar_is_the_newest_checkpoint(trained_run):
    avatar = Avatar.load(trained_run.folder, exact=True)
    for mine, theirs in ((avatar.params, trained_run.state.params),
                         (avatar.alive, trained_run.state.alive)):  # fmt: skip
        chex.assert_trees_all_equal(mine, theirs)
    assert avatar.dataset.width == avatar.config.size
    assert avatar.prepared is avatar.prepared  # computed once


def test_an_avatar_hears_speech_as_loud_as_in_training(painted, tmp_path):
    """As its dataset says; one that does not say so was heard as loud as its own sound is."""

    def heard(told, sound):
        folder = shutil.copytree(painted, tmp_path / f"{told} {sound}")
        meta = json.loads((folder / "meta.json").read_text())
        meta["audio_features"] |= {} if told is None else {"loudness": told}
        (folder / "meta.json").write_text(json.dumps(meta))
        if sound is not None:
            write_wav(folder / "audio.wav", 10 ** (sound / 20) * tone(2, 16_000, 997.0))
        return scene_of(Dataset.open(folder)).loudness

    assert heard(-27.5, -10) == -27.5
    assert heard(None, -20) == pytest.approx(-29.0, abs=0.2)  # -9 LUFS at half of full scale
    assert heard(None, None) == heard(None, -100) == SPEECH_LOUDNESS


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
