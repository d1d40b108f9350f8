"""Several devices share the frames of each step; parameters are the same on all of them.

Every device has the whole state, takes its share of the batch, and the gradients are averaged: the
mean over all frames. Density control sees sums over all frames and draws from one key, so that it
decides the same everywhere. The devices may be those of several `hosts`, as many of each: a host
cuts and holds what its own see. Before: `step`; after: `loop`.

What repeats bit for bit: a run on the same machine with the same number of devices. Another number
adds up the same gradients in another order (those of more frames where `Config.frames` had to be
rounded up), and draws other dropout and noise; more than two devices on another number of hosts add
up in another order.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int

import kernels
from egs_jax.config import Config, Stage
from egs_jax.runtime.device import check_memory
from egs_jax.runtime.errors import InputError
from egs_jax.training import hosts
from egs_jax.training import step as train
from egs_jax.training.perceptual import PerceptualParams, frozen_network
from egs_jax.training.state import TrainState
from egs_jax.types import Batch, Metrics
from kernels import dispatch

AXIS = "frames"
SHARED, SPLIT = PartitionSpec(), PartitionSpec(AXIS)


@functools.cache
def mesh_of(count: int) -> Mesh:
    """Return the first `count` devices; of several hosts as many of one as of another.

    Raises:
      InputError: if there are fewer, or the hosts cannot have as many each.
    """
    devices, processes = jax.devices(), jax.process_count()
    if count > len(devices):
        raise InputError(
            f"devices: got {count}, but JAX finds {len(devices)} ({devices[0].device_kind}); "
            "lower --devices, or install what lets JAX see the others"
        )
    if count % processes:
        raise InputError(
            f"devices: got {count}, expected a multiple of {processes}: --devices counts those of "
            "all hosts"
        )
    own = hosts.devices_by_host()
    return Mesh(np.array([each[: count // processes] for each in own]).reshape(-1), (AXIS,))


def check(config: Config) -> None:
    """Refuse devices that there are not, are in use, or cannot share or draw as they are told to.

    Of several hosts each looks at its own devices; where one refuses, the others wait for it until
    JAX ends them.

    Raises:
      InputError: says which.
    """
    mesh = mesh_of(config.devices)
    reason = config.rasterizer == "triton" and dispatch.why_not()
    if reason:
        raise InputError(f"rasterizer: got triton, which cannot run here: {reason}; leave it out")
    if jax.process_count() > 1 and config.parallel == "pmap":
        raise InputError("parallel: got pmap, which works on one host; leave it out with --hosts")
    for device in mesh.local_mesh.devices.flat:
        check_memory(device)


def shardings(count: int) -> tuple[NamedSharding | None, NamedSharding | None]:
    """Return this host's placements of arrays.

    Of one device both are None, for the default: as arrays lie that nobody placed, so that the same
    programs take them.

    Returns:
      The placement of an array that all devices have, and of one whose frames they share.
    """
    if count == 1:
        return None, None
    return _local_place(mesh_of(count), SHARED), _local_place(mesh_of(count), SPLIT)


def constrain_batch(config: Config, batch: Batch) -> Batch:
    """Place each leaf of a batch where a step wants it, inside a jitted function."""
    if config.devices == 1:
        return batch
    mesh = mesh_of(config.devices)
    return jax.tree.map(
        lambda leaf, spec: jax.lax.with_sharding_constraint(leaf, _local_place(mesh, spec)),
        batch, _specs(batch),
    )  # fmt: skip


def replicate(config: Config, state: TrainState) -> TrainState:
    """Copy a state, host 0's if there are several, to all devices of a run."""
    if config.devices == 1:
        return jax.device_put(state)
    mesh = mesh_of(config.devices)
    return jax.tree.map(lambda leaf: _put(mesh, leaf, SHARED), hosts.of_first(state))


def abstract_replicated(config: Config, state: TrainState) -> TrainState:
    """Return shapes of a state, with the places that `replicate` gives it."""
    if config.devices == 1:
        return state
    place = NamedSharding(mesh_of(config.devices), SHARED)
    there = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)
    return jax.tree.map(there, state)


@functools.cache
def _local_place(mesh: Mesh, spec: PartitionSpec) -> NamedSharding:
    """Return a placement on this host's devices; kept, since to make one takes time."""
    return NamedSharding(mesh.local_mesh, spec)


def _put(mesh: Mesh, leaf: Array | np.ndarray, spec: PartitionSpec) -> Array:
    """Make an array on all devices of which each host has the part of its own."""
    place = _local_place(mesh, spec)
    own = leaf if getattr(leaf, "sharding", None) == place else jax.device_put(leaf, place)
    if not mesh.is_multi_process:
        return own
    shape = own.shape
    if spec == SPLIT:
        shape = (shape[0] * jax.process_count(), *shape[1:])
    parts = [shard.data for shard in own.addressable_shards]
    return jax.make_array_from_single_device_arrays(shape, NamedSharding(mesh, spec), parts)


class Splitter:
    """Puts the frames of this host's batch on its devices.

    What lies there already is passed on: to ask JAX to put forty arrays where they are takes the
    host 0.5 ms a step, 3 for four devices (measured on a CPU).
    """

    def __init__(self, config: Config):
        """Take the devices of a run."""
        self._mesh = mesh_of(config.devices) if config.devices > 1 else None

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch of all hosts, on their devices."""
        return jax.tree.map(self._place, batch, _specs(batch))

    def _place(self, leaf: Array | np.ndarray, spec: PartitionSpec) -> Array:
        if self._mesh is None:
            return leaf if isinstance(leaf, Array) else jax.device_put(leaf)
        return _put(self._mesh, leaf, spec)


def train_step(config: Config, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    """Do `train.train_step` on `config.devices` devices; arguments and results are those of one."""
    if config.devices == 1:
        return train.train_step(config, state, batch)
    program = _pmapped if config.parallel == "pmap" else _mapped(config.devices)
    return program(*step_arguments(config, state, batch))


def compile_kernels(config: Config, state: TrainState, batch: Batch) -> None:
    """Have the Triton kernels of `train_step` (not by pmap) compiled faster than its first call."""
    if config.devices == 1 or config.parallel == "shard_map":
        program, arguments = step_program(config, state, batch)
        kernels.compile_kernels(program, *arguments)


def step_program(
    config: Config, state: TrainState, batch: Batch
) -> tuple[Callable[..., tuple[TrainState, Metrics]], tuple[Any, ...]]:
    """Return the jitted program that `train_step` calls (not by pmap), and its arguments.

    The state may be one of shapes: they are enough to compile the program.
    """
    if config.devices == 1:
        return train.jitted_step, train.step_arguments(config, state, batch)
    return _mapped(config.devices), step_arguments(config, state, batch)


def step_arguments(config: Config, state: TrainState, batch: Batch) -> tuple[Any, ...]:
    """Do `train.step_arguments`; the frozen network lies on all devices."""
    frozen = frozen_copies(config.devices) if batch.perceptual else None
    return config.program, train.seed_of(config), state, batch, frozen


@functools.cache
def frozen_copies(count: int) -> PerceptualParams:
    """Copy the perceptual network to the devices of a run, once."""
    mesh = mesh_of(count)
    return jax.tree.map(lambda leaf: _put(mesh, leaf, SHARED), frozen_network())


@functools.cache
def _mapped(count: int) -> Callable[..., tuple[TrainState, Metrics]]:
    mesh = mesh_of(count)

    def step(
        config: Config, seed: Array, state: TrainState, batch: Batch,
        frozen: PerceptualParams | None,
    ) -> tuple[TrainState, Metrics]:  # fmt: skip
        # Without the check of what varies over the mesh, a gradient with respect to what all
        # devices share is that of the device's own frames; with it, it would be summed already.
        part = jax.shard_map(
            functools.partial(train.step, config, axis=AXIS), mesh=mesh,
            in_specs=(SHARED, SHARED, _specs(batch), SHARED), out_specs=(SHARED, SHARED),
            check_vma=False,
        )  # fmt: skip
        return part(seed, state, batch, frozen)

    return jax.jit(step, static_argnums=0, donate_argnums=2)


def _pmapped(
    config: Config, seed: Array, state: TrainState, batch: Batch,
    frozen: PerceptualParams | None,
) -> tuple[TrainState, Metrics]:  # fmt: skip
    specs, count = _specs(batch), config.devices

    def apart(leaf: Array, spec: PartitionSpec) -> Array:
        if spec == SHARED:
            return leaf
        return leaf.reshape(count, leaf.shape[0] // count, *leaf.shape[1:])

    program = _pmap(config, batch.stage, batch.perceptual)
    return program(seed, state, jax.tree.map(apart, batch, specs), frozen)


@functools.cache
def _pmap(
    config: Config, stage: Stage, perceptual: bool
) -> Callable[..., tuple[TrainState, Metrics]]:
    axes = Batch(
        drive=0, targets=0, masks=0, lips_rects=0, eyes_rects=0, entries=0, entry_noise=None,
        lip_shapes=0, stage=stage, perceptual=perceptual,
    )  # fmt: skip
    return jax.pmap(
        functools.partial(train.step, config, axis=AXIS), axis_name=AXIS,
        in_axes=(None, None, axes, None), out_axes=None, devices=jax.devices()[: config.devices],
    )  # fmt: skip


def _specs(batch: Batch) -> Batch:
    """Say for every leaf of a batch whether its frames are split, or all devices have it."""
    return jax.tree.map(lambda _: SPLIT, batch).replace(entry_noise=SHARED)


def difference(config: Config, state: TrainState) -> Int[Array, ""]:
    """Return 0 if the devices' copies of a state have the same bits."""
    if config.devices == 1:
        return jnp.int32(0)
    return _difference(config.devices)(state)


@functools.cache
def _difference(count: int) -> Callable[[TrainState], Int[Array, ""]]:
    def compare(state: TrainState) -> Int[Array, ""]:
        sums = jnp.stack([_checksum(leaf) for leaf in jax.tree.leaves(state)])
        gap = jax.lax.pmax(sums, AXIS) != jax.lax.pmin(sums, AXIS)
        return jnp.sum(gap, dtype=jnp.int32)

    return jax.jit(
        jax.shard_map(
            compare, mesh=mesh_of(count), in_specs=SHARED, out_specs=SHARED, check_vma=False
        )
    )


def _checksum(leaf: Array) -> Int[Array, ""]:
    """Sum up the bits, taken as numbers weighed by their place, modulo 2^32."""
    if leaf.dtype == bool:
        leaf = leaf.astype(jnp.int32)
    bits = jax.lax.bitcast_convert_type(leaf, jnp.int32).reshape(-1)
    return jnp.sum(bits * (2 * jnp.arange(bits.size, dtype=jnp.int32) + 1))
