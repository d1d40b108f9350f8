"""Two rigid frames, head and body, and Gaussians in between (linear blend skinning).

A Gaussian with the weight w moves by (1 - w) A_head + w A_body: hair and jaw go with the head,
shoulders with the body, and the neck bends. Its scales, opacity and color stay. Body space is head
space at the clip's rest frame.

Weights are a function of place, learned at the nodes of a coarse grid (`SkinField`), so that
neighbors stay neighbors at poses that the clip does not show: one for each Gaussian fits the clip
as well, and tears collars when the head turns further. Above the ears all is head. What no frame
shows has the weights around it (`roughness`).

Place in the pipeline: after `forward`'s Gaussians of a frame, before `rasterize`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.special import expit, logit

from egs_jax.model import rigid
from egs_jax.model.limits import Limits
from egs_jax.types import Drive
from kernels.checks import typechecked
from kernels.deform import Deformed

MOST_LOGIT = 4.0
"""Size of the largest logit at the start: beyond, weights hardly learn."""
HEAD_LOGIT = -1000.0
"""Whose sigmoid and slope are 0."""
NODES = 17
"""Nodes along each side of the grid of weights."""
REACH = 1.6
"""World units from its middle to its sides; beyond, weights are those of the nearest side."""
GAIN = 100.0
"""Logits of a unit of the grid's parameters: they learn so much faster than other networks."""
NECK = 0.35
"""Face heights below the chin over which the head's frame becomes the body's at the start."""
CHIN, BROW_TOP, EARS = 152, 10, (234, 454)  # landmarks


class SkinField(nn.Module):
    """Shares of the body's frame as a smooth function of a Gaussian's place."""

    @nn.compact
    def __call__(self, means: Float[Array, "N 3"]) -> Float[Array, " N"]:
        """Interpolate linearly between the weights of the grid's nodes.

        Args:
          means: Places in head space [world units]; no gradient goes to them.

        Returns:
          Weights in [0, 1].
        """
        nodes = _node_weights(self.param("grid", nn.initializers.zeros, (NODES, NODES, NODES)))
        x, y, z = (_shares(jax.lax.stop_gradient(means[:, k])) for k in range(3))
        # Products of matrices: gathers would have gradients that add in no fixed order.
        rows = jnp.matmul(x, nodes.reshape(NODES, -1), precision=jax.lax.Precision.HIGHEST)
        return jnp.sum(rows.reshape(-1, NODES, NODES) * y[:, :, None] * z[:, None, :], axis=(1, 2))


def _node_weights(grid: Float[Array, "K K K"]) -> Float[Array, "K K K"]:
    return jax.nn.sigmoid(GAIN * grid)


def _shares(along: Float[Array, " N"]) -> Float[Array, "N K"]:
    """Return how much each node of a row counts at a place: the two beside it, linearly."""
    place = (jnp.clip(along, -REACH, REACH) / REACH + 1) * ((NODES - 1) / 2)
    nodes = np.arange(NODES, dtype=np.float32)
    return jnp.maximum(0.0, 1 - jnp.abs(place[:, None] - nodes[None]))


def roughness(grid: Float[Array, "K K K"]) -> Float[Array, ""]:
    """Return the mean squared difference of neighboring nodes' weights.

    A small share of it in the loss decides where nothing else does: Adam makes whole steps of the
    least gradient.
    """
    weights = _node_weights(grid)
    return sum(jnp.mean(jnp.square(jnp.diff(weights, axis=axis))) for axis in range(3)) / 3


@typechecked
def initial_skins(
    mean_shape: Float[np.ndarray, "478 3"],
) -> dict[str, Float[np.ndarray, "K K K"]]:
    """Guess parameters of a `SkinField` by height: 0 above the chin, 1 from below the neck on.

    Args:
      mean_shape: The face's landmarks in head space [world units]; +y is down.

    Returns:
      Logits of a smooth ramp along the neck, at most `MOST_LOGIT` in size, over `GAIN`; above the
      ears so low that they stay at 0 whatever is learned.
    """
    heights = np.linspace(-REACH, REACH, NODES)
    chin, top = float(mean_shape[CHIN, 1]), float(mean_shape[BROW_TOP, 1])
    share = np.clip((heights - chin) / max(NECK * (chin - top), 1e-6), 0.0, 1.0)
    smooth = share * share * (3.0 - 2.0 * share)
    least = expit(-MOST_LOGIT)
    logits = logit(np.clip(smooth, least, 1.0 - least))
    logits[heights < mean_shape[EARS, 1].mean()] = HEAD_LOGIT
    grid = np.broadcast_to(logits[None, :, None] / GAIN, (NODES, NODES, NODES))
    return {"grid": grid.astype(np.float32)}


def placed(
    cloud: Deformed, skins: Float[Array, " N"] | None, drive: Drive,
    limits: Limits | None = None,
) -> tuple[Deformed, Float[Array, "B 4 4"]]:  # fmt: skip
    """Put Gaussians of head space where head and body are in every frame of `drive`.

    Args:
      cloud: One for all frames, or one per frame.
      skins: Shares of the body's frame; None: the head is all there is, nothing changes.
      drive: Poses of head and body.
      limits: Those of the viewing directions; None: all are as they are.

    Returns:
      The Gaussians, and the view matrices to draw them by.
    """
    if skins is None:
        return cloud, drive.viewmats
    heads, bodies, viewmats = frames_of(drive, limits)
    return posed(cloud, skins, heads, bodies), viewmats


def frames_of(
    drive: Drive, limits: Limits | None
) -> tuple[Float[Array, "B 4 4"], Float[Array, "B 4 4"], Float[Array, "B 4 4"]]:
    """Return where head and body are in the world that is drawn, and its view matrices.

    That world is head space; where the head is seen from where it never was, it is turned with its
    camera (`Limits.turns`): colors see another direction, pixels stay where they are.

    Returns:
      Transforms of head space and of body space to that world, and of it to the camera.
    """
    views = rigid.parts(jnp.asarray(drive.viewmats))
    heads = rigid.identities(views.shift[0]) if limits is None else limits.turns(views)
    bodies = heads
    if drive.bodies is not None:
        apart = rigid.product(rigid.inverse(views), rigid.parts(jnp.asarray(drive.bodies)))
        bodies = rigid.product(heads, apart)
    return tuple(map(rigid.whole, (heads, bodies, rigid.product(views, rigid.inverse(heads)))))


@typechecked
def posed(
    cloud: Deformed,
    skins: Float[Array, " N"],
    heads: Float[Array, "B 4 4"],
    bodies: Float[Array, "B 4 4"],
) -> Deformed:
    """Blend the two motions of every Gaussian.

    A mean x goes to (1 - w) A_head x + w A_body x, a rotation q to r q with the quaternion
    r = (1 - w) q_head + w q_body, both of one hemisphere (`rasterize` normalizes). With A_head the
    identity and w = 0 every bit stays.

    Args:
      cloud: Gaussians of head space [world units], one set for all frames or one per frame.
      skins: w, in [0, 1].
      heads: A_head, rigid.
      bodies: A_body, rigid.

    Returns:
      The cloud with means and rotations of every frame; what does not move keeps its axes.
    """
    weights = _spread(skins, len(heads))
    means, quats = (
        v if v.ndim == 3 else _spread(v, len(heads)) for v in (cloud.means, cloud.quats)
    )
    own = [means[..., k] for k in range(3)]

    # Once a frame: XLA would compute these anew for every Gaussian, and for every use.
    heads, bodies = jax.lax.optimization_barrier((heads, bodies))
    q_head, q_body = (rigid.quats_of(rigid.parts(frames).turn) for frames in (heads, bodies))
    sign = jnp.where(sum(a * b for a, b in zip(q_head, q_body, strict=True)) < 0, -1.0, 1.0)
    q_body = tuple(sign * value for value in q_body)
    q_head, q_body = jax.lax.optimization_barrier((q_head, q_body))

    def moved(frames: Float[Array, "B 4 4"], i: int) -> Float[Array, "B N"]:
        return sum(frames[:, i, k, None] * own[k] for k in range(3)) + frames[:, i, 3, None]

    blend = lambda head, body: head + weights * (body - head)
    places = [blend(moved(heads, i), moved(bodies, i)) for i in range(3)]
    turns = [blend(q_head[k][:, None], q_body[k][:, None]) for k in range(4)]
    return cloud._replace(
        means=jnp.stack(places, axis=-1),
        quats=jnp.stack(_turned(turns, [quats[..., k] for k in range(4)]), axis=-1),
    )


def _spread(values: Float[Array, "N *own"], count: int) -> Float[Array, "{count} N *own"]:
    """Repeat what all frames share, as a product with ones.

    Its gradient, the sum over frames, is a product too: with the sums that XLA would make of it
    that of `posed` takes a CPU 17 ms instead of 1.5 (4 frames of 25,000 Gaussians).
    """
    ones = jnp.ones((count, 1), values.dtype)
    spread = jnp.matmul(ones, values.reshape(1, -1), precision=jax.lax.Precision.HIGHEST)
    return spread.reshape(count, *values.shape)


def _turned(r: list[Array], q: list[Array]) -> list[Array]:
    """Return the components of the quaternion r q."""
    return [
        r[0] * q[0] - r[1] * q[1] - r[2] * q[2] - r[3] * q[3],
        r[0] * q[1] + r[1] * q[0] + r[2] * q[3] - r[3] * q[2],
        r[0] * q[2] - r[1] * q[3] + r[2] * q[0] + r[3] * q[1],
        r[0] * q[3] + r[1] * q[2] - r[2] * q[1] + r[3] * q[0],
    ]
