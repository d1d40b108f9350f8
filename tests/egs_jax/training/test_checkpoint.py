"""Training states on disk: same bits back, and every kind of damage is one clear line."""

import gc
import hashlib
import inspect
import logging
import shutil

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import AUDIO_DIM, largest_file, micro_config

from egs_jax.runtime.errors import InputError
from egs_jax.training import step as train
from egs_jax.training.checkpoint import SUMS, Checkpoints, NoCheckpoints, state_sha256


class Tiny(flax.struct.PyTreeNode):
    a: jax.Array
    b: dict


def tiny(value=1.0, size=3):
    return Tiny(a=jnp.full((size, 2), value), b={"count": jnp.int32(7)})


def saved(folder, *steps):
    checkpoints = Checkpoints(folder)
    for step in steps:
        checkpoints.save(step, tiny(float(step)))
    checkpoints.wait()
    return checkpoints


def test_a_training_state_comes_back_bit_for_bit(tmp_path, painted, trained_run):
    checkpoints = Checkpoints(trained_run.folder, read_only=True)
    back = checkpoints.load(train.abstract_state(micro_config(painted), AUDIO_DIM))
    assert jax.tree.structure(back) == jax.tree.structure(trained_run.state)
    chex.assert_trees_all_equal(back, trained_run.state)
    assert state_sha256(back) == state_sha256(trained_run.state)
    checkpoints.close()


class Optional(flax.struct.PyTreeNode):
    """A state of today: what its older version did not have is None."""

    old: jax.Array
    new: jax.Array | None = None


def test_what_came_to_be_optional_may_be_missing_in_older_checkpoints(tmp_path):
    """An older version wrote the same without the new key; both read what the other wrote."""
    numbers = jnp.arange(3.0)
    checkpoints = Checkpoints(tmp_path)
    older, newer = {"part": {"old": numbers}}, {"part": Optional(numbers)}
    assert state_sha256(older) == state_sha256(newer)
    for step, written in enumerate((older, newer)):
        checkpoints.save(step, written)
        for wanted in (newer, older):
            chex.assert_trees_all_equal(checkpoints.load(wanted), wanted)
        with pytest.raises(InputError, match=r"\['new'\] has shape None, this config makes \(2,\)"):
            checkpoints.load({"part": Optional(numbers, jnp.zeros(2))})
    full = {"part": Optional(numbers, jnp.ones(2))}
    checkpoints.save(2, full)
    chex.assert_trees_all_equal(checkpoints.load(full), full)
    checkpoints.close()


def test_hash_is_stable_and_sees_every_change():
    state = tiny()
    changes = [
        state.replace(a=state.a.at[2, 1].set(np.nextafter(np.float32(1), np.float32(2)))),
        state.replace(a=state.a.reshape(2, 3)),
        state.replace(a=state.a.astype(jnp.float16)),
        state.replace(b={"number": jnp.int32(7)}),
        state.replace(b={"count": jnp.int32(8)}),
    ]
    assert state_sha256(state) == state_sha256(tiny())
    assert state_sha256(jax.device_get(state)) == state_sha256(state)
    assert len({state_sha256(s) for s in [state, *changes]}) == 6


def test_the_last_two_are_kept_and_any_can_be_loaded(tmp_path):
    checkpoints = saved(tmp_path, 10, 20, 30)
    assert sorted(p.name for p in checkpoints.folder.iterdir()) == ["20", "30"]
    assert checkpoints.latest() == 30
    assert float(checkpoints.load(tiny()).a[0, 0]) == 30
    assert float(checkpoints.load(tiny(), 20).a[0, 0]) == 20
    checkpoints.close()


def test_a_save_that_was_cut_off_is_not_seen_and_readers_leave_it_alone(tmp_path):
    saved(tmp_path, 10).close()
    folder = tmp_path / "checkpoints"
    torn = folder / "20.orbax-checkpoint-tmp-1700000000"
    shutil.copytree(folder / "10", torn)
    (torn / "commit_success.txt").unlink(missing_ok=True)
    reader = Checkpoints(tmp_path, read_only=True)  # such as `render` while a training is saving
    assert reader.latest() == 10 and float(reader.load(tiny()).a[0, 0]) == 10
    reader.close()
    assert torn.exists()
    writer = Checkpoints(tmp_path)
    assert writer.latest() == 10
    writer.save(20, tiny(20.0))
    assert writer.latest() == 20 and not torn.exists()
    writer.close()


def test_readers_log_nothing(tmp_path, caplog):
    saved(tmp_path, 10).close()
    Checkpoints(tmp_path, read_only=True).close()
    logging.getLogger("absl").warning("others are told")
    warned = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert warned == ["others are told"]


def test_nothing_to_load_is_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(InputError, match="no checkpoint; train this run first"):
        checkpoints.load(tiny())
    checkpoints.close()


def test_a_failed_save_is_told_by_the_next_call_of_any_kind(tmp_path, monkeypatch):
    checkpoints = saved(tmp_path, 10)

    def full(*_):
        raise OSError(28, "No space left on device")

    for call in (checkpoints.wait, checkpoints.latest, lambda: checkpoints.load(tiny())):
        monkeypatch.setattr("egs_jax.training.checkpoint._reserve", full)
        checkpoints.save(20, tiny())  # returns at once
        with pytest.raises(OSError, match="could not save step 20"):
            call()
        monkeypatch.undo()
    assert checkpoints.latest() == 10
    checkpoints.save(20, tiny(20.0))
    checkpoints.close()  # finishes it
    assert saved(tmp_path).latest() == 20


def test_the_state_may_change_while_it_is_being_saved(tmp_path):
    checkpoints, state = Checkpoints(tmp_path), tiny(3.0)
    checkpoints.save(10, state)
    jax.jit(lambda tree: jax.tree.map(lambda v: v + 1, tree), donate_argnums=0)(state)
    assert float(checkpoints.load(tiny()).a[0, 0]) == 3
    checkpoints.close()


def damage_by(kind, folder):
    """Damage a checkpoint so that even one bit of one file is another."""
    if kind == "no metadata":
        shutil.rmtree(folder / "default")
        return
    largest = max((p for p in folder.rglob("d/*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(largest.read_bytes())
    if kind == "truncate":
        largest.write_bytes(data[: len(data) // 2])
    elif kind == "one bit":
        data[len(data) // 2] ^= 1
        largest.write_bytes(data)
    else:
        largest.unlink()


WORDS = "OUT_OF_RANGE: Error writing: Failed to write 9 bytes to file 14: "
ROOM = "untouched: make room and run the same command again"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(122, "Disk quota exceeded"), rf"\[Errno 122\] Disk quota exceeded\); .*{ROOM}$"),
        (ValueError(WORDS + "Full [os_error_code='27']"), rf"File too large\); .*{ROOM}$"),
        (OSError(30, "Read-only file system"), r"Read-only file system\); .* are untouched$"),
        (ValueError(WORDS + "EIO [OS error 5: EIO]"), r"Input/output error\); .* are untouched$"),
    ],
)
def test_only_a_full_disk_is_told_to_make_room(tmp_path, monkeypatch, error, told):
    """Orbax hands errors of the system on, or has them in words."""
    checkpoints = saved(tmp_path, 10)

    def save(*_, **__):
        raise error

    monkeypatch.setattr(checkpoints._manager, "save", save)
    checkpoints.save(20, tiny())
    with pytest.raises(OSError, match=told) as failed:
        checkpoints.wait()
    assert "could not save step 20" in str(failed.value) and failed.value.__cause__ is error
    checkpoints.close()


@pytest.mark.parametrize(
    "error", [TypeError("save() got an argument that is new"), ValueError("no such item")]
)
def test_a_fault_of_the_program_in_a_save_is_shown_as_it_is(tmp_path, monkeypatch, error):
    checkpoints = saved(tmp_path, 10)

    def save(*_, **__):
        raise error

    monkeypatch.setattr(checkpoints._manager, "save", save)
    checkpoints.save(20, tiny())
    with pytest.raises(type(error)) as failed:
        checkpoints.wait()
    assert failed.value is error and checkpoints.latest() == 10
    checkpoints.close()


@pytest.mark.parametrize("kind", ["truncate", "one bit", "remove", "no metadata"])
def test_damage_names_the_folder_and_the_remedy(tmp_path, kind):
    saved(tmp_path, 10, 20).close()
    newest = tmp_path / "checkpoints" / "20"
    damage_by(kind, newest)
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(InputError, match="damaged") as refused:
        checkpoints.load(tiny())
    message = str(refused.value)
    assert str(newest) in message and "delete this folder" in message and "\n" not in message
    assert float(checkpoints.load(tiny(), 10).a[0, 0]) == 10
    checkpoints.close()


@pytest.mark.parametrize(
    "error", [TypeError("restore() got an argument\nthat is new"), MemoryError(), ValueError("x")]
)
def test_other_failures_are_named_and_nobody_is_told_to_delete(tmp_path, monkeypatch, error):
    checkpoints = saved(tmp_path, 10)

    def restore(*_, **__):
        raise error

    monkeypatch.setattr(checkpoints._manager, "restore", restore)
    with pytest.raises(OSError, match=type(error).__name__) as refused:
        checkpoints.load(tiny())
    message = str(refused.value)
    assert "keep its files, which are whole" in message and "environment.json" in message
    assert "delete" not in message and "\n" not in message and refused.value.__cause__ is error
    monkeypatch.undo()
    assert float(checkpoints.load(tiny()).a[0, 0]) == 10
    checkpoints.close()


@pytest.mark.parametrize(
    "error", [PermissionError(13, "denied"), ValueError("PERMISSION_DENIED: ... Permission denied")]
)
def test_files_of_somebody_else_are_said_to_be_that(tmp_path, monkeypatch, error):
    checkpoints = saved(tmp_path, 10)

    def is_whole(folder):
        raise error

    monkeypatch.setattr("egs_jax.training.checkpoint._is_whole", is_whole)
    with pytest.raises(InputError, match="may not be read"):
        checkpoints.load(tiny())
    checkpoints.close()


# Reads of Orbax that failed beside the first one end late, in their own threads.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_hashes_are_those_that_sha256sum_checks_and_may_be_missing(tmp_path):
    """As they are from older versions, and where a process was killed just before."""
    checkpoints = saved(tmp_path, 10)
    folder = checkpoints.folder / "10"
    lines = dict(reversed(line.split("  ")) for line in (folder / SUMS).read_text().splitlines())
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    assert lines.keys() == files.keys() - {SUMS} and "default/manifest.ocdbt" in lines
    for name, digest in lines.items():
        assert hashlib.sha256(files[name].read_bytes()).hexdigest() == digest
    (folder / SUMS).unlink()
    assert float(checkpoints.load(tiny()).a[0, 0]) == 10
    damage_by("truncate", folder)
    with pytest.raises(OSError, match=f"keep its files, which have no {SUMS}"):
        checkpoints.load(tiny())
    checkpoints.close()
    gc.collect()


def test_a_host_without_checkpoints_has_the_same_calls_and_does_nothing(tmp_path):
    public = lambda kind: {n: f for n, f in vars(kind).items() if n[0] != "_" and callable(f)}
    real, none = public(Checkpoints), public(NoCheckpoints)
    assert {n: inspect.signature(f) for n, f in real.items()} == {
        n: inspect.signature(f) for n, f in none.items()
    }
    nothing = NoCheckpoints()
    nothing.save(3, tiny())
    nothing.wait()
    assert nothing.latest() is None
    with pytest.raises(InputError, match="keeps no checkpoints"):
        nothing.load(tiny())
    nothing.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (tiny(size=4), r"\['a'\] has shape \(3, 2\), this config makes \(4, 2\)"),
        (tiny().replace(b={"c": jnp.int32(1)}), r"\['b'\]\['c'\] has shape None"),
    ],
)
def test_a_state_of_another_shape_is_refused(tmp_path, other, named):
    checkpoints = saved(tmp_path, 10)
    with pytest.raises(InputError, match=named + ".*name a new --run-dir"):
        checkpoints.load(other)
    checkpoints.close()


def test_full_disk_is_one_line_and_earlier_checkpoints_stay(tmp_path):
    noise = np.random.default_rng(0).standard_normal((200_000, 2)).astype(np.float32)
    checkpoints = saved(tmp_path, 10)
    with largest_file(100_000), pytest.raises(OSError, match="could not save step 20") as full:
        checkpoints.save(20, tiny().replace(a=noise))
        checkpoints.wait()
    assert "File too large" in str(full.value) and "make room" in str(full.value)
    assert "\n" not in str(full.value)
    checkpoints.close()
    again = Checkpoints(tmp_path)
    assert again.latest() == 10 and float(again.load(tiny()).a[0, 0]) == 10
    again.save(20, tiny(20.0))  # there is room now
    assert again.latest() == 20
    again.close()


def test_two_trainings_do_not_share_a_folder(tmp_path):
    first = Checkpoints(tmp_path)
    with pytest.raises(InputError, match="another training is writing there; .* another --run-dir"):
        Checkpoints(tmp_path)
    Checkpoints(tmp_path, read_only=True).close()
    first.close()
    Checkpoints(tmp_path).close()
