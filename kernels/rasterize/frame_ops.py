"""Functions of frames as operations of JAX: folded by `vmap`, differentiable forward, and back.

JAX's `custom_vjp` has no forward mode and its `custom_vmap` no reverse mode of a derivative. An
operation made here has both, as far as they exist: its tangent is computed by JAX's forward mode,
which walks through loops of any length, and its pullback is a function written by hand.

`call_frames` is a function without a pullback of its own; `call_linear` one that is linear in some
of its arrays, with its transpose. A gradient of a gradient would have to walk back through the
loops: it is refused by name. A Hessian goes forward over reverse.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, PyTree

from kernels.rasterize.fold_frames import fold_call

NO_SECOND_PULLBACK = (
    "rasterize: reverse mode over a derivative is not there; take forward mode over reverse, "
    "jax.jvp(jax.grad(f), ...) or jax.hessian(f), not jax.grad of a jax.grad"
)

Shapes = tuple[tuple[tuple[int, ...], Any], ...]
"""Shape and type of every result: known, so that nothing is traced again to find them."""

frames_p = Primitive("frames")
frames_p.multiple_results = True


def call_frames(function: Callable[..., PyTree], *arrays: PyTree) -> PyTree:
    """Call a function whose arrays, in and out, have the frames as axis 0.

    Args:
      function: Frames do not mix in it; see `fold_frames`.
      *arrays: Of floats and integers.

    Returns:
      What the function returns.
    """
    flat, tree = jax.tree.flatten(arrays)
    outputs = jax.eval_shape(function, *arrays)

    def run(*flat: Array) -> list[Array]:
        return jax.tree.leaves(function(*jax.tree.unflatten(tree, flat)))

    shapes = _shapes(jax.tree.leaves(outputs))
    results = frames_p.bind(*flat, run=run, transpose=None, n_linear=0, shapes=shapes)
    return jax.tree.unflatten(jax.tree.structure(outputs), results)


def call_linear(
    function: Callable[[PyTree, PyTree], PyTree], transpose: Callable[[PyTree, PyTree], PyTree],
    known: PyTree, linear: PyTree, like: PyTree,
) -> PyTree:  # fmt: skip
    """Call `function(known, linear)`, linear in the latter, whose transpose is known.

    Args:
      function: Of frames, as for `call_frames`.
      transpose: Of `known` and cotangents of the function's results; gives those of `linear`.
      known: All that the two share.
      linear: Tangents.
      like: Arrays of the shapes and types of the function's results.

    Returns:
      What the function returns.
    """
    known_flat, known_tree = jax.tree.flatten(known)
    flat, tree = jax.tree.flatten(linear)
    like_flat, result_tree = jax.tree.flatten(like)
    n_known = len(known_flat)

    def part(values: tuple[Array, ...], tree: Any) -> tuple[PyTree, PyTree]:
        return (
            jax.tree.unflatten(known_tree, values[:n_known]),
            jax.tree.unflatten(tree, values[n_known:]),
        )

    def run(*values: Array) -> list[Array]:
        return jax.tree.leaves(function(*part(values, tree)))

    def run_back(*values: Array) -> list[Array]:
        return jax.tree.leaves(transpose(*part(values, result_tree)))

    results = frames_p.bind(
        *known_flat, *flat, run=run, transpose=run_back, n_linear=len(flat),
        shapes=_shapes(like_flat),
    )  # fmt: skip
    return jax.tree.unflatten(result_tree, results)


def _shapes(arrays: Any) -> Shapes:
    return tuple((array.shape, array.dtype) for array in arrays)


@frames_p.def_impl
def _run(*arrays: Array, run: Callable, **_: Any) -> list[Array]:
    return run(*arrays)


mlir.register_lowering(frames_p, mlir.lower_fun(_run, multiple_results=True))


@frames_p.def_abstract_eval
def _results(*avals: Any, shapes: Shapes, **_: Any) -> list[Any]:
    """Of the shapes; under a `shard_map` they vary as the arrays do, which all vary alike."""
    return [avals[0].update(shape=shape, dtype=dtype) for shape, dtype in shapes]


def _fold(arrays: tuple, axes: tuple, *, run: Callable, **params: Any) -> tuple[list, list]:
    """Give the frames of a mapped axis to axis 0."""
    size = next(a.shape[i] for a, i in zip(arrays, axes, strict=True) if i is not None)
    is_batched = tuple(axis is not None for axis in axes)
    arrays = tuple(
        a if i is None else jnp.moveaxis(a, i, 0) for a, i in zip(arrays, axes, strict=True)
    )

    def bind(*flat: Array) -> list[Array]:
        shapes = _shapes(jax.eval_shape(run, *flat))
        return frames_p.bind(*flat, run=run, **params | dict(shapes=shapes))

    results = fold_call(run, bind, size, is_batched, arrays)
    return results, [0] * len(results)


batching.primitive_batchers[frames_p] = _fold


def _jvp(
    arrays: tuple, tangents: tuple, *, n_linear: int, run: Callable, **more: Any
) -> tuple[list[Array], list[Any]]:
    """Tangents by JAX's forward mode; of a linear function, by itself."""
    params = dict(run=run, n_linear=n_linear, **more)
    results = frames_p.bind(*arrays, **params)
    moving = [i for i, t in enumerate(tangents) if not isinstance(t, ad.Zero)]
    n_arrays, n_known = len(arrays), len(arrays) - n_linear
    if moving and min(moving) >= n_known:
        linear = map(ad.instantiate_zeros, tangents[n_known:])
        return results, frames_p.bind(*arrays[:n_known], *linear, **params)
    # Results that are integers have no tangent.
    floats = [i for i, out in enumerate(results) if jnp.issubdtype(out.dtype, jnp.floating)]

    def tangent(*values: Array) -> list[Array]:
        def of_moving(*parts: Array) -> list[Array]:
            primals = list(values[:n_arrays])
            for i, part in zip(moving, parts, strict=True):
                primals[i] = part
            outputs = run(*primals)
            return [outputs[i] for i in floats]

        return jax.jvp(of_moving, tuple(values[i] for i in moving), values[n_arrays:])[1]

    found = frames_p.bind(
        *arrays, *(tangents[i] for i in moving), run=tangent, transpose=None, n_linear=len(moving),
        shapes=_shapes(results[i] for i in floats),
    )  # fmt: skip
    moves = [ad.Zero(jax.typeof(out).to_tangent_aval()) for out in results]
    for i, move in zip(floats, found, strict=True):
        moves[i] = move
    return results, moves


ad.primitive_jvps[frames_p] = _jvp


def _transpose(
    cotangents: list, *arrays: Any, run: Callable, transpose: Callable | None, n_linear: int,
    shapes: Shapes,
) -> list[Array | None]:  # fmt: skip
    if transpose is None:
        raise NotImplementedError(NO_SECOND_PULLBACK)
    known, linear = arrays[: len(arrays) - n_linear], arrays[len(arrays) - n_linear :]
    wanted = list(map(ad.is_undefined_primal, linear))
    own = [g.aval if w else g for g, w in zip(linear, wanted, strict=True)]
    found = frames_p.bind(
        *known, *map(ad.instantiate_zeros, cotangents), run=transpose, transpose=run,
        n_linear=len(shapes), shapes=_shapes(own),
    )  # fmt: skip
    return [None] * len(known) + [g if w else None for g, w in zip(found, wanted, strict=True)]


ad.primitive_transposes[frames_p] = _transpose
