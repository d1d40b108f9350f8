"""Batches cut on the device are those cut on the host, bit for bit."""

import dataclasses

import chex
import jax
import numpy as np
import pytest
from helpers import micro_config

from egs_jax.data.dataset import Dataset
from egs_jax.training import frames_on_device as resident
from egs_jax.training import parallel
from egs_jax.training.frames_on_device import DeviceDataset, batch_source


@pytest.mark.parametrize(("size", "lips"), [(None, "fitted"), (32, "fitted"), (None, "learned")])
def test_batches_are_those_of_the_host(painted, size, lips):
    config = dataclasses.replace(micro_config(painted), size=size, frames_on="device")
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, lips=lips))
    data = Dataset.open(painted, size)
    source = batch_source(config, data)
    for step in (0, 19, 20, 21, 37):
        got, want = source.batch(config, step), data.batch(config, step)
        assert got.stage == want.stage
        assert (got.drive.lips is None) == (lips == "learned")
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(got))
        chex.assert_trees_all_equal(got, want)


def test_only_training_frames_are_kept_and_any_split_will_do(painted):
    config, data = micro_config(painted), Dataset.open(painted)
    data.splits = {"train": (7, 19), "val": (0, 7)}
    source = DeviceDataset(data, fits_lips=config.model.fits_lips)
    assert source.footage.targets.shape[0] == 12
    for step in (3, 25):
        jax.tree.map(
            np.testing.assert_array_equal, source.batch(config, step), data.batch(config, step)
        )
    batch = source.batch(config, 3)
    assert parallel.Splitter(config)(batch).targets is batch.targets


@pytest.mark.parametrize(("body", "bytes_a_pixel"), [("person", 4), ("head", 7)])
def test_a_gpu_with_room_keeps_the_clip_and_the_config_decides(
    painted, monkeypatch, body, bytes_a_pixel
):
    config, data = micro_config(painted), Dataset.open(painted, body=body)
    start, stop = data.splits["train"]
    needed = (stop - start) * data.width * data.height * bytes_a_pixel

    class Device:
        def __init__(self, platform, room):
            self.platform, self.room = platform, room

        def memory_stats(self):
            return self.room and {"bytes_limit": self.room}

    kinds = {("cpu", None): Dataset, ("gpu", 2 * needed + 1): DeviceDataset,
             ("gpu", 2 * needed): Dataset, ("tpu", 10 * needed): DeviceDataset}  # fmt: skip
    for (platform, room), kind in kinds.items():
        monkeypatch.setattr(
            resident.jax, "local_devices", lambda p=platform, r=room: [Device(p, r)]
        )
        assert type(batch_source(config, data)) is kind, (platform, room)
        for where, other in (("host", Dataset), ("device", DeviceDataset)):
            told = dataclasses.replace(config, frames_on=where)
            assert type(batch_source(told, data)) is other
