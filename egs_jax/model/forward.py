"""The whole forward pass on one page: (means) -> features -> Gaussians -> moved by speech -> image.

Before: `data`, after: training and the avatar. Static stage: the decoder gives opacity, color and
small corrections of shape. The hand-over turns them into free parameters; from then on the
deformation network adds deltas per frame.

The Flax modules make the parameters and encode positions and tokens. The rest is functions of
`DeformWeights`, one layout of weights for training, avatar and kernels.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from egs_jax.config import Config, ModelConfig, Stage
from egs_jax.model.attention import SpatialAudioAttention, dynamic_mix
from egs_jax.model.decoders import (
    DeformationDecoder,
    DeltaGains,
    SpatialEncoder,
    StaticDecoder,
    head_weights,
)
from egs_jax.model.gaussians import Gaussians, activate, active_harmonics
from egs_jax.model.skinning import SkinField, placed
from egs_jax.model.tokens import SpeechTokens, period_bias, pose_vector
from egs_jax.types import Drive, Params, RenderOutput
from kernels import RasterizeAux, rasterize
from kernels.deform import (
    Affine,
    Deformed,
    DeformInputs,
    DeformWeights,
    Norm,
    decode_heads,
    move,
    normalized_layers,
    product,
    token_shares,
)
from kernels.rasterize.api import default_capacity

ATTENTION_GAIN = 4.0
FACE_GAINS = DeltaGains(means=0.02, log_scales=0.2, quats=0.1, logit_opacities=1.0, sh_coeffs=0.1)


class Networks(NamedTuple):
    """The Flax modules; their parameters live in a dict under the same names."""

    spatial: SpatialEncoder
    static: StaticDecoder
    tokens: SpeechTokens
    attention: SpatialAudioAttention
    deform: DeformationDecoder
    skins: SkinField | None
    """None: all moves with the head."""


@functools.cache
def networks(config: ModelConfig) -> Networks:
    """Build the modules that a config asks for."""
    config = config.resolved
    parity = config.architecture == "parity"
    kind = "mlp" if config.decoder == "mlp" else "kan"
    hash_fields = (
        ("levels", config.hash_levels),
        ("base_resolution", config.hash_base),
        ("top_resolution", config.hash_top),
        ("table_size", config.hash_table),
    )
    dense = config.encoder == "dense"
    return Networks(
        spatial=SpatialEncoder(
            bound=config.bound,
            inner=1.0 if config.body == "person" else None,
            planes=config.encoder,
            d_model=config.d_model,
            network="none" if parity and dense and config.d_model == 64 else kind,
            plane_fields=() if dense else hash_fields,
        ),
        static=StaticDecoder(
            network=kind,
            width=config.width,
            offsets=not parity,
            as_original=parity and kind == "mlp",
        ),
        tokens=SpeechTokens(
            d_model=config.d_model,
            ppe=config.ppe,
            ppe_period=config.ppe_period,
            network="mlp" if config.token_kan == "mlp" else "kan",
            eye_encoding="code" if parity else "smooth",
            pose_distance=None if parity else 5.0,
            normalize=not parity,
            lips_token=not parity,
            fits_lips=config.fits_lips,
            dropout=config.dropout,
        ),
        attention=SpatialAudioAttention(
            d_model=config.d_model,
            mixing=config.attention,
            agents_count=config.agents_count,
            agents=config.agents,
            agent_network="linear" if parity else "mlp",
            heads=config.heads,
            ffn_dim=2 * config.d_model,
            norm_epsilon=1e-12 if parity else 1e-6,
            gain=1.0 if parity else ATTENTION_GAIN,
            dropout=config.dropout,
        ),
        deform=DeformationDecoder(
            network=kind,
            width=config.width,
            gains=DeltaGains() if parity else FACE_GAINS,
            as_original=parity and kind == "mlp",
        ),
        skins=SkinField() if config.body == "person" else None,
    )


def kernel_choice(config: Config) -> str | None:
    """Return the implementation beside the rasterizer: with "xla" there, Triton nowhere."""
    return "xla" if config.rasterizer == "xla" else None


def init_networks(config: ModelConfig, key: Key[Array, ""], audio_dim: int) -> dict[str, Any]:
    """Make fresh parameters of all networks: {module name: parameters}."""
    nets = networks(config)
    means, frame = jnp.zeros((2, 3)), jnp.zeros((1, 12))
    features = jnp.zeros((2, config.d_model))
    window = jnp.zeros((1, config.window_frames, 16, audio_dim))
    inputs = {
        "spatial": (means,),
        "static": (features,),
        "tokens": (window, frame[:, 0], frame),
        "attention": (features,),
        "deform": (features,),
    }
    keys = jax.random.split(key, len(inputs))
    made = {
        name: getattr(nets, name).init(k, *inputs[name])["params"]
        for name, k in zip(inputs, keys, strict=True)
    }
    return made if nets.skins is None else made | {"skins": nets.skins.init(key, means)["params"]}


def spatial_features(config: Config, params: Params) -> Float[Array, "N D"]:
    """Return the features `f_v` of all Gaussians."""
    spatial = networks(config.model).spatial.clone(implementation=kernel_choice(config))
    means = params["gaussians"].means
    return spatial.apply({"params": params["networks"]["spatial"]}, means)


def skins(config: Config, params: Params) -> Float[Array, " N"] | None:
    """Return the share of the body's frame of all Gaussians; None: all move with the head."""
    field = networks(config.model).skins
    if field is None:
        return None
    return field.apply({"params": params["networks"]["skins"]}, params["gaussians"].means)


def static_gaussians(config: Config, params: Params) -> Gaussians:
    """Return the canonical cloud of the static stage: free shape, network opacity and color.

    The initial colors stay as a constant below the network's (their gradient is cut, so that
    in this stage appearance comes from the network alone, as in the paper).
    """
    nets, weights, free = networks(config.model), params["networks"], params["gaussians"]
    features = spatial_features(config, params)
    out = nets.static.apply({"params": weights["static"]}, features)
    return free.replace(
        log_scales=free.log_scales + out.d_log_scales,
        quats=free.quats + out.d_quats,
        logit_opacities=out.logit_opacities,
        sh0=jax.lax.stop_gradient(free.sh0) + out.sh_coeffs[:, :1],
        shN=jax.lax.stop_gradient(free.shN) + out.sh_coeffs[:, 1:],
    )


def condition(
    config: ModelConfig, params: Mapping[str, Any], drive: Drive, **settings: Any
) -> tuple[Float[Array, "B T D"], Float[Array, " T"] | None]:
    """Encode what the frames of `drive` are conditioned on.

    Returns:
      The tokens, and what is added to the attention's score of each (None: nothing).
    """
    poses = pose_vector(drive.viewmats)
    tokens = networks(config).tokens.apply(
        {"params": params}, drive.audio_windows, drive.eyes, poses, drive.lips, **settings
    )
    if config.resolved.ppe != "temporal":
        return tokens, None
    others = tokens.shape[1] - config.window_frames
    return tokens, period_bias(config.window_frames, config.ppe_period, others)


def deform_weights(nets: Networks, weights: Mapping[str, Any], n_harmonics: int) -> DeformWeights:
    """Lay the attention's and the heads' Flax parameters out for `kernels.deform`.

    Args:
      nets: Modules that they belong to.
      weights: Parameters of all networks, {module name: parameters}.
      n_harmonics: Harmonics a color that are drawn.
    """
    attention = weights["attention"]
    linear = lambda layer: Affine(layer["kernel"], layer["bias"])
    norm = lambda layer: Norm(layer["scale"], layer["bias"])
    return DeformWeights(
        gain=nets.attention.gain,
        epsilon=nets.attention.norm_epsilon,
        norm1=norm(attention["norm1"]),
        ffn_in=linear(attention["ffn_in"]),
        ffn_out=linear(attention["ffn_out"]),
        norm2=norm(attention["norm2"]),
        heads=head_weights(nets.deform, weights["deform"]["heads"], n_harmonics),
    )


def harmonics(config: ModelConfig) -> int:
    """Return how many spherical harmonics are drawn."""
    return (config.sh_degree + 1) ** 2


def canonical(config: ModelConfig, free: Gaussians) -> DeformInputs:
    """Return the cloud that the deformation network moves, with the harmonics that are drawn."""
    sh = jnp.concatenate([free.sh0, free.shN], axis=1)[:, : harmonics(config)]
    return DeformInputs(free.means, free.log_scales, free.quats, free.logit_opacities, sh)


def attend(
    features: Float[Array, "N D"],
    static_mix: Float[Array, "N A"] | None,
    mix: Float[Array, "B A T"],
    tokens: Float[Array, "B T D"],
    layers: DeformWeights,
    drop: Callable[[Array], Array] = lambda values: values,
) -> Float[Array, "B N D"]:
    """Return x2, each Gaussian's features under each frame's tokens (see `attention`).

    Args:
      features: f_v.
      static_mix: P; None: the identity.
      mix: G.
      tokens: S.
      layers: See `deform_weights`.
      drop: Dropout, called `attention.DROPOUTS` times.
    """
    attended = drop(product(token_shares(static_mix, mix), tokens))
    return normalized_layers(features[None] + layers.gain * attended, layers, drop)


def deformed_gaussians(
    config: Config, params: Params, alive: Bool[Array, " N"], drive: Drive,
    dropout_key: Key[Array, ""] | None,
) -> Deformed:  # fmt: skip
    """Return the cloud in every frame of `drive`, activated.

    An avatar computes the same by `kernels.deform.deform`, of which these are the parts.
    """
    nets, weights = networks(config.model), params["networks"]
    rngs = {} if dropout_key is None else {"dropout": dropout_key}
    attention = functools.partial(nets.attention.apply, {"params": weights["attention"]}, rngs=rngs)
    drop = (lambda values: values) if dropout_key is None else attention(method="dropouts")
    features = spatial_features(config, params)
    tokens, bias = condition(
        config.model, weights["tokens"], drive, deterministic=dropout_key is None, rngs=rngs
    )
    agents, static_mix = attention(features, alive, method="prepare")
    mix = dynamic_mix(agents, tokens, nets.attention.temperature, bias)
    layers = deform_weights(nets, weights, harmonics(config.model))
    x = attend(features, static_mix, mix, tokens, layers, drop)
    said = decode_heads(x, layers.heads, implementation=kernel_choice(config))
    return move(canonical(config.model, params["gaussians"]), *said)


def lip_shapes(
    config: ModelConfig, params: Params, entries: Float[Array, "M 16 F"]
) -> Float[Array, "M 2"]:
    """Read the lips at single frames from the sound alone (units: `Dataset.lip_shapes`)."""
    nets, weights = networks(config), params["networks"]
    return nets.tokens.apply({"params": weights["tokens"]}, entries, method="read_lips")


def raster_capacity(config: ModelConfig, count: int, width: int, height: int) -> int | None:
    """Return most (Gaussian, tile) pairs of a frame; None: what `rasterize` picks for a head.

    A person fills twice the tiles, with wider Gaussians.
    """
    person = config.is_person
    return default_capacity(3 * count // 2, width, height) if person else None


def render(
    config: Config, cloud: Deformed, alive: Bool[Array, " N"], drive: Drive,
    sh_degree: Int[Array, ""] | None, means2d_offset: Float[Array, "B N 2"] | None,
    skins: Float[Array, " N"] | None = None,
) -> tuple[RenderOutput, RasterizeAux]:  # fmt: skip
    """Draw a cloud (one for all frames, or one per frame) over the frames' backgrounds.

    Without limits, which change nothing where training looks (`limits`).

    Returns:
      The images, and what the rasterizer says of them.
    """
    sh = cloud.sh
    if sh_degree is not None:  # masked, not cut, so that a rising degree never recompiles
        sh = jnp.where(active_harmonics(sh.shape[-2], sh_degree)[:, None], sh, 0)
    cloud, viewmats = placed(cloud, skins, drive)
    height, width = drive.backgrounds.shape[1:3]
    out = rasterize(
        cloud.means, cloud.quats, cloud.scales, cloud.opacities, sh, viewmats, drive.Ks,
        width, height, sh_degree=config.model.sh_degree, backgrounds=drive.backgrounds,
        means2d_offset=means2d_offset, alive=alive, implementation=config.rasterizer,
        capacity=raster_capacity(config.model, len(alive), width, height),
    )  # fmt: skip
    return RenderOutput(rgb=out.rgb, alpha=out.alpha, depth=out.depth), out.aux


def forward(
    config: Config, params: Params, alive: Bool[Array, " N"], drive: Drive, stage: Stage, *,
    sh_degree: Int[Array, ""] | None = None,
    means2d_offset: Float[Array, "B N 2"] | None = None,
    dropout_key: Key[Array, ""] | None = None,
) -> tuple[RenderOutput, RasterizeAux]:  # fmt: skip
    """Draw the frames of `drive` in either stage; dropout only where a key is given.

    Returns:
      The images, and what the rasterizer says of them.
    """
    if stage == "static":
        still = static_gaussians(config, params)
        scales, opacities, sh = activate(still)
        cloud = Deformed(
            still.means, still.quats, scales, opacities, sh[:, : harmonics(config.model)]
        )
    else:
        cloud = deformed_gaussians(config, params, alive, drive, dropout_key)
    weights = skins(config, params)
    return render(config, cloud, alive, drive, sh_degree, means2d_offset, weights)
