"""The rule by which a name's end says what is written, and places where nothing can be."""

from pathlib import Path

import pytest

from egs_jax.avatar.film_places import targets
from egs_jax.runtime.errors import InputError


def named(out, *speeches, transparent=False):
    return [(str(t.path), t.kind) for t in targets(out, speeches, transparent=transparent)]


def test_the_end_of_a_name_decides():
    for name in ("a.mp4", "b/a.MOV", "a.b.webm"):
        assert named(name, "x.wav") == [(name, "film")]
    assert named("frames", "x.wav", transparent=True) == [("frames", "pictures")]
    several = named("talks", "x.wav", Path("y/z.mp3"))
    assert several == [("talks/x.mp4", "film"), ("talks/z.mp4", "film")]
    clear = named("talks", "x.wav", "z.mp3", transparent=True)
    assert clear == [("talks/x.webm", "film"), ("talks/z.webm", "film")]


def test_places_where_nothing_can_be(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x.png").touch()
    (tmp_path / "file").touch()
    for out, speeches, clear, message in (
        (tmp_path / "full", ["x.wav"], False, "a folder with files in it"),
        (tmp_path / "file", ["x.wav"], False, "is no folder"),
        ("talk.avi", ["x.wav"], False, "films are .mp4"),
        ("talk.mp4", ["x.wav"], True, "mp4 films cannot be transparent"),
        ("talk.mp4", ["x.wav", "y.wav"], False, "several speeches need a folder"),
        ("talks", ["a/x.wav", "b/x.mp3"], False, "two speeches have this name"),
        (tmp_path / "file", ["x.wav", "y.wav"], False, ""),
    ):  # fmt: skip
        if message:
            with pytest.raises(InputError, match=message):
                targets(out, speeches, transparent=clear)
    (tmp_path / "empty").mkdir()
    assert named(tmp_path / "empty", "x.wav") == [(str(tmp_path / "empty"), "pictures")]
