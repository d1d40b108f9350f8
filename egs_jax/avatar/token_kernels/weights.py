"""Networks that the token kernels have, and their weights in one vector.

Before: `model`; after: `frame_tokens`, which lays the vector out.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from egs_jax.avatar.token_kernels.frame_tokens import MOST_WINDOW, SHARED_MEMORY, WIDTH, pack
from egs_jax.config import Config, ModelConfig
from egs_jax.model.kan import layer_columns
from egs_jax.model.tokens import periodic_encoding
from kernels import dispatch


def uses_token_kernels(config: Config) -> bool:
    """Decide whether the kernels make the tokens of an avatar here, and remember it."""
    implementation = "xla" if config.rasterizer == "xla" else None
    obstacle = why_not_networks(config.model.resolved) or dispatch.device_lacks(
        capability=(8, 0), shared_memory=SHARED_MEMORY
    )
    return dispatch.uses_triton("frame_tokens", implementation, obstacle)


def why_not_networks(model: ModelConfig) -> str | None:
    """Say in one line why the kernels do not have these (resolved) networks; None if they do."""
    window, longest = model.window_frames, min(MOST_WINDOW, model.ppe_period)
    reasons = {
        "they have no parity architecture": model.architecture == "parity",
        "they keep the window a sequence, which ppe token does not": model.ppe == "token",
        "they have Taylor KANs alone": model.token_kan != "taylor",
        "cross-attention has no agents for them to mix": model.attention == "cross",
        f"they take tokens of {WIDTH} numbers, not {model.d_model}": model.d_model != WIDTH,
        f"they take windows of {MOST_WINDOW} frames, not {window}": window > MOST_WINDOW,
        # A longer one has a bias, which they do not know.
        f"they take windows of one period, {longest} frames, not {window}": (
            model.ppe == "temporal" and window > model.ppe_period
        ),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def token_weights(config: ModelConfig, params: Mapping[str, Any]) -> Float[Array, " weights"]:
    """Lay the parameters of the token encoders out for `frame_tokens`."""
    parts = {}
    for name, layer in params["audio_net"].items():
        parts |= {f"{name}.{kind}": value for kind, value in layer.items()}
    for name in ("audio", "eye", "pose", "lips"):
        for layer in ("hidden", "out"):
            columns = layer_columns("taylor", params[name][layer])
            parts[f"{name}.{layer}.kernel"] = columns.kernel.reshape(-1, WIDTH)
            parts[f"{name}.{layer}.bias"] = columns.bias
        parts |= {f"{name}_norm.{kind}": value for kind, value in params[f"{name}_norm"].items()}
    reader = "lips_reader" if config.fits_lips else "lips_read"
    parts |= {f"{reader}.{kind}": value for kind, value in params[reader].items()}
    if config.fits_lips:  # each number's side by side in memory
        parts["lips_reader.kernel"] = parts["lips_reader.kernel"].T
    window = config.window_frames
    code = jnp.zeros((window, WIDTH))
    if config.resolved.ppe == "temporal":
        code = periodic_encoding(window, WIDTH, config.ppe_period)
    parts |= {"null": params["null"], "code": jnp.pad(code, ((0, 4), (0, 0)))}
    features = parts["conv_0.kernel"].shape[1]
    return pack(parts, window, features, config.fits_lips)
