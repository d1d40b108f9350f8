"""Training states on disk, by Orbax, and their hash.

A save that was cut off is never seen. Beside the files of every checkpoint lies `SHA256SUMS`, which
tells a damaged one from one that cannot be read for another reason.
"""

import concurrent.futures
import contextlib
import fcntl
import hashlib
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import flax.serialization
import jax
import numpy as np
import orbax.checkpoint as ocp

from egs_jax.runtime.assets import file_sha256
from egs_jax.runtime.errors import MAY_NOT_READ, InputError
from egs_jax.runtime.files import needs_room, write_atomically

State = TypeVar("State")
FOLDER = "checkpoints"
"""Name of the checkpoints' folder in a run folder."""
SUMS = "SHA256SUMS"
"""Name of the file with the hashes of a checkpoint's files, as `sha256sum --check` reads it."""


def check_name(run_dir: Path) -> None:
    """Refuse a name that Orbax cannot write to: bytes in an encoding other than UTF-8.

    Raises:
      InputError: if it is one.
    """
    try:
        str(run_dir.resolve()).encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(
            f"{run_dir}: its name, or that of a folder around it, is not UTF-8; name another"
        ) from None


class Checkpoints:
    """The `checkpoints/` folder of a run: at most `keep` complete states, named by their step."""

    def __init__(self, run_dir: Path, keep: int = 2, *, read_only: bool = False):
        """Open the folder; with `read_only`, touch nothing (a training may be writing there).

        Raises:
          InputError: if another training has it, or its name cannot be written.
        """
        check_name(run_dir)
        self._writer = concurrent.futures.ThreadPoolExecutor(1)
        self._saving: concurrent.futures.Future | None = None
        self.folder = Path(run_dir).resolve() / FOLDER
        several, way = jax.process_count() > 1, ocp.options.MultiprocessingOptions()
        if several:  # host 0 alone writes, and Orbax is not to wait for the others
            way = ocp.options.MultiprocessingOptions(active_processes={0})
        self._hold = contextlib.ExitStack()
        if not read_only:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._hold.enter_context(_held(self.folder))
        with _unlogged():  # that a reader saves nothing
            options = ocp.CheckpointManagerOptions(
                max_to_keep=None if read_only else keep,
                create=False,
                cleanup_tmp_directories=not read_only,
                enable_async_checkpointing=False,
                read_only=read_only,
                multiprocessing_options=way,
            )
            handler = ocp.StandardCheckpointHandler(multiprocessing_options=way)
            self._manager = ocp.CheckpointManager(
                self.folder, item_handlers=handler, options=options
            )

    def save(self, step: int, state: Any) -> None:
        """Copy `state` to the host and write it in the background, after the save before it.

        A crash meanwhile loses this checkpoint only.

        Raises:
          OSError: if the save before it failed (see `wait`).
        """
        self.wait()
        tree = jax.device_get(_arrays(state))
        self._saving = self._writer.submit(self._write, step, tree)

    def wait(self) -> None:
        """Return when a crash cannot lose the last save.

        Raises:
          OSError: if the disk is full or read-only; earlier checkpoints are untouched, as they are
            after errors of any other kind.
        """
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def _write(self, step: int, tree: Any) -> None:
        try:
            _reserve(self.folder, sum(leaf.nbytes for leaf in jax.tree.leaves(tree)))
            self._manager.save(step, args=ocp.args.StandardSave(tree))
            self._manager.wait_until_finished()
            _write_sums(self.folder / str(step))
        except Exception as error:
            cause = _systems_error(error)
            if cause is None:  # a fault of the program, not of the disk
                raise
            hint = ": make room and run the same command again" if needs_room(cause) else ""
            raise OSError(
                f"{self.folder}: could not save step {step} ({_first_line(cause)}); earlier "
                f"checkpoints are untouched{hint}"
            ) from error

    def latest(self) -> int | None:
        """Return the newest complete step, or None."""
        self.wait()
        return self._manager.latest_step()

    def load(self, abstract: State, step: int | None = None) -> State:
        """Read the state of `step` (default: the newest) into the structure of `abstract`.

        Raises:
          InputError: if there is none, it is damaged, or it is of another shape.
          OSError: if it cannot be read although nothing says that it is damaged.
        """
        self.wait()
        step = self._manager.latest_step() if step is None else step
        if step is None:
            raise InputError(f"{self.folder}: no checkpoint; train this run first")
        where = self.folder / str(step)
        wanted = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), _arrays(abstract))
        try:
            found = self._manager.item_metadata(step) if _is_whole(where) else None
            if found is None:
                raise InputError(
                    f"{where}: damaged, its files are not those that were written; delete this "
                    "folder to go on from the checkpoint before it"
                )
            _check_shapes(where, wanted, found.tree)
            tree = self._manager.restore(step, args=ocp.args.StandardRestore(wanted))
        except InputError:
            raise
        except Exception as error:  # Orbax has many kinds
            if isinstance(error, PermissionError) or "permission denied" in str(error).lower():
                raise InputError(f"{where}: {MAY_NOT_READ}") from error
            known = (where / SUMS).exists()
            state = "are whole" if known else f"have no {SUMS} that tells whether they are whole"
            raise OSError(
                f"{where}: could not be read ({type(error).__name__}: {_first_line(error)}); keep "
                f"its files, which {state}: environment.json beside {FOLDER}/ has the versions "
                "that wrote them"
            ) from error
        # By `device_put`: JAX's `asarray` would compile a program for every shape.
        tree = _completed(jax.device_put(tree), flax.serialization.to_state_dict(abstract))
        return flax.serialization.from_state_dict(abstract, tree)

    def close(self) -> None:
        """Finish the save that is being written, and release the folder."""
        self._writer.shutdown()
        self._manager.close()
        self._hold.close()


def newest_step(run_dir: Path) -> int:
    """Return the newest step of which a run folder has a checkpoint, by its name; 0: it has none.

    Unlike `Checkpoints.latest` it makes nothing and takes no time.
    """
    names = [path.name for path in (Path(run_dir) / FOLDER).glob("*")]
    return max((int(name) for name in names if name.isdecimal()), default=0)


def state_sha256(state: Any) -> str:
    """Return the SHA-256 over the leaves in path order: path, dtype, shape, bytes."""
    digest = hashlib.sha256()
    tree = jax.device_get(flax.serialization.to_state_dict(state))
    for path, leaf in sorted(
        (jax.tree_util.keystr(path), leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    ):
        array = np.asarray(leaf)
        digest.update(f"{path} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


class NoCheckpoints:
    """Checkpoints of a host that keeps none: nothing is saved, nothing is found."""

    def save(self, step: int, state: Any) -> None:
        """Do nothing."""

    def wait(self) -> None:
        """Do nothing."""

    def latest(self) -> int | None:
        """Return None."""

    def load(self, abstract: State, step: int | None = None) -> State:
        """Refuse.

        Raises:
          InputError: always.
        """
        raise InputError("this host keeps no checkpoints; ask host 0")

    def close(self) -> None:
        """Do nothing."""


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Keep other trainings out of a folder; the system lets go of it when the process ends."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise InputError(
            f"{folder.parent}: another training is writing there; wait for it or stop it, or name "
            "another --run-dir"
        ) from None
    except OSError:  # a file system without locks
        pass
    try:
        yield
    finally:
        os.close(handle)


def _arrays(state: Any) -> Any:
    """Return a state as nested dicts, without its Nones: older checkpoints lack their keys too."""
    return _pruned(flax.serialization.to_state_dict(state))


def _pruned(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    return {name: _pruned(part) for name, part in tree.items() if part is not None}


def _completed(tree: Any, like: Any) -> Any:
    """Put the Nones that `_arrays` left out back where `like` has them."""
    if not isinstance(like, dict):
        return tree
    return {
        name: None if part is None else _completed(tree[name], part) for name, part in like.items()
    }


@contextlib.contextmanager
def _unlogged() -> Iterator[None]:
    """Leave out what Orbax logs meanwhile."""
    logger, nothing = logging.getLogger("absl"), lambda record: False
    logger.addFilter(nothing)
    try:
        yield
    finally:
        logger.removeFilter(nothing)


def _write_sums(folder: Path) -> None:
    """Write the hashes of all files of a complete checkpoint beside them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{file_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    write_atomically(folder / SUMS, "".join(lines))


def _is_whole(folder: Path) -> bool:
    """Return whether all files of a checkpoint are as written; true where no hashes were kept."""
    sums = folder / SUMS
    if not sums.exists():  # of an older version, or the process was killed just before
        return True
    lines = (line.partition("  ") for line in sums.read_text("utf-8", "replace").splitlines())
    return all(
        (folder / name).is_file() and file_sha256(folder / name) == digest
        for digest, _, name in lines
    )


def _reserve(folder: Path, size: int) -> None:
    """Raise the operating system's error if `size` more bytes do not fit into `folder`.

    Orbax notices a full disk on threads that log their tracebacks.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):  # not on macOS
            os.posix_fallocate(file.fileno(), 0, size)


def _check_shapes(where: Path, wanted: Any, found: Any) -> None:
    """Refuse a checkpoint whose arrays are not those of this config."""
    wanted, found = (
        {jax.tree_util.keystr(path): tuple(leaf.shape) for path, leaf in leaves}
        for leaves, _ in map(jax.tree_util.tree_flatten_with_path, (wanted, found))
    )
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise InputError(
                f"{where}: {name} has shape {found.get(name)}, this config makes "
                f"{wanted.get(name)}; train with the run's own settings or name a new --run-dir"
            )


def _systems_error(error: Exception) -> OSError | None:
    """Return the operating system's error that made a save fail; None if none did.

    TensorStore tells of it in words, in errors of other kinds.
    """
    if isinstance(error, OSError):
        return error
    told = re.search(r"(?:os_error_code='|OS error )(\d+)", str(error))
    return OSError(int(told[1]), os.strerror(int(told[1]))) if told else None


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
