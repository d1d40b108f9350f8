"""Checks that public functions share: shapes while tracing, named errors at the border."""

from collections.abc import Callable
from typing import TypeVar

import beartype
import jaxtyping

F = TypeVar("F", bound=Callable)


def typechecked(function: F) -> F:
    """Check the jaxtyping annotations of `function` when Python runs it (in `jit`: traces it)."""
    return jaxtyping.jaxtyped(typechecker=beartype.beartype)(function)


def require(claim: bool, message: str) -> None:
    """Raise `ValueError(message)` unless `claim` holds; say what, got, expected, remedy."""
    if not claim:
        raise ValueError(message)
