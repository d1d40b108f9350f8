"""Pickles of arrays are read, and nothing in one is ever run."""

import os
import pickle

import numpy as np
import pytest

from egs_jax.runtime import array_pickle
from egs_jax.runtime.errors import InputError


def test_restricted_unpickle_reads_arrays(tmp_path):
    tree = {"a": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}, "b": [np.int32([1])]}
    path = tmp_path / "weights.ckpt"
    path.write_bytes(pickle.dumps(tree, protocol=3))
    read = array_pickle.restricted_unpickle(path)
    np.testing.assert_array_equal(read["a"]["kernel"], tree["a"]["kernel"])
    assert read["a"]["kernel"].dtype == np.float32
    np.testing.assert_array_equal(read["b"][0], [1])


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.parts = (function, arguments)

    def __reduce__(self):
        return self.parts


def test_restricted_unpickle_refuses_code(tmp_path):
    path, trace = tmp_path / "evil.ckpt", tmp_path / "trace"
    evil = [
        Call(os.mkdir, str(trace)),
        Call(eval, f"__import__('os').mkdir({str(trace)!r})"),
        Call(getattr, "text", "upper"),
        Call(np.load, str(path)),
        {"a": np.array([Call(os.mkdir, str(trace))], dtype=object)},
        np.array(["text"]),
    ]
    for thing in evil:
        path.write_bytes(pickle.dumps(thing, protocol=3))
        with pytest.raises(InputError, match="do not use it"):
            array_pickle.restricted_unpickle(path)
    assert not trace.exists()
    for junk in (b"", b"junk", pickle.dumps({"a": np.ones(9)}, protocol=3)[:-20]):
        path.write_bytes(junk)
        with pytest.raises(InputError, match="not a readable pickle"):
            array_pickle.restricted_unpickle(path)
