"""KAN layers with a Taylor basis, and the MLP they replace.

Token encoders, spatial encoder and decoders are built from these blocks.

A layer computes y_o = sum_i phi_oi(x_i) + b_o. The functions phi are linear in a fixed set of basis
values of x, so a layer is an expansion [..., in] -> [..., columns * in] followed by one matrix
product. Parameters are plain dicts.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.checks import require, typechecked
from kernels.deform import Affine, expanded_layer

Network = Literal["kan", "mlp"]
Start = Literal["random", "small", "zero"]
"""Start: "random" as the source says; "small" a tenth of it, no bias; "zero" all zero."""

_GAIN = {"random": 1.0, "small": 0.1, "zero": 0.0}


def uniform_init(limit: float) -> Callable[[Array, tuple[int, ...]], Array]:
    """Return an initializer U(-limit, limit)."""
    return lambda key, shape: jax.random.uniform(key, shape, minval=-limit, maxval=limit)


class Linear(nn.Module):
    """Affine layer; starts as the original: Xavier-uniform, bias uniform in +-1/sqrt(in).

    Attributes:
      features: Output size.
      start: See `Start`.
      fan_out: Output size that Xavier's rule should see; several heads merged into one layer keep
        the start of one. None: `features`.
    """

    features: int
    start: Start = "random"
    fan_out: int | None = None

    @nn.compact
    @typechecked
    def __call__(self, x: Float[Array, "*batch fan_in"]) -> Float[Array, "*batch features"]:
        """Apply x W + b."""
        fan_in, fan_out = x.shape[-1], self.fan_out or self.features
        limit = _GAIN[self.start] * (6.0 / (fan_in + fan_out)) ** 0.5
        bias_limit = fan_in**-0.5 if self.start == "random" else 0.0
        kernel = self.param("kernel", uniform_init(limit), (fan_in, self.features))
        bias = self.param("bias", uniform_init(bias_limit), (self.features,))
        return add_bias(x @ kernel, bias)


def add_bias(x: Float[Array, "*batch D"], bias: Float[Array, " D"]) -> Float[Array, "*batch D"]:
    """Add a vector along the last axis, with the ranks made equal by hand."""
    return x + bias.reshape((1,) * (x.ndim - 1) + bias.shape)


class KANLayer(nn.Module):
    """One KAN layer with a Taylor basis, as the original code's.

    y = W SiLU(x) + sum_{k=0..2} C_k x^k + b, evaluated as one product with [SiLU(x), x, x^2]; the
    redundant C_0 is kept as a parameter and folded into the bias, so in * out * 4 + out parameters.
    Start: W ~ U(+-1/sqrt(in)), C ~ N(0, 1/(in sqrt 3)), b ~ U(+-1/sqrt(in)).

    Attributes:
      features: Output size.
      start: See `Start`; "zero" makes the layer's output exactly zero, with gradients to all of its
        weights.
    """

    features: int
    start: Start = "random"

    @nn.compact
    @typechecked
    def __call__(self, x: Float[Array, "*batch fan_in"]) -> Float[Array, "*batch features"]:
        """Apply the layer along the last axis."""
        fan_in, gain = x.shape[-1], _GAIN[self.start]
        uniform = uniform_init(gain * fan_in**-0.5)
        base = self.param("base", uniform, (fan_in, self.features))
        normal = nn.initializers.normal(gain / (fan_in * 3**0.5))
        powers = self.param("powers", normal, (3, fan_in, self.features))
        bias_init = uniform if self.start == "random" else nn.initializers.zeros
        bias = self.param("bias", bias_init, (self.features,))
        layer = layer_columns("taylor", dict(base=base, powers=powers, bias=bias))
        return expanded_layer(x, layer, "taylor")


def layer_columns(network: str, params: Mapping) -> Affine:
    """Lay a layer's parameters out with one matrix a column of its expansion, [C, in, out].

    Args:
      network: "taylor" for those of a `KANLayer`; else those of a `Linear`.
      params: The layer's parameters.
    """
    if network == "taylor":
        powers = params["powers"]
        kernel = jnp.stack([params["base"], powers[1], powers[2]])
        return Affine(kernel, params["bias"] + powers[0].sum(axis=0))
    return Affine(params["kernel"][None], params["bias"])


class Block(nn.Module):
    """Two layers: a KAN, or the MLP in its place.

    Attributes:
      hidden: Size between the layers.
      features: Output size.
      network: "kan" or "mlp".
      start: How the last layer starts.
      relu: Whether a ReLU stands between KAN layers, as in the original (an MLP always has one).
        KAN layers bend by themselves; behind a ReLU units only die (measured: the sound moves the
        lips by 0.04 of their spread after 400 steps with it, by 0.19 after 600 without).
    """

    hidden: int
    features: int
    network: Network = "kan"
    start: Start = "random"
    relu: bool = False

    @nn.compact
    @typechecked
    def __call__(self, x: Float[Array, "*batch fan_in"]) -> Float[Array, "*batch features"]:
        """Apply both layers along the last axis."""
        hidden = make_layer(self.network, self.hidden, name="hidden")(x)
        if self.relu or self.network == "mlp":
            hidden = nn.relu(hidden)
        return make_layer(self.network, self.features, self.start, name="out")(hidden)


def make_layer(
    network: Network,
    features: int,
    start: Start = "random",
    *,
    fan_out: int | None = None,
    name: str | None = None,
) -> KANLayer | Linear:
    """Make a KAN layer or a linear one (`fan_out`: see `Linear`; a KAN does not need it).

    Raises:
      ValueError: if `network` is unknown.
    """
    require(network in ("kan", "mlp"), f"network: expected kan or mlp, got {network!r}")
    if network == "kan":
        return KANLayer(features, start=start, name=name)
    return Linear(features, start=start, fan_out=fan_out, name=name)
