"""Pictures at the host: the same bits by way of page-locked memory."""

import numpy as np
import pytest

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.draw import draw
from egs_jax.avatar.to_host import by_locked_memory, draw_to_host, told_of_pictures
from egs_jax.runtime import one_copy
from egs_jax.runtime.one_copy import unpacked


@pytest.fixture(scope="module")
def avatar(trained_run):
    return Avatar.load(trained_run.folder, exact=True)


@pytest.mark.parametrize("is_staged", [False, True])
def test_pictures_are_the_same_bits_over_one_plate_or_many(
    avatar, monkeypatch, is_staged, frames=2
):
    monkeypatch.setattr(one_copy, "_stages", lambda: is_staged)
    drive = avatar.dataset.drive(np.arange(frames), avatar.config.model.window_frames)
    for shift in (0, 40):  # another plate in another place is another picture
        plate = drive.backgrounds[0] // 2 + np.uint8(shift)
        drive = drive.replace(backgrounds=np.broadcast_to(plate, drive.backgrounds.shape))
        want = draw(avatar, drive)
        rows = [by_locked_memory(avatar.config.drawing, avatar.kept, drive) for _ in range(2)]
        told = told_of_pictures(*drive.backgrounds.shape[1:3])
        locked = [unpacked(told, row) for row in rows]
        for got in (*locked, draw_to_host(avatar, drive)):
            np.testing.assert_array_equal(got.rgb, want.rgb)
            np.testing.assert_array_equal(got.alpha, want.alpha)
        np.testing.assert_array_equal(drive.backgrounds[0], plate)  # which nobody drew over
    assert np.any(want.alpha > 0)
    own = np.stack([plate, plate // 3])
    drive = drive.replace(backgrounds=own.copy())
    for _ in range(2):
        got = unpacked(told, by_locked_memory(avatar.config.drawing, avatar.kept, drive))
        np.testing.assert_array_equal(got.rgb, draw(avatar, drive).rgb)
    np.testing.assert_array_equal(drive.backgrounds, own)
