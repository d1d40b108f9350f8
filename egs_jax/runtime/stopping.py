"""Stop requests: SIGTERM and Ctrl-C as an event that a loop asks for."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator


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
