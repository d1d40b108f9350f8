"""The whole forward pass on one page: (means) -> features -> Gaussians -> moved by speech -> image.

Before: dataset, after: train and infer. Static stage: the decoder gives opacity, color and small
corrections of shape. `bake` turns them into free parameters at the hand-over; from then on the
deformation network adds deltas per frame.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from egs_jax.config import Config, ModelConfig, Stage
from egs_jax.model import gaussians as cloud
from egs_jax.model.attention import SpatialAudioAttention
from egs_jax.model.decoders import (
    DeformationDecoder,
    DeltaGains,
    SpatialEncoder,
    StaticDecoder,
    decode_deltas,
)
from egs_jax.model.gaussians import Gaussians
from egs_jax.model.tokens import SpeechTokens, period_bias, pose_vector
from egs_jax.types import Drive, Params, RenderOutput
from kernels import RasterizeAux, rasterize

ATTENTION_GAIN = 4.0
FACE_GAINS = DeltaGains(means=0.02, log_scales=0.2, quats=0.1, logit_opacities=1.0, sh_coeffs=0.1)


class Networks(NamedTuple):
    """The Flax modules; their parameters live in a dict under the same names."""

    spatial: SpatialEncoder
    static: StaticDecoder
    tokens: SpeechTokens
    attention: SpatialAudioAttention
    deform: DeformationDecoder


@functools.cache
def networks(config: ModelConfig) -> Networks:
    """Build the modules that a config asks for."""
    config = config.resolved
    parity = config.architecture == "parity"
    kind = "mlp" if config.decoder == "mlp" else "kan"
    basis = "taylor" if config.decoder == "mlp" else config.decoder
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
            planes=config.encoder,
            d_model=config.d_model,
            network="none" if parity and dense and config.d_model == 64 else kind,
            basis=basis,
            plane_fields=() if dense else hash_fields,
        ),
        static=StaticDecoder(network=kind, basis=basis, width=config.width, offsets=not parity),
        tokens=SpeechTokens(
            d_model=config.d_model,
            ppe=config.ppe,
            ppe_period=config.ppe_period,
            network="mlp" if config.token_kan == "mlp" else "kan",
            basis="taylor" if config.token_kan == "mlp" else config.token_kan,
            eye_encoding="code" if parity else "smooth",
            pose_distance=None if parity else 5.0,
            normalize=not parity,
            lips_token=not parity,
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
            basis=basis,
            width=config.width,
            gains=DeltaGains() if parity else FACE_GAINS,
        ),
    )


def kernel_choice(config: Config) -> str | None:
    """Implementation of everything beside the rasterizer: with "xla" there, Triton nowhere."""
    return "xla" if config.rasterizer == "xla" else None


def init_networks(config: ModelConfig, key: Key[Array, ""], audio_dim: int) -> dict[str, Any]:
    """Fresh parameters of all networks: {module name: parameters}."""
    nets = networks(config)
    keys = dict(zip(Networks._fields, jax.random.split(key, len(nets)), strict=True))
    means, frame = jnp.zeros((2, 3)), jnp.zeros((1, 12))
    features = jnp.zeros((2, config.d_model))
    window = jnp.zeros((1, config.window_frames, 16, audio_dim))
    tokens, _ = nets.tokens.init_with_output(keys["tokens"], window, frame[:, 0], frame)
    inputs = {
        "spatial": (means,),
        "static": (features,),
        "tokens": (window, frame[:, 0], frame),
        "attention": (features, tokens),
        "deform": (features[None],),
    }
    return {name: getattr(nets, name).init(keys[name], *inputs[name])["params"] for name in inputs}


def spatial_features(config: Config, params: Params) -> Float[Array, "N D"]:
    """Features `f_v` of all Gaussians."""
    spatial = networks(config.model).spatial.clone(implementation=kernel_choice(config))
    means = params["gaussians"].means
    return spatial.apply({"params": params["networks"]["spatial"]}, means)


def static_gaussians(config: Config, params: Params) -> Gaussians:
    """The canonical cloud of the static stage: free shape, network opacity and color.

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
        {"params": params}, drive.audio_windows, drive.eyes, poses, **settings
    )
    if config.resolved.ppe != "temporal":
        return tokens, None
    others = tokens.shape[1] - config.window_frames
    return tokens, period_bias(config.window_frames, config.ppe_period, others)


def deformed_gaussians(
    config: Config, params: Params, alive: Bool[Array, " N"], drive: Drive,
    dropout_key: Key[Array, ""] | None,
) -> Gaussians:  # fmt: skip
    """The cloud in every frame of `drive`: leaves gain a leading axis B."""
    nets, weights, free = networks(config.model), params["networks"], params["gaussians"]
    rngs = {} if dropout_key is None else {"dropout": dropout_key}
    settings = {"deterministic": dropout_key is None, "rngs": rngs}
    features = spatial_features(config, params)
    tokens, bias = condition(config.model, weights["tokens"], drive, **settings)
    attended = nets.attention.apply(
        {"params": weights["attention"]}, features, tokens, bias, alive, **settings
    )
    deltas = decode_deltas(nets.deform, weights["deform"], attended, kernel_choice(config))
    return Gaussians(
        means=free.means[None] + deltas.d_means,
        log_scales=free.log_scales[None] + deltas.d_log_scales,
        quats=free.quats[None] + deltas.d_quats,
        logit_opacities=free.logit_opacities[None] + deltas.d_logit_opacities,
        sh0=free.sh0[None] + deltas.d_sh_coeffs[:, :, :1],
        shN=free.shN[None] + deltas.d_sh_coeffs[:, :, 1:],
    )


def lip_shapes(
    config: ModelConfig, params: Params, entries: Float[Array, "M 16 F"]
) -> Float[Array, "M 2"]:
    """What the sound alone says of the lips at single frames (units: `Dataset.lip_shapes`)."""
    nets, weights = networks(config), params["networks"]
    return nets.tokens.apply({"params": weights["tokens"]}, entries, method="read_lips")


def render(
    config: Config, gaussians: Gaussians, alive: Bool[Array, " N"], drive: Drive,
    sh_degree: Int[Array, ""] | None, means2d_offset: Float[Array, "B N 2"] | None,
) -> tuple[RenderOutput, RasterizeAux]:  # fmt: skip
    """Draw a cloud (one for all frames, or one per frame) over the frames' backgrounds.

    Returns:
      The images, and what the rasterizer says of them.
    """
    scales, opacities, sh = cloud.activate(gaussians)
    top = config.model.sh_degree
    sh = sh[..., : (top + 1) ** 2, :]
    if sh_degree is not None:  # masked, not cut, so that a rising degree never recompiles
        sh = jnp.where(cloud.active_harmonics(sh.shape[-2], sh_degree)[:, None], sh, 0)
    height, width = drive.backgrounds.shape[1:3]
    out = rasterize(
        gaussians.means, gaussians.quats, scales, opacities, sh, drive.viewmats, drive.Ks,
        width, height, sh_degree=top, backgrounds=drive.backgrounds,
        means2d_offset=means2d_offset, alive=alive, implementation=config.rasterizer,
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
        gaussians = static_gaussians(config, params)
    else:
        gaussians = deformed_gaussians(config, params, alive, drive, dropout_key)
    return render(config, gaussians, alive, drive, sh_degree, means2d_offset)
