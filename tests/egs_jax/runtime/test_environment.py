"""Settings that a process gives the libraries below."""

import os
import tempfile

import jax
import pytest
from helpers import COMPILED

from egs_jax.runtime import programs
from egs_jax.runtime.environment import XLA_FLAGS, keep_programs, set_environment, usable_cores


@pytest.mark.parametrize(
    ("given", "wanted"),
    [("", XLA_FLAGS), ("--a=1", f"{XLA_FLAGS} --a=1"), (XLA_FLAGS, XLA_FLAGS), ("a.txt", "a.txt")],
)
def test_flags_come_before_the_users_which_win(monkeypatch, given, wanted):
    monkeypatch.setenv("XLA_FLAGS", given)
    set_environment()
    assert os.environ["XLA_FLAGS"] == wanted


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no such call here")
def test_cores_are_those_that_the_process_may_use():
    allowed = os.sched_getaffinity(0)
    assert usable_cores() == len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.fixture
def changes(monkeypatch, tmp_path):
    """What `keep_programs` changes of JAX's settings, of a user who said nothing, and the rest."""
    changes = {}
    monkeypatch.setattr(jax.config, "update", changes.__setitem__)
    monkeypatch.setattr(programs, "_kept", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return changes


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_programs_are_kept_where_the_platform_has_its_own(monkeypatch, tmp_path, changes, platform):
    monkeypatch.setattr(type(jax.config), "jax_compilation_cache_dir", None)
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    keep_programs()
    home = tmp_path / "egs_jax" / "compiled"
    if platform == "tpu":
        assert not changes and not programs._kept
    elif platform == "gpu":
        assert changes["jax_compilation_cache_dir"] == str(home) and not programs._kept
    else:
        assert changes["jax_compilation_cache_dir"] == str(programs._kept["folder"])
        assert programs._kept["folder"].parent == home and programs._kept["folder"].is_dir()


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_the_folder_that_the_user_named_to_jax_wins(monkeypatch, tmp_path, changes, platform):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    keep_programs()  # the tests' own folder is set
    assert not changes and not list(tmp_path.iterdir())
    assert programs._kept == ({"folder": COMPILED} if platform == "cpu" else {})


def test_without_a_home_programs_are_kept_in_a_temporary_folder(
    monkeypatch, tmp_path, changes, capsys
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(type(jax.config), "jax_compilation_cache_dir", None)
    keep_programs()
    assert (tmp_path / f"egs_jax-{os.getuid()}") in programs._kept["folder"].parents
    assert capsys.readouterr().err.count("compiled programs are kept in") == 1
