"""SIGTERM and Ctrl-C: as an exception, as an event that a loop asks for, or put off a moment."""

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from importlib.machinery import ExtensionFileLoader
from types import FrameType

AT_ONCE = 2.0
"""Seconds in which several stop signals are one: who stops a program often presses twice."""
GRACE = 5.0
"""Seconds in which a process that is told again to stop may still take its files away."""
AGAIN = 0.1
"""Seconds after which it is looked whether the work is stopping."""


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM and Ctrl-C stop the work by `KeyboardInterrupt`, so that files are taken away.

    A library may catch that and go on, or be where nothing can be raised: so it is raised until the
    work is being stopped. If it is told again, the process ends after `GRACE`: it may be deep in a
    compiler, which no exception reaches, or wait for a lock that nobody lets go of.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals belong to the main thread
        return
    asked, over = threading.Event(), threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        asked.set()
        if not (over.is_set() or _is_stopping() or _cannot_raise(frame)):
            raise KeyboardInterrupt

    ours, theirs = socket.socketpair()  # of a signal the system tells it, whatever Python is doing
    theirs.setblocking(False)
    watcher = threading.Thread(target=_watch, args=(ours, asked, over), daemon=True)
    told_before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    before = {name: signal.signal(name, stop) for name in (signal.SIGTERM, signal.SIGINT)}
    watcher.start()
    try:
        yield
    finally:
        over.set()
        theirs.send(b"\0")
        watcher.join()
        for name, handler in before.items():
            signal.signal(name, handler)
        signal.set_wakeup_fd(told_before)
        ours.close()
        theirs.close()


def _watch(told: socket.socket, asked: threading.Event, over: threading.Event) -> None:
    """Ask again while the work goes on, and end the process where it cannot stop.

    Args:
      told: Gets a byte for every signal.
      asked: Set once the work was asked to stop.
      over: Set when all is done.
    """
    own, first, deadline = 0, float("inf"), float("inf")
    while not over.is_set():
        ready, _, _ = select.select([told], [], [], AGAIN if first < float("inf") else None)
        now = time.monotonic()
        if ready:
            others = len(told.recv(4096)) - own
            own = max(0, -others)
            if others > 0 and now - first > AT_ONCE:
                deadline = min(deadline, now + GRACE)
            elif others > 0:
                first = min(first, now)
        elif now > deadline:
            os.write(2, b"\negs-jax: stopped\n")
            os._exit(1)
        elif asked.is_set() and not over.is_set():
            own += 1
            signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)


def comes_of_a_stop(error: BaseException | None) -> bool:
    """Tell whether an error was raised while, or because, the work was being stopped."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def _is_stopping() -> bool:
    """Tell whether what runs now runs because of a `KeyboardInterrupt`: it takes things away."""
    return comes_of_a_stop(sys.exc_info()[1])


def _cannot_raise(frame: FrameType | None) -> bool:
    """Tell whether an exception raised in a frame would be lost, or end the process in C++.

    The one in JAX's callback of the garbage collector, the other where a library in C++ that is
    being imported calls Python.
    """
    if frame and frame.f_code.co_name == "_xla_gc_callback":
        return True
    while frame:
        if isinstance(frame.f_locals.get("self"), ExtensionFileLoader):
            return True
        frame = frame.f_back
    return False


@contextlib.contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """Give an event that SIGTERM or Ctrl-C sets; the next one does what it did before.

    An interrupt in the middle of a step can leave a lock of a library taken, and closing the log
    would then wait for it for ever; or it falls into a callback of JAX, where it is ignored.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals belong to the main thread
        return

    def request(*_: object) -> None:
        stop.set()
        restore()
        os.write(2, b"stopping after this step; once more stops at once\n")  # print may be at work

    def restore() -> None:
        for name, handler in before.items():
            signal.signal(name, handler)

    before = {name: signal.signal(name, request) for name in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        restore()


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Put SIGTERM and Ctrl-C off until the block is done, which must be short.

    For what may not be done by half: a folder that takes the place of another one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals belong to the main thread
        return
    came: list[int] = []
    names = (signal.SIGTERM, signal.SIGINT)
    before = {name: signal.signal(name, lambda number, _: came.append(number)) for name in names}
    try:
        yield
    finally:
        for name, former in before.items():
            signal.signal(name, former)
        if came and callable(handler := before[came[0]]):
            handler(came[0], None)  # not a new signal, which would be one more that somebody sent
        elif came:
            signal.raise_signal(came[0])
