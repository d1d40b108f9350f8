"""All of a frame's work that no frame changes, done once and kept: the exact way to draw.

Before: `model`, whose forward pass this is, split in two; after: `draw`. Kept are the live
Gaussians, their spatial features, the agents, the static mix P of the attention and the weights in
the form that `kernels.deform` takes. A frame then costs its tokens, the dynamic mix G, one call of
`deform` and one of `rasterize`. The number of Gaussians is rounded up a little, so that avatars
whose clouds grew alike share their compiled programs.
"""

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from egs_jax.avatar.token_kernels.frame_tokens import frame_tokens
from egs_jax.avatar.token_kernels.weights import token_weights, uses_token_kernels
from egs_jax.config import Config
from egs_jax.model import forward as model
from egs_jax.model.attention import dynamic_mix
from egs_jax.model.gaussians import active_harmonics
from egs_jax.model.limits import Limits
from egs_jax.model.skinning import placed
from egs_jax.types import Drive, Params, RenderOutput
from kernels import RasterizeOutput, rasterize
from kernels.deform import Deformed, DeformInputs, DeformWeights, deform, operand_dtype


class Spatial(NamedTuple):
    """What is known of Gaussians, nearly all of them live, before any speech."""

    canonical: DeformInputs
    features: Float[Array, "N D"]
    agents: Float[Array, "A D"]
    """With cross-attention one a Gaussian."""
    static_mix: Float[Array, "N A"] | None
    """None: every Gaussian is its own agent (cross-attention)."""
    skins: Float[Array, " N"] | None
    """Of a person; None: all moves with the head."""
    alive: Bool[Array, " N"]

    def at(self, rows: Int[Array | np.ndarray, " S"]) -> "Spatial":
        """Return the same of some of them."""
        own = self.static_mix is None
        parts = jax.tree.map(lambda v: v[rows], self._replace(agents=None))
        return parts._replace(agents=self.agents[rows] if own else self.agents)


class Prepared(flax.struct.PyTreeNode):
    """The part of an avatar that drawing needs; N Gaussians, nearly all of them live."""

    canonical: DeformInputs
    features: Float[Array, "N D"]
    agents: Float[Array, "A D"]
    """With cross-attention one a Gaussian."""
    static_mix: Float[Array, "N A"] | None
    """None: every Gaussian is its own agent (cross-attention)."""
    weights: DeformWeights
    token_params: Mapping[str, Any] | None
    """Flax parameters of the token encoders."""
    token_weights: Float[Array, " weights"] | None
    """Their layout for `token_kernels`, where these make the tokens. One of both is None: every
    array makes a call longer, by 3 us."""
    alive: Bool[Array, " N"]
    """False of those that only round their number up (the last)."""
    offsets: Float[Array, "N 2"]
    """Zeros: like `alive` here because to make them takes a launch, 20 us, in every call."""
    skins: Float[Array, " N"] | None = None
    """Of a person; None: all moves with the head."""
    limits: Limits | None = None
    """Of a person's poses; None: there are none."""

    def moved(self, config: Config, drive: Drive) -> Deformed:
        """See `move`."""
        return move(config, self, drive)


class Drawable(Protocol):
    """What an avatar is drawn from: exact as here, or `baked`."""

    alive: Bool[Array, " N"]
    offsets: Float[Array, "N 2"]
    skins: Float[Array, " N"] | None

    @property
    def limits(self) -> Limits | None:
        """Of a person's poses; None: there are none."""

    def moved(self, config: Config, drive: Drive) -> Deformed:
        """Return the live Gaussians in head space in every frame of `drive`, activated."""


def prepare(
    config: Config, params: Params, alive: Bool[Array, " N"], sh_degree: int,
    limits: Limits | None = None,
) -> Prepared:  # fmt: skip
    """Compute what no frame changes.

    Args:
      config: Networks, and the rasterizer: "xla" keeps Triton out of the whole frame.
      params: Everything trained.
      alive: Slots in use; the others are left out, but for a few (`rounded`).
      sh_degree: Degree of spherical harmonics that is drawn, if there are so many.
      limits: Of what poses are told to tokens and colors; None: all are.
    """
    spatial = spatial_part(config, params, alive, sh_degree)
    return assemble(config, params["networks"], spatial, sh_degree, limits)


def spatial_part(
    config: Config, params: Params, alive: Bool[Array, " N"], sh_degree: int
) -> Spatial:
    """Compute what is known of live Gaussians and a few dead ones; arguments as of `prepare`."""
    live = np.flatnonzero(alive)
    count = min(rounded(len(live)), len(alive))
    drawn = np.arange(count) < len(live)
    slots = np.pad(live, (0, count - len(live)))  # the first, drawn by nobody
    return _spatial_part(config.drawing, params, alive, slots, drawn, np.int32(sh_degree))


def assemble(
    config: Config, networks: Mapping[str, Any], spatial: Spatial, sh_degree: int,
    limits: Limits | None = None,
) -> Prepared:  # fmt: skip
    """Bring what is known of Gaussians and the networks' parameters to the form that is drawn.

    Of colors as many harmonics are told as these Gaussians have.
    """
    needed = {name: networks[name] for name in ("tokens", "attention", "deform")}
    return _assemble(config.drawing, needed, spatial, np.int32(sh_degree)).replace(limits=limits)


def rounded(count: int) -> int:
    """Return the next number, from 1 on, that has six binary digits and zeros after them.

    It is at most 3 % more, of which a frame takes less.
    """
    step = 2 ** max(count.bit_length() - 6, 0)
    return max(-(-count // step) * step, 1)


@functools.partial(jax.jit, static_argnums=0)
def _spatial_part(
    config: Config, params: Params, alive: Array, slots: Array, drawn: Array, sh_degree: Array
) -> Spatial:  # fmt: skip
    model_config = config.model
    nets, networks, free = model.networks(model_config), params["networks"], params["gaussians"]
    features = model.spatial_features(config, params)
    attention = {"params": networks["attention"]}
    agents, static = nets.attention.apply(attention, features, alive, method="prepare")
    active = active_harmonics(model.harmonics(model_config), sh_degree)
    cloud = model.canonical(model_config, free)
    cloud = cloud._replace(sh=jnp.where(active[None, :, None], cloud.sh, 0.0))
    skins = model.skins(config, params)
    made = Spatial(cloud, features, agents, static, skins, alive).at(slots)
    # What is not drawn is as opaque as nothing.
    opacities = jnp.where(drawn, made.canonical.logit_opacities, -jnp.inf)
    cloud = made.canonical._replace(logit_opacities=opacities)
    return made._replace(canonical=cloud, alive=drawn)


@functools.partial(jax.jit, static_argnums=0)
def _assemble(
    config: Config, networks: Mapping[str, Any], spatial: Spatial, sh_degree: Array
) -> Prepared:
    model_config = config.model
    nets, harmonics = model.networks(model_config), spatial.canonical.sh.shape[1]
    active = active_harmonics(harmonics, sh_degree)
    weights = model.deform_weights(nets, networks, harmonics)
    weights = replace(weights, heads=weights.heads.with_harmonics(active))
    dtype = operand_dtype(weights, implementation(config))
    weights = weights.astype(dtype)
    static = jax.tree.map(lambda v: v.astype(dtype), spatial.static_mix)
    count = len(spatial.features)
    packed = uses_token_kernels(config)
    return Prepared(
        canonical=spatial.canonical,
        features=spatial.features,
        agents=spatial.agents,
        static_mix=static,
        weights=weights,
        token_params=None if packed else networks["tokens"],
        token_weights=token_weights(model_config, networks["tokens"]) if packed else None,
        alive=spatial.alive,
        offsets=jnp.zeros((count, 2)),
        skins=spatial.skins,
    )


def implementation(config: Config) -> str | None:
    """Choose that of `deform`, whose Triton kernel mixes through agents only."""
    return "xla" if config.model.attention == "cross" else model.kernel_choice(config)


def listen(
    config: Config, kept: Prepared, drive: Drive
) -> tuple[Float[Array, "B T D"], Float[Array, "B A T"]]:
    """Return the tokens of every frame of `drive`, and G: how much each agent listens to each."""
    nets = model.networks(config.model)
    if kept.limits is not None:
        drive = drive.replace(viewmats=kept.limits.poses(drive.viewmats))
    if kept.token_weights is not None:
        return frame_tokens(
            drive.audio_windows, drive.eyes, drive.viewmats, kept.agents, kept.token_weights,
            distance=nets.tokens.pose_distance, temperature=nets.attention.temperature,
            fits_lips=config.model.fits_lips,
        )  # fmt: skip
    tokens, bias = model.condition(config.model, kept.token_params, drive)
    return tokens, dynamic_mix(kept.agents, tokens, nets.attention.temperature, bias)


def move(config: Config, kept: Prepared, drive: Drive) -> Deformed:
    """Return the live Gaussians in head space in every frame of `drive`, activated."""
    tokens, mix = listen(config, kept, drive)
    return deform(
        kept.canonical, kept.features, kept.static_mix, mix, tokens, kept.weights,
        implementation=implementation(config),
    )  # fmt: skip


def pose(config: Config, kept: Drawable, drive: Drive) -> tuple[Deformed, Float[Array, "B 4 4"]]:
    """Return the same where head and body are, and the view matrices to draw them by."""
    return placed(kept.moved(config, drive), kept.skins, drive, kept.limits)


def render(config: Config, kept: Drawable, drive: Drive) -> RenderOutput:
    """Draw the frames of `drive`, as `model.forward` does in the deformation stage."""
    return draw_moved(config, kept, kept.moved(config, drive), drive)


def draw_moved(config: Config, kept: Drawable, moved: Deformed, drive: Drive) -> RenderOutput:
    """Draw Gaussians that were moved already; of `drive` only poses and backgrounds count."""
    out = _rasterized(config, kept, moved, drive, as_bytes=False)
    return RenderOutput(rgb=out.rgb, alpha=out.alpha, depth=out.depth)


def show(
    config: Config, kept: Drawable, drive: Drive
) -> tuple[UInt8[Array, "B H Wd 3"], UInt8[Array, "B H Wd"]]:
    """Return colors and opacities of the same, as they go to a screen or a file."""
    out = _rasterized(config, kept, kept.moved(config, drive), drive, as_bytes=True)
    return out.rgb, out.alpha


def _rasterized(
    config: Config, kept: Drawable, moved: Deformed, drive: Drive, *, as_bytes: bool
) -> RasterizeOutput:
    moved, viewmats = placed(moved, kept.skins, drive, kept.limits)
    height, width = drive.backgrounds.shape[1:3]
    return rasterize(
        moved.means, moved.quats, moved.scales, moved.opacities, moved.sh,
        viewmats, drive.Ks, width, height, sh_degree=config.model.sh_degree,
        means2d_offset=kept.offsets, backgrounds=drive.backgrounds, alive=kept.alive,
        implementation=config.rasterizer, as_bytes=as_bytes,
        capacity=model.raster_capacity(config.model, len(kept.alive), width, height),
    )  # fmt: skip
