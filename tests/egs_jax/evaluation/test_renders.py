"""Renders of the clip's frames: what comes from the frame, and that other sound is heard."""

import dataclasses

import numpy as np
import pytest
from helpers import fill_shapes

from egs_jax.avatar.avatar import Avatar
from egs_jax.evaluation.renders import given, rendered_frames

FRAMES = np.array([3, 10, 12, 15, 19, 21])  # more than are drawn at a time


@pytest.fixture(scope="module")
def avatar(trained_run):
    """The painted clip's, with networks far from their start, where nothing moves."""
    avatar = Avatar.load(trained_run.folder, exact=True)
    networks = fill_shapes(avatar.params["networks"])
    return dataclasses.replace(avatar, params={**avatar.params, "networks": networks})


def drawn(avatar, heard=None):
    return np.stack(list(rendered_frames(avatar, FRAMES, heard, told=False)))


def test_other_sound_is_heard(avatar):
    plain = drawn(avatar)
    assert plain.shape == (6, 48, 48, 3)
    np.testing.assert_array_equal(plain, drawn(avatar, FRAMES))
    assert np.any(plain != drawn(avatar, np.roll(FRAMES, 2)))
    hush = avatar.dataset.silence(len(FRAMES), 8)
    assert np.any(plain != drawn(avatar, hush))


@pytest.mark.parametrize("name", ["pose", "eyes", "body"])
def test_what_is_given_comes_from_the_frame_itself(avatar, name):
    data = avatar.dataset.view(48, "person")
    array = {"pose": "viewmats", "eyes": "blink", "body": "body_viewmats"}[name]
    changed = np.array(data.arrays[array])
    changed[12] = changed[12] + (1 if name == "eyes" else 0.05)
    data.arrays = data.arrays | {array: changed}
    differs = np.any(drawn(avatar) != drawn(dataclasses.replace(avatar, clip=data)), (1, 2, 3))
    np.testing.assert_array_equal(differs, FRAMES == 12)


def test_a_person_is_given_less_than_a_head(avatar):
    assert given(avatar.dataset) == ["pose", "eyes"]
    assert given(avatar.dataset.view(48, "head")) == ["pose", "eyes", "background"]


def test_a_body_that_is_told_does_not_know_where_it_was_seen(avatar):
    told = lambda avatar: np.stack(list(rendered_frames(avatar, FRAMES)))
    data = avatar.dataset.view(48, "person")
    _ = data.body_model  # of the clip as it is
    changed = np.array(data.arrays["body_viewmats"])
    changed[12, 0, 3] += 0.5
    data.arrays = data.arrays | {"body_viewmats": changed}
    moved = dataclasses.replace(avatar, clip=data)
    np.testing.assert_array_equal(told(moved), told(avatar))
    assert np.any(told(avatar) != drawn(avatar))
