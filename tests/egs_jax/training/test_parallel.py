"""Four virtual devices of a CPU do what one does, whichever way they share the frames."""

import dataclasses
import json
import pathlib
import subprocess
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import micro_config, python

from egs_jax.config import Config, ScheduleConfig
from egs_jax.data.dataset import Dataset
from egs_jax.runtime.errors import InputError
from egs_jax.training import parallel
from egs_jax.training.loop import fit

TESTS = pathlib.Path(__file__).parents[2]
PROGRAM = '''
import dataclasses, json, sys
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")
sys.path.insert(0, sys.argv[2])
import kernels
from helpers import micro_config
from egs_jax.training import parallel
from egs_jax.training import step as train
from egs_jax.data.dataset import Dataset
from egs_jax.training.frames_on_device import ResidentDataset

# Without dropout and noise, of which devices draw their own.
config = micro_config(sys.argv[1])
config = dataclasses.replace(
    config,
    model=dataclasses.replace(config.model, dropout=0.0),
    loss=dataclasses.replace(config.loss, hearing_noise=0.0),
    schedule=dataclasses.replace(config.schedule, batch=4, static_batch=4),
)
data = Dataset.open(sys.argv[1])

def one_step(config, source):
    """State; losses, gradients (ten times Adam's first moment) and statistics, after a step."""
    state = parallel.share(config, train.init_state(config, data))
    splitter = parallel.Splitter(config)
    state, metrics = parallel.train_step(config, state, splitter(source.batch(config, 0)))
    moments = {name: part.mu for name, part in state.opt_state.items()}
    return state, jax.tree.map(np.float64, (metrics, moments, state.stats))

# On a CPU there are none; what it needs of a program is its trace.
kernels.compile_kernels = lambda program, *arguments: program.trace(*arguments)
traces, original = [], train.step
train.step = lambda *a, **k: traces.append(1) or original(*a, **k)
_, want = one_step(config, data)
whole = max(np.linalg.norm(leaf) for leaf in jax.tree.leaves(want[1]))
report = {}
for way in ("pmap", "shard_map"):
    several = dataclasses.replace(config, devices=4, parallel=way)
    source = ResidentDataset(data, 4) if way == "shard_map" else data
    traces.clear()
    shapes = parallel.abstract(several, train.abstract_state(several, data.audio_dim))
    split = parallel.Splitter(several)(source.batch(several, 0))
    parallel.compile_kernels(several, shapes, split)
    state, got = one_step(several, source)
    traced = len(traces)
    traces.clear()
    batch = source.batch(several, 1)
    split = parallel.Splitter(several)(batch)
    # What is cut on the devices stays where it lies.
    passed_on = all(a is b for a, b in zip(jax.tree.leaves(split), jax.tree.leaves(batch)))
    parallel.train_step(several, state, split)
    traced_again = len(traces)
    state, _ = one_step(several, source)
    # Some gradients are zero but for rounding.
    errors = jax.tree.map(
        lambda a, b: np.linalg.norm(a - b) / (np.linalg.norm(b) + 1e-5 * whole), got, want
    )
    differ = int(parallel.difference(several, state))
    report[way] = max(jax.tree.leaves(errors)), differ, traced, traced_again, passed_on

# The frozen network is copied once, and goes with the steps that use it.
parallel.frozen_network = lambda: jnp.arange(6.0)
batches = [data.batch(config, 1).replace(perceptual=flag) for flag in (True, False, True)]
copies = [parallel.step_arguments(several, state, batch)[4] for batch in batches]
report["weights"] = len(copies[0].addressable_shards), copies[0] is copies[2], copies[1] is None

means = state.params["gaussians"].means
copies = [np.array(shard.data) for shard in means.addressable_shards]
copies[2].view(np.int32)[0, 0] ^= 1
parts = [jax.device_put(v, d) for v, d in zip(copies, jax.devices())]
means = jax.make_array_from_single_device_arrays(means.shape, means.sharding, parts)
gaussians = state.params["gaussians"].replace(means=means)
state = state.replace(params=state.params | dict(gaussians=gaussians))
report["one bit off"] = int(parallel.difference(several, state))
print(json.dumps(report))
'''


@pytest.mark.xdist_group("trained_run")  # not last, when the other process has nothing to do
def test_gradients_and_losses_are_those_of_one_device(painted):
    """In a process of its own, which has four; of the static stage, which compiles sooner."""
    command, environment = python("-c", PROGRAM, str(painted), str(TESTS))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    for way in ("pmap", "shard_map"):
        error, differ, traced, traced_again, passed_on = report[way]
        assert error < 1e-4 and differ == traced_again == 0, (way, report)
        assert traced == 1  # that of its shapes, before there is a state
        assert passed_on == (way == "shard_map")
    assert report["one bit off"] == 1
    assert report["weights"] == [4, True, True]


def test_more_devices_than_there_are_is_one_line(painted, tmp_path):
    schedule = dataclasses.replace(micro_config(painted).schedule, batch=64, static_batch=64)
    config = dataclasses.replace(micro_config(painted), devices=64, schedule=schedule)
    with pytest.raises(InputError, match="devices: got 64, but JAX finds 1 .*; lower --devices"):
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
    with pytest.raises(InputError, match="JAX got 90 of the 100 GiB that .* on cuda:1: another"):
        fit(config, data, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    parallel.check(dataclasses.replace(config, devices=1))  # where it does no harm
    finds(free, Device("cuda:4", None))
    with pytest.raises(InputError, match="JAX got no memory on cuda:4"):
        parallel.check(config)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # when JAX takes what it needs
    finds(held)
    parallel.check(config)
