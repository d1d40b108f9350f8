"""`frame_tokens`: what frames are conditioned on, by two Triton kernels.

The sound of a window goes through four convolutions of stride 2, two linear layers and a Taylor
KAN; a blink, a camera and what the sound says of the lips through a Taylor KAN each (that is read
from the sound's own token or, with fitted lips, told as by `speech.lips.read`); then

    mix = softmax_tokens(agents tokens^T / temperature).

In plain JAX that is 85 operations, most of them smaller than a launch takes; its definition there
is `reference`.
"""

import math

import jax
import jax.numpy as jnp
from jax import ShapeDtypeStruct
from jaxtyping import Array, Float

from egs_jax.speech.lips import KNOTS, READ_ROWS
from kernels import launch
from kernels.checks import require, typechecked

MOST_WINDOW = 12
"""Frames of a window: with four other tokens they fill a block of 16."""
LARGEST_EYE_RATE = 4 * math.pi
WIDTH = 64
"""Size of a token, and of what lies between a token's layers."""
SHARED_MEMORY = 64
"""Shared memory of a program [KiB]."""
WARPS, BLOCK = 4, 64
"""Warps of a program that makes a token, and rows of the first weights at a time. By eight warps
tokens of a frame alone take 15.9 us, by four 12.9, by two 16.0; of 16 frames 25.2 and 17.6."""
MIX_WARPS, MIX_BLOCK = 4, 32
"""Warps and agents of a program that weighs tokens."""


def sizes(window: int, features: int, fits_lips: bool = False) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the parts of the vector of weights, in order.

    Args:
      window: Frames of a window.
      features: Sound features a row.
      fits_lips: Lips are told by a `speech.lips.LipsReader`, whose kernel is turned.
    """
    parts = {}
    for i, (fan_in, fan_out) in enumerate(((features, 32), (32, 32), (32, 64), (64, 64))):
        parts |= {f"conv_{i}.kernel": (3, fan_in, fan_out), f"conv_{i}.bias": (fan_out,)}
    parts |= {"hidden.kernel": (64, 64), "hidden.bias": (64,)}
    parts |= {"out.kernel": (64, 32), "out.bias": (32,)}
    for name, fan_in in (("audio", 32), ("eye", 32), ("pose", 12), ("lips", 2)):
        for layer, inputs in (("hidden", fan_in), ("out", WIDTH)):
            parts[f"{name}.{layer}.kernel"] = (3 * inputs, WIDTH)
            parts[f"{name}.{layer}.bias"] = (WIDTH,)
        parts |= {f"{name}_norm.scale": (WIDTH,), f"{name}_norm.bias": (WIDTH,)}
    parts |= {"null": (WIDTH,), "code": (window + 4, WIDTH)}
    if fits_lips:
        reader = {"kernel": (2, READ_ROWS * features), "hush": (features,), "told": (KNOTS, 2)}
        reader |= {"true": (KNOTS, 2), "bias": (2,), "rest": (2,), "spread": ()}
        return parts | {f"lips_reader.{name}": shape for name, shape in reader.items()}
    # Last: its bias would leave all that follows off the 16 bytes that one load takes.
    return parts | {"lips_read.kernel": (WIDTH, 2), "lips_read.bias": (2,)}


@typechecked
def pack(
    parts: dict[str, Array], window: int, features: int, fits_lips: bool = False
) -> Float[Array, " weights"]:
    """Lay weights out in one vector.

    Args:
      parts: By the names of `sizes`; "code" is what is added to each token.
      window: See `sizes`.
      features: See `sizes`.
      fits_lips: See `sizes`.

    Raises:
      ValueError: if a part is missing, or of another shape.
    """
    wanted = sizes(window, features, fits_lips)
    got = {name: value.shape for name, value in parts.items()}
    wrong = sorted(n for n in wanted.keys() | got.keys() if wanted.get(n) != got.get(n))
    require(
        not wrong,
        f"parts: {wrong[:1]}: expected {wanted.get(wrong[0]) if wrong else None}, got "
        f"{got.get(wrong[0]) if wrong else None}; pass those of `sizes`",
    )
    return jnp.concatenate([parts[name].reshape(-1).astype(jnp.float32) for name in wanted])


@typechecked
def frame_tokens(
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
    """Make the tokens of frames and how much every agent listens to each; no gradient.

    Args:
      windows: Rows of sound features around each frame of each window, W at most `MOST_WINDOW`.
      eyes: Blink in [0, 1].
      viewmats: World -> camera.
      agents: Agents; D is `WIDTH`.
      weights: From `pack`.
      distance: What the camera's translation is divided by [world units].
      temperature: Divisor of the scores.
      fits_lips: See `sizes`.

    Returns:
      Tokens, T = W + 4: sound, eye, pose, null, lips; and the mix, whose rows sum to one.

    Raises:
      ValueError: if a size is none that the kernel has.
    """
    n_frames, window, _, features = windows.shape
    n_agents, d_model = agents.shape
    require(
        window <= MOST_WINDOW and d_model == WIDTH,
        f"frame_tokens: expected at most {MOST_WINDOW} frames a window and tokens of {WIDTH}, got "
        f"{window} and {d_model}; use the modules in plain JAX",
    )
    count = sum(math.prod(shape) for shape in sizes(window, features, fits_lips).values())
    require(
        weights.size == count, f"weights: expected {count} numbers, got {weights.size}; pack again"
    )
    from egs_jax.avatar.token_kernels import frame_tokens_kernels

    n_tokens = window + 4
    (tokens,) = launch.triton_call(
        frame_tokens_kernels.tokens_kernel, windows, eyes, viewmats, weights,
        outputs=(ShapeDtypeStruct((n_frames, n_tokens, d_model), jnp.float32),),
        grid=n_frames * (window + 2 + fits_lips), num_warps=WARPS, W=window, F=features, D=d_model,
        BLOCK=BLOCK, DISTANCE=float(distance), EYE_RATE=math.log(LARGEST_EYE_RATE) / 15,
        FITTED=fits_lips,
    )  # fmt: skip
    (mix,) = launch.triton_call(
        frame_tokens_kernels.mix_kernel, tokens, agents,
        outputs=(ShapeDtypeStruct((n_frames, n_agents, n_tokens), jnp.float32),),
        grid=n_frames * -(-n_agents // MIX_BLOCK), num_warps=MIX_WARPS, T=n_tokens, D=d_model,
        AGENTS=n_agents, TOKENS=MOST_WINDOW + 4, BLOCK=MIX_BLOCK, TEMPERATURE=float(temperature),
    )  # fmt: skip
    return jax.lax.stop_gradient((tokens, mix))
