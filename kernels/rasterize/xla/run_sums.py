"""Sums over runs of neighboring rows, in a fixed order on every device.

A scatter adds in an order that an accelerator does not fix; these sums repeat bit for bit.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def sum_runs(rows: Float[Array, "S F"], tails: Int[Array, " S"]) -> Float[Array, "S F"]:
    """Sum of every row and the `tails` rows after it, by doubling: a fixed order of additions.

    After step i a row holds the sum of the 2^i rows from it on, cut at the end of its run.

    Args:
      rows: Values, the rows of one run side by side.
      tails: How many further rows belong to the same run.

    Returns:
      At the first row of a run: the sum of the run.
    """
    longest = jnp.max(tails)

    def double(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        step, sums = carry
        index = jnp.arange(sums.shape[0], dtype=jnp.int32) + step
        further = sums.at[index].get(mode="fill", fill_value=0.0)
        return step * 2, sums + jnp.where((tails >= step)[:, None], further, 0.0)

    start = (longest * 0 + 1, rows)
    return jax.lax.while_loop(lambda carry: carry[0] <= longest, double, start)[1]
