"""Where files go that are made once: the user's cache, or a temporary one of the user's own."""

import os
import tempfile
from pathlib import Path

import pytest

from egs_jax.runtime import cache
from egs_jax.runtime.errors import InputError


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """A machine with a temporary folder of its own, of which nothing is known yet."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(cache, "_told", set())
    cache._choice.cache_clear()
    for name in ("TRITON_HOME", "NUMBA_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    yield
    cache._choice.cache_clear()


def unwritable(tmp_path: Path) -> Path:
    """A place where nobody can make a folder, the superuser neither."""
    (tmp_path / "file").write_text("", encoding="utf-8")
    return tmp_path / "file" / "home"


def test_a_cache_that_can_be_written_is_taken_and_made(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "new" / "cache"))
    assert cache.writable_cache() == cache.cache_folder() == tmp_path / "new" / "cache" / "egs_jax"
    assert cache.cache_folder().is_dir() and not list(cache.cache_folder().iterdir())
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "HOME"])
def test_a_temporary_one_stands_in_and_one_line_says_so(tmp_path, monkeypatch, capsys, variable):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv(variable, str(unwritable(tmp_path)))
    folder = cache.writable_cache()
    assert cache.writable_cache() == folder == tmp_path / "tmp" / f"egs_jax-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1
    assert f"{cache.cache_folder()} cannot be written (Not a directory)" in error
    assert str(folder) in error and "XDG_CACHE_HOME" in error


def test_a_user_without_a_home(tmp_path, monkeypatch, capsys):
    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nobody)
    assert not cache.cache_folder().exists()
    assert cache.writable_cache().parent == tmp_path / "tmp"
    assert "(this user has no home)" in capsys.readouterr().err


def test_a_folder_that_others_may_write_to_is_not_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(unwritable(tmp_path)))
    planted = tmp_path / "tmp" / f"egs_jax-{os.getuid()}"
    planted.mkdir()
    planted.chmod(0o777)
    assert cache.writable_cache() != planted
    assert cache.writable_cache().stat().st_mode & 0o777 == 0o700


def test_a_machine_without_any_folder_to_write_to_is_one_line(tmp_path, monkeypatch):
    def none():
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setenv("XDG_CACHE_HOME", str(unwritable(tmp_path)))
    monkeypatch.setattr(tempfile, "gettempdir", none)
    with pytest.raises(InputError, match="cannot be written, nor any temporary folder; .* TMPDIR"):
        cache.writable_cache()


def test_libraries_follow_where_the_home_cannot_be_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    cache.move_libraries()
    assert "TRITON_HOME" not in os.environ
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    monkeypatch.setenv("NUMBA_CACHE_DIR", "the user's own")
    cache.move_libraries()
    assert os.environ["TRITON_HOME"] == str(tmp_path / "cache" / "egs_jax" / "triton")
    assert os.environ["NUMBA_CACHE_DIR"] == "the user's own"
    assert capsys.readouterr() == ("", "") and not (tmp_path / "nowhere").exists()
