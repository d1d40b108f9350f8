"""Settings that a process gives the libraries below."""

import os

import jax
import pytest

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


def test_programs_are_kept_on_a_gpu_unless_the_user_says_where(monkeypatch, tmp_path):
    changes = {}
    monkeypatch.setattr(jax.config, "update", changes.__setitem__)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    keep_programs()  # a CPU
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    keep_programs()  # the tests' own folder is set
    assert not changes
    monkeypatch.setattr(type(jax.config), "jax_compilation_cache_dir", None)
    keep_programs()
    assert changes["jax_compilation_cache_dir"] == str(tmp_path / "egs_jax" / "compiled")
