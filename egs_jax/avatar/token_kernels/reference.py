"""The definition of `frame_tokens` in plain JAX, by the same vector of weights, without modules."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from egs_jax.avatar.token_kernels.frame_tokens import LARGEST_EYE_RATE, sizes
from egs_jax.speech.lips import LipsReader, read, read_rows

EPSILON = 1e-6
"""Added to the variance in a normalization."""
LEAK = 0.02
"""Slope of LeakyReLU below zero."""


def frame_tokens_reference(
    windows: Float[Array, "B W 16 F"],
    eyes: Float[Array, " B"],
    viewmats: Float[Array, "B 4 4"],
    agents: Float[Array, "A D"],
    weights: Float[Array, " weights"],
    *,
    distance: float,
    temperature: float,
    fits_lips: bool = False,
) -> tuple[Float[Array, "B T D"], Float[Array, "B A T"]]:
    """Make the tokens of frames and how much every agent listens to each.

    Arguments and results are those of `frame_tokens`.
    """
    part = unpack(weights, windows.shape[1], windows.shape[3], fits_lips)
    told = None
    if fits_lips:
        reader = LipsReader(**{name: part[f"lips_reader.{name}"] for name in LipsReader._fields})
        told = read(reader._replace(kernel=reader.kernel.T), read_rows(windows))

    def linear(name: str, x: Array) -> Array:
        return x @ part[f"{name}.kernel"] + part[f"{name}.bias"]

    def token(name: str, x: Array) -> Array:
        for layer in ("hidden", "out"):
            columns = jnp.concatenate([x / (1 + jnp.exp(-x)), x, x**2])
            x = linear(f"{name}.{layer}", columns)
        x = (x - x.mean()) / jnp.sqrt(x.var() + EPSILON)
        return x * part[f"{name}_norm.scale"] + part[f"{name}_norm.bias"]

    def sound(rows: Float[Array, "16 F"]) -> Float[Array, " 32"]:
        leaky = lambda x: jnp.where(x > 0, x, LEAK * x)
        x = rows
        for i in range(4):  # of stride 2 and width 3, padded by 1: 16 rows become 1
            padded, kernel = jnp.pad(x, ((1, 1), (0, 0))), part[f"conv_{i}.kernel"]
            steps = [
                sum(padded[2 * step + tap] @ kernel[tap] for tap in range(3))
                for step in range(len(x) // 2)
            ]
            x = leaky(jnp.stack(steps) + part[f"conv_{i}.bias"][None])
        return linear("out", leaky(linear("hidden", x[0])))

    def frame(
        window: Float[Array, "W 16 F"], eye: Float[Array, ""], viewmat: Float[Array, "4 4"],
        told: Float[Array, " 2"] | None,
    ) -> Float[Array, "T D"]:  # fmt: skip
        heard = jnp.stack([token("audio", sound(rows)) for rows in window])
        rates = jnp.exp(jnp.arange(16) * (math.log(LARGEST_EYE_RATE) / 15))
        blink = jnp.stack([jnp.sin(eye * rates), jnp.cos(eye * rates)], axis=1).reshape(-1)
        pose = jnp.concatenate([viewmat[:3, :3].T.reshape(-1), viewmat[:3, 3] / distance])
        lips = linear("lips_read", heard[len(window) // 2]) if told is None else told
        others = [token("eye", blink), token("pose", pose), part["null"], token("lips", lips)]
        return jnp.concatenate([heard, jnp.stack(others)]) + part["code"]

    tokens = jax.vmap(frame)(windows, eyes, viewmats, told)
    scores = jnp.einsum("ad,btd->bat", agents, tokens) / temperature
    return tokens, jax.nn.softmax(scores, axis=-1)


def unpack(
    weights: Float[Array, " weights"], window: int, features: int, fits_lips: bool = False
) -> dict[str, Float[Array, "..."]]:
    """Cut the vector of `frame_tokens.pack` into its parts again."""
    parts, at = {}, 0
    for name, shape in sizes(window, features, fits_lips).items():
        parts[name] = weights[at : at + math.prod(shape)].reshape(shape)
        at += math.prod(shape)
    return parts
