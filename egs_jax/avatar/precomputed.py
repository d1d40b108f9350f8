"""What an avatar keeps: all of a frame's work that no frame changes, done once.

Before: `model`, whose forward pass this is, split in two; after: `infer`. Kept are the live
Gaussians, their spatial features, the agents, the static mix P of the attention and the weights in
the form that `kernels.deform` takes. A frame then costs its tokens, the dynamic mix G, one call of
`deform` and one of `rasterize`.
"""

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from egs_jax.avatar.token_kernels.frame_tokens import (
    MOST_WINDOW,
    SHARED_MEMORY,
    WIDTH,
    frame_tokens,
    pack,
)
from egs_jax.config import Config, ModelConfig
from egs_jax.model import forward as model
from egs_jax.model.attention import dynamic_mix
from egs_jax.model.decoders import head_weights
from egs_jax.model.gaussians import active_harmonics
from egs_jax.model.kan import FOLDED, fold
from egs_jax.model.tokens import periodic_encoding
from egs_jax.types import Drive, Params, RenderOutput
from kernels import RasterizeOutput, dispatch, rasterize
from kernels.deform import (
    Affine,
    Deformed,
    DeformInputs,
    DeformWeights,
    Norm,
    deform,
    operand_dtype,
)


class Prepared(flax.struct.PyTreeNode):
    """The part of an avatar that drawing needs; N live Gaussians."""

    canonical: DeformInputs
    features: Float[Array, "N D"]
    agents: Float[Array, "A D"]
    """Of cross-attention one a Gaussian."""
    static_mix: Float[Array, "N A"] | None
    """None: every Gaussian is its own agent (cross-attention)."""
    weights: DeformWeights
    token_params: Mapping[str, Any] | None
    """Flax parameters of the token encoders, folded (`kan.fold`)."""
    token_weights: Float[Array, " weights"] | None
    """The same for `token_kernels` instead, where these make the tokens. One of both is None: every
    array makes a call longer, by 3 us."""
    alive: Bool[Array, " N"]
    """True, all of them."""
    offsets: Float[Array, "N 2"]
    """Zeros: like `alive` here because to make them takes a launch, 20 us, in every call."""


def prepare(config: Config, params: Params, alive: Bool[Array, " N"], sh_degree: int) -> Prepared:
    """Compute what no frame changes.

    Args:
      config: Networks, and the rasterizer: "xla" keeps Triton out of the whole frame.
      params: Everything trained.
      alive: Slots in use; the others are left out (the first stays if there is none).
      sh_degree: Degree of spherical harmonics that is drawn, if there are so many.
    """
    live = np.flatnonzero(alive)
    live = live if live.size else np.zeros(1, int)
    return _prepare(config.program, params, alive, live, np.int32(sh_degree))


@functools.partial(jax.jit, static_argnums=0)
def _prepare(
    config: Config, params: Params, alive: Array, live: Array, sh_degree: Array
) -> Prepared:  # fmt: skip
    model_config = config.model
    nets, networks, free = model.networks(model_config), params["networks"], params["gaussians"]
    features = model.spatial_features(config, params)
    attention = {"params": networks["attention"]}
    agents, static = nets.attention.apply(attention, features, alive, method="prepare")
    n_harmonics = (model_config.sh_degree + 1) ** 2
    active = active_harmonics(n_harmonics, sh_degree)
    sh = jnp.concatenate([free.sh0, free.shN], axis=1)[:, :n_harmonics]
    sh = jnp.where(active[None, :, None], sh, 0.0)
    cloud = DeformInputs(free.means, free.log_scales, free.quats, free.logit_opacities, sh)
    # Without a live Gaussian the one that stays is as opaque as nothing.
    cloud = cloud._replace(logit_opacities=jnp.where(alive, cloud.logit_opacities, -jnp.inf))
    cloud, features, static = jax.tree.map(lambda v: v[live], (cloud, features, static))
    agents = agents[live] if static is None else agents
    weights = deform_weights(model_config, networks["attention"], networks["deform"]["heads"])
    weights = replace(weights, heads=weights.heads.with_harmonics(active))
    dtype = operand_dtype(weights, _implementation(config))
    weights, static = weights.astype(dtype), jax.tree.map(lambda v: v.astype(dtype), static)
    folded = fold(networks["tokens"])
    packed = None
    if _has_token_kernel(config):
        folded, packed = None, token_weights(model_config, folded)
    everyone, offsets = jnp.ones(live.shape, bool), jnp.zeros((*live.shape, 2))
    parts = (cloud, features, agents, static, weights)
    return Prepared(*parts, folded, packed, everyone, offsets)


def _has_token_kernel(config: Config) -> bool:
    """Whether a kernel makes the tokens: on an NVIDIA GPU, for networks that it has."""
    choices = config.model.resolved
    return (
        config.rasterizer != "xla" and dispatch.is_default()
        and dispatch.needs_shared_memory(SHARED_MEMORY) is None
        and choices.architecture != "parity" and choices.ppe != "token"
        and (choices.ppe == "off" or choices.window_frames <= choices.ppe_period)  # else a bias
        and choices.token_kan == "taylor" and choices.attention == "esaa"
        and choices.window_frames <= MOST_WINDOW and choices.d_model == WIDTH
    )  # fmt: skip


def token_weights(config: ModelConfig, params: Mapping[str, Any]) -> Float[Array, " weights"]:
    """Lay the folded parameters of the token encoders out for `egs_jax.avatar.token_kernels`."""
    parts = {}
    for name, layer in params["audio_net"].items():
        parts |= {f"{name}.{kind}": value for kind, value in layer.items()}
    for name in ("audio", "eye", "pose", "lips"):
        for layer in ("hidden", "out"):
            folded = params[name][layer][FOLDED]
            parts |= {f"{name}.{layer}.{kind}": value for kind, value in folded.items()}
        parts |= {f"{name}_norm.{kind}": value for kind, value in params[f"{name}_norm"].items()}
    parts |= {f"lips_read.{kind}": value for kind, value in params["lips_read"].items()}
    window = config.window_frames
    code = jnp.zeros((window, WIDTH))
    if config.resolved.ppe == "temporal":
        code = periodic_encoding(window, WIDTH, config.ppe_period)
    parts |= {"null": params["null"], "code": jnp.pad(code, ((0, 4), (0, 0)))}
    features = parts["conv_0.kernel"].shape[1]
    return pack(parts, window, features)


def _implementation(config: Config) -> str | None:
    """Of `deform`, whose Triton kernel mixes through agents only."""
    return "xla" if config.model.attention == "cross" else model.kernel_choice(config)


def deform_weights(
    config: ModelConfig, attention: Mapping[str, Any], heads: Mapping[str, Any]
) -> DeformWeights:
    """Lay the attention's and the heads' Flax parameters out for `kernels.deform`."""
    nets = model.networks(config)
    linear = lambda layer: Affine(layer["kernel"], layer["bias"])
    norm = lambda layer: Norm(layer["scale"], layer["bias"])
    weights = DeformWeights(
        gain=nets.attention.gain,
        epsilon=nets.attention.norm_epsilon,
        norm1=norm(attention["norm1"]),
        ffn_in=linear(attention["ffn_in"]),
        ffn_out=linear(attention["ffn_out"]),
        norm2=norm(attention["norm2"]),
        heads=head_weights(nets.deform, heads, n_harmonics=(config.sh_degree + 1) ** 2),
    )
    return weights.astype(jnp.float32)


def listen(
    config: Config, kept: Prepared, drive: Drive
) -> tuple[Float[Array, "B T D"], Float[Array, "B A T"]]:
    """The tokens of every frame of `drive`, and G: how much each agent listens to each."""
    nets = model.networks(config.model)
    if kept.token_weights is not None:
        return frame_tokens(
            drive.audio_windows, drive.eyes, drive.viewmats, kept.agents, kept.token_weights,
            distance=nets.tokens.pose_distance, temperature=nets.attention.temperature,
        )  # fmt: skip
    tokens, bias = model.condition(config.model, kept.token_params, drive)
    return tokens, dynamic_mix(kept.agents, tokens, nets.attention.temperature, bias)


def move(config: Config, kept: Prepared, drive: Drive) -> Deformed:
    """The live Gaussians in every frame of `drive`, activated."""
    tokens, mix = listen(config, kept, drive)
    return deform(
        kept.canonical, kept.features, kept.static_mix, mix, tokens, kept.weights,
        implementation=_implementation(config),
    )  # fmt: skip


def render(config: Config, kept: Prepared, drive: Drive) -> RenderOutput:
    """Draw the frames of `drive`: what `model.forward` draws in the deformation stage."""
    out = _rasterized(config, kept, drive, as_bytes=False)
    return RenderOutput(rgb=out.rgb, alpha=out.alpha, depth=out.depth)


def show(
    config: Config, kept: Prepared, drive: Drive
) -> tuple[UInt8[Array, "B H Wd 3"], UInt8[Array, "B H Wd"]]:
    """Colours and opacities of the same, as they go to a screen or a file."""
    out = _rasterized(config, kept, drive, as_bytes=True)
    return out.rgb, out.alpha


def _rasterized(config: Config, kept: Prepared, drive: Drive, *, as_bytes: bool) -> RasterizeOutput:
    moved = move(config, kept, drive)
    height, width = drive.backgrounds.shape[1:3]
    return rasterize(
        moved.means, moved.quats, moved.scales, moved.opacities, moved.sh,
        drive.viewmats, drive.Ks, width, height, sh_degree=config.model.sh_degree,
        means2d_offset=kept.offsets, backgrounds=drive.backgrounds, alive=kept.alive,
        implementation=config.rasterizer, as_bytes=as_bytes,
    )  # fmt: skip
