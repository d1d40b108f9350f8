"""Films of every kind are read back as what was written, their opacity as well."""

import av
import numpy as np
import pytest

from egs_jax.media import film_format as formats
from egs_jax.media.feeding import write_video
from egs_jax.media.film_format import film_format, h264
from egs_jax.media.video_reader import probe, read_frames
from egs_jax.runtime.errors import InputError

SIDE = 96


def pictures(count):
    """A soft disc that moves, RGBA."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    made = np.zeros((count, SIDE, SIDE, 4), np.uint8)
    for k in range(count):
        away = np.hypot(rows - 48, columns - 30 - k)
        made[k, ..., 0], made[k, ..., 1], made[k, ..., 2] = 200, 60 + columns, 60 + rows
        made[k, ..., 3] = np.clip(255 * (30 - away) / 10, 0, 255)
    return made


@pytest.mark.parametrize(
    ("suffix", "transparent", "codecs"),
    [(".mp4", False, ("h264", "aac")), (".mov", False, ("h264", "aac")),
     (".webm", False, ("vp9", "opus")), (".webm", True, ("vp9", "opus")),
     (".mov", True, ("prores", "aac"))],
)  # fmt: skip
def test_a_film_is_what_was_written(tmp_path, suffix, transparent, codecs):
    path, drawn = tmp_path / f"v{suffix}", pictures(15)
    made = film_format(suffix, SIDE, SIDE, transparent=transparent)
    sound = 0.3 * np.sin(np.arange(16_000) / 10).astype(np.float32)
    given = drawn if transparent else drawn[..., :3]
    write_video(path, iter(given), 50, sound, 16_000, made)
    with av.open(str(path)) as film:
        video, audio = film.streams.video[0], film.streams.audio[0]
        assert (video.codec_context.name, audio.codec_context.name) == codecs
        assert video.average_rate == 50
        heard = sum(frame.samples for frame in film.decode(audio)) / audio.rate
    assert abs(heard - 0.3) < 0.04
    # The reader lays what is transparent on black, which compares opacity too.
    want = drawn[..., :3].astype(float) * (drawn[..., 3:] / 255.0 if transparent else 1)
    found = np.stack(list(read_frames(path, 50)))
    assert found.shape == want.shape and np.abs(found - want).mean() < 2
    assert bool(probe(path).repairs) == transparent


def test_transparent_mp4_and_other_names_are_refused():
    with pytest.raises(InputError, match="mp4 films cannot be transparent"):
        film_format(".mp4", 64, 64, transparent=True)
    for suffix in (".avi", ""):
        with pytest.raises(InputError, match="films are .mp4, .mov, .webm"):
            film_format(suffix, 64, 64)


def test_an_encoder_that_is_not_there_is_named(monkeypatch):
    known = set(av.codecs_available) - {"libvpx-vp9"}
    monkeypatch.setattr(formats.av, "codecs_available", known)
    with pytest.raises(InputError, match="need the encoder libvpx-vp9"):
        film_format(".webm", 64, 64)
    assert film_format(".mov", 64, 64).container == "mov"


def test_constant_quality_is_that_asked_for(tmp_path):
    sizes, noise = [], np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    for crf in (10, 40):
        write_video(tmp_path / "v.mp4", [noise] * 5, form=h264("mp4", "libx264", crf))
        sizes.append((tmp_path / "v.mp4").stat().st_size)
    assert sizes[0] > 1.5 * sizes[1]


def test_a_film_says_what_it_is(tmp_path):
    from egs_jax.media.video_writer import VideoWriter

    for suffix in formats.SUFFIXES:
        form = film_format(suffix, SIDE, SIDE)
        with VideoWriter(tmp_path / f"v{suffix}", SIDE, SIDE, form=form, comment="made up") as film:
            film.write_frame(pictures(1)[0, ..., :3])
        with av.open(str(tmp_path / f"v{suffix}")) as film:
            assert {k.lower(): v for k, v in film.metadata.items()}["comment"] == "made up"
