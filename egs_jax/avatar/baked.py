"""An avatar whose whole motion is K numbers a frame: sound -> codes -> Gaussians.

Before: `baking`, which makes one of a trained avatar, or a file; after: `draw`. What the decoder
adds to all N Gaussians is nearly a sum of K fixed patterns, in every frame. So the exact decoder
runs for S of them, chosen at random; least squares say which K numbers, the *codes*, these S
moved by; and the patterns times the codes move all N. Codes that no training frame came near are
limited, smoothly.

Letters: D numbers of a Gaussian before activation, of which the first 14 are its *form*, the rest
its *shine*, which has fewer patterns (`kernels.codes`).
"""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from egs_jax.avatar.precomputed import Prepared, implementation, listen
from egs_jax.config import Config
from egs_jax.model import forward as model
from egs_jax.model.limits import Limits, soft
from egs_jax.types import Drive
from kernels.codes import Patterns, move_by_codes
from kernels.deform import Deformed, DeformInputs, deform


class Baked(flax.struct.PyTreeNode):
    """What draws an avatar by codes; N live Gaussians, S of them exact."""

    cloud: DeformInputs
    """All N at codes 0."""
    form: Patterns
    shine: Patterns
    """Of as many codes as it has patterns, the first ones."""
    sample: Prepared
    """The exact decoder of S; what it adds to is 0."""
    sample_mean: Float[Array, "S D"]
    """What it says of them at codes 0."""
    reader: Float[Array, "SD K"]
    """What it says beyond that -> codes."""
    ranges: Float[Array, "2 K"]
    """Least and greatest codes of the training frames."""
    alive: Bool[Array, " N"]
    """True, all of them."""
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


def said(config: Config, kept: Prepared, drive: Drive) -> Float[Array, "B n D"]:
    """Return what the exact decoder adds to Gaussians before activation, in every frame.

    `kept` has zeros for what is added to, so that the activations are all there is to be undone.
    """
    tokens, mix = listen(config, kept, drive)
    moved = deform(
        kept.canonical, kept.features, kept.static_mix, mix, tokens, kept.weights,
        implementation=implementation(config),
    )  # fmt: skip
    harmonics = moved.sh.reshape(*moved.sh.shape[:2], -1)
    opacities = jax.scipy.special.logit(moved.opacities)[..., None]
    parts = [moved.means, jnp.log(moved.scales), moved.quats, opacities, harmonics]
    return jnp.concatenate(parts, axis=-1)


def codes_of(config: Config, baked: Baked, drive: Drive) -> Float[Array, "B K"]:
    """Return the codes of every frame of `drive`."""
    beyond = said(config, baked.sample, drive) - baked.sample_mean[None]
    flat = beyond.reshape(len(beyond), -1)
    codes = jnp.matmul(flat, baked.reader, precision=jax.lax.Precision.HIGHEST)
    return limited(codes, baked.ranges)


def limited(codes: Float[Array, "B K"], ranges: Float[Array, "2 K"]) -> Float[Array, "B K"]:
    """Bring codes beyond the range seen softly back to near it; inside nothing changes."""
    middle, half = (ranges[0] + ranges[1]) / 2, (ranges[1] - ranges[0]) / 2
    beyond = (codes - middle[None]) / half[None]
    held = jnp.sign(beyond) * soft(jnp.abs(beyond)) * half[None] + middle[None]
    return jnp.where(jnp.abs(beyond) <= 1, codes, held)


def moved_by(config: Config, baked: Baked, codes: Float[Array, "B K"]) -> Deformed:
    """Return the Gaussians in head space by the codes of every frame, activated."""
    shine_codes = codes[:, : len(baked.shine.counts)]
    return move_by_codes(
        baked.cloud, baked.form, baked.shine, codes, shine_codes,
        implementation=model.kernel_choice(config),
    )  # fmt: skip
