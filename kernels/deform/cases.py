"""Random inputs and weights for the tests and benchmarks of `deform` and `decode_heads`."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from kernels.deform.types import (
    HEADS,
    SIZES,
    Affine,
    DeformInputs,
    DeformWeights,
    Network,
    Norm,
    pack_heads,
)

_pack_heads = jax.jit(pack_heads, static_argnames=("network", "n_harmonics"))


def make_case(
    network: Network, n: int = 5, frames: int = 2, agents: int = 7, tokens: int = 4, d: int = 8,
    units: int = 4, ffn: int = 6, k: int = 4, seed: int = 0,
) -> SimpleNamespace:  # fmt: skip
    """Draw inputs and weights, the same on every machine.

    Args:
      network: What the heads are made of.
      n: Gaussians.
      frames: Number of frames.
      agents: Number of agents.
      tokens: Tokens of a frame.
      d: Features.
      units: Hidden units of a head.
      ffn: Units of the feed-forward network.
      k: Harmonics that are drawn.
      seed: Of the random numbers.

    Returns:
      `network`, `k`; `arrays`, the first arguments of `deform`; `weights`, the keyword arguments of
      `deform_reference`, which `pack` lays out for `deform`.
    """
    rng = np.random.default_rng(seed)
    draw = lambda *shape, scale=1.0: (scale * rng.normal(size=shape)).astype(np.float32)
    columns = dict(taylor=3, mlp=1, plain_mlp=1)[network]
    layer = lambda *shape, gain=1.0: Affine(
        draw(*shape, scale=gain * (columns * shape[-2]) ** -0.5), draw(shape[-1], scale=0.3)
    )
    norm = lambda: Norm(1 + draw(d, scale=0.2), draw(d, scale=0.2))
    shares = lambda *shape: rng.dirichlet(0.3 * np.ones(shape[-1]), shape[:-1]).astype(np.float32)
    weights = dict(
        gain=1.5, epsilon=1e-6, norm1=norm(), ffn_in=layer(d, ffn), ffn_out=layer(ffn, d),
        norm2=norm(), hidden=layer(columns, d, 5 * units),
        heads={name: layer(columns, units, SIZES.get(name, 48), gain=0.2) for name in HEADS},
    )  # fmt: skip
    canonical = DeformInputs(
        draw(n, 3), draw(n, 3, scale=0.5), draw(n, 4), draw(n), draw(n, k, 3)
    )  # fmt: skip
    arrays = (
        canonical, draw(n, d), shares(n, agents), shares(frames, agents, tokens),
        draw(frames, tokens, d),
    )  # fmt: skip
    return SimpleNamespace(network=network, arrays=arrays, weights=weights, k=k)


def pack(case: SimpleNamespace, dtype: type = jnp.float32) -> DeformWeights:
    """Lay the weights of a case out for `deform`, matrices as `dtype`."""
    weights = dict(case.weights)
    parts = {name: weights.pop(name) for name in ("hidden", "heads")}
    heads = _pack_heads(case.network, **parts, n_harmonics=case.k)
    return DeformWeights(**weights, heads=heads).astype(dtype)
