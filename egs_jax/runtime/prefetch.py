"""Work ahead of the consumer: an iterator that runs in a thread of its own."""

import collections
import concurrent.futures
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
_END = object()


def ahead(items: Iterable[Item], depth: int) -> Iterator[Item]:
    """Iterate over `items` in a thread, at most `depth` ahead of who takes them.

    An error of `items` is raised where its item would have come. Whoever stops early waits for the
    item in hand, not for more.
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
