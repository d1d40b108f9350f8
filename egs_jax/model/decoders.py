"""From spatial features to Gaussians: encoder and two decoders (5 and 7 of 12).

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

from egs_jax.model.kan import Basis, Block, Linear, Network, Start, make_layer
from egs_jax.model.triplane import make_triplane
from kernels._checks import require, typechecked
from kernels.deform import HEADS, Affine, HeadWeights, Knots, decode_heads, pack_heads

SH_COUNT = 16
STATIC_HEADS = (
    ("log_scales", 3),
    ("quats", 4),
    ("logit_opacities", 1),
    ("sh_coeffs", SH_COUNT * 3),
)
DEFORM_HEADS = (("means", 3), *STATIC_HEADS)


class StaticAttributes(flax.struct.PyTreeNode):
    """What the static decoder says of each Gaussian.

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
    """Size of a delta where its head says 1: what a face can do, in the units of `Deltas`."""

    means: float = 1.0
    log_scales: float = 1.0
    quats: float = 1.0
    logit_opacities: float = 1.0
    sh_coeffs: float = 1.0


class Deltas(flax.struct.PyTreeNode):
    """What the deformation decoder adds to each Gaussian in each frame, all before activation.

    Attributes:
      d_means: [B, N, 3] world units.
      d_log_scales: [B, N, 3].
      d_quats: [B, N, 4], added to the raw quaternion.
      d_logit_opacities: [B, N].
      d_sh_coeffs: [B, N, 16, 3].
    """

    d_means: Float[Array, "B N 3"]
    d_log_scales: Float[Array, "B N 3"]
    d_quats: Float[Array, "B N 4"]
    d_logit_opacities: Float[Array, "B N"]
    d_sh_coeffs: Float[Array, "B N 16 3"]


class HeadBank(nn.Module):
    """Heads on one input, each layer, ReLU, layer; the first layers are one wide layer "hidden".

    Attributes:
      heads: Name and output size of each head.
      width: Hidden size of each head.
      network: "kan" or "mlp".
      basis: Basis of KAN layers.
      start: How the last layers start (`kan.Start`).
      relu_input: Whether a ReLU comes first (the original's MLP heads).
    """

    heads: tuple[tuple[str, int], ...]
    width: int
    network: Network
    basis: Basis
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
            self.basis,
            fan_out=self.width,
            name="hidden",
        )
        # KAN layers bend by themselves; a ReLU between them only lets units die (measured: with it
        # the mouth follows the sound after 600 steps at r 0.84 - 0.71 with shifted sound, without
        # at 0.82 - 0.40).
        hidden = wide(x) if self.network == "kan" else nn.relu(wide(x))
        parts = jnp.split(hidden, len(self.heads), axis=-1)
        return {
            name: make_layer(self.network, size, self.basis, self.start, name=name)(part)
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
      basis: Basis of the KAN.
      hidden: Hidden size of what follows.
      plane_fields: Further attributes of the tri-plane, as (name, value) pairs.
      implementation: Of `kernels.sample_planes`.
    """

    bound: float
    planes: Literal["hash", "dense"] = "hash"
    d_model: int = 64
    network: Literal["kan", "mlp", "none"] = "kan"
    basis: Basis = "taylor"
    hidden: int = 64
    plane_fields: tuple[tuple[str, int | float | tuple[int, ...]], ...] = ()
    implementation: str | None = None

    def setup(self):
        """Make the planes and what follows them."""
        fields = dict(self.plane_fields) | {"implementation": self.implementation}
        self.triplane = make_triplane(self.planes, self.bound, **fields)
        if self.network != "none":
            self.project = Block(self.hidden, self.d_model, self.network, self.basis)

    @typechecked
    def __call__(self, means: Float[Array, "N 3"]) -> Float[Array, "N D"]:
        """Encode positions [world units].

        Raises:
          ValueError: if nothing follows the planes and their size is not `d_model`.
        """
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

    "kan" (the paper's): a head bank whose last layers start at zero, so every Gaussian starts with
    `initial_opacity`, no colour of its own (spherical harmonics 0) and no correction. "mlp" (the
    code's): a trunk of two layers, then heads with last layers of gain 0.1.

    Attributes:
      network: "kan" or "mlp".
      basis: Basis of KAN layers.
      width: Hidden size, of each head and of the trunk.
      initial_opacity: Opacity where the head says 0.
      offsets: Whether scale and rotation are corrected. The original's code has these two heads but
        does not use them: with False the corrections are zero (the heads stay, for parity of
        parameters).
    """

    network: Network = "kan"
    basis: Basis = "taylor"
    width: int = 128
    initial_opacity: float = 0.5
    offsets: bool = True

    @nn.compact
    @typechecked
    def __call__(self, features: Float[Array, "N D"]) -> StaticAttributes:
        """Decode `f_v`."""
        require(
            0 < self.initial_opacity < 1,
            f"initial_opacity: expected a number in (0, 1), got {self.initial_opacity}",
        )
        mlp = self.network == "mlp"
        if mlp:
            hidden = nn.relu(Linear(self.width, name="trunk_in")(features))
            features = Linear(self.width, name="trunk_out")(hidden)
        bank = HeadBank(
            STATIC_HEADS,
            self.width,
            self.network,
            self.basis,
            start="small" if mlp else "zero",
            relu_input=mlp,
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
    """Deltas of every Gaussian in every frame from the attended features.

    Attributes:
      network: "kan" (the paper's; deltas start exactly at zero) or "mlp" (the code's: ReLU first,
        last layers of gain 0.1).
      basis: Basis of KAN layers.
      width: Hidden size of each head.
      gains: Multiply what each head says. Adam moves every weight by about its rate, whatever the
        gradient: with over a hundred inputs in step, the first updates of an unscaled head throw
        Gaussians pixels away, and the attention learns to look at the constant tokens instead
        (measured: the share of the pose token rises to 0.99 within 10 steps). The original has 1.
    """

    network: Network = "kan"
    basis: Basis = "taylor"
    width: int = 128
    gains: DeltaGains = DeltaGains()

    @nn.compact
    @typechecked
    def __call__(self, x: Float[Array, "B N D"]) -> Deltas:
        """Decode attended features."""
        mlp = self.network == "mlp"
        start: Start = "small" if mlp else "zero"
        out = HeadBank(
            DEFORM_HEADS, self.width, self.network, self.basis, start, relu_input=mlp, name="heads"
        )(x)
        return Deltas(
            d_means=self.gains.means * out["means"],
            d_log_scales=self.gains.log_scales * out["log_scales"],
            d_quats=self.gains.quats * out["quats"],
            d_logit_opacities=self.gains.logit_opacities * out["logit_opacities"][..., 0],
            d_sh_coeffs=self.gains.sh_coeffs * out["sh_coeffs"].reshape(*x.shape[:-1], SH_COUNT, 3),
        )


def decode_deltas(
    decoder: DeformationDecoder,
    params: Mapping[str, Any],
    x: Float[Array, "B N D"],
    implementation: str | None = None,
) -> Deltas:
    """What `decoder` says of attended features, computed by `kernels.deform.decode_heads`.

    Args:
      decoder: Whose `__call__` this equals.
      params: Its Flax parameters.
      x: Attended features.
      implementation: See `decode_heads`.
    """
    weights = head_weights(decoder, params["heads"])
    geometry, color = decode_heads(x, weights, implementation=implementation)
    return Deltas(
        d_means=geometry[..., 0:3],
        d_log_scales=geometry[..., 3:6],
        d_quats=geometry[..., 6:10],
        d_logit_opacities=geometry[..., 10],
        d_sh_coeffs=color[..., : 3 * SH_COUNT].reshape(*x.shape[:-1], SH_COUNT, 3),
    )


def head_weights(
    decoder: DeformationDecoder, params: Mapping[str, Any], n_harmonics: int = SH_COUNT
) -> HeadWeights:
    """Lay the parameters of a deformation decoder's heads out for `kernels.deform`.

    Args:
      decoder: What they belong to.
      params: Flax parameters of its "heads".
      n_harmonics: Harmonics a colour that are wanted.
    """
    network = "mlp" if decoder.network == "mlp" else decoder.basis
    seconds, knots = {}, []
    for name, source in zip(HEADS, DeltaGains._fields, strict=True):
        gain, layer = getattr(decoder.gains, source), params[source]
        affine = _columns(network, layer)
        seconds[name] = Affine(gain * affine.kernel, gain * affine.bias)
        knots.append(layer.get("knots"))
    return pack_heads(
        network,
        hidden=_columns(network, params["hidden"]),
        heads=seconds,
        knots=(
            Knots(params["hidden"]["knots"], jnp.concatenate(knots))
            if network == "bspline" else None
        ),
        n_harmonics=n_harmonics,
    )  # fmt: skip


def _columns(network: str, layer: Mapping[str, Any]) -> Affine:
    """One matrix a column of the layer's expansion (`kan.KANLayer`, `kan.Linear`)."""
    if network == "mlp":
        return Affine(layer["kernel"][None], layer["bias"])
    if network == "taylor":
        powers = layer["powers"]
        kernel = jnp.stack([layer["base"], powers[1], powers[2]])
        return Affine(kernel, layer["bias"] + powers[0].sum(axis=0))
    splines = layer["scaler"][None] * layer["spline"]
    return Affine(jnp.concatenate([layer["base"][None], splines]), layer["bias"])
