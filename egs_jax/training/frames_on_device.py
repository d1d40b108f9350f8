"""The training frames in the device's memory: batches are cut there, and no step waits for a copy.

Before: `data`; after: `loop`. A minute of video at 512 px takes 2.8 GB. What does not fit, and
everything on a CPU, is cut on the host by `Dataset.batch`; the batches are the same.
"""

import concurrent.futures
import functools
from typing import Protocol

import jax
import numpy as np
from jaxtyping import Array, Int

from egs_jax.config import Config, Stage
from egs_jax.data.batches import Clip, DrawnFrames, Footage, cut_batch, host_part
from egs_jax.data.dataset import Dataset
from egs_jax.training import parallel
from egs_jax.types import Batch

PIECES = 32
"""Parts of a clip that threads read side by side."""


class BatchSource(Protocol):
    """Where training gets its batches."""

    def batch(self, config: Config, step: int) -> Batch:
        """Return this host's batch of `step`: a function of (config.seed, step) alone."""


def batch_source(config: Config, dataset: Dataset) -> BatchSource:
    """Put the dataset on the device unless it does not fit or the config says otherwise."""
    where = config.frames_on or ("device" if _fits(dataset) else "host")
    if where == "host":
        return dataset
    return DeviceDataset(dataset, config.devices, fits_lips=config.model.fits_lips)


class DeviceDataset:
    """The training frames of a dataset, at its size, on this host's devices."""

    def __init__(self, dataset: Dataset, devices: int = 1, *, fits_lips: bool):
        """Copy all of them to each; `fits_lips`: that of the configs that batches are cut for."""
        self._dataset, self._first = dataset, dataset.splits["train"][0]
        frames = np.array_split(np.arange(*dataset.splits["train"]), PIECES)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            parts = list(pool.map(dataset.footage, filter(len, frames)))
        whole = jax.tree.map(lambda *pieces: np.concatenate(pieces), *parts)
        shared, self._split = parallel.shardings(devices)
        self.footage, self._clip = jax.device_put((whole, dataset.clip_for(fits_lips)), shared)

    def batch(self, config: Config, step: int) -> Batch:
        """Do the same as `Dataset.batch` on the devices, each of which has its share."""
        packed = _pack(host_part(self._dataset.drawn_frames(config, step)))
        if self._split is not None:
            packed = jax.device_put(packed, self._split)
        return _cut(
            config.program, config.stage(step), config.has_perceptual(step), self._first,
            self._clip, self.footage, packed,
        )  # fmt: skip


def _pack(drawn: DrawnFrames) -> tuple[Int[np.ndarray, "B 2"], Int[np.ndarray, "M 3"]]:
    """Make two arrays of five: a copy of each to several devices takes the host 0.06 ms."""
    seen = np.stack([drawn.frames, drawn.silent], axis=1, dtype=np.int32, casting="unsafe")
    heard = [drawn.heard, drawn.hushed, drawn.lips]
    return seen, np.stack(heard, axis=1, dtype=np.int32, casting="unsafe")


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _cut(
    config: Config, stage: Stage, perceptual: bool, first: Array, clip: Clip, footage: Footage,
    packed: tuple[Int[Array, "B 2"], Int[Array, "M 3"]],
) -> Batch:  # fmt: skip
    (frames, silent), (heard, hushed, lips) = packed[0].T, packed[1].T
    drawn = DrawnFrames(frames, silent.astype(bool), heard, hushed.astype(bool), lips)
    seen = jax.tree.map(lambda pictures: pictures[frames - first], footage)
    return parallel.constrain_batch(config, cut_batch(config, stage, perceptual, clip, seen, drawn))


def _fits(dataset: Dataset) -> bool:
    """Return whether the training frames take less than half of a GPU's or TPU's memory."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    start, stop = dataset.splits["train"]
    bytes_a_pixel = 4 if dataset.body == "person" else 7  # target, mask, and a head's background
    size = (stop - start) * dataset.height * dataset.width * bytes_a_pixel
    return device.platform != "cpu" and 2 * size < stats.get("bytes_limit", 0)
