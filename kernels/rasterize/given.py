"""What users give made arrays and numbers: NumPy's, lists, integers, bytes of colors; their shapes.

What is not accepted is a `ValueError` of one line: name, expected, got, remedy.
"""

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from kernels.checks import require

FORMS: dict[str, tuple[str | int, ...]] = dict(
    means=("N", 3), quats=("N", 4), scales=("N", 3), opacities=("N",), viewmats=(4, 4), Ks=(3, 3),
    means2d_offset=("N", 2), alive=("N",),
)  # fmt: skip
"""Last axes of every array."""
ADVICE = dict(
    means="a row of x, y, z per Gaussian",
    quats="a row of w, x, y, z per Gaussian",
    scales="a row of three standard deviations per Gaussian",
    opacities="a number per Gaussian",
    viewmats="a matrix world -> camera per frame, [[R, t], [0, 0, 0, 1]]",
    Ks="[[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in pixels per frame",
    means2d_offset="a row of x, y in pixels per Gaussian",
    alive="a truth per Gaussian",
)
WHOLE = ("width", "height", "sh_degree", "capacity")
REAL = ("near_plane", "eps2d", "alpha_max", "alpha_min", "transmittance_min")
TRUTHS = ("deterministic", "as_bytes", "antialias")


def as_arrays(given: dict[str, Any], sh_degree: int | None) -> dict[str, Any]:
    """Make arrays of what users give: NumPy's, lists, integers; bytes of colors.

    Args:
      given: By the names of `rasterize`; None is left out there, and may stay.
      sh_degree: Of `colors`.

    Returns:
      The same with arrays of floats, `alive` of booleans, and `backgrounds` of floats or bytes.

    Raises:
      ValueError: if something is no array of numbers, or has another shape than it must.
    """
    arrays = {}
    for name, value in given.items():
        if value is None and name in ("means2d_offset", "alive", "backgrounds"):
            arrays[name] = None
        elif name == "alive":
            arrays[name] = _as_truths(value)
        elif name in ("colors", "backgrounds"):
            arrays[name] = _as_colors(name, value, sh_degree)
        else:
            arrays[name] = _as_floats(name, _as_array(name, value))
    check_shapes(arrays)
    return arrays


def as_numbers(given: dict[str, Any]) -> dict[str, Any]:
    """Make Python numbers of NumPy's and of arrays of one number.

    Raises:
      ValueError: if one is of another kind, or only known when the program runs.
    """
    numbers = dict(given)
    for name, value in given.items():
        if isinstance(value, jax.core.Tracer):
            raise ValueError(
                f"{name}: expected a Python number, got a traced value; name it in static_argnames"
            )
        single = getattr(value, "ndim", 0) == 0
        is_truth = isinstance(value, bool)  # which Python counts as 0 or 1
        if name in WHOLE and not (value is None and name in ("sh_degree", "capacity")):
            wrong = f"{name}: expected a whole number, got {_short(value)}"
            require(not is_truth, wrong)
            try:
                numbers[name] = operator.index(value)
            except TypeError:
                raise ValueError(wrong) from None
        elif name in REAL:
            is_number = single and isinstance(value, int | float | np.number | np.ndarray | Array)
            require(is_number and not is_truth, f"{name}: expected a number, got {_short(value)}")
            numbers[name] = float(value)
        elif name in TRUTHS:
            require(
                isinstance(value, bool | np.bool_),
                f"{name}: expected True or False, got {_short(value)}",
            )
            numbers[name] = bool(value)
    return numbers


def _short(value: Any) -> str:
    """A value in at most a few words."""
    words = " ".join(repr(value).split())
    return f"{words[:40]}{'...' if len(words) > 40 else ''} ({type(value).__name__})"


def _as_array(name: str, value: Any) -> Array | np.ndarray:
    if isinstance(value, np.ndarray) and not value.dtype.isnative:
        return value.astype(value.dtype.newbyteorder())  # JAX would read its bytes in our order
    if isinstance(value, Array | np.ndarray):
        return value
    make = jnp.asarray if isinstance(value, list | tuple) else np.asarray
    try:
        return make(value)
    except Exception as error:  # of any library whose array this is
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{name}: expected an array of numbers, got {_short(value)}, which cannot be made one "
            f"({reason}); pass {ADVICE.get(name, 'a NumPy or JAX array')}"
        ) from error


def _as_floats(name: str, array: Array | np.ndarray) -> Array | np.ndarray:
    is_float = jnp.issubdtype(array.dtype, jnp.floating)
    if is_float and 2 <= array.dtype.itemsize <= 8:
        return array
    require(
        is_float or jnp.issubdtype(array.dtype, jnp.integer),
        f"{name}: expected an array of numbers, got {array.dtype} of shape {array.shape}; pass "
        "floats",
    )
    return array.astype(np.float32)  # JAX lacks extended ones, and promotes none of 8 bits


def _as_truths(value: Any) -> Array | np.ndarray:
    array = _as_array("alive", value)
    if array.dtype == bool:
        return array
    require(
        jnp.issubdtype(array.dtype, jnp.integer),
        f"alive: expected booleans, got {array.dtype} of shape {array.shape}; pass a comparison",
    )
    return array != 0


def _as_colors(name: str, value: Any, sh_degree: int | None) -> Array | np.ndarray:
    """Floats; bytes stay bytes behind, and count 255 as one in front."""
    array = _as_array(name, value)
    if array.dtype != np.uint8:
        if jnp.issubdtype(array.dtype, jnp.integer) and is_concrete(array):
            most = int(np.max(np.asarray(array), initial=0))
            require(
                most <= 1,
                f"{name}: expected floats or bytes, got {array.dtype} up to {most}; pass uint8, "
                "which counts 255 as one, or floats",
            )
        return _as_floats(name, array)
    if name == "backgrounds":
        return array
    require(
        sh_degree is None,
        f"colors: expected floats for sh_degree {sh_degree}, got bytes; sh_degree=None takes "
        "bytes as plain colors, and (colors / 255 - 0.5) / 0.2821 is harmonics of degree 0",
    )
    return array.astype(np.float32) / np.float32(255)


def is_concrete(value: Any) -> bool:
    """Tell whether the numbers of an array can be read now, in this process."""
    if isinstance(value, jax.core.Tracer):
        return False
    return getattr(value, "is_fully_addressable", True)


def check_shapes(arrays: dict[str, Any]) -> None:
    """Check the last axes of all arrays but the colors.

    Raises:
      ValueError: if one has others; the message says which, and what was perhaps meant.
    """
    means = arrays.get("means")
    n = None if means is None or means.ndim < 2 else means.shape[-2]
    for name, form in FORMS.items():
        if arrays.get(name) is None:
            continue
        shape = arrays[name].shape
        own = shape[-len(form) :]
        wanted = tuple(n if size == "N" and n is not None else size for size in form)
        fits = len(own) == len(form) and all(
            want in ("N", size) for want, size in zip(wanted, own, strict=True)
        )
        count = "" if n is None or name == "means" or "N" not in form else f" with N = {n} of means"
        require(
            fits,
            f"{name}: expected [..., {', '.join(map(str, form))}]{count}, got {shape}; "
            f"{_advice(name, shape, n)}",
        )


def _advice(name: str, shape: tuple[int, ...], n: int | None) -> str:
    """What to pass instead, by what the shape looks like."""
    if name == "opacities" and shape[-2:] == (n, 1):
        return "pass opacities[..., 0]"
    if name == "viewmats" and shape[-2:] == (3, 4):
        return "append the row (0, 0, 0, 1)"
    if name == "Ks" and shape[-1:] == (4,) and shape[-2:] != (4, 4):
        return f"pass {ADVICE[name]}, not fx, fy, cx, cy"
    if name in ("means", "scales", "quats") and shape[-2:-1] == (FORMS[name][-1],):
        return "pass its transpose"
    return f"pass {ADVICE[name]}"
