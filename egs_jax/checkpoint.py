"""Training states on disk by Orbax (a save that was cut off is never seen), and their hash."""

import hashlib
import logging
from pathlib import Path
from typing import Any, TypeVar

import flax.serialization
import jax
import numpy as np
import orbax.checkpoint as ocp

from egs_jax.errors import InputError

State = TypeVar("State")
logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax tells every step of every save


class Checkpoints:
    """The `checkpoints/` folder of a run: at most `keep` complete states, named by their step."""

    def __init__(self, run_dir: Path, keep: int = 2):
        self.folder = Path(run_dir).resolve() / "checkpoints"
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, cleanup_tmp_directories=True, enable_async_checkpointing=False
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def save(self, step: int, state: Any) -> None:
        """Write `state`; when this returns, a crash cannot lose it.

        Raises:
          OSError: if the disk is full or read-only; earlier checkpoints are untouched.
        """
        tree = jax.device_get(flax.serialization.to_state_dict(state))
        try:
            self._manager.save(step, args=ocp.args.StandardSave(tree))
            self._manager.wait_until_finished()
        except Exception as error:  # Orbax wraps the operating system's error in its own kinds
            raise OSError(
                f"{self.folder}: could not save step {step} ({_first_line(error)}); earlier "
                "checkpoints are untouched: make room and run the same command again"
            ) from error

    def latest(self) -> int | None:
        """The newest complete step, or None."""
        return self._manager.latest_step()

    def load(self, abstract: State, step: int | None = None) -> State:
        """Read the state of `step` (default: the newest) into the structure of `abstract`.

        Raises:
          InputError: if there is none, it is damaged, or it is of another shape.
        """
        step = self.latest() if step is None else step
        if step is None:
            raise InputError(f"{self.folder}: no checkpoint; train this run first")
        wanted = jax.tree.map(
            lambda leaf: np.zeros(leaf.shape, leaf.dtype),
            flax.serialization.to_state_dict(abstract),
        )
        try:
            tree = self._manager.restore(step, args=ocp.args.StandardRestore(wanted))
        except Exception as error:  # damaged files surface as many kinds of error
            raise InputError(
                f"{self.folder / str(step)}: unreadable ({_first_line(error)}); delete this folder "
                "to go on from the checkpoint before it"
            ) from error
        _check_shapes(self.folder / str(step), wanted, tree)
        return flax.serialization.from_state_dict(abstract, jax.tree.map(jax.numpy.asarray, tree))

    def close(self) -> None:
        """Release the folder."""
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


def _check_shapes(where: Path, wanted: Any, found: Any) -> None:
    for (path, want), (_, got) in zip(
        jax.tree_util.tree_flatten_with_path(wanted)[0],
        jax.tree_util.tree_flatten_with_path(found)[0],
        strict=True,
    ):
        if want.shape != got.shape:
            raise InputError(
                f"{where}: {jax.tree_util.keystr(path)} has shape {got.shape}, this config makes "
                f"{want.shape}; train with the run's own settings or name a new --run-dir"
            )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
