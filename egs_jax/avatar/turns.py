"""Who is served next, and when: those who are due first, with those who can be served beside."""

import heapq
import itertools
import time
from collections.abc import Hashable
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")


class Turns(Generic[Item]):
    """Queues of groups whose members can be served together; true while somebody waits."""

    def __init__(self) -> None:
        """Begin with nobody."""
        self._queues: dict[Any, list[tuple[float, int, Item]]] = {}
        self._arrivals = itertools.count()

    def __bool__(self) -> bool:
        """Say whether somebody waits."""
        return bool(self._queues)

    def add(self, group: Hashable, due: float, item: Item) -> None:
        """Let somebody wait, behind those who are due before or at the same time [s]."""
        heapq.heappush(self._queues.setdefault(group, []), (due, next(self._arrivals), item))

    def first(self) -> Any:
        """Return the group of whoever is due first."""
        return min(self._queues, key=lambda group: self._queues[group][0][:2])

    def calls(self, most: int) -> int:
        """Return how many calls serve all who wait, up to `most` of a group in each."""
        return sum(-(-len(queue) // most) for queue in self._queues.values())

    def take(self, group: Hashable, most: int) -> list[Item]:
        """Serve up to `most` of a group, those who are due first."""
        queue = self._queues[group]
        taken = [heapq.heappop(queue)[2] for _ in range(min(most, len(queue)))]
        if not queue:
            del self._queues[group]
        return taken


class Clock:
    """When the pieces of something live are due that may come sooner, late or many at once.

    Each is due when it has come, but not before the one before it has been shown; so whoever brings
    many at once takes nobody's turn.
    """

    def __init__(self) -> None:
        """Begin with nothing due."""
        self._next = 0.0

    def due(self, now: float, seconds: float) -> float:
        """Return when the next piece is due, which has come now and is shown for so long."""
        found = max(now, self._next)
        self._next = found + seconds
        return found


class Spacing:
    """How a thread's calls follow each other: at a steady pace, or without a rest if it is late.

    A call of the device takes its host a millisecond, however many are served by it. Those who come
    meanwhile are served together: the more there are, the less each of them costs.
    """

    def __init__(self, seconds: float):
        """Begin with no call; 0: there is no waiting."""
        self._seconds, self._next = seconds, 0.0

    def wait(self) -> None:
        """Wait until the next call may begin."""
        now = time.monotonic()
        if now < self._next:
            time.sleep(self._next - now)

    def began(self, share: float = 1.0) -> None:
        """Note that a call begins, after which such a share of the space is left."""
        self._next = max(time.monotonic(), self._next) + share * self._seconds
