"""An avatar in the whole picture of its film: in its place, and nowhere else; in no other film."""

import dataclasses
import json

import numpy as np
import pytest
from helpers import SIZE, voice

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.drive import poses_at
from egs_jax.avatar.film import draw_speech, pictures
from egs_jax.avatar.inset import Inset
from egs_jax.avatar.look import Look
from egs_jax.avatar.scene import SourceFilm
from egs_jax.data.dataset import Dataset
from egs_jax.media.audio_file import write_wav
from egs_jax.media.feeding import write_video
from egs_jax.media.video_reader import read_frames
from egs_jax.runtime.assets import file_sha256
from egs_jax.runtime.errors import InputError

LEFT, TOP, START = 30, 0, 3


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A film whose brightness counts its frames."""
    path = tmp_path_factory.mktemp("film") / "whole.mp4"
    write_video(path, (np.full((60, 112, 3), 40 + 6 * i, np.uint8) for i in range(27)))
    return path


@pytest.fixture(scope="module")
def avatar(trained_run, film):
    avatar = Avatar.load(trained_run.folder)
    place = SourceFilm("whole.mp4", file_sha256(film), LEFT, TOP, SIZE, START, (1.0, 1.0, 1.0))
    scene = dataclasses.replace(avatar.clip_scene, film=place)
    written = avatar.written and avatar.written._replace(scene=scene)
    found = dataclasses.replace(avatar, written=written)
    found.__dict__["clip_scene"] = scene
    return found


def test_the_film_is_behind_and_the_avatar_in_its_place(avatar, film, tmp_path):
    write_wav(tmp_path / "a.wav", voice(0.8), 16_000)
    inset = Inset(avatar, film)
    whole = list(pictures(avatar, inset, tmp_path / "a.wav"))
    alone = [frame.rgb for frame in draw_speech(avatar, tmp_path / "a.wav")]
    source = list(read_frames(film))
    frames = poses_at(avatar.path, Look(), np.arange(20)).frames - avatar.clip_scene.start
    assert len(whole) == 20 and len(set(frames.tolist())) > 10
    for picture, drawn, frame in zip(whole, alone, frames.tolist(), strict=True):
        outside = picture.astype(int)
        outside[TOP : TOP + SIZE, LEFT : LEFT + SIZE] = 0
        want = source[START + frame].astype(int)
        want[TOP : TOP + SIZE, LEFT : LEFT + SIZE] = 0
        assert np.abs(outside - want).max() <= 3
        place = picture[TOP : TOP + SIZE, LEFT : LEFT + SIZE].astype(int)
        assert np.abs(place - drawn)[: -SIZE // 16, SIZE // 16 : -SIZE // 16].max() <= 1
        # The film's upper edge is the square's own; the others fade.
        between = np.abs(place[:, 0] - source[START + frame][:SIZE, LEFT]).max()
        assert between < 12 and np.abs(place[0, 10:-10] - drawn[0, 10:-10]).max() <= 1


def test_its_picture_is_as_large_as_its_place_and_has_the_films_exposure(avatar, film):
    twice = dataclasses.replace(avatar.clip_scene.film, side=58, gain=(2.0, 1.0, 0.5))
    larger = dataclasses.replace(avatar)
    larger.__dict__["clip_scene"] = dataclasses.replace(avatar.clip_scene, film=twice)
    inset = Inset(larger, film)
    assert inset.avatar.look.size == 58
    made = inset.whole(0, np.full((58, 58, 3), 100, np.uint8))
    assert made.shape == (60, 112, 3) and made[20, 60].tolist() == [50, 100, 200]


def test_other_films_and_looks_are_refused(avatar, film, tmp_path):
    write_video(tmp_path / "other.mp4", (np.zeros((60, 112, 3), np.uint8) for _ in range(4)))
    with pytest.raises(InputError, match="is another film than this avatar was trained on"):
        Inset(avatar, tmp_path / "other.mp4")
    with pytest.raises(InputError, match="no such file"):
        Inset(avatar, tmp_path / "none.mp4")
    for name, value in (("poses", "still"), ("background", "red"), ("size", 64)):
        look = dataclasses.replace(avatar, look=Look(**{name: value}))
        look.__dict__["clip_scene"] = avatar.clip_scene
        with pytest.raises(InputError, match=f"leave --{name}"):
            Inset(look, film)


def test_a_dataset_says_where_its_film_is_and_its_file_does_too(painted, tmp_path):
    from egs_jax.avatar.avatar_file import _film
    from egs_jax.avatar.avatar_writer import _scene_words
    from egs_jax.avatar.scene import film_of, scene_of

    dataset = Dataset.open(painted)
    assert film_of(dataset) is None  # painted, of no film
    crop = {"left": 4, "top": 5, "side": 300}
    entry = {"name": "me.mp4", "sha256": "ab", "crop": crop, "gain": [1, 1.5, 1]}
    told = Dataset(dataset.folder, dataset.meta | {"films": [entry]}, dataset.arrays,
                   dataset.pictures, None, "person")  # fmt: skip
    found = film_of(told)
    assert (found.left, found.top, found.side, found.gain) == (4, 5, 300, (1.0, 1.5, 1.0))
    assert found.start == told.playback[0]
    scene = scene_of(told)
    words = json.loads(json.dumps(_scene_words(scene, scene.own)))  # as in a file
    assert scene.film == found == _film(words["film"])
    for wrong in ({"side": 0}, {"left": -1}, {"gain": [1, 0, 1]}, {"side": 10**6}):
        with pytest.raises(ValueError, match="a film"):
            _film(dataclasses.asdict(found) | wrong)
