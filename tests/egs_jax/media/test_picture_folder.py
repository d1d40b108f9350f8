"""A folder of pictures with its sound: as they were given, whole or not there."""

import imageio.v3 as imageio
import numpy as np
import pytest

from egs_jax.media.audio_file import read_audio
from egs_jax.media.feeding import feed
from egs_jax.media.picture_folder import SOUND, PictureFolder
from egs_jax.runtime.errors import InputError

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("channels", [3, 4])
def test_pictures_and_sound_come_back(tmp_path, channels):
    given = RNG.integers(0, 256, (12, 10, 14, channels), np.uint8)
    sound = RNG.uniform(-0.9, 0.9, 16_000 * 12 // 25).astype(np.float32)
    (tmp_path / "out").mkdir()  # empty: taken
    with PictureFolder(tmp_path / "out", 14, 10, channels, 16_000, "made up") as folder:
        assert feed(folder, iter(given), 25, sound, 16_000) == 12
        assert not list((tmp_path / "out").iterdir())
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [*(f"{k:06d}.png" for k in range(12)), SOUND]
    for k in range(12):
        np.testing.assert_array_equal(imageio.imread(tmp_path / "out" / names[k]), given[k])
    assert imageio.immeta(tmp_path / "out" / names[3])["Comment"] == "made up"
    np.testing.assert_allclose(read_audio(tmp_path / "out" / SOUND), sound, atol=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failure_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        with PictureFolder(tmp_path / "out", 4, 4, 3, 16_000, "") as folder:
            folder.write_frame(np.zeros((4, 4, 3), np.uint8))
            raise ZeroDivisionError
    with pytest.raises(ValueError, match="expected uint8"):
        with PictureFolder(tmp_path / "out", 4, 4, 4, 16_000, "") as folder:
            folder.write_frame(np.zeros((4, 4, 3), np.uint8))
    assert not list(tmp_path.iterdir())


def test_a_full_folder_and_no_place_are_refused(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept").touch()
    for path, message in ((tmp_path / "full", "has files already"),
                          (tmp_path / "no" / "out", "cannot write there")):  # fmt: skip
        with pytest.raises(InputError, match=message):
            with PictureFolder(path, 4, 4, 3, 16_000, ""):
                pass
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "kept"]
