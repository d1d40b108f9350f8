"""The training step: pure, jitted functions of (config, state, batch).

Before: `data`, `model`; after: `loop`, which runs them in a loop. The static stage learns the
canonical cloud; `hand_over` bakes it into parameters; the deformation stage learns how speech moves
it. What is compiled takes `config.program` as static and the seed as an argument, so that runs
that differ in the seed share their programs.
"""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from egs_jax.config import EXTENT, Config, ModelConfig
from egs_jax.data.dataset import Dataset
from egs_jax.model import forward as model
from egs_jax.model.gaussians import empty_gaussians, init_gaussians, shortened
from egs_jax.model.skinning import initial_skins, roughness
from egs_jax.training import density, losses, optimizer
from egs_jax.training.perceptual import PerceptualParams, frozen_network
from egs_jax.training.state import TrainState
from egs_jax.types import Batch, Metrics, Params
from kernels import RasterizeAux

# Sub-streams of the seed's and the step's keys.
INIT_KEY, DROPOUT_KEY, DENSITY_KEY, NOISE_KEY = range(4)

# One program instead of hundreds, and since it runs once, not worth optimizing: 4 times faster.
_init_networks = jax.jit(
    model.init_networks,
    static_argnums=(0, 2),
    compiler_options={"xla_backend_optimization_level": 0},
)


def init_state(config: Config, dataset: Dataset) -> TrainState:
    """Return the state before the first step: the dataset's cloud and fresh networks."""
    arrays, person = dataset.arrays, config.model.is_person
    points, colors = arrays["points"], arrays["point_colors"]
    if person:
        points = np.concatenate([points, arrays["body_points"]])
        colors = np.concatenate([colors, arrays["body_point_colors"]])

    def build() -> TrainState:
        key = jax.random.key(config.seed)
        chosen = np.asarray(jax.random.permutation(key, len(points))[: config.densify.points])
        gaussians, alive = init_gaussians(points[chosen], colors[chosen], config.densify.capacity)
        init_key = jax.random.fold_in(key, INIT_KEY)
        networks = _init_networks(config.model, init_key, dataset.audio_dim)
        if person:
            networks["skins"] = initial_skins(arrays["mean_shape"])
        if config.model.fits_lips:
            networks["tokens"]["lips_reader"] = dataset.fitted_lips().reader._asdict()
        return _fresh_state({"gaussians": gaussians, "networks": networks}, alive)

    return _made_on_cpu(build)


def fresh_networks(config: ModelConfig, seed: int, audio_dim: int) -> Params:
    """Return parameters of new networks."""
    return _made_on_cpu(lambda: _init_networks(config, jax.random.key(seed), audio_dim))


def _made_on_cpu(build: Callable[[], Any]) -> Any:
    """Have the CPU build it: for a GPU its small programs take 10 to 30 s to compile."""
    try:
        device = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX was told to leave the CPU alone
        device = jax.local_devices()[0]
    with jax.default_device(device):
        made = jax.device_get(build())
    # By way of the host, so that it lies where arrays lie that nobody placed.
    return jax.device_put(made)


@functools.lru_cache(maxsize=8)
def abstract_state(config: Config, audio_dim: int) -> TrainState:
    """Return shapes and types of a state, for loading one without its dataset."""
    n = config.densify.capacity

    def build() -> TrainState:
        gaussians = empty_gaussians(n)
        networks = model.init_networks(config.model, jax.random.key(0), audio_dim)
        return _fresh_state({"gaussians": gaussians, "networks": networks}, jnp.zeros(n, bool))

    return jax.eval_shape(build)


def train_step(config: Config, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    """Do one optimization step, jitted; the given state must not be used afterwards.

    A step whose loss or gradient is not finite changes no parameter: it only counts, in
    `bad_streak`.

    Returns:
      The next state, and of this batch: loss, its parts, PSNR and the new `bad_streak`.

    Raises:
      InputError: if the step needs the perceptual network and it cannot be fetched.
    """
    return jitted_step(*step_arguments(config, state, batch))


def step_arguments(config: Config, state: TrainState, batch: Batch) -> tuple[Any, ...]:
    """Return the arguments of `step` that those of `train_step` stand for."""
    frozen = frozen_network() if batch.perceptual else None
    return config.program, seed_of(config), state, batch, frozen


def seed_of(config: Config) -> np.uint32:
    """Return the seed as an argument of a program (past 2^31 it does not fit a JAX integer)."""
    return np.uint32(config.seed)


def step(
    config: Config,
    seed: UInt32[Array, ""],
    state: TrainState,
    batch: Batch,
    frozen: PerceptualParams | None,
    axis: str | None = None,
) -> tuple[TrainState, Metrics]:
    """Do what `train_step` does, unjitted, or the part of one device (`parallel`).

    Args:
      config: Settings; its seed plays no part.
      seed: Every random number comes from it and `state.step`.
      state: The same on all devices.
      batch: Frames of this device.
      frozen: Weights of the perceptual network if `batch.perceptual`, else None.
      axis: Name of the mapped axis over which the step's frames are split; None: they are not.

    Returns:
      As `train_step`, the same on all devices.
    """
    static = batch.stage == "static"
    # Only density control asks for the screen-space gradient.
    offset = jnp.zeros((batch.targets.shape[0], state.alive.shape[0], 2)) if static else None
    gradient = jax.value_and_grad(_loss, argnums=(0, 1), has_aux=True)
    (loss, (metrics, aux)), (grads, offset_grad) = gradient(
        state.params, offset, config, seed, state, batch, frozen, axis
    )
    if axis is not None:
        loss, metrics, grads = jax.lax.pmean((loss, metrics, grads), axis)
    metrics["psnr"] = -10 * jnp.log10(metrics.pop("squared_error"))
    finite = jnp.isfinite(loss) & _all_finite(grads)
    params, opt_state = optimizer.update(
        config.optim,
        grads,
        state.opt_state,
        state.params,
        state.rate_scale * (1.0 if static else _cooled(config, state.step)),
        warmup_steps=0 if static else config.optim.warmup_steps,
    )
    if config.model.is_person:
        cloud = shortened(params["gaussians"], config.model.elongation)
        params = {**params, "gaussians": cloud}
    stats = state.stats
    if static:
        count, height, width = batch.targets.shape[:3]
        # The loss is a mean over the frames; density control wants the gradient of each alone.
        stats = density.accumulate(
            stats, count * offset_grad, aux.radii, width, height, axis=axis
        )  # fmt: skip
    params, opt_state, stats = jax.tree.map(
        functools.partial(jnp.where, finite),
        (params, opt_state, stats),
        (state.params, state.opt_state, state.stats),
    )
    bad_streak = jnp.where(finite, 0, state.bad_streak + 1)
    after = state.replace(
        step=state.step + 1, params=params, opt_state=opt_state, stats=stats, bad_streak=bad_streak
    )
    chex.assert_trees_all_equal_shapes_and_dtypes(state, after)  # else it would compile again
    return after, {**metrics, "bad_streak": bad_streak.astype(jnp.float32)}


jitted_step = jax.jit(step, static_argnames=("config", "axis"), donate_argnames="state")
"""`step`, compiled once a stage, and once more for steps with the perceptual term."""


def densifies(config: Config, step: int) -> bool:
    """Return whether `densify_step` is due after `step` (counted from 0) of the static stage."""
    settings, after = config.densify, step + 1
    first = min(settings.start, settings.prune_from)
    return config.stage(step) == "static" and first < after < settings.stop and (
        after % settings.every == 0
    )  # fmt: skip


def densify_step(config: Config, state: TrainState) -> TrainState:
    """Clone, split and prune at fixed capacity; moments stay with their Gaussians.

    Jitted; the given state must not be used afterwards. Call it after the steps for which
    `densifies` says so.
    """
    return jitted_densify(config.program, seed_of(config), state)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def jitted_densify(config: Config, seed: UInt32[Array, ""], state: TrainState) -> TrainState:
    """Do what `densify_step` does; arguments as those of `step`.

    The rules that `state.step` is too early for are switched off by thresholds of infinity, so one
    program serves all steps.
    """
    settings, step = config.densify, state.step
    key = jax.random.fold_in(jax.random.key(seed), step)
    later = lambda start, value: jnp.where(step > start, value, jnp.inf)
    moments = state.opt_state["gaussians"]
    result = density.densify(
        jax.random.fold_in(key, DENSITY_KEY),
        state.params["gaussians"],
        state.alive,
        moments,
        state.stats,
        extent=EXTENT,
        grad_threshold=later(settings.start, config.grad_threshold),
        clone_scale=settings.clone_scale,
        prune_opacity=jnp.where(step > settings.prune_from, settings.prune_opacity, 0.0),
        prune_radius=later(settings.prune_large_from, settings.prune_radius),
        prune_scale=later(settings.prune_large_from, settings.prune_scale),
        split_oversized=config.splits_large,
        drawn=model.static_gaussians(config, state.params),
    )
    return state.replace(
        params={**state.params, "gaussians": result.gaussians},
        alive=result.alive,
        opt_state={**state.opt_state, "gaussians": result.moments_tree},
        stats=result.stats,
        dropped=state.dropped + result.dropped,
    )


@jax.jit
def cloud_facts(state: TrainState) -> Metrics:
    """Count live Gaussians, and those there was no slot for so far, for the log."""
    return {"num_gaussians": jnp.sum(state.alive), "densify_dropped": state.dropped}


def hand_over(config: Config, state: TrainState) -> TrainState:
    """End the static stage: bake what the network predicts into parameters, forget the moments.

    Jitted; the given state must not be used afterwards.
    """
    return jitted_hand_over(config.program, state)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def jitted_hand_over(config: Config, state: TrainState) -> TrainState:
    """Do what `hand_over` does; the config as in `step`."""
    baked = model.static_gaussians(config, state.params)
    params = {**state.params, "gaussians": baked}
    return state.replace(params=params, opt_state=optimizer.init(params), deforming=jnp.bool_(True))


def _cooled(config: Config, step: Int[Array, ""]) -> Float[Array, ""]:
    """Return the factor of all rates, which at the end of the deformation stage falls to 0."""
    most = max(config.optim.cooldown * config.schedule.deform_steps, 1.0)
    return jnp.clip((config.total_steps - step) / most, 0.0, 1.0)


def _loss(
    params: Params,
    means2d_offset: Float[Array, "B N 2"] | None,
    config: Config,
    seed: UInt32[Array, ""],
    state: TrainState,
    batch: Batch,
    frozen: PerceptualParams | None,
    axis: str | None,
) -> tuple[Float[Array, ""], tuple[Metrics, RasterizeAux]]:
    """Return the loss of a device's frames; beside it metrics and what the rasterizer says."""
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    if axis is not None:  # devices that drop out alike would be one device
        key = jax.random.fold_in(key, jax.lax.axis_index(axis))
    output, aux = model.forward(
        config,
        params,
        state.alive,
        batch.drive,
        batch.stage,
        sh_degree=config.sh_degree(state.step),
        means2d_offset=means2d_offset,
        dropout_key=jax.random.fold_in(key, DROPOUT_KEY),
    )
    target = batch.targets.astype(jnp.float32) / 255
    total, parts = losses.total_loss(
        config.loss,
        output.rgb,
        output.alpha,
        target,
        batch.masks.astype(jnp.float32) / 255,
        batch.lips_rects,
        batch.eyes_rects,
        perceptual=frozen,
        perceptual_gain=float(config.loss.perceptual_every),
        implementation=model.kernel_choice(config),
    )
    if config.model.is_person:
        parts["roughness"] = roughness(params["networks"]["skins"]["grid"])
        total = total + config.loss.roughness * parts["roughness"]
    if config.hears:
        noise = jax.random.normal(jax.random.fold_in(key, NOISE_KEY), batch.entries.shape)
        entries = batch.entries + batch.entry_noise[None, None] * noise
        read = model.lip_shapes(config.model, params, entries)
        parts["hearing"] = jnp.mean(jnp.square(read - batch.lip_shapes))
        total = total + config.loss.hearing * parts["hearing"]
    error = jnp.mean(jnp.square(jnp.clip(output.rgb, 0, 1) - target))
    # (Gaussian, tile) pairs of a frame that the rasterizer had no room for: 0 in a sane run.
    parts["raster_overflow"] = jnp.mean(aux.overflow.astype(jnp.float32))
    return total, ({"loss": total, "squared_error": error, **parts}, aux)


@jax.jit
def _fresh_state(params: Params, alive: Bool[Array, " N"]) -> TrainState:
    return TrainState(
        step=jnp.int32(0),
        params=params,
        alive=alive,
        opt_state=optimizer.init(params),
        stats=density.init_stats(alive.shape[0]),
        deforming=jnp.bool_(False),
        rate_scale=jnp.float32(1),
        bad_streak=jnp.int32(0),
        dropped=jnp.int32(0),
    )


def _all_finite(tree: Any) -> Bool[Array, ""]:
    """Return whether all numbers are finite (a sum is not, if any of its terms is not)."""
    return jnp.isfinite(sum(jnp.sum(leaf) for leaf in jax.tree.leaves(tree)))
