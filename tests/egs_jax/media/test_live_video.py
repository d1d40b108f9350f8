"""H.264 picture by picture: each comes out at once, and decoding can begin every second."""

import av
import numpy as np
import pytest

from egs_jax.media.film_format import h264
from egs_jax.media.live_video import LiveVideo
from egs_jax.media.video_pixels import VideoPixels
from egs_jax.runtime.errors import InputError


def pictures(count, height=50, width=65):
    """A soft bump that moves."""
    rows, columns = np.mgrid[:height, :width]
    shades = [np.exp(-((rows - 20) ** 2 + (columns - 10 - k) ** 2) / 200) for k in range(count)]
    return np.uint8(np.stack([255 * np.stack([s, s**2, 1 - s], axis=-1) for s in shades]))


def decoded(units):
    """What a decoder makes of access units, one by one."""
    decoder = av.CodecContext.create("h264", "r")
    found = []
    for unit in [*units, None]:
        frames = decoder.decode(None if unit is None else av.Packet(unit))
        found += [f.reformat(format="rgb24", src_colorspace="itu709").to_ndarray() for f in frames]
    return np.stack(found)


def psnr(a, b):
    return -10 * np.log10(np.mean((a.astype(float) - b) ** 2) / 255**2)


def test_every_picture_comes_out_at_once_and_is_what_went_in():
    drawn, video = pictures(60), LiveVideo(65, 50)
    units = [video.encode(picture) for picture in drawn]
    assert all(unit.startswith(b"\0\0\0\1") for unit in units)
    found = decoded(units)
    assert found.shape == (60, 50, 66, 3)  # its last column twice
    assert psnr(found[:, :, :65], drawn) > 34
    assert psnr(found[:, :, 65], drawn[:, :, 64]) > 30


def test_decoding_begins_at_any_keyframe():
    video = LiveVideo(65, 50)
    units = [video.encode(picture) for picture in pictures(60)]
    is_key = [unit[4] & 31 == 7 for unit in units]  # begins with its parameters
    assert is_key[0] and max(np.diff(np.flatnonzero([*is_key, True]))) <= 25
    later = is_key.index(True, 1)
    np.testing.assert_array_equal(decoded(units[later:]), decoded(units)[later:])


def test_other_sizes_and_other_machines_are_refused(monkeypatch):
    video = LiveVideo(65, 50)
    with pytest.raises(ValueError, match="expected uint8"):
        video.encode(pictures(1)[0][:, :64])
    monkeypatch.setattr(av, "codecs_available", set())
    with pytest.raises(InputError, match=r"^[^\n]*H.264 need the encoder libx264[^\n]*$"):
        LiveVideo(64, 64)


def test_frames_of_a_format_are_even_and_of_its_pixels():
    frame = VideoPixels(65, 51, h264("mp4", "libx264")).frame(pictures(1, 51, 65)[0])
    assert (frame.width, frame.height, frame.format.name) == (66, 52, "yuv420p")
