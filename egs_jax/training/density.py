"""Density control at fixed capacity: clone, split and prune without any change of shape.

Where the image asks for detail (a large screen-space gradient), small Gaussians are cloned and
large ones split; faint or oversized ones are removed (3D Gaussian Splatting, Sec. 5.2, with the
thresholds of the original code). New Gaussians are written into dead slots, which prefix sums
number; optimizer moments stay with their Gaussian and are zero for every new one. Thresholds are
traced values, so a schedule that changes them never recompiles; infinity switches a rule off.

Differs from the original: removal is decided before growth, so that the freed slots serve at once;
and the screen-radius rule acts at every call (there, growing in the same step erased its record).

Place in the pipeline: after `gaussians` and the gradients of `step`, static stage only.
"""

from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Real

from egs_jax.model.gaussians import Gaussians, empty_gaussians
from kernels.checks import typechecked

SPLIT_SHRINK = 1.6
"""A split divides the scales by this."""
RADIUS_WIDTH = 512
"""Width of the image in whose pixels screen radii are compared [pixels], whatever is drawn."""

Scalar = float | int | Real[Array, ""]


class DensityStats(flax.struct.PyTreeNode):
    """Statistics of every Gaussian since the last change of the cloud."""

    grad_sum: Float[Array, " N"]
    """Sum over views of the norm of the screen-space gradient (pixel gradient times W/2, H/2)."""
    count: Int[Array, " N"]
    """Views in which it was visible."""
    max_radii: Float[Array, " N"]
    """Largest screen radius, pixels of an image `RADIUS_WIDTH` wide."""


class DensifyResult(flax.struct.PyTreeNode):
    """The cloud after one round, with everything that belongs to its slots."""

    gaussians: Gaussians
    alive: Bool[Array, " N"]
    moments_tree: Any
    stats: DensityStats
    dropped: Int[Array, ""]
    """Gaussians that wanted to grow and found no slot."""


class Plan(NamedTuple):
    """Decisions for all Gaussians, before anything is written."""

    split: Bool[Array, " N"]
    prune: Bool[Array, " N"]
    dropped: Bool[Array, " N"]
    parents: Int[Array, " N"]
    """The k-th new Gaussian comes from slot parents[k] ..."""
    slots: Int[Array, " N"]
    """... and goes to slot slots[k]; N (nowhere) when there is no k-th."""


@typechecked
def init_stats(capacity: int) -> DensityStats:
    """Return statistics of nothing seen yet."""
    return DensityStats(
        grad_sum=jnp.zeros(capacity, jnp.float32),
        count=jnp.zeros(capacity, jnp.int32),
        max_radii=jnp.zeros(capacity, jnp.float32),
    )


@typechecked
def accumulate(
    stats: DensityStats,
    means2d_grad: Float[Array, "B N 2"],
    radii: Real[Array, "B N"],
    width: int,
    height: int,
    *,
    axis: str | None = None,
) -> DensityStats:
    """Add B views to the statistics; only visible Gaussians count.

    Args:
      stats: Statistics so far.
      means2d_grad: Gradient of the loss with respect to the projected centers [1/pixel]. If the
        loss is a mean over B frames, multiply by B first: the threshold is meant for one frame.
      radii: Screen radii [pixels]; 0 where the Gaussian is not visible.
      width: Image width [pixels].
      height: Image height [pixels].
      axis: Name of a mapped axis whose devices have B views each; None: there is none.

    Returns:
      The new statistics.
    """
    to_ndc = jnp.array([width / 2, height / 2], means2d_grad.dtype)
    norms = jnp.linalg.norm(means2d_grad * to_ndc[None, None, :], axis=-1)
    visible = radii > 0
    sums = (
        jnp.sum(jnp.where(visible, norms, 0.0), axis=0),
        jnp.sum(visible, axis=0, dtype=jnp.int32),
    )
    largest = jnp.max(radii, axis=0).astype(jnp.float32) * (RADIUS_WIDTH / width)
    if axis is not None:
        sums, largest = jax.lax.psum(sums, axis), jax.lax.pmax(largest, axis)
    return DensityStats(
        grad_sum=stats.grad_sum + sums[0],
        count=stats.count + sums[1],
        max_radii=jnp.maximum(stats.max_radii, largest),
    )


@typechecked
def densify(
    key: Key[Array, ""],
    gaussians: Gaussians,
    alive: Bool[Array, " N"],
    moments_tree: Any,
    stats: DensityStats,
    *,
    extent: Scalar,
    grad_threshold: Scalar = 0.001,
    clone_scale: Scalar = 0.01,
    prune_opacity: Scalar = 0.005,
    prune_radius: Scalar = 20.0,
    prune_scale: Scalar = 0.1,
    split_oversized: bool = False,
    drawn: Gaussians | None = None,
) -> DensifyResult:
    """Do one round of cloning, splitting and pruning.

    A Gaussian grows when its mean gradient reaches `grad_threshold`: it is cloned in place if its
    largest scale is at most `clone_scale * extent`, else replaced by two samples of itself with
    scales divided by 1.6. It is removed if fainter than `prune_opacity`, or wider than
    `prune_radius` on screen or `prune_scale * extent` in the world, unless a split mends that; with
    `split_oversized` it is always split instead. If slots run out, those with the largest gradients
    grow and the rest are counted as dropped.

    Args:
      key: Source of the positions of split Gaussians; the result is a function of the arguments.
      gaussians: The stored cloud.
      alive: Slots in use.
      moments_tree: Any PyTree; leaves whose first axis has length N are moments of the Gaussians
        and move with them, all others pass through. Pass no network's state: it may have such an
        axis by accident.
      stats: See `accumulate`.
      extent: Size of the scene [world units].
      grad_threshold: Mean gradient, pixel gradient times half the image; `inf` switches growth off.
      clone_scale: Border between cloning and splitting, share of `extent`.
      prune_opacity: Opacity; 0 switches this rule off.
      prune_radius: Screen radius [pixels of an image `RADIUS_WIDTH` wide]; `inf` switches this
        rule off.
      prune_scale: Scale, share of `extent`; `inf` switches this rule off.
      split_oversized: Split what is too wide, even if its gradient is small, and keep it where no
        slot is free. Where it is removed, its neighbors grow into the hole and are next.
      drawn: The cloud as it is drawn, where networks add to the stored values: sizes, rotations
        and opacities are then judged and sampled from it. None: the stored cloud.

    Returns:
      The new cloud, moments, reset statistics, and how many found no slot. Freed slots hold
      `empty_gaussians`.
    """
    drawn = gaussians if drawn is None else drawn
    plan = _plan(
        drawn,
        alive,
        stats,
        grad_threshold=grad_threshold,
        clone_limit=clone_scale * extent,
        prune_opacity=prune_opacity,
        prune_radius=prune_radius,
        prune_limit=prune_scale * extent,
        split_oversized=split_oversized,
    )
    cloud, new_alive = _write(plan, key, gaussians, drawn, alive)
    fresh = (plan.split | ~new_alive).at[plan.slots].set(True, mode="drop")
    return DensifyResult(
        gaussians=cloud,
        alive=new_alive,
        moments_tree=_zero_moments(moments_tree, fresh),
        stats=init_stats(gaussians.capacity),
        dropped=jnp.sum(plan.dropped, dtype=jnp.int32),
    )


def _plan(
    drawn: Gaussians,
    alive: Bool[Array, " N"],
    stats: DensityStats,
    *,
    grad_threshold: Scalar,
    clone_limit: Scalar,
    prune_opacity: Scalar,
    prune_radius: Scalar,
    prune_limit: Scalar,
    split_oversized: bool,
) -> Plan:
    """Decide who is removed, who grows, and where the new ones go."""
    capacity = drawn.capacity
    scale = jnp.exp(jnp.max(drawn.log_scales, axis=1))
    gradient = stats.grad_sum / jnp.maximum(stats.count, 1)
    wants = alive & (gradient >= grad_threshold)
    large = scale > clone_limit

    faint = jax.nn.sigmoid(drawn.logit_opacities) < prune_opacity
    oversized = (stats.max_radii > prune_radius) | (scale > prune_limit)
    if split_oversized:
        wants, large = wants | (alive & oversized), large | oversized
        oversized = jnp.zeros_like(oversized)  # none is removed for it
    mended = wants & large & (scale / SPLIT_SHRINK <= prune_limit)
    prune = alive & (faint | (oversized & ~mended))

    wants = wants & ~prune
    free = ~alive | prune
    # Largest gradient first; a stable sort breaks ties by slot, so the order is reproducible.
    parents = jnp.argsort(jnp.where(wants, -gradient, jnp.inf), stable=True)
    granted = jnp.arange(capacity) < jnp.minimum(jnp.sum(wants), jnp.sum(free))
    number = jnp.cumsum(free) - 1  # the how-manieth free slot this is
    slots = (
        jnp.full(capacity, capacity)
        .at[jnp.where(free, number, capacity)]
        .set(jnp.arange(capacity), mode="drop")
    )
    slots = jnp.where(granted, slots, capacity)
    grows = jnp.zeros(capacity, bool).at[parents].set(granted)
    dropped = wants & ~grows
    return Plan(
        split=grows & large,
        prune=prune | (dropped & oversized),  # no slot to mend it in
        dropped=dropped,
        parents=parents,
        slots=slots,
    )


def _write(
    plan: Plan, key: Key[Array, ""], stored: Gaussians, drawn: Gaussians, alive: Bool[Array, " N"]
) -> tuple[Gaussians, Bool[Array, " N"]]:
    """Carry the plan out: shrink and move split parents, empty pruned slots, fill in the new."""
    key_stays, key_new = jax.random.split(key)
    split = plan.split[:, None]
    log_scales = stored.log_scales - jnp.where(split, jnp.log(SPLIT_SHRINK), 0.0)
    grown = stored.replace(
        means=stored.means + jnp.where(split, _sample_offsets(key_stays, drawn), 0.0),
        log_scales=log_scales,
    )
    born = grown.replace(
        means=stored.means + jnp.where(split, _sample_offsets(key_new, drawn), 0.0)
    )
    empty = empty_gaussians(stored.capacity, sh_degree=_sh_degree(stored))
    keep = alive & ~plan.prune

    def place(kept: Array, newborn: Array, nothing: Array) -> Array:
        kept = jnp.where(_over_rows(keep, kept), kept, nothing)
        return kept.at[plan.slots].set(newborn[plan.parents], mode="drop")

    cloud = jax.tree.map(place, grown, born, empty)
    return cloud, keep.at[plan.slots].set(True, mode="drop")


def _sample_offsets(key: Key[Array, ""], drawn: Gaussians) -> Float[Array, "N 3"]:
    """Draw one displacement from the centered normal distribution of every Gaussian."""
    local = jnp.exp(drawn.log_scales) * jax.random.normal(key, drawn.means.shape)
    norm = jnp.sqrt(jnp.sum(jnp.square(drawn.quats), axis=1, keepdims=True) + 1e-24)
    w, xyz = drawn.quats[:, :1] / norm, drawn.quats[:, 1:] / norm
    # v' = v + 2 w (q x v) + 2 q x (q x v): rotation by a unit quaternion without its matrix.
    once = 2.0 * jnp.cross(xyz, local)
    return local + w * once + jnp.cross(xyz, once)


def _zero_moments(moments_tree: Any, fresh: Bool[Array, " N"]) -> Any:
    """Zero the rows of new and dead slots in every leaf that has one row per slot."""

    def zero(leaf: Any) -> Any:
        if getattr(leaf, "ndim", 0) == 0 or leaf.shape[0] != fresh.shape[0]:
            return leaf
        return jnp.where(_over_rows(fresh, leaf), jnp.zeros_like(leaf), leaf)

    return jax.tree.map(zero, moments_tree)


def _over_rows(mask: Bool[Array, " N"], like: Array) -> Array:
    """Shape a mask over rows so that it broadcasts over `like`."""
    return mask.reshape(mask.shape + (1,) * (like.ndim - 1))


def _sh_degree(gaussians: Gaussians) -> int:
    """Highest spherical-harmonics degree that a cloud stores."""
    return round((gaussians.shN.shape[1] + 1) ** 0.5) - 1
