"""Where a result comes from: a commit or the reason why there is none, versions, the device."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from egs_jax.runtime import provenance


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A git checkout with one commit and this file in it, from which the code seems to run."""
    monkeypatch.delenv("EGS_COMMIT", raising=False)
    file = tmp_path / "provenance.py"
    shutil.copy(provenance.__file__, file)
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *words], check=True)
    monkeypatch.setattr(provenance, "__file__", str(file))
    return tmp_path


def test_the_commit_is_that_of_the_checkout(checkout):
    head = (checkout / ".git" / "HEAD").read_text().split()[-1]
    head = (checkout / ".git" / head).read_text().strip()
    assert provenance.commit() == (head, None)
    (checkout / "more").write_text("files that git does not know change nothing")
    assert provenance.commit() == (head, None)
    (checkout / "provenance.py").write_text("changed")
    assert provenance.commit() == (head + "+", None)


def test_code_installed_inside_the_checkout_of_something_else_has_none(checkout, monkeypatch):
    inside = checkout / ".venv" / "provenance.py"
    inside.parent.mkdir()
    inside.write_text("")
    monkeypatch.setattr(provenance, "__file__", str(inside))
    name, reason = provenance.commit()
    assert name is None and "in no git checkout" in reason


def test_without_git_a_copy_may_name_its_commit(checkout, monkeypatch):
    monkeypatch.setenv("PATH", str(checkout))
    name, reason = provenance.commit()
    assert name is None and "git is not installed" in reason
    made = provenance.provenance()
    assert made["commit"] is None and made["notes"] == {"commit": reason}
    monkeypatch.setenv("EGS_COMMIT", "abc")
    assert provenance.commit() == ("abc", None) and provenance.provenance()["notes"] == {}


def test_versions_are_null_where_a_package_is_missing(monkeypatch):
    monkeypatch.setitem(provenance.PACKAGES, "made up", ("no-such-package-at-all",))
    monkeypatch.setitem(provenance.PACKAGES, "either", ("no-such-package-at-all", "numpy"))
    versions = provenance.package_versions()
    assert versions["made up"] is None and versions["either"] == np.__version__
    assert {"jax", "jaxlib", "jax-triton", "opencv", "ai-edge-litert"} <= versions.keys()
    assert Path(provenance.__file__).exists() and json.dumps(provenance.provenance())
