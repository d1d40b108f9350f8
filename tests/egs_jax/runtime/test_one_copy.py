"""Arrays of any shapes come out of one as they went in, at the host and in a program."""

import concurrent.futures
import functools

import jax
import jax.numpy as jnp
import numpy as np

from egs_jax.runtime import one_copy
from egs_jax.runtime.one_copy import landed, packed, release, staged, told_of, unpacked


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


def test_page_locked_rows_are_written_again_when_their_program_has_ended(monkeypatch):
    monkeypatch.setattr(one_copy, "_stages", lambda: True)  # a CPU has such memory by name
    one_copy._FREE.clear()
    doubled = jax.jit(lambda rows: landed(rows) * 2)

    def check(number):
        tree = np.full((2, 3), number, np.float32), np.array([number, 7])
        held = staged(tree)
        found = np.asarray(doubled(held.rows))
        np.testing.assert_array_equal(found, 2 * packed(tree))
        release(held)
        return held

    first = check(1)
    assert first.rows.sharding.memory_kind == "pinned_host"
    assert check(2) is first  # nobody else needed rows meanwhile
    held = staged((np.zeros((2, 3)), np.zeros(2)))
    assert held is first and check(3) is not first
    release(held)
    assert staged(np.zeros((2, 4), np.uint8), np.uint8).memory.dtype == np.uint8
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(check, range(200)))
    one_copy._FREE.clear()


def test_rows_are_numpy_s_where_nothing_is_gained():
    held = staged(np.ones((1, 2), np.float32))
    assert isinstance(held.rows, np.ndarray) and held.memory is None
    release(held)
    np.testing.assert_array_equal(landed(held.rows), held.rows)
