"""B-splines on the knots of every input, by the recursion of Cox and de Boor.

What the KAN layers of the model and the kernels that compute them have in common.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels._checks import typechecked


@typechecked
def bspline_basis(
    x: Float[Array, "*batch fan_in"], knots: Float[Array, "fan_in knots"], order: int
) -> Float[Array, "*batch count fan_in"]:
    """Evaluate all B-splines of degree `order` by the recursion of Cox and de Boor.

    The derivative in `x` is the closed form over the splines of one degree less, several times
    faster than differentiating the recursion; the knots are constants.

    Args:
      x: Inputs.
      knots: Strictly increasing knots of every input; `count` = knots - order - 1.
      order: Degree, at least 1.

    Returns:
      Basis values; between knot `order` and the last but `order` they sum to one, outside all
      knots they are zero.
    """
    values = _basis_columns(x, jax.lax.stop_gradient(knots), order)
    return values.reshape(*x.shape[:-1], -1, x.shape[-1])


class SplineTable(NamedTuple):
    """Table to evaluate the four cubic splines that are not zero at an input; of K knots.

    Interval i lies behind i knots: 0 before all of them, K beyond the last. For an input x in it,
    each of six ratios x a + b says how much of a support lies before x: of splines of degree 1 that
    begin with the interval, of degree 2 one knot before and with it, of 3 two, one and none before.
    In float32 a ratio is off by |knot| / width 2^-24: by less than the rounding of an operand to
    bfloat16 up to knots of 30,000 widths.
    """

    knots: Float[Array, "K fan_in"]
    ratios: Float[Array, "fan_in K+1 12"]  # a and b in turns; 0 for supports that begin or end
    # beyond the knots, which no spline needs


@typechecked
def spline_table(knots: Float[Array, "fan_in K"]) -> SplineTable:
    """Make the table of strictly increasing knots, one row an input, at least five."""
    ratios = []
    for degree in (1, 2, 3):
        slope = 1.0 / (knots[:, degree:] - knots[:, :-degree])
        forms = jnp.stack([slope, 0.0 - slope * knots[:, :-degree]], axis=-1)  # 0 has no sign
        for before in reversed(range(degree)):
            # Interval i begins at knot i - 1.
            ratios.append(jnp.pad(forms, ((0, 0), (1 + before, degree - before), (0, 0))))
    return SplineTable(knots.T, jnp.concatenate(ratios, axis=-1))


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _basis_columns(x: Array, knots: Array, order: int) -> Array:
    return jnp.concatenate(_cox_de_boor(x, knots, order)[0], axis=-1)


@_basis_columns.defjvp
def _basis_columns_jvp(order: int, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    x, knots = primals
    values, slopes = _cox_de_boor(x, knots, order)
    slopes = [slope * tangents[0] for slope in slopes]
    return jnp.concatenate(values, axis=-1), jnp.concatenate(slopes, axis=-1)


def _cox_de_boor(x: Array, knots: Array, order: int) -> tuple[list[Array], list[Array]]:
    """Return values and slopes of the splines, one array like `x` each.

    One array a spline keeps the inputs on the last axis, where the CPU computes several at once.
    """
    t = [row.reshape((1,) * (x.ndim - 1) + row.shape) for row in knots.T]
    values = [((x >= t[j]) & (x < t[j + 1])).astype(x.dtype) for j in range(len(t) - 1)]
    lower, span = values, []
    for degree in range(1, order + 1):
        lower = values
        span = [1.0 / (t[j + degree] - t[j]) for j in range(len(lower))]
        values = [
            (x - t[j]) * span[j] * lower[j] + (t[j + degree + 1] - x) * span[j + 1] * lower[j + 1]
            for j in range(len(lower) - 1)
        ]
    slopes = [order * (span[j] * lower[j] - span[j + 1] * lower[j + 1]) for j in range(len(values))]
    return values, slopes
