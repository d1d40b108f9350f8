"""An avatar whose whole motion is K numbers a frame: sound -> codes -> Gaussians.

Before: `baking`, which makes one of a trained avatar, or a file; after: `draw`. What the decoder
adds to all N Gaussians is nearly a sum of K fixed patterns, in every frame. So the exact decoder
runs for S of them, chosen at random; least squares say which K numbers, the *codes*, these S
moved by; and the patterns times the codes move all N. Codes that no training frame came near are
limited, smoothly.

Letters: D numbers of a Gaussian before activation, of which the first 14 are its *form*, which
tells the codes; the rest its *shine*, which has fewer patterns, and codes of its own that follow
from those of form (`kernels.codes`).
"""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from egs_jax.avatar.precomputed import Prepared, rounded
from egs_jax.config import Config
from egs_jax.model import forward as model
from egs_jax.model.limits import Limits
from egs_jax.types import Drive
from kernels.codes import Patterns, before_activation, move_by_codes, read_codes
from kernels.deform import Deformed, DeformInputs


class Baked(flax.struct.PyTreeNode):
    """What draws an avatar by codes; N Gaussians, nearly all of them live, S of them exact."""

    cloud: DeformInputs
    """All N at codes 0."""
    form: Patterns
    shine: Patterns
    follows: Float[Array, "K k"]
    """Codes of form -> codes of shine."""
    sample: Prepared
    """The exact decoder of S, which are `nothing` with one harmonic: it tells their form alone."""
    sample_mean: Float[Array, "S 14"]
    """What it says of their form at codes 0."""
    weights: Float[Array, "S 14"]
    """How much each of these numbers counts where codes are read."""
    reader: Float[Array, "K L"]
    """What it says beyond that, L = 14 S numbers -> codes; turned: those of a code lie together."""
    ranges: Float[Array, "2 K"]
    """Least and greatest codes of the training frames."""
    alive: Bool[Array, " N"]
    """False of those that only round their number up (the last)."""
    offsets: Float[Array, "N 2"]
    """Zeros (see `Prepared`)."""
    skins: Float[Array, " N"] | None
    """Of a person; None: all moves with the head."""

    @property
    def limits(self) -> Limits | None:
        """Of a person's poses; None: there are none."""
        return self.sample.limits

    def moved(self, config: Config, drive: Drive) -> Deformed:
        """Return the Gaussians in head space in every frame of `drive`, activated."""
        return moved_by(config, self, codes_of(config, self, drive))


def rounded_up(baked: Baked) -> Baked:
    """Return the same with N rounded up (`precomputed.rounded`) by Gaussians that nobody sees.

    Avatars of about as many share their compiled programs then.
    """
    live = len(baked.alive)
    more = rounded(live) - live
    padded = lambda value: jnp.pad(value, [(0, more)] + [(0, 0)] * (value.ndim - 1))
    last = lambda counts: jnp.pad(counts, ((0, 0), (0, 0), (0, more)))
    cloud = jax.tree.map(padded, baked.cloud)
    alive = padded(baked.alive)
    opacities = jnp.where(alive, cloud.logit_opacities, -jnp.inf)
    return baked.replace(
        cloud=cloud._replace(logit_opacities=opacities),
        form=baked.form._replace(counts=last(baked.form.counts)),
        shine=baked.shine._replace(counts=last(baked.shine.counts)),
        alive=alive,
        offsets=padded(baked.offsets),
        skins=None if baked.skins is None else padded(baked.skins),
    )


def nothing(count: int, harmonics: int) -> DeformInputs:
    """Return Gaussians that are 0 before activation: what is added to them is what is said."""
    shapes = (3,), (3,), (4,), (), (harmonics, 3)
    return DeformInputs(*(jnp.zeros((count, *shape)) for shape in shapes))


def said(config: Config, kept: Prepared, drive: Drive) -> Float[Array, "B n D"]:
    """Return what the exact decoder adds to Gaussians before activation, in every frame.

    `kept` has `nothing` to be added to, so that the activations are all there is to be undone.
    """
    return before_activation(kept.moved(config, drive))


def codes_of(config: Config, baked: Baked, drive: Drive) -> Float[Array, "B K"]:
    """Return the codes of every frame of `drive`."""
    return read_codes(
        baked.sample.moved(config, drive), baked.sample_mean, baked.weights, baked.reader,
        baked.ranges, implementation=model.kernel_choice(config),
    )  # fmt: skip


def moved_by(config: Config, baked: Baked, codes: Float[Array, "B K"]) -> Deformed:
    """Return the Gaussians in head space by the codes of every frame, activated."""
    return move_by_codes(
        baked.cloud, baked.form, baked.shine, baked.follows, codes,
        implementation=model.kernel_choice(config),
    )  # fmt: skip
