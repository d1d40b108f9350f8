"""`sample_planes` on an NVIDIA GPU: the gradient of the tables by Triton, all else by XLA.

A contribution to an entry is a cotangent times a corner's weight in float32, as in `xla/planes.py`
(but for what a compiler contracts to one rounding). Float atomics would add them in another order
in every run. So, with N points and e the integer that puts the largest magnitude of a cotangent
into [2^(e-1), 2^e),

    unit = 2^(e - b),   b = 62 - bit_length(N),
    sum of an entry = unit * (sum of the contributions' whole units, 64-bit integers).

*Order.* Integers add up to the same bits in any order; b depends on N, and e on a maximum. So the
gradient is a function of its inputs alone.

*Overflow.* The magnitudes of the four weights of a point add up to (|wx| + |1 - wx|) (|wy| +
|1 - wy|), which is 1 up to the rounding of the weights, of at most 2^-24 cells, and so under 2 with
up to 2^20 cells. A point contributes less than 2 * 2^b units, even if all its corners share an
entry; N < 2^bit_length(N) points less than 2^(b + 1 + bit_length(N)) = 2^63.

*Error.* A contribution loses less than a unit, at most 2^(1 - b) of the largest cotangent if that
is a normal number: 2^-45 for 50,000 points, 2^-41 for 10^6. The sum is rounded to float32 once.

*Not finite.* If a cotangent is not finite, or a point not in [0, 1], every entry is NaN: the factor
that turns units back is.

XLA does the rest because it does it in a fixed order, and a kernel could save little: by count of
bytes, for 50,000 points, 12 levels and one feature, both the values and the gradient of the points,
a sum over features and levels, need 7.2 million reads from the second-level cache. XLA reads once
and keeps 29 MB for the way back; a joint kernel would read twice and keep nothing.

What the sums cost there on an H200, estimated: 7.2 million atomics without return, one a clock and
slice of the second-level cache (some 90 at 1.7 GHz): 50 us, or half if half of the Gaussians are
dead, for these add nothing; 130 instructions a point, level and plane: 8 us, meanwhile; before and
after, 7 MB of cotangents for the maximum, 4 MB of sums cleared and read, 2 MB of gradients, and the
starts of four kernels: 10-15 us.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import ShapeDtypeStruct
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, Float

from kernels import launch
from kernels._sharding import match_varying
from kernels.planes.triton import planes_kernels
from kernels.planes.types import Levels
from kernels.planes.xla.planes import sample_planes_xla

WARPS = 4
TILE = 32 * WARPS  # numbers of a program, points times features: with more than one a thread they
# would come together and go apart again, through shared memory, before they are added
FINISH_BLOCK = 1024


def sample_planes_triton(
    tables: Float[Array, "P entries F"], points: Float[Array, "2 P N"], levels: Levels
) -> Float[Array, "P L N F"]:
    """Read as `sample_planes_xla`, to the bit; no forward-mode derivative."""
    return _sample(*match_varying((tables, points)), levels)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _sample(tables: Array, points: Array, levels: Levels) -> Array:
    return sample_planes_xla(tables, points, levels)


def _forward(tables: Array, points: Array, levels: Levels) -> tuple[Array, tuple]:
    read = lambda points: sample_planes_xla(tables, points, levels)
    values, pullback = jax.vjp(read, points)
    return values, (points, pullback)


def _backward(levels: Levels, saved: tuple, cotangents: Array) -> tuple[Array, Array]:
    points, pullback = saved
    # A vmap of the gradient adds up one after the other.
    gradient = sequential_vmap(partial(table_gradient, levels=levels))
    return gradient(points, cotangents), *pullback(cotangents)


_sample.defvjp(_forward, _backward)


def table_gradient(
    points: Float[Array, "2 P N"], cotangents: Float[Array, "P L N F"], levels: Levels
) -> Float[Array, "P entries F"]:
    """Sum what every point contributes to the entries around it, in fixed point."""
    layout = levels.layout()
    n_planes, n_levels, count, n_features = cotangents.shape
    columns = 1 << (n_features - 1).bit_length()
    block = max(1, TILE // columns)
    size = n_planes * layout.entries * n_features
    factors = fixed_point_factors(points, cotangents)
    places = np.stack([layout.cells, layout.starts, layout.hashed], axis=1)
    (sums,) = launch.triton_call(
        planes_kernels.scatter_kernel, points, cotangents, jnp.asarray(places, jnp.int32), factors,
        outputs=(ShapeDtypeStruct((size, 2), jnp.int32),), zeroed=(0,),
        grid=n_planes * n_levels * -(-count // block), num_warps=WARPS,
        PLANES=n_planes, LEVELS=n_levels, N=count, FEATURES=n_features, ENTRIES=layout.entries,
        MASK=(levels.table_size or 1) - 1, BLOCK=block, COLUMNS=columns,
    )  # fmt: skip
    (gradients,) = launch.triton_call(
        planes_kernels.finish_kernel, sums, factors,
        outputs=(ShapeDtypeStruct((size,), jnp.float32),),
        grid=-(-size // FINISH_BLOCK), num_warps=WARPS, SIZE=size, BLOCK=FINISH_BLOCK,
    )  # fmt: skip
    return gradients.reshape(n_planes, layout.entries, n_features)


def fixed_point_factors(
    points: Float[Array, "2 P N"], cotangents: Float[Array, "P L N F"]
) -> Float[Array, "4"]:
    """Two factors that turn a contribution into units, and two that turn units back.

    All are powers of two; the third is NaN if the sums would not be valid.
    """
    bits = 62 - points.shape[-1].bit_length()
    # Magnitudes are ordered like the integers that they are stored as, and NaN is the last.
    stored = jax.lax.bitcast_convert_type(jnp.abs(cotangents), jnp.int32)
    biased = jnp.max(stored) >> 23  # e + 126; 255 for what is not finite, 0 for zero and subnormal
    valid = (biased < 255) & jnp.all((points >= 0) & (points <= 1))
    shift = bits + 126 - jnp.clip(biased, 1, 254)
    half = shift // 2  # -41 to 93, as float32 has it; the whole shift may exceed it
    back = jnp.where(valid, _power_of_two(-half), jnp.nan)
    ways = [_power_of_two(half), _power_of_two(shift - half), back, _power_of_two(half - shift)]
    return jnp.stack(ways)


def _power_of_two(exponent: Array) -> Float[Array, ""]:
    """2^exponent exactly, for -126 to 127: some machines approximate `exp2`."""
    return jax.lax.bitcast_convert_type((exponent + 127) << 23, jnp.float32)
