"""Pictures in a zip: every bit comes back, files repeat, damage is told."""

import zipfile

import numpy as np
import pytest

from egs_jax.data.pictures import Pictures, PicturesWriter
from egs_jax.runtime.errors import InputError


def noise(shape, dtype):
    drawn = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return drawn > 128 if dtype is bool else drawn


def write(path, pictures):
    with PicturesWriter(path) as writer:
        for picture in pictures:
            writer.append(picture)
    return path


@pytest.mark.parametrize(
    ("shape", "dtype"), [((9, 12, 7, 3), np.uint8), ((9, 12, 7), np.uint8), ((9, 12, 7), bool)]
)
def test_every_bit_comes_back_in_any_order(tmp_path, shape, dtype):
    pictures = noise(shape, dtype)
    found = Pictures(write(tmp_path / "a.zip", pictures))
    assert found.shape == shape and found.dtype == dtype and len(found) == 9
    for i in (4, 0, 8, -1):
        np.testing.assert_array_equal(found[i].view(np.uint8), pictures[i].view(np.uint8))
    with pytest.raises(IndexError):
        found[9]


def test_a_picture_may_be_painted_over_once_it_is_added(tmp_path):
    canvas, pictures = np.empty((12, 7, 3), np.uint8), noise((30, 12, 7, 3), np.uint8)
    with PicturesWriter(tmp_path / "a.zip") as writer:
        for picture in pictures:
            canvas[:] = picture
            writer.append(canvas)
    np.testing.assert_array_equal(np.stack([*Pictures(tmp_path / "a.zip")]), pictures)


def test_the_same_pictures_make_the_same_file(tmp_path, monkeypatch):
    pictures = noise((5, 12, 7, 3), np.uint8)
    first = write(tmp_path / "a.zip", pictures).read_bytes()
    monkeypatch.setattr("time.time", lambda: 2e9)
    assert write(tmp_path / "b.zip", pictures).read_bytes() == first


def test_an_error_while_writing_is_not_hidden(tmp_path):
    with pytest.raises(RuntimeError, match="of the caller"):
        with PicturesWriter(tmp_path / "a.zip") as writer:
            writer.append(np.zeros((4, 4, 3), np.uint8))
            raise RuntimeError("of the caller")


def test_damage_is_one_line(tmp_path):
    path = write(tmp_path / "a.zip", noise((3, 12, 7, 3), np.uint8))
    with pytest.raises(InputError, match="b.zip: missing"):
        Pictures(tmp_path / "b.zip")
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        at = archive.getinfo("000001.webp").header_offset + 60
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
    damaged = Pictures(path)
    np.testing.assert_array_equal(damaged[2], noise((3, 12, 7, 3), np.uint8)[2])
    with pytest.raises(InputError, match="picture 1 is damaged .*CRC.*preprocess"):
        damaged[1]
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="a.zip: damaged"):
        Pictures(path)
    with pytest.raises(InputError, match="no pictures"):
        Pictures(write(tmp_path / "none.zip", []))
    other = [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)]
    with pytest.raises(InputError, match=r"picture 1 is uint8 \[4, 5, 3\], the first"):
        Pictures(write(tmp_path / "other.zip", other))[1]
