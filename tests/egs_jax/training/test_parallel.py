"""Four virtual devices of a CPU do what one does, whichever way they share the frames."""

import dataclasses
import functools
from types import SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import fill_shapes, micro_config

import kernels
from egs_jax.config import Config, ScheduleConfig
from egs_jax.data.dataset import Dataset
from egs_jax.model import forward as model
from egs_jax.runtime.device import check_memory
from egs_jax.runtime.errors import InputError
from egs_jax.training import parallel
from egs_jax.training import step as train
from egs_jax.training.frames_on_device import DeviceDataset
from egs_jax.training.loop import fit

# Networks that compile soonest, without dropout and noise, of which devices draw their own.
PLAIN = {"decoder": "mlp", "token_kan": "mlp", "hash_levels": 1, "dropout": 0.0}


@pytest.fixture(scope="module")
def config(painted):
    config = micro_config(painted)
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, **PLAIN),
        loss=dataclasses.replace(config.loss, hearing_noise=0.0),
        schedule=dataclasses.replace(config.schedule, batch=4, static_batch=4),
    )


@pytest.fixture(scope="module")
def data(painted):
    return Dataset.open(painted)


@pytest.fixture(scope="module", autouse=True)
def networks_drawn_by_numpy():
    """Their start compiles for ten seconds, and no test here is about it."""

    def drawn(*arguments):
        init = functools.partial(model.init_networks, arguments[0], audio_dim=arguments[2])
        shapes = jax.eval_shape(init, arguments[1])
        return jax.tree.map(lambda value: 0.3 * np.asarray(value), fill_shapes(shapes))

    with mock.patch.object(train, "_init_networks", drawn):
        yield


def one_step(config, data, source):
    """State; losses, gradients (ten times Adam's first moment) and statistics, after a step."""
    state = parallel.replicate(config, train.init_state(config, data))
    splitter = parallel.Splitter(config)
    state, metrics = parallel.train_step(config, state, splitter(source.batch(config, 0)))
    moments = {name: part.mu for name, part in state.opt_state.items()}
    return state, jax.tree.map(np.float64, (metrics, moments, state.stats))


@pytest.fixture(scope="module")
def on_one_device(config, data):
    return one_step(config, data, data)[1]


@pytest.mark.parametrize("way", [pytest.param("pmap", marks=pytest.mark.slow), "shard_map"])
def test_gradients_and_losses_are_those_of_one_device(
    config, data, on_one_device, monkeypatch, way
):
    """After a step of the static stage, which compiles sooner."""
    # On a CPU there are no kernels; what it needs of a program is its trace.
    monkeypatch.setattr(kernels, "compile_kernels", lambda program, *a: program.trace(*a))
    traced = mock.Mock(wraps=train.step)
    monkeypatch.setattr(train, "step", traced)
    several = dataclasses.replace(config, devices=4, parallel=way)
    source = DeviceDataset(data, 4, fits_lips=True) if way == "shard_map" else data
    shapes = parallel.abstract_replicated(several, train.abstract_state(several, data.audio_dim))
    split = parallel.Splitter(several)(source.batch(several, 0))
    parallel.compile_kernels(several, shapes, split)
    state, got = one_step(several, data, source)
    assert traced.call_count == 1  # that of its shapes, before there is a state
    batch = source.batch(several, 1)
    split = parallel.Splitter(several)(batch)
    # What is cut on the devices stays where it lies.
    passed_on = all(
        a is b for a, b in zip(jax.tree.leaves(split), jax.tree.leaves(batch), strict=True)
    )
    assert passed_on == (way == "shard_map")
    state, _ = parallel.train_step(several, state, split)
    assert traced.call_count == 1
    # Some gradients are zero but for the rounding (1e-7) of those that they come from.
    whole = max(np.linalg.norm(leaf) for leaf in jax.tree.leaves(on_one_device[1]))
    error = lambda a, b: np.linalg.norm(a - b) / (np.linalg.norm(b) + 1e-3 * whole)
    assert max(jax.tree.leaves(jax.tree.map(error, got, on_one_device))) < 1e-3
    assert int(parallel.difference(several, state)) == 0
    assert int(parallel.difference(several, one_bit_off(state))) == 1


def one_bit_off(state):
    """The state with another last bit in the third device's copy of the means."""
    means = state.params["gaussians"].means
    copies = [np.array(shard.data) for shard in means.addressable_shards]
    copies[2].view(np.int32)[(0,) * copies[2].ndim] ^= 1
    parts = [jax.device_put(v, d) for v, d in zip(copies, jax.devices(), strict=True)]
    means = jax.make_array_from_single_device_arrays(means.shape, means.sharding, parts)
    gaussians = state.params["gaussians"].replace(means=means)
    return state.replace(params=state.params | {"gaussians": gaussians})


def test_the_frozen_network_is_copied_once_and_goes_with_the_steps_that_use_it(
    config, data, monkeypatch
):
    several = dataclasses.replace(config, devices=4)
    parallel.frozen_copies.cache_clear()
    monkeypatch.setattr(parallel, "frozen_network", lambda: jnp.arange(6.0))
    batches = [data.batch(config, 1).replace(perceptual=flag) for flag in (True, False, True)]
    copies = [parallel.step_arguments(several, None, batch)[4] for batch in batches]
    parallel.frozen_copies.cache_clear()
    assert len(copies[0].addressable_shards) == 4
    assert copies[0] is copies[2] and copies[1] is None


def test_more_devices_than_there_are_is_one_line(painted, tmp_path):
    schedule = dataclasses.replace(micro_config(painted).schedule, batch=64, static_batch=64)
    config = dataclasses.replace(micro_config(painted), devices=64, schedule=schedule)
    with pytest.raises(InputError, match="devices: got 64, but JAX finds 4 .*; lower --devices"):
        fit(config, Dataset.open(painted), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_every_device_has_as_many_frames():
    with pytest.raises(InputError, match="devices: got 3, expected a number that divides 64"):
        Config(devices=3)
    frames = lambda devices, **batches: [
        Config(devices=devices, schedule=ScheduleConfig(**batches)).frames(stage)
        for stage in ("static", "deform")
    ]
    assert frames(1) == [1, 8] and frames(4) == [4, 8] and frames(16) == [16, 16]
    assert frames(4, static_batch=6, batch=32) == [8, 32]


def test_a_gpu_that_another_process_holds_is_refused_before_anything_is_written(
    painted, tmp_path, monkeypatch
):
    class Device:
        def __init__(self, name, stats):
            self.name, self.stats = name, stats

        def memory_stats(self):
            if self.stats is None:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
            return self.stats

        def __repr__(self):
            return self.name

    def finds(*devices):
        mesh = SimpleNamespace(local_mesh=SimpleNamespace(devices=np.array(devices)))
        monkeypatch.setattr(parallel, "mesh_of", lambda count: mesh)

    monkeypatch.setattr(parallel.jax, "device_put", lambda value, device: jnp.asarray(value))
    monkeypatch.delenv("XLA_PYTHON_CLIENT_PREALLOCATE", raising=False)
    wanted = {"bytes_limit": 100 * 2**30}
    free = Device("cuda:0", wanted | {"pool_bytes": 100 * 2**30})
    held = Device("cuda:1", wanted | {"pool_bytes": 90 * 2**30 + 64})
    others = Device("TPU_2", wanted), Device("cpu:3", {})  # which say nothing of what they got
    config, data = micro_config(painted), Dataset.open(painted)
    config = dataclasses.replace(config, devices=4)
    finds(free, *others)
    parallel.check(config)
    finds(free, held, *others)
    with pytest.raises(InputError, match="JAX got 90.0 of the 100.0 GiB .* on cuda:1: another"):
        fit(config, data, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    finds(held)  # of one device too: the training would die of it later
    with pytest.raises(InputError, match="JAX got 90.0 of .* XLA_PYTHON_CLIENT_MEM_FRACTION"):
        parallel.check(dataclasses.replace(config, devices=1))
    check_memory(held, least=2)  # which an evaluation asks for
    with pytest.raises(InputError, match="JAX got 1.0 of the 100.0 GiB"):
        check_memory(Device("cuda:3", wanted | {"pool_bytes": 2**30}), least=2)
    finds(free, Device("cuda:4", None))
    with pytest.raises(InputError, match="JAX got no memory on cuda:4"):
        parallel.check(config)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # when JAX takes what it needs
    finds(held)
    parallel.check(config)
