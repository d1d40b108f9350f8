"""Tiles of a frame: where their instances lie, and in which order they are blended."""

import importlib.util

import jax.numpy as jnp
import numpy as np
import pytest
from jax import ShapeDtypeStruct

from kernels import launch

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed (Linux only)"
)


def bounds_of(counts, block, size=16):
    """The kernel's results for the instances of each tile, [B, T]."""
    from kernels.rasterize.triton import binning_kernels, list_kernels

    n_frames, n_tiles = counts.shape
    n_runs = int(counts.sum(axis=1).max()) // size + n_tiles
    apart = np.zeros((*counts.shape, binning_kernels.APART.value), np.int32)
    apart[..., 0] = counts
    apart[..., 1:] = 7  # nobody's
    shapes = (n_frames, n_tiles + 1), (n_frames, n_runs, 2), (n_frames,), counts.shape
    outputs = tuple(ShapeDtypeStruct(shape, jnp.int32) for shape in shapes)
    results = launch.triton_call(
        list_kernels.bounds_kernel, jnp.asarray(apart), outputs=outputs, grid=n_frames,
        TILES=n_tiles, RUNS=n_runs, SIZE=size, BLOCK=block,
    )  # fmt: skip
    return [np.asarray(value) for value in results]


@pytest.mark.parametrize("tiles, block", [(60, 64), (150, 64), (1, 16)])
def test_every_tile_has_a_turn_and_the_longest_come_first(tiles, block):
    rng = np.random.default_rng(tiles)
    counts = rng.integers(0, 900, (3, tiles)).astype(np.int32)
    counts[1] = 0  # nothing is seen
    counts[2] = counts[2].max()  # all alike
    *_, turns = bounds_of(counts, block)
    for own, order in zip(counts, turns, strict=True):
        assert sorted(order) == list(range(tiles))
        classes = np.minimum(4 * own[order].astype(int) // (own.max() + 1), 3)
        assert np.all(np.diff(classes) <= 0)
        same = np.diff(classes) == 0
        assert np.all(np.diff(order)[same] > 0)


def test_instances_and_runs_of_tiles():
    counts = np.random.default_rng(0).integers(0, 70, (2, 40)).astype(np.int32)
    bounds, runs, run_counts, _ = bounds_of(counts, block=16)
    np.testing.assert_array_equal(bounds[:, 1:], counts.cumsum(axis=1))
    np.testing.assert_array_equal(bounds[:, 0], 0)
    for own, pairs, count in zip(counts, runs, run_counts, strict=True):
        wanted = [(t, i) for t, n in enumerate(own) for i in range(max(-(-n // 16), 1))]
        assert pairs[:count].tolist() == [list(pair) for pair in wanted]
