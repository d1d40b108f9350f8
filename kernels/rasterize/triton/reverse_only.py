"""Marks on arrays whose gradient exists once and in reverse mode alone: the rest is named.

JAX's own words for it speak of a `custom_vjp` that no user knows of. In reverse mode the tangents
of `reverse_only` are transposed away before anything is compiled: one that is left belongs to
forward mode. What passes `once` is not to be differentiated, which is known at once.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, PyTree

NO_SUCH_MODE = (
    "rasterize: implementation 'triton' has no forward mode (jvp, jacfwd, linearize) and no second "
    "derivative (hessian); pass implementation='xla', or take reverse mode (grad, vjp, jacrev)"
)

mark_p = Primitive("reverse_only")
tangent_p = Primitive("reverse_only_tangent")
once_p = Primitive("reverse_only_once")


def reverse_only(tree: PyTree) -> PyTree:
    """The same arrays, whose tangents may be transposed but not computed."""
    return _bind_floats(mark_p, tree)


def once(tree: PyTree) -> PyTree:
    """The same arrays, inside a derivative that cannot be differentiated again."""
    return _bind_floats(once_p, tree)


def _bind_floats(primitive: Primitive, tree: PyTree) -> PyTree:
    is_float = lambda value: jnp.issubdtype(value.dtype, jnp.floating)
    return jax.tree.map(lambda v: primitive.bind(v) if is_float(v) else v, tree)


def _refuse(*_: Any, **__: Any) -> Any:
    raise NotImplementedError(NO_SUCH_MODE)


def _mark_tangent(primals: tuple[Array], tangents: tuple[Any]) -> tuple[Array, Any]:
    (value,), (tangent,) = primals, tangents
    return mark_p.bind(value), tangent if isinstance(tangent, ad.Zero) else tangent_p.bind(tangent)


for primitive in (mark_p, once_p):
    primitive.def_impl(lambda value: value)
    mlir.register_lowering(primitive, lambda _, value: [value])
for primitive in (mark_p, once_p, tangent_p):
    primitive.def_abstract_eval(lambda aval: aval)
ad.primitive_jvps[mark_p] = _mark_tangent
batching.primitive_batchers[mark_p] = lambda arrays, axes: (mark_p.bind(arrays[0]), axes[0])
ad.primitive_jvps[once_p] = _refuse
batching.primitive_batchers[once_p] = lambda arrays, axes: (once_p.bind(arrays[0]), axes[0])
tangent_p.def_impl(_refuse)
mlir.register_lowering(tangent_p, _refuse)
ad.deflinear2(tangent_p, lambda cotangent, _: [cotangent])
batching.primitive_batchers[tangent_p] = _refuse  # `jacfwd` maps over tangents
