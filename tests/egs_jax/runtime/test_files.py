"""Files that a crash leaves whole: the old one or the new, with the rights of any other."""

import errno
import os

import numpy as np
import pytest
from helpers import largest_file

from egs_jax.runtime.files import atomically, needs_room, write_atomically


@pytest.fixture(params=[0o022, 0o077])
def umask(request):
    """The rights that the user takes from every new file."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_write_leaves_the_old_file_or_the_new(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_atomically(path, "old")
    write_atomically(path, "ne\u00fc")
    assert path.read_text(encoding="utf-8") == "ne\u00fc"

    def crash(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(OSError):
        write_atomically(path, "never seen")
    assert path.read_text(encoding="utf-8") == "ne\u00fc" and list(tmp_path.iterdir()) == [path]


def test_an_error_or_an_interrupt_meanwhile_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    for kind in (ValueError, KeyboardInterrupt):
        with pytest.raises(kind), atomically(path) as part:
            part.write_bytes(b"half")
            raise kind
        assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    path, fsync, synced = tmp_path / "a", os.fsync, []
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(path.exists()), fsync(file)))
    write_atomically(path, "text")
    assert synced == [False] and path.read_text() == "text"


def test_rights_are_those_of_any_new_file(tmp_path, umask):
    with atomically(tmp_path / "a") as part:
        part.write_bytes(b"")
        assert part.parent == tmp_path and part.stat().st_mode & 0o777 == 0o666 & ~umask
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize(
    ("number", "expected"),
    [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EFBIG, True), (errno.EACCES, False)],
)
def test_room_mends_what_is_full_alone(number, expected):
    assert needs_room(OSError(number, os.strerror(number))) == expected


def test_numpy_says_in_words_that_a_disk_is_full(tmp_path):
    with largest_file(1_000), pytest.raises(OSError) as full:
        np.save(tmp_path / "a.npy", np.zeros(1_000))
    assert full.value.errno is None and needs_room(full.value)
    assert not needs_room(OSError("something else"))


def test_names_in_another_encoding_stand_as_escapes(tmp_path):
    write_atomically(tmp_path / "a.html", os.fsdecode(b"Lauf \xff \xc3\xbc"))
    assert (tmp_path / "a.html").read_bytes() == "Lauf \\udcff ü".encode()
