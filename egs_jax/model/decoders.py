"""From spatial features to Gaussians: encoder and two decoders.

Before: `triplane`, `attention`; after: `gaussians` and rendering. Letters: N Gaussians, B frames, D
feature size.

Every decoder is a bank of two-layer heads. The heads' first layers see the same input and are
stored and computed as one wide layer, which is mathematically the same as separate ones.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from egs_jax.model.kan import (
    Block,
    Linear,
    Network,
    Start,
    layer_columns,
    make_layer,
)
from egs_jax.model.triplane import make_triplane, squeezed
from kernels.checks import require, typechecked
from kernels.deform import HEADS, Affine, HeadWeights, pack_heads

SH_COUNT = 16
STATIC_HEADS = (
    ("log_scales", 3),
    ("quats", 4),
    ("logit_opacities", 1),
    ("sh_coeffs", SH_COUNT * 3),
)
DEFORM_HEADS = (("means", 3), *STATIC_HEADS)


class StaticAttributes(flax.struct.PyTreeNode):
    """Attributes of each Gaussian by the static decoder.

    Attributes:
      logit_opacities: [N], before the sigmoid.
      sh_coeffs: [N, 16, 3], index 0 the constant one.
      d_log_scales: [N, 3], added to free log-scales.
      d_quats: [N, 4], added to free quaternions.
    """

    logit_opacities: Float[Array, " N"]
    sh_coeffs: Float[Array, "N 16 3"]
    d_log_scales: Float[Array, "N 3"]
    d_quats: Float[Array, "N 4"]


class DeltaGains(NamedTuple):
    """Size of a delta where its head says 1: what a face can do, before activation."""

    means: float = 1.0
    log_scales: float = 1.0
    quats: float = 1.0
    logit_opacities: float = 1.0
    sh_coeffs: float = 1.0


class HeadBank(nn.Module):
    """Heads on one input, each layer, ReLU, layer; the first layers are one wide layer "hidden".

    Attributes:
      heads: Name and output size of each head.
      width: Hidden size of each head.
      network: "kan" or "mlp".
      start: How the last layers start (`kan.Start`).
      relu_input: Whether a ReLU comes first (the original's MLP heads).
    """

    heads: tuple[tuple[str, int], ...]
    width: int
    network: Network
    start: Start
    relu_input: bool = False

    @nn.compact
    @typechecked
    def __call__(self, x: Float[Array, "*batch D"]) -> dict[str, Float[Array, "*batch _"]]:
        """Return the output of each head by name."""
        x = nn.relu(x) if self.relu_input else x
        wide = make_layer(
            self.network,
            self.width * len(self.heads),
            fan_out=self.width,
            name="hidden",
        )
        # KAN layers bend by themselves; a ReLU between them only lets units die (measured: with it
        # the mouth follows the sound after 600 steps at r 0.84 - 0.71 with shifted sound, without
        # at 0.82 - 0.40).
        hidden = wide(x) if self.network == "kan" else nn.relu(wide(x))
        parts = jnp.split(hidden, len(self.heads), axis=-1)
        return {
            name: make_layer(self.network, size, self.start, name=name)(part)
            for (name, size), part in zip(self.heads, parts, strict=True)
        }


class SpatialEncoder(nn.Module):
    """Features `f_v` of canonical positions: tri-plane, then a KAN, or the dense planes alone.

    Attributes:
      bound: Half the side of the encoded cube [world units].
      planes: "hash" or "dense".
      d_model: Size of `f_v`.
      network: What follows the planes: "kan", "mlp", or "none" where the planes' features already
        have size `d_model`.
      hidden: Hidden size of what follows.
      plane_fields: Further attributes of the tri-plane, as (name, value) pairs.
      implementation: Of `kernels.sample_planes`.
      inner: Half the side of the cube within which space is as it is; all that lies beyond is
        squeezed into the rest (`triplane.squeezed`). None: beyond `bound` nothing is told apart.
    """

    bound: float
    planes: Literal["hash", "dense"] = "hash"
    d_model: int = 64
    network: Literal["kan", "mlp", "none"] = "kan"
    hidden: int = 64
    plane_fields: tuple[tuple[str, int | float | tuple[int, ...]], ...] = ()
    implementation: str | None = None
    inner: float | None = None

    def setup(self) -> None:
        """Make the planes and what follows them."""
        fields = dict(self.plane_fields) | {"implementation": self.implementation}
        self.triplane = make_triplane(self.planes, self.bound, **fields)
        if self.network != "none":
            self.project = Block(self.hidden, self.d_model, self.network)

    @typechecked
    def __call__(self, means: Float[Array, "N 3"]) -> Float[Array, "N D"]:
        """Encode positions [world units].

        Raises:
          ValueError: if nothing follows the planes and their size is not `d_model`.
        """
        if self.inner is not None:
            means = squeezed(means, self.inner, self.bound)
        features = self.triplane(means)
        if self.network != "none":
            return self.project(features)
        require(
            features.shape[1] == self.d_model,
            f"d_model: expected the planes' {features.shape[1]}, got {self.d_model}; "
            "change it, or set network to kan or mlp",
        )
        return features


class StaticDecoder(nn.Module):
    """Canonical appearance from `f_v`: opacity, color, corrections of scale and rotation.

    A head bank whose last layers start at zero, so every Gaussian starts with `initial_opacity`, no
    color of its own (spherical harmonics 0) and no correction. `as_original` (the code's MLP): a
    trunk of two layers, then heads that begin with a ReLU, with last layers of gain 0.1.

    Attributes:
      network: "kan" or "mlp".
      width: Hidden size, of each head and of the trunk.
      as_original: See above; for "mlp" only.
      initial_opacity: Opacity where the head says 0.
      offsets: Whether scale and rotation are corrected. The original's code has these two heads but
        does not use them: with False the corrections are zero (the heads stay, for parity of
        parameters).
    """

    network: Network = "kan"
    width: int = 128
    initial_opacity: float = 0.5
    offsets: bool = True
    as_original: bool = False

    @nn.compact
    @typechecked
    def __call__(self, features: Float[Array, "N D"]) -> StaticAttributes:
        """Decode `f_v`."""
        require(
            0 < self.initial_opacity < 1,
            f"initial_opacity: expected a number in (0, 1), got {self.initial_opacity}",
        )
        if self.as_original:
            hidden = nn.relu(Linear(self.width, name="trunk_in")(features))
            features = Linear(self.width, name="trunk_out")(hidden)
        bank = HeadBank(
            STATIC_HEADS,
            self.width,
            self.network,
            start="small" if self.as_original else "zero",
            relu_input=self.as_original,
            name="heads",
        )
        out = bank(features)
        logit = float(np.log(self.initial_opacity / (1 - self.initial_opacity)))
        keep = 1.0 if self.offsets else 0.0
        return StaticAttributes(
            logit_opacities=out["logit_opacities"][:, 0] + logit,
            sh_coeffs=out["sh_coeffs"].reshape(-1, SH_COUNT, 3),
            d_log_scales=keep * out["log_scales"],
            d_quats=keep * out["quats"],
        )


class DeformationDecoder(nn.Module):
    """Heads that move every Gaussian in every frame, from the attended features.

    The module makes the parameters; `forward` computes with them laid out by `head_weights`.

    Attributes:
      network: "kan" or "mlp"; deltas start exactly at zero.
      width: Hidden size of each head.
      gains: Multiply what each head says. Adam moves every weight by about its rate, whatever the
        gradient: with over a hundred inputs in step, the first updates of an unscaled head throw
        Gaussians pixels away, and the attention learns to look at the constant tokens instead
        (measured: the share of the pose token rises to 0.99 within 10 steps). The original has 1.
      as_original: The code's MLP: a ReLU first, last layers of gain 0.1; for "mlp" only.
    """

    network: Network = "kan"
    width: int = 128
    gains: DeltaGains = DeltaGains()
    as_original: bool = False

    @nn.compact
    @typechecked
    def __call__(self, x: Float[Array, "*rows D"]) -> dict[str, Float[Array, "*rows _"]]:
        """Return what each head says, by name, before its gain."""
        start: Start = "small" if self.as_original else "zero"
        return HeadBank(
            DEFORM_HEADS, self.width, self.network, start,
            relu_input=self.as_original, name="heads",
        )(x)  # fmt: skip


def head_weights(
    decoder: DeformationDecoder, params: Mapping[str, Any], n_harmonics: int = SH_COUNT
) -> HeadWeights:
    """Lay the parameters of a deformation decoder's heads out for `kernels.deform`.

    Args:
      decoder: Module that they belong to.
      params: Flax parameters of its "heads".
      n_harmonics: Harmonics a color that are wanted.
    """
    network = "taylor"
    if decoder.network == "mlp":
        network = "mlp" if decoder.as_original else "plain_mlp"
    seconds = {}
    for name, source in zip(HEADS, DeltaGains._fields, strict=True):
        gain, layer = getattr(decoder.gains, source), params[source]
        affine = layer_columns(network, layer)
        seconds[name] = Affine(gain * affine.kernel, gain * affine.bias)
    return pack_heads(
        network,
        hidden=layer_columns(network, params["hidden"]),
        heads=seconds,
        n_harmonics=n_harmonics,
    )  # fmt: skip
