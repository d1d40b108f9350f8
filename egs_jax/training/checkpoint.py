"""Training states on disk by Orbax (a save that was cut off is never seen), and their hash."""

import concurrent.futures
import functools
import hashlib
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, TypeVar

import flax.serialization
import jax
import numpy as np
import orbax.checkpoint as ocp

from egs_jax.runtime.errors import MAY_NOT_READ, InputError

State = TypeVar("State")
FOLDER = "checkpoints"
"""Of a run folder."""
# Orbax tells every step of every save, and every error twice besides raising it.
logging.getLogger("absl").setLevel(logging.CRITICAL)


class Checkpoints:
    """The `checkpoints/` folder of a run: at most `keep` complete states, named by their step."""

    def __init__(self, run_dir: Path, keep: int = 2, *, read_only: bool = False):
        """Open the folder; with `read_only`, touch nothing (a training may be writing there)."""
        _hush_late_threads()
        self._writer = concurrent.futures.ThreadPoolExecutor(1)
        self._saving: concurrent.futures.Future | None = None
        self.folder = Path(run_dir).resolve() / FOLDER
        several, way = jax.process_count() > 1, ocp.options.MultiprocessingOptions()
        if several:  # host 0 alone writes, and Orbax is not to wait for the others
            self.folder.mkdir(parents=True, exist_ok=True)
            way = ocp.options.MultiprocessingOptions(active_processes={0})
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None if read_only else keep,
            create=not (read_only or several),
            cleanup_tmp_directories=not read_only,
            enable_async_checkpointing=False,
            read_only=read_only,
            multiprocessing_options=way,
        )
        handler = ocp.StandardCheckpointHandler(multiprocessing_options=way)
        self._manager = ocp.CheckpointManager(self.folder, item_handlers=handler, options=options)

    def save(self, step: int, state: Any) -> None:
        """Copy `state` to the host and write it in the background, after the save before it.

        A crash meanwhile loses this checkpoint only.

        Raises:
          OSError: if the save before it failed (see `wait`).
        """
        self.wait()
        tree = jax.device_get(flax.serialization.to_state_dict(state))
        self._saving = self._writer.submit(self._write, step, tree)

    def wait(self) -> None:
        """Return when a crash cannot lose the last save.

        Raises:
          OSError: if the disk is full or read-only; earlier checkpoints are untouched.
        """
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def _write(self, step: int, tree: Any) -> None:
        try:
            _reserve(self.folder, sum(leaf.nbytes for leaf in jax.tree.leaves(tree)))
            self._manager.save(step, args=ocp.args.StandardSave(tree))
            self._manager.wait_until_finished()
        except Exception as error:  # Orbax wraps the operating system's error in its own kinds
            raise OSError(
                f"{self.folder}: could not save step {step} ({_first_line(error)}); earlier "
                "checkpoints are untouched: make room and run the same command again"
            ) from error

    def latest(self) -> int | None:
        """The newest complete step, or None."""
        self.wait()
        return self._manager.latest_step()

    def load(self, abstract: State, step: int | None = None) -> State:
        """Read the state of `step` (default: the newest) into the structure of `abstract`.

        Raises:
          InputError: if there is none, it is damaged, or it is of another shape.
        """
        self.wait()
        step = self._manager.latest_step() if step is None else step
        if step is None:
            raise InputError(f"{self.folder}: no checkpoint; train this run first")
        wanted = jax.tree.map(
            lambda leaf: np.zeros(leaf.shape, leaf.dtype),
            flax.serialization.to_state_dict(abstract),
        )
        try:
            _check_shapes(self.folder / str(step), wanted, self._manager.item_metadata(step).tree)
            tree = self._manager.restore(step, args=ocp.args.StandardRestore(wanted))
        except InputError:
            raise
        except Exception as error:  # damaged files surface as many kinds of error
            where, cause = self.folder / str(step), _first_line(error)
            if "permission denied" in str(error).lower():
                raise InputError(f"{where}: {MAY_NOT_READ}") from error
            raise InputError(
                f"{where}: unreadable ({cause}); delete this folder to go on from the checkpoint "
                "before it"
            ) from error
        return flax.serialization.from_state_dict(abstract, jax.tree.map(jax.numpy.asarray, tree))

    def close(self) -> None:
        """Release the folder; a save that is being written is finished first."""
        self._writer.shutdown()
        self._manager.close()


def state_sha256(state: Any) -> str:
    """SHA-256 over the leaves in path order: path, dtype, shape, bytes."""
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


@functools.cache
def _hush_late_threads() -> None:
    """Let what outlives a failed call of Orbax, which is reported, end without a word.

    That are threads, and reads of other arrays that failed when nobody waited for them any more.
    """
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    def is_news(record: logging.LogRecord) -> bool:
        error = record.exc_info and record.exc_info[1]
        late = "exception was never retrieved" in record.getMessage()  # of a task or a future
        return not (late and f"{os.sep}{FOLDER}{os.sep}" in str(error))

    sys.unraisablehook = hook
    logging.getLogger("asyncio").addFilter(is_news)


def _reserve(folder: Path, size: int) -> None:
    """Raise the operating system's error if `size` more bytes do not fit into `folder`.

    Orbax notices a full disk on threads that fill the terminal with their tracebacks.
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


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
