"""A reader of pickles that hold nothing but arrays: no pickle is ever read here in another way."""

import os
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

from egs_jax.runtime.errors import InputError


def restricted_unpickle(path: str | os.PathLike) -> Any:
    """Read a pickle of nested plain containers and numeric numpy arrays, and nothing else.

    A pickle may call any function it can name. Here the only names that resolve are the three that
    rebuild a numpy array; all else (builtins, os, classes, persistent ids) is refused before
    anything runs.

    Args:
      path: A pickle file, such as the LPIPS weights.

    Returns:
      What was pickled: dicts, lists, tuples, strings, numbers, `numpy.ndarray` of numbers.

    Raises:
      InputError: if the file is no pickle, or names anything but array parts.
    """
    try:
        with open(path, "rb") as stream:
            return _ArrayUnpickler(stream).load()
    except InputError as refused:
        raise InputError(f"{path}: {refused}") from None
    except Exception as why:  # a damaged pickle may raise nearly anything
        raise InputError(f"{path}: not a readable pickle of arrays ({why}); fetch it anew") from why


def _empty_array(kind: type, shape: tuple[int, ...], _code: bytes) -> np.ndarray:
    """Stand in for numpy's `_reconstruct`: an empty array that the pickle then fills."""
    if kind is not np.ndarray or shape != (0,):
        raise InputError("the pickle builds something other than a plain array; do not use it")
    return np.ndarray(shape, np.int8)


def _numeric_dtype(code: str, *flags: Any) -> np.dtype:
    """Stand in for `numpy.dtype`: numbers only, since an object array could hold anything."""
    dtype = np.dtype(code, *flags)
    if dtype.kind not in "biufc":
        raise InputError(
            f"the pickle holds an array of type {dtype}, not of numbers; do not use it"
        )
    return dtype


class _ArrayUnpickler(pickle.Unpickler):
    """A pickle reader that can name the parts of a numpy array and nothing else."""

    _ALLOWED: dict[tuple[str, str], Callable] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): _numeric_dtype,
        ("numpy.core.multiarray", "_reconstruct"): _empty_array,
        ("numpy._core.multiarray", "_reconstruct"): _empty_array,
    }

    def find_class(self, module: str, name: str) -> Callable:
        """Return the stand-in for an allowed name; refuse every other name."""
        if (module, name) not in self._ALLOWED:
            raise InputError(f"the pickle asks for {module}.{name}; do not use it")
        return self._ALLOWED[module, name]
