"""Arrays of any shapes come out of one as they went in, at the host and in a program."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from egs_jax.runtime.one_copy import packed, told_of, unpacked


def test_arrays_come_out_as_they_went_in():
    rng = np.random.default_rng(0)
    tree = {
        "a": rng.normal(size=(3, 4, 2)).astype(np.float32),
        "b": (np.arange(3), None, rng.integers(0, 2**24, (3, 5))),  # float32 holds all of them
        "none": np.zeros((3, 0), np.float32),
    }
    told, rows = told_of(tree), packed(tree)
    assert rows.shape == (3, 8 + 1 + 5) and rows.dtype == np.float32
    again = functools.partial(jax.jit, static_argnums=0)(
        lambda told, rows: packed(unpacked(told, rows), jnp)
    )
    for each in (rows, np.asarray(again(told, rows))):
        found = unpacked(told, each)
        assert jax.tree.structure(found) == jax.tree.structure(tree)
        jax.tree.map(np.testing.assert_array_equal, found, tree)
        np.testing.assert_array_equal(unpacked(told, each[1:])["a"], tree["a"][1:])
