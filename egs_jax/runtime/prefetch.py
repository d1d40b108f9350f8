"""Items made in a thread while their consumer uses those before them."""

import collections
import concurrent.futures
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
_END = object()


def prefetch(items: Iterable[Item], depth: int) -> Iterator[Item]:
    """Iterate over `items` in a thread, at most `depth` of them before they are asked for.

    An error of `items` is raised where its item would have come. Whoever stops early waits for the
    item in hand, not for more.

    No library that is installed anyway does this: `Executor.map` takes all items at once (until
    Python 3.14), Flax's `prefetch_to_device` copies to devices without a thread.
    """
    iterator = iter(items)
    pool = concurrent.futures.ThreadPoolExecutor(1)
    try:
        waiting = collections.deque(pool.submit(next, iterator, _END) for _ in range(depth))
        while (item := waiting.popleft().result()) is not _END:
            waiting.append(pool.submit(next, iterator, _END))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)
        if close := getattr(iterator, "close", None):
            close()
