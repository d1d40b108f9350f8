"""Sessions under a load in real time: speech comes as it is spoken, frames are read as they come.

Sound of a session comes in chunks of `CHUNK` seconds, each when its last sample has been spoken;
sessions begin one after the other, spread over a block of frames. Frames are shown at a steady
pace, the stated latency after their own time and as little more as chunks need that come whole:
at that moment a frame is due, and the first one of every block can not have been made before it,
for its sound has just come. It is late by as much as it is ready after that.
"""

import heapq
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.session import Session
from egs_jax.avatar.sessions import Sessions
from egs_jax.media.clock import FPS, SAMPLE_RATE
from egs_jax.runtime.errors import InputError

CHUNK = 0.1
"""Seconds of sound that arrive at once."""
SPREAD = 0.2
"""Seconds over which sessions begin."""
WAKES = 1e-3
"""Seconds between two pushes that the load waits in any case: to wake for each costs a core."""
WARM = 2.0
"""Seconds of sound before a frame counts: batches of all sizes have been met then."""


@dataclass
class Client:
    """One session's user."""

    session: Session
    speech: np.ndarray
    at: int
    """Where in the speech it begins."""
    delay: float
    """From a frame's time until it is due, seconds."""
    stop: float
    """Time of the first frame that does not count any more, seconds."""
    began: float = 0.0
    """When its first sample is spoken."""
    pushed: int = 0
    """Chunks."""
    late: list[float] = field(default_factory=list)
    """By how much each frame was, seconds; negative: it came before it was due."""

    def push(self) -> float:
        """Push the next chunk; return when the one after it will have been spoken."""
        size = round(CHUNK * SAMPLE_RATE)
        first = (self.at + self.pushed * size) % (len(self.speech) - size)
        self.session.push(self.speech[first : first + size])
        self.pushed += 1
        return self.began + CHUNK * (self.pushed + 1)

    def read(self) -> None:
        """Take the frames that are there."""
        frames = self.session.ready()
        now = time.perf_counter() - self.began
        counted = [frame.time for frame in frames if WARM <= frame.time < self.stop]
        self.late += [now - shown - self.delay for shown in counted]


class Outcome(NamedTuple):
    """What came of a load."""

    late_ms: np.ndarray
    """By how much each frame was late, of all sessions; those that never came are `inf`."""
    cores: dict[str, float]
    """Seconds of a core in each second, by the threads' work."""
    pushes_behind_ms: float
    """How long the load itself came after its time, at worst (99th percentile)."""


def under_load(
    avatars: Sequence[Avatar], speech: np.ndarray, count: int, seconds: float, *, pictures: bool
) -> Outcome:
    """Hold `count` sessions, of the avatars in turn, for some time.

    Args:
      avatars: Who speaks; they are warm.
      speech: 16 kHz sound that is repeated, at other places by every session.
      count: Sessions.
      seconds: Of sound whose frames count.
      pictures: Whether frames are drawn, or codes made.
    """
    told: queue.SimpleQueue[Client | None] = queue.SimpleQueue()
    with Sessions() as sessions:
        clients = _clients(sessions, avatars, speech, count, WARM + seconds, told, pictures)
        reader = threading.Thread(target=_read, args=(told,), name="reader")
        reader.start()
        behind, cores = _push(clients, WARM + seconds + clients[0].delay)
        time.sleep(0.5)  # what has not come by then never will
        told.put(None)
        reader.join()
        for client in clients:
            client.session.close()
    late = np.array([value for client in clients for value in client.late]) * 1e3
    missing = max(count * int(seconds * FPS) - len(late), 0)
    return Outcome(np.concatenate([late, np.full(missing, np.inf)]), cores, behind)


def delay_of(session: Session) -> float:
    """Return how long after its own time a frame is due."""
    layout = session.avatar.scene.layout
    lead = layout.lead_frames(session.avatar.config.model.window_frames)
    firsts = (np.arange(1, 51) * layout.hop_frames - lead % layout.hop_frames) / FPS
    arrived = CHUNK * np.ceil((firsts + session.latency) / CHUNK - 1e-6)
    return float((arrived - firsts).max())


def _clients(
    sessions: Sessions, avatars: Sequence[Avatar], speech: np.ndarray, count: int,
    stop: float, told: queue.SimpleQueue, pictures: bool,
) -> list[Client]:  # fmt: skip
    clients: list[Client] = []
    for k in range(count):
        session = sessions.open(
            avatars[k % len(avatars)], pictures=pictures, notify=lambda k=k: told.put(clients[k])
        )
        at = k * len(speech) // count
        clients.append(Client(session, speech, at, delay_of(session), stop))
    began = time.perf_counter() + 0.2
    for k, client in enumerate(clients):
        client.began = began + SPREAD * k / count
    return clients


def _read(told: queue.SimpleQueue) -> None:
    while (client := told.get()) is not None:
        client.read()


def _push(clients: list[Client], seconds: float) -> tuple[float, dict[str, float]]:
    """Push so much sound as it is spoken; return the load's own delay [ms], and cores by work."""
    waiting = [(client.began + CHUNK, k) for k, client in enumerate(clients)]
    heapq.heapify(waiting)
    end, behind = max(client.began for client in clients) + seconds, []
    began, before = time.perf_counter(), None
    while waiting and (due := waiting[0][0]) < end:
        if (wait := due - time.perf_counter()) > 0:
            time.sleep(max(wait, WAKES))
        behind.append(time.perf_counter() - due)
        if before is None and due > end - seconds + WARM:
            began, before = time.perf_counter(), cpu_seconds()
        _, k = heapq.heappop(waiting)
        try:
            heapq.heappush(waiting, (clients[k].push(), k))
        except InputError:  # too much waits: this one is lost
            continue
    wall, after = time.perf_counter() - began, cpu_seconds()
    cores = {name: round((after[name] - (before or {}).get(name, 0.0)) / wall, 2) for name in after}
    return float(np.percentile(behind, 99)) * 1e3, cores


def cpu_seconds() -> dict[str, float]:
    """Return the seconds of a core that threads have taken, by what they do (Linux)."""
    names = {str(thread.native_id): thread.name for thread in threading.enumerate()}
    found: dict[str, float] = {}
    for task in Path("/proc/self/task").iterdir():
        try:
            fields = (task / "stat").read_text("utf-8").rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        name = names.get(task.name, "libraries").partition("-")[0]
        name = {"MainThread": "load", "ThreadPoolExecutor": "drawing"}.get(name, name)
        ticks = int(fields[11]) + int(fields[12])
        found[name] = found.get(name, 0.0) + ticks / 100
    return found
