"""Items made ahead in a thread: order, bounds, errors, early ends."""

import threading
import time

import pytest

from egs_jax.runtime.prefetch import prefetch


def test_items_come_in_order_and_at_most_so_many_ahead():
    begun, threads = [], set()

    def items():
        for i in range(20):
            begun.append(i)
            threads.add(threading.current_thread())
            yield i

    taken = []
    for item in prefetch(items(), 3):
        time.sleep(0.002)
        taken.append(item)
        assert len(begun) - len(taken) <= 3
    assert taken == list(range(20)) and len(begun) == 20
    assert threading.main_thread() not in threads


def test_an_error_comes_in_its_place():
    def items():
        yield 1
        raise OSError("disk")

    source = prefetch(items(), 4)
    assert next(source) == 1
    with pytest.raises(OSError, match="disk"):
        next(source)


def test_stopping_early_closes_the_source():
    closed = []

    def items():
        try:
            yield from range(1000)
        finally:
            closed.append(True)

    source, before = prefetch(items(), 2), threading.active_count()
    assert next(source) == 0
    source.close()
    assert closed and threading.active_count() == before


def test_nothing_at_all():
    assert list(prefetch([], 2)) == []
