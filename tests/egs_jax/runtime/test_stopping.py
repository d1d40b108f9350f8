"""Stop requests: the first is an event, the next does what it did before."""

import os
import signal
import threading

import pytest

from egs_jax.runtime.stopping import stop_requests


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
def test_the_first_request_is_an_event_and_the_next_is_as_before(name, capfd):
    told = []
    before = signal.signal(name, lambda *_: told.append("before"))
    try:
        with stop_requests() as stop:
            assert not stop.is_set()
            os.kill(os.getpid(), name)
            assert stop.wait(5) and not told
            os.kill(os.getpid(), name)
            assert told == ["before"]
        os.kill(os.getpid(), name)
        assert told == ["before"] * 2
    finally:
        signal.signal(name, before)
    assert capfd.readouterr().err == "stopping after this step; once more stops at once\n"


def test_other_threads_leave_signals_alone():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work():
        with stop_requests() as stop:
            seen.append((stop.is_set(), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]
