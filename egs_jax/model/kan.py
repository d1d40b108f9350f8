"""KAN layers, with a Taylor or a B-spline basis, and the MLP they replace.

Token encoders, spatial encoder and decoders are built from these blocks.

A layer computes y_o = sum_i phi_oi(x_i) + b_o. The functions phi are linear in a fixed set of basis
values of x, so a layer is an expansion [..., in] -> [..., columns * in] followed by one matrix
product. Parameters are plain dicts; `knots` of a B-spline layer live among them but receive no
gradient.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels._checks import require, typechecked
from kernels.deform import Affine, expanded_layer
from kernels.splines import bspline_basis

Basis = Literal["taylor", "bspline"]
Network = Literal["kan", "mlp"]
Start = Literal["random", "small", "zero"]
"""Start: "random" as the source says; "small" a tenth of it, no bias; "zero" all zero."""

INPUTS = "kan_inputs"
"""Collection that takes the inputs of B-spline layers when it is mutable (`update_all_grids`)."""

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
    """One KAN layer.

    "taylor" (the original code's): y = W SiLU(x) + sum_{k=0..2} C_k x^k + b, evaluated as one
    product with [SiLU(x), x, x^2]; the redundant C_0 is kept as a parameter and folded into the
    bias, so in * out * 4 + out parameters.
    Start: W ~ U(+-1/sqrt(in)), C ~ N(0, 1/(in sqrt 3)), b ~ U(+-1/sqrt(in)).

    "bspline" (Liu et al., arXiv:2404.19756, Eq. 2.10-2.11): y = W SiLU(x) + sum_j (S * C_j) B_j(x)
    + b with `grid_size` + `spline_order` basis functions on each input's own knots; outside the
    knots only SiLU acts. Start: W and the scaler S ~ U(+-1/sqrt(in)), C ~ U(+-0.05)/grid_size, b =
    0.

    Attributes:
      features: Output size.
      basis: "taylor" or "bspline".
      start: See `Start`; "zero" makes the layer's output exactly zero, with gradients to all of its
        outer weights.
      grid_size: Intervals of the B-spline grid.
      spline_order: Degree of the B-splines.
      grid_range: Interval covered by the first grid.
    """

    features: int
    basis: Basis = "taylor"
    start: Start = "random"
    grid_size: int = 5
    spline_order: int = 3
    grid_range: tuple[float, float] = (-1.0, 1.0)

    @nn.compact
    @typechecked
    def __call__(self, x: Float[Array, "*batch fan_in"]) -> Float[Array, "*batch features"]:
        """Apply the layer along the last axis."""
        require(
            self.basis in ("taylor", "bspline"),
            f"basis: expected taylor or bspline, got {self.basis!r}",
        )
        return self._taylor(x) if self.basis == "taylor" else self._bspline(x)

    def _uniform(self, fan_in: int) -> Callable[[Array, tuple[int, ...]], Array]:
        return uniform_init(_GAIN[self.start] * fan_in**-0.5)

    def _taylor(self, x: Float[Array, "*batch fan_in"]) -> Float[Array, "*batch features"]:
        fan_in, gain = x.shape[-1], _GAIN[self.start]
        base = self.param("base", self._uniform(fan_in), (fan_in, self.features))
        normal = nn.initializers.normal(gain / (fan_in * 3**0.5))
        powers = self.param("powers", normal, (3, fan_in, self.features))
        bias_init = self._uniform(fan_in) if self.start == "random" else nn.initializers.zeros
        bias = self.param("bias", bias_init, (self.features,))
        layer = layer_columns("taylor", dict(base=base, powers=powers, bias=bias))
        return expanded_layer(x, layer, "taylor")

    def _bspline(self, x: Float[Array, "*batch fan_in"]) -> Float[Array, "*batch features"]:
        fan_in, shape = x.shape[-1], (x.shape[-1], self.features)
        count = self.grid_size + self.spline_order
        if not self.is_initializing():
            self.sow(INPUTS, "x", x, reduce_fn=lambda _, new: new, init_fn=lambda: None)
        noise = uniform_init(0.05 / self.grid_size)
        knots = self.param(
            "knots",
            lambda _, size: uniform_knots(size, self.grid_size, self.spline_order, self.grid_range),
            fan_in,
        )
        base = self.param("base", self._uniform(fan_in), shape)
        spline = self.param("spline", noise, (count, *shape))
        scaler = self.param("scaler", self._uniform(fan_in), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        params = dict(base=base, spline=spline, scaler=scaler, bias=bias)
        return expanded_layer(x, layer_columns("bspline", params), "bspline", knots)


def layer_columns(network: str, params: Mapping) -> Affine:
    """Lay a layer's parameters out with one matrix a column of its expansion, [C, in, out].

    Args:
      network: "taylor" or "bspline" for those of a `KANLayer`; else those of a `Linear`.
      params: The layer's parameters.
    """
    if network == "taylor":
        powers = params["powers"]
        kernel = jnp.stack([params["base"], powers[1], powers[2]])
        return Affine(kernel, params["bias"] + powers[0].sum(axis=0))
    if network == "bspline":
        splines = params["spline"] * params["scaler"][None]
        return Affine(jnp.concatenate([params["base"][None], splines]), params["bias"])
    return Affine(params["kernel"][None], params["bias"])


class Block(nn.Module):
    """Two layers: a KAN, or the MLP in its place.

    Attributes:
      hidden: Size between the layers.
      features: Output size.
      network: "kan" or "mlp".
      basis: Basis of the KAN layers.
      start: How the last layer starts.
      relu: Whether a ReLU stands between KAN layers, as in the original (an MLP always has one).
        KAN layers bend by themselves; behind a ReLU units only die (measured: the sound moves the
        lips by 0.04 of their spread after 400 steps with it, by 0.19 after 600 without).
    """

    hidden: int
    features: int
    network: Network = "kan"
    basis: Basis = "taylor"
    start: Start = "random"
    relu: bool = False

    @nn.compact
    @typechecked
    def __call__(self, x: Float[Array, "*batch fan_in"]) -> Float[Array, "*batch features"]:
        """Apply both layers along the last axis."""
        hidden = make_layer(self.network, self.hidden, self.basis, name="hidden")(x)
        if self.relu or self.network == "mlp":
            hidden = nn.relu(hidden)
        return make_layer(self.network, self.features, self.basis, self.start, name="out")(hidden)


def make_layer(
    network: Network,
    features: int,
    basis: Basis = "taylor",
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
        return KANLayer(features, basis=basis, start=start, name=name)
    return Linear(features, start=start, fan_out=fan_out, name=name)


def uniform_knots(
    fan_in: int, grid_size: int, order: int, grid_range: tuple[float, float]
) -> Float[Array, "fan_in knots"]:
    """Equally spaced knots over `grid_range` and `order` steps beyond; one row an input."""
    low, high = grid_range
    require(low < high, f"grid_range: expected low < high, got {grid_range}")
    steps = jnp.arange(-order, grid_size + order + 1, dtype=jnp.float32)
    return jnp.tile(low + steps * ((high - low) / grid_size), (fan_in, 1))


@typechecked
def update_grid(
    params: Mapping,
    inputs: Float[Array, "*batch fan_in"],
    *,
    order: int = 3,
    uniform_share: float = 0.1,
) -> dict:
    """Move a B-spline layer's knots to where its inputs are, keeping its function there.

    Knots become quantiles of the data mixed with an equal spacing of its range; the coefficients
    are solved, input by input, so that the new splines take the old values at the data
    (arXiv:2404.19756, Sec. 2.4 and its grid update).

    Args:
      params: Parameters of one `KANLayer` with basis "bspline".
      inputs: What the layer is fed with; a few thousand rows are enough.
      order: The layer's `spline_order`.
      uniform_share: Weight of the equal spacing; it keeps knots apart where data coincide (behind a
        ReLU).

    Returns:
      New parameters of the same shapes.

    Raises:
      ValueError: if the parameters are of another kind of layer.
    """
    require(
        "knots" in params, f"params: expected a B-spline layer, got {sorted(params)}; use bspline"
    )
    x = inputs.reshape(-1, inputs.shape[-1])
    old = bspline_basis(x, params["knots"], order)  # [n, count, in]
    grid_size = params["knots"].shape[-1] - 2 * order - 1
    knots = _data_knots(x, grid_size, order, uniform_share)
    new = bspline_basis(x, knots, order)
    targets = jnp.einsum("nci,cio->ino", old, params["spline"], precision="highest")
    solve = jax.vmap(lambda design, target: jnp.linalg.lstsq(design, target)[0])
    spline = solve(new.transpose(2, 0, 1), targets).transpose(1, 0, 2)
    return {**params, "knots": knots, "spline": spline}


def update_all_grids(params: Mapping, inputs: Mapping, *, order: int = 3) -> dict:
    """Apply `update_grid` to every B-spline layer of a model.

    Args:
      params: The model's parameters.
      inputs: The collection `INPUTS` of `model.apply({"params": params}, ..., mutable=[INPUTS])`.
        As every layer keeps its function on these data, all layers can be updated from one pass.
      order: The layers' `spline_order`.

    Returns:
      New parameters; layers without recorded inputs are as before.
    """
    if "knots" in params and "x" in inputs:
        return update_grid(params, inputs["x"], order=order)
    return {
        name: update_all_grids(value, inputs[name], order=order)
        if isinstance(value, Mapping) and name in inputs
        else value
        for name, value in params.items()
    }


def _data_knots(
    x: Float[Array, "n fan_in"], grid_size: int, order: int, uniform_share: float
) -> Float[Array, "fan_in knots"]:
    low, high = x.min(axis=0), x.max(axis=0)
    # The margin keeps the largest datum inside the half-open last interval,
    # and the knots of a constant input apart.
    margin = 0.01 * (high - low) + 1e-3 * (1.0 + jnp.maximum(jnp.abs(low), jnp.abs(high)))
    low, high = low - margin, high + margin
    step = (high - low) / grid_size  # [in]
    share = jnp.linspace(0.0, 1.0, grid_size + 1)
    uniform = low[:, None] + (high - low)[:, None] * share[None, :]
    quantiles = jnp.quantile(x, share, axis=0).T  # [in, grid_size + 1]
    grid = uniform_share * uniform + (1.0 - uniform_share) * quantiles
    grid = grid.at[:, 0].set(low).at[:, -1].set(high)
    beyond = jnp.arange(1, order + 1, dtype=x.dtype)[None, :] * step[:, None]
    return jnp.concatenate([low[:, None] - beyond[:, ::-1], grid, high[:, None] + beyond], axis=1)
