"""A dataset appears whole under its name, or what was there before stays: also after a signal."""

import signal
from pathlib import Path

import pytest

from egs_jax.preprocess.dataset_folder import replace_folder, work_folder
from egs_jax.runtime.errors import InputError


def fill(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "meta.json").write_text(text, encoding="utf-8")
    return folder


def test_a_folder_takes_the_place_of_the_old_one(tmp_path):
    target = fill(tmp_path / "d", "old")
    with work_folder(target) as work:
        fill(work, "new")
        assert (target / "meta.json").read_text("utf-8") == "old"
        replace_folder(work, target)
    assert (target / "meta.json").read_text("utf-8") == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_between_the_two_names_waits(tmp_path, monkeypatch, name):
    target = fill(tmp_path / "d", "old")
    rename, seen = Path.rename, []

    def disturbed(path, to):
        signal.raise_signal(name)
        seen.append(target.exists())
        return rename(path, to)

    def stop(*_):
        raise KeyboardInterrupt

    before = signal.signal(name, stop)
    try:
        with pytest.raises(KeyboardInterrupt), work_folder(target) as work:  # noqa: PT012
            fill(work, "new")
            monkeypatch.setattr(Path, "rename", disturbed)
            replace_folder(work, target)
    finally:
        signal.signal(name, before)
    assert seen == [True, False]  # the moment in which a dataset would have been lost
    assert (target / "meta.json").read_text("utf-8") == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError])
def test_nothing_is_left_of_work_that_ended(tmp_path, error):
    target = fill(tmp_path / "d", "old")
    with pytest.raises(error), work_folder(target) as work:
        fill(work, "new")
        raise error
    assert (target / "meta.json").read_text("utf-8") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_a_place_where_no_folder_can_be_made(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with (
        pytest.raises(InputError, match="cannot make this folder .*; name another"),
        work_folder(tmp_path / "file" / "d"),
    ):
        pass
