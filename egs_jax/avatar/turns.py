"""Who is served next: those who wait longest, with those beside them who can be served at once."""

import collections
import itertools
from collections.abc import Hashable, Sequence
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")


class Turns(Generic[Item]):
    """Queues of groups whose members can be served together; true while somebody waits."""

    def __init__(self) -> None:
        """Begin with nobody."""
        self._queues: dict[Any, collections.deque[tuple[int, Item]]] = {}
        self._arrivals = itertools.count()

    def __bool__(self) -> bool:
        """Say whether somebody waits."""
        return bool(self._queues)

    def add(self, group: Hashable, item: Item) -> None:
        """Let somebody wait as the last of all."""
        queue = self._queues.setdefault(group, collections.deque())
        queue.append((next(self._arrivals), item))

    def longest(self) -> Any:
        """Return the group of whoever waits longest."""
        return min(self._queues, key=lambda group: self._queues[group][0][0])

    def take(self, groups: Sequence[Hashable], most: int) -> list[Item]:
        """Serve up to `most` of each of several groups, those first who wait longest."""
        taken = []
        for group in groups:
            queue = self._queues.get(group, ())
            taken += [queue.popleft()[1] for _ in range(min(most, len(queue)))]
            if group in self._queues and not queue:
                del self._queues[group]
        return taken
