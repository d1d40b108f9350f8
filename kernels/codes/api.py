"""`move_by_codes`: fixed patterns times the codes of every frame, added to Gaussians and activated.

With codes c and the patterns' counts n and steps s, attributes = activate(canonical + sum_k c_k s_k
n_k); the patterns of the shine have codes of their own, c times a matrix. Place in the pipeline:
instead of `deform`, before `rasterize`.

`read_codes` tells the codes by a few Gaussians that `deform` moved: a weighted sum of their numbers
before activation each, limited to about where codes have been. Its place is before that.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels import dispatch
from kernels.checks import require, typechecked
from kernels.codes.types import FORM, Patterns
from kernels.codes.xla.codes import move_by_codes_xla
from kernels.codes.xla.reading import read_codes_xla
from kernels.deform.types import Deformed, DeformInputs

MAX_NUMBERS = 2**31
"""The kernels' indices have 32 bits."""


@partial(jax.jit, static_argnames="implementation")
@typechecked
def move_by_codes(
    cloud: DeformInputs,
    form: Patterns,
    shine: Patterns,
    follows: Float[Array, "_ k"],
    codes: Float[Array, "B K"],
    *,
    implementation: str | None = None,
) -> Deformed:
    """Move canonical Gaussians by the codes of every frame.

    Already jitted. Sums have a fixed order. Rows are independent: a Gaussian with non-finite
    numbers harms no other, nor does a frame.

    Args:
      cloud: What patterns are added to, H harmonics a color.
      form: K patterns of the first 14 numbers of a Gaussian.
      shine: k patterns of the other 3 H - 3, or none.
      follows: [K, k], how codes of the shine follow: they are codes @ follows.
      codes: Of the form, of each frame.
      implementation: "xla": plain JAX, differentiable. "triton": one kernel that reads every
        pattern once for all frames, float32 throughout, no gradient, no `vmap` (frames are its
        batch). None picks "triton" on an NVIDIA GPU where it can do the work, else "xla".

    Returns:
      Activated attributes, float32.

    Raises:
      NotImplementedError: if the implementation asked for cannot run; the message says why.
      ValueError: if a shape or a name makes no sense.
    """
    _check(cloud, form, shine, follows, codes)
    if dispatch.uses_triton("move_by_codes", implementation, _why_not(cloud, follows, codes)):
        from kernels.codes.triton.codes import move_by_codes_triton as run
    else:
        run = move_by_codes_xla
    return run(cloud, form, shine, follows, codes)


@partial(jax.jit, static_argnames="implementation")
@typechecked
def read_codes(
    moved: Deformed,
    mean: Float[Array, "S 14"],
    weights: Float[Array, "S 14"],
    reader: Float[Array, "K L"],
    ranges: Float[Array, "2 K"],
    *,
    implementation: str | None = None,
) -> Float[Array, "B K"]:
    """Read the codes of every frame off a few Gaussians that were moved.

    Already jitted. Sums are in float32 and have a fixed order; frames are independent.

    Args:
      moved: S Gaussians in every frame, activated, with one harmonic. What they were added to is
        in `mean`.
      mean: Their form before activation at codes 0.
      weights: How much each of these numbers counts.
      reader: Codes of what they say beyond that, times its weights: L = 14 S numbers a code, of one
        Gaussian after another.
      ranges: Least and greatest codes. What lies beyond is brought back softly, to at most `REACH`
        of half a range beyond it; inside nothing changes.
      implementation: "xla": plain JAX, differentiable. "triton": of up to 8 frames one kernel, of
        more the same as "xla", which reads the reader once for all of them; no gradient, no `vmap`
        (frames are its batch). None picks "triton" on an NVIDIA GPU where it can do the work, else
        "xla".

    Returns:
      The codes, float32.

    Raises:
      NotImplementedError: if the implementation asked for cannot run; the message says why.
      ValueError: if a shape or a name makes no sense.
    """
    _check_reading(moved, mean, reader)
    arrays = moved, mean, weights, reader, ranges
    if dispatch.uses_triton("read_codes", implementation, _why_not_reading(*arrays)):
        from kernels.codes.triton.reading import read_codes_triton as run
    else:
        run = read_codes_xla
    return run(*arrays)


def _check(
    cloud: DeformInputs, form: Patterns, shine: Patterns, follows: Array, codes: Array
) -> None:
    """Check what shape annotations do not."""
    (n_frames, n_codes), (count, n_harmonics, _) = codes.shape, cloud.sh.shape
    n_shine = len(shine.counts)
    require(
        min(count, n_frames, n_codes) > 0,
        f"codes: expected at least one Gaussian, frame and code, got {count}, {n_frames} and "
        f"{n_codes}; do not call it for none",
    )
    wanted = DeformInputs((count, 3), (count, 3), (count, 4), (count,), (count, n_harmonics, 3))
    got = DeformInputs(*(value.shape for value in cloud))
    require(got == wanted, f"cloud: expected shapes {wanted}, got {got}")
    for name, patterns, shape in (
        ("form", form, (n_codes, FORM, count)),
        ("shine", shine, (n_shine, 11 + 3 * n_harmonics - FORM, count)),
    ):
        require(
            patterns.counts.shape == shape and patterns.steps.shape == shape[:2],
            f"{name}: expected counts {shape} and a step of each pattern and number, got "
            f"{patterns.counts.shape} and {patterns.steps.shape}",
        )
    require(
        follows.shape == (n_codes, n_shine),
        f"follows: expected shape {(n_codes, n_shine)}, a row a code and a column a pattern of the "
        f"shine, got {follows.shape}",
    )


def _why_not(cloud: DeformInputs, follows: Array, codes: Array) -> str | None:
    """Say in one line why the kernel does not take this work; None if it does."""
    if reason := dispatch.device_lacks():
        return reason
    if any(value.dtype != jnp.float32 for value in (*cloud, follows, codes)):
        return "it takes float32"
    numbers = len(codes) * max(4 * len(cloud.quats), cloud.sh.size)
    if numbers >= MAX_NUMBERS:
        return f"it can count {MAX_NUMBERS - 1} numbers of an attribute, got {numbers}"
    return None


def _check_reading(moved: Deformed, mean: Array, reader: Array) -> None:
    """Check what shape annotations do not."""
    n_frames, count, n_codes = len(moved.means), len(mean), len(reader)
    require(
        min(count, n_frames, n_codes) > 0,
        f"moved: expected at least one Gaussian, frame and code, got {count}, {n_frames} and "
        f"{n_codes}; do not call it for none",
    )
    shape = lambda *own: (n_frames, count, *own)
    wanted = Deformed(shape(3), shape(4), shape(3), shape(), shape(1, 3))
    got = Deformed(*(value.shape for value in moved))
    require(got == wanted, f"moved: expected shapes {wanted}, got {got}")
    require(
        reader.shape[1] == FORM * count,
        f"reader: expected {FORM * count} numbers a code, {FORM} a Gaussian, got {reader.shape[1]}",
    )


def _why_not_reading(moved: Deformed, *others: Array) -> str | None:
    """Say in one line why the kernel does not take this work; None if it does."""
    if reason := dispatch.device_lacks():
        return reason
    if any(value.dtype != jnp.float32 for value in (*moved, *others)):
        return "it takes float32"
    numbers = max(value.size for value in (*moved, *others))
    if numbers >= MAX_NUMBERS:
        return f"it can count {MAX_NUMBERS - 1} numbers of an array, got {numbers}"
    return None
