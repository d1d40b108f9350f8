"""Windows of several speeches go through programs of few sizes; each gets its own rows."""

import numpy as np
import pytest

from egs_jax.runtime.programs import padded_count, padded_counts
from egs_jax.speech.window_rows import Window, encode_windows


@pytest.mark.parametrize("count", [0, 1, 3, 5, 14])
def test_windows_fill_the_smallest_program_that_takes_them(count):
    called = []

    def program(samples):
        called.append(len(samples))
        return np.repeat(samples[:, None, :1], 3, axis=1)

    windows = [Window(np.full(4, k, np.float32), np.ones(2, np.float32)) for k in range(count)]
    found = encode_windows(program, windows, at_once=10)
    assert called == {0: [], 1: [1], 3: [4], 5: [16], 14: [16, 4]}[count]
    assert [rows.tolist() for rows in found] == [[[k]] * 3 for k in range(count)]


def test_every_count_has_a_program_among_those_that_are_compiled():
    assert padded_counts(1) == [1] and padded_counts(4) == [1, 4]
    assert padded_counts(64) == [1, 4, 16, 64] == padded_counts(17)
    assert all(count <= padded_count(count) < 4 * count for count in range(1, 65))
