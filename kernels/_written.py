"""Results that XLA has to write down, where it would compute them again in all that reads them.

XLA fuses what is cheap by its own count into every reader, running sums, gathers and divisions
among it; `optimization_barrier` does not keep it from that on a CPU. What goes into a `cond`, and
what comes out of it, lies in memory.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kernels._sharding import match_varying


def written(function: Callable[..., Any], count: Array, *arrays: Any) -> Any:
    """Call a function; on a CPU its arguments and results are written down.

    Args:
      function: Of arrays; takes part in no gradient.
      count: Integers or truths that are not negative, which XLA does not know.
      *arrays: Its arguments.

    Returns:
      What it returns.
    """
    count, arrays = match_varying((count, arrays))

    def write(count: Array, *arrays: Any) -> Any:
        first = count.reshape(-1)[0].astype(jnp.int32)
        results = jax.eval_shape(function, *arrays)

        def never(*_: Any) -> Any:
            empty = lambda out: jnp.zeros(out.shape, out.dtype) + (first * 0).astype(out.dtype)
            return jax.tree.map(empty, results)

        return jax.lax.cond(first >= 0, function, never, *arrays)

    def just_call(_: Array, *arrays: Any) -> Any:
        return function(*arrays)

    return jax.lax.platform_dependent(count, *arrays, cpu=write, default=just_call)
