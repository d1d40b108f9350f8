"""Datasets of several stretches: nothing leads over a border, nothing hidden is learned from."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import AUDIO_DIM, FRAMES, SIZE, make_dataset, micro_config, write_pictures

from egs_jax.avatar.poses import pose_path
from egs_jax.avatar.scene import scene_of
from egs_jax.data import stretches
from egs_jax.data.body import HISTORY, BodyModel
from egs_jax.data.dataset import Dataset
from egs_jax.data.folder import FILES
from egs_jax.data.stretches import Stretch
from egs_jax.evaluation.evaluate import seconds_of
from egs_jax.runtime.errors import InputError
from egs_jax.speech.frame_windows import feature_windows

BORDER, AROUND = 13, 3
UNSEEN, HIDDEN = 4, 16
STRETCHES = (
    Stretch(0, BORDER, 0, 50, 0, (0, 2 * (BORDER + AROUND))),
    Stretch(BORDER, FRAMES, 1, 7, BORDER + 2 * AROUND, (2 * (BORDER + AROUND), 2 * (FRAMES + 9))),
)
"""The first ends its film's part with three frames of sound to come; the second has some before
and after it."""


@pytest.fixture(scope="module")
def old(tmp_path_factory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("old") / "dataset")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = make_dataset(tmp_path_factory.mktemp("films") / "dataset")
    meta = json.loads((made / "meta.json").read_text())
    meta["stretches"] = [part._asdict() for part in STRETCHES]
    (made / "meta.json").write_text(json.dumps(meta))
    rows = np.random.default_rng(0).normal(size=(2 * (FRAMES + 9), AUDIO_DIM))
    np.save(made / FILES["audio_features"], rows.astype(np.float32))
    for name, frame in (("valid", UNSEEN), ("mouth_seen", HIDDEN)):
        np.save(made / FILES[name], np.arange(FRAMES) != frame)
    return made


def test_folder_without_a_word_of_it_is_one_stretch(old):
    dataset = Dataset.open(old)
    assert dataset.stretches == (Stretch(0, FRAMES, sound_rows=(0, 2 * FRAMES)),)
    assert dataset.valid.all() and dataset.usable.all()
    assert np.array_equal(dataset.train_frames, np.arange(FRAMES - 4))
    rows, hush = dataset.arrays["audio_features"], dataset.arrays["silence_features"]
    frames = np.array([0, 11, FRAMES - 1])
    plain = feature_windows(rows, hush, frames, 8)
    np.testing.assert_array_equal(dataset.audio_windows(frames, 8), plain)


def test_windows_hear_their_own_film_and_silence_beyond_it(folder):
    dataset = Dataset.open(folder)
    rows = dataset.arrays["audio_features"]
    windows = dataset.audio_windows(np.arange(FRAMES), 8)
    for part in dataset.stretches:
        low, high = part.sound_rows
        for i in range(part.start, part.stop):
            first = 2 * (part.sound_frame + i - part.start)  # the row at the frame's own time
            for entry in range(8):
                wanted = first + 2 * (entry - 4) + np.arange(-8, 8)
                inside = (wanted >= low) & (wanted < high)
                true = np.where(inside[:, None], rows[np.clip(wanted, low, high - 1)], 0)
                np.testing.assert_array_equal(windows[i, entry], true)


@pytest.mark.parametrize("future", [None, 1])
def test_a_device_cuts_the_same_windows(folder, future):
    dataset = Dataset.open(folder)
    layout = dataclasses.replace(dataset.layout, future_frames=future)
    dataset.layout, clip = layout, dataset.clip.replace(layout=layout)
    place = jnp.asarray(clip.sound_places)
    arrays = jnp.asarray(clip.audio_features), jnp.asarray(clip.silence_features)
    on_device = feature_windows(*arrays, place[:, 0], 8, spans=place[:, 1:], layout=layout)
    windows = dataset.audio_windows(np.arange(FRAMES), 8)
    np.testing.assert_array_equal(on_device, windows)
    last = 3 if future is None else 1  # the frame whose entry is the last of a window
    np.testing.assert_array_equal(windows[18, 7], windows[18 + last, 4])


def test_frames_without_face_or_mouth_teach_nothing(folder):
    dataset, config = Dataset.open(folder), micro_config(folder)
    left = set(range(FRAMES - 4)) - {UNSEEN, HIDDEN}
    assert set(dataset.train_frames) == left
    assert set(dataset.rest_frames) | set(dataset.blink_frames) <= left
    seen, lips = set(), set()
    for step in range(config.schedule.static_steps, config.schedule.static_steps + 60):
        drawn = dataset.drawn_frames(config, step)
        seen |= {*drawn.frames.tolist(), *drawn.heard.tolist()}
        lips |= set(drawn.lips.tolist())
    assert seen == left and lips <= left
    assert seconds_of(dataset) == {"seconds_trained": 18 / 25, "seconds_held_out": 4 / 25}


def test_split_without_a_usable_frame_is_told(folder, tmp_path):
    made = make_dataset(tmp_path / "dataset")
    np.save(made / FILES["valid"], np.arange(FRAMES) < FRAMES - 4)
    with pytest.raises(InputError, match="no frame of val shows a face"):
        Dataset.open(made).frames_of("val")


def test_playback_stays_in_the_longest_stretch(folder):
    dataset = Dataset.open(folder)
    assert dataset.playback == (0, BORDER)
    path = pose_path(scene_of(dataset))
    assert path.frames.min() == 0 and path.frames.max() == BORDER - 1
    head = pose_path(scene_of(Dataset.open(folder, body="head")))
    assert UNSEEN not in head.frames and head.frames.max() == BORDER - 1
    assert {UNSEEN - 1, UNSEEN + 1} <= set(head.frames.tolist())


def test_body_is_told_from_the_path_of_its_own_stretch(folder):
    turns = np.linspace(0, 0.3, FRAMES)
    viewmats = np.tile(np.eye(4), (FRAMES, 1, 1))
    viewmats[:, 0, 3], viewmats[:, 2, 3] = turns, 4
    starts = stretches.starts_of(STRETCHES)
    assert starts.tolist() == [0] * BORDER + [BORDER] * (FRAMES - BORDER)
    bodies = viewmats.copy()
    bodies[:, 0, 3] = 0.5 * turns[np.maximum(np.arange(FRAMES) - HISTORY, starts)]
    model = BodyModel.fit(viewmats, bodies, viewmats[0], None, starts)
    jumped = viewmats.copy()
    jumped[:BORDER, 0, 3] += 5.0  # another film before it
    after = np.arange(BORDER, FRAMES)
    told = model.told(viewmats, after, starts)
    np.testing.assert_array_equal(model.told(jumped, after, starts), told)
    assert not np.array_equal(model.told(jumped, after), told)
    assert Dataset.open(folder).told_bodies(after).shape == (len(after), 4, 4)


def test_head_of_a_film_is_painted_out_over_its_own_room(folder, tmp_path):
    made = tmp_path / "dataset"
    shutil.copytree(folder, made)
    plain = Dataset.open(made, body="head")
    before = [plain.background(i) for i in (0, FRAMES - 1)]
    rooms = np.stack([np.full((SIZE, SIZE, 3), level, np.uint8) for level in (10, 200)])
    write_pictures(made, film_plates=rooms)
    dataset = Dataset.open(made, body="head")
    for i, level, plate in ((0, 10, before[0]), (FRAMES - 1, 200, before[1])):
        middle = np.s_[20:24, 20:28]
        assert np.abs(dataset.background(i)[middle].astype(int) - level).max() < 12
        assert np.abs(plate[middle].astype(int) - level).max() > 12
    assert np.array_equal(Dataset.open(made).background(0), plain.plate)  # a person has one room


def test_values_lie_on_one_line_of_time():
    parts = (Stretch(0, 3), Stretch(3, 6))
    line = stretches.laid_out(np.array([1.0, 3.0, 4.0, 6.0]), np.array([0, 2, 3, 5]), parts, 2)
    np.testing.assert_array_equal(line, [1, np.nan, 3, np.nan, np.nan, 4, np.nan, 6])
    held = stretches.laid_out(np.array([4.0, 5.0]), np.array([4, 5]), parts, 2)
    np.testing.assert_array_equal(held, [4, 5])


def test_nearest_wanted_frame():
    wanted = np.array([0, 1, 0, 0, 0, 1, 1], bool)
    found = stretches.nearest_of(wanted, np.arange(7))
    assert found.tolist() == [1, 1, 1, 1, 5, 5, 6]
    assert stretches.longest((Stretch(0, 4), Stretch(4, 9)), (0, 7)) == (0, 4)


@pytest.mark.parametrize(
    "wrong",
    [
        [STRETCHES[0]],
        [STRETCHES[1], STRETCHES[0]],
        [STRETCHES[0], STRETCHES[1]._replace(start=BORDER + 1)],
        [STRETCHES[0], STRETCHES[1]._replace(sound_rows=(0, 1000))],
    ],
)
def test_stretches_that_make_no_sense_are_refused(tmp_path, wrong):
    made = make_dataset(tmp_path / "dataset")
    meta = json.loads((made / "meta.json").read_text())
    meta["stretches"] = [part._asdict() for part in wrong]
    (made / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(InputError, match=r"meta.json: damaged \(stretches"):
        Dataset.open(made)
