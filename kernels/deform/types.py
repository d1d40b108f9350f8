"""Arguments and results of `deform`, and the layout of its weights.

Letters: N Gaussians, B frames, A agents, T tokens, D features, F units between the two layers of
the feed-forward network, U hidden units of a head, C columns of a layer's expansion, K spherical
harmonics a color.

A layer of the heads expands every input into C columns and is linear in them:
  * "taylor": SiLU(x), x, x^2 (C = 3; the constant term is part of the bias);
  * "mlp": max(x, 0) (C = 1);
  * "plain_mlp": x for the first layer, max(x, 0) for the second (C = 1); no Triton kernel has it.
A kernel [C, in, out] has one matrix a column. Four heads that move and shape a Gaussian, together
11 numbers, share one matrix, so that they share its products; that of color has its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kernels.checks import require, typechecked

Network = Literal["taylor", "mlp", "plain_mlp"]
NETWORKS = ("taylor", "mlp")
"""Networks that have a Triton kernel."""
HEADS = ("means", "log_scales", "quats", "logit_opacities", "sh")
SIZES = dict(means=3, log_scales=3, quats=4, logit_opacities=1)
GEOMETRY = 16
"""Columns of the matrix that the first four heads share: 3 + 3 + 4 + 1 and 5 of zeros, because
tensor cores take at least 16."""


class DeformInputs(NamedTuple):
    """Gaussians as no frame changes them, all before activation."""

    means: Float[Array, "N 3"]  # [scene units]
    log_scales: Float[Array, "N 3"]
    quats: Float[Array, "N 4"]  # of any length
    logit_opacities: Float[Array, " N"]
    sh: Float[Array, "N K 3"]  # only the harmonics that are drawn: K = (degree + 1)^2


class Deformed(NamedTuple):
    """Gaussians of every frame, as `rasterize` takes them."""

    means: Float[Array, "B N 3"]  # [scene units]
    quats: Float[Array, "B N 4"]  # not normalized: `rasterize` does that
    scales: Float[Array, "B N 3"]  # [scene units]
    opacities: Float[Array, "B N"]
    sh: Float[Array, "B N K 3"]


class Affine(NamedTuple):
    """A linear layer, or C of them on the columns of an expansion, whose results add up."""

    kernel: Float[Array, "fan_in fan_out"] | Float[Array, "C fan_in fan_out"]
    bias: Float[Array, " fan_out"]


class Norm(NamedTuple):
    """Scale and shift after a normalization to mean 0 and variance 1."""

    scale: Float[Array, " D"]
    bias: Float[Array, " D"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class HeadWeights:
    """Weights of the heads; make them with `pack_heads`.

    Attributes:
      network: What the heads are made of.
      hidden: [C, D, 5 U]: the heads' first layers, in the order of `HEADS`.
      geometry: [C, 4 U, 16]: the first four heads' second layers, each with zeros in the columns
        of the others; columns means 0-2, log-scales 3-5, quaternion 6-9, opacity 10.
      color: [C, U, S]: that of the harmonics, column 3 k + channel; S is 3 K, filled with zeros to
        the next power of two, at least 16.
    """

    network: Network = field(metadata=dict(static=True))
    hidden: Affine
    geometry: Affine
    color: Affine

    def astype(self, dtype: jnp.dtype | type) -> "HeadWeights":
        """Return them with matrices of another type; what is added stays float32."""
        layers = ("hidden", "geometry", "color")
        return replace(self, **{name: _cast(getattr(self, name), dtype) for name in layers})

    def with_harmonics(self, active: Bool[Array, " K"]) -> "HeadWeights":
        """Return weights that say nothing of harmonics that are not `active`."""
        columns = jnp.repeat(active, 3, total_repeat_length=3 * active.shape[0])
        columns = jnp.pad(columns, (0, self.color.bias.size - columns.size))
        kernel = jnp.where(columns[None, None, :], self.color.kernel, 0)
        return replace(self, color=Affine(kernel, jnp.where(columns, self.color.bias, 0)))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DeformWeights:
    """Weights of `deform`.

    Attributes:
      gain: Weight of what is attended beside a Gaussian's own features.
      epsilon: Added to the variance in both normalizations.
      norm1: After attention.
      ffn_in: D -> F, then ReLU.
      ffn_out: F -> D.
      norm2: After the feed-forward network.
      heads: See there.
    """

    gain: float = field(metadata=dict(static=True))
    epsilon: float = field(metadata=dict(static=True))
    norm1: Norm
    ffn_in: Affine
    ffn_out: Affine
    norm2: Norm
    heads: HeadWeights

    def astype(self, dtype: jnp.dtype | type) -> "DeformWeights":
        """Return them with matrices of another type; what is added stays float32."""
        layers = {name: _cast(getattr(self, name), dtype) for name in ("ffn_in", "ffn_out")}
        return replace(self, heads=self.heads.astype(dtype), **layers)


def _cast(layer: Affine, dtype: jnp.dtype | type) -> Affine:
    return Affine(layer.kernel.astype(dtype), layer.bias.astype(jnp.float32))


@typechecked
def pack_heads(
    network: Network,
    *,
    hidden: Affine,
    heads: Mapping[str, Affine],
    n_harmonics: int = 16,
) -> HeadWeights:
    """Lay the heads' weights out for `deform` and `decode_heads`, in float32; differentiable.

    Args:
      network: See `HeadWeights`; likewise `hidden`.
      hidden: See above.
      heads: Second layers by the names in `HEADS`, kernels [C, U, 3 | 3 | 4 | 1 | 3 K or more];
        factors of the deltas must be in them.
      n_harmonics: K, the harmonics that are drawn; the kernel's other columns are dropped.

    Returns:
      The weights.

    Raises:
      ValueError: if a head is missing or has another size, or the columns do not fit the network.
    """
    require(
        set(heads) == set(HEADS), f"heads: expected {HEADS}, got {tuple(heads)}; name all of them"
    )
    _check_heads(network, hidden, heads, 3 * n_harmonics)
    sizes = [SIZES[name] for name in HEADS[:-1]]
    firsts = [sum(sizes[:i]) for i in range(len(sizes))]
    kernels = [
        jnp.pad(heads[name].kernel, ((0, 0), (0, 0), (first, GEOMETRY - first - size)))
        for name, first, size in zip(HEADS, firsts, sizes, strict=False)
    ]
    geometry_bias = jnp.concatenate([heads[name].bias for name in HEADS[:-1]])
    n_color = 3 * n_harmonics
    extra = color_columns(n_harmonics) - n_color
    sh = heads["sh"]
    color = Affine(
        jnp.pad(sh.kernel[..., :n_color], ((0, 0), (0, 0), (0, extra))),
        jnp.pad(sh.bias[:n_color], (0, extra)),
    )
    geometry = Affine(
        jnp.concatenate(kernels, axis=1), jnp.pad(geometry_bias, (0, GEOMETRY - sum(sizes)))
    )
    weights = HeadWeights(network=network, hidden=hidden, geometry=geometry, color=color)
    return weights.astype(jnp.float32)


def color_columns(n_harmonics: int) -> int:
    """Return the columns of the colors' matrix: 3 K, rounded up to a power of two and to 16."""
    return max(16, 1 << (3 * n_harmonics - 1).bit_length())


def _check_heads(network: str, hidden: Affine, heads: Mapping[str, Affine], n_color: int) -> None:
    n_columns, _, n_hidden = hidden.kernel.shape
    fixed = dict(taylor=3, mlp=1, plain_mlp=1)[network]
    width = n_hidden // len(HEADS)
    for name, layer in heads.items():
        size = SIZES.get(name, n_color)
        shape = layer.kernel.shape
        fits = shape[-1] == size if name in SIZES else shape[-1] >= size
        require(
            shape[:-1] == (fixed, width) and n_columns == fixed and fits,
            f"heads[{name!r}]: expected a kernel {(fixed, width, size)} for {network} after a "
            f"hidden layer {hidden.kernel.shape}, got {shape}; one matrix a column",
        )


class Tile(NamedTuple):
    """Size of a program of the Triton kernels."""

    rows: int  # Gaussians of one frame, at a time; all of them read the weights once
    units: int  # hidden units at a time
    warps: int
    stages: int  # what is loaded step by step lies in shared memory for so many steps
    registers: int | None = None  # most of a thread; None: as many as it wants
    parts: int = 1  # programs that share the heads of such a block: one, or one a head
