"""Strict flags for every test: no silent broadcasting of ranks."""

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def getkey():
    """Return a function that gives a fresh deterministic PRNG key at every call."""
    count = 0

    def next_key() -> jax.Array:
        nonlocal count
        count += 1
        return jax.random.key(count)

    return next_key
