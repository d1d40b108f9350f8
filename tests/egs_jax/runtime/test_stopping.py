"""Stop requests: the first is an event, the next does what it did before."""

import os
import signal
import subprocess
import threading
import time

import pytest
from helpers import python

from egs_jax.runtime.stopping import stop_requests, terminable, undisturbed


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


def test_a_process_that_cannot_stop_ends_when_it_is_told_again(tmp_path):
    """As in a compiler: nothing is raised there."""
    code = (
        "import hashlib, threading, os, signal, time\n"
        "from egs_jax.runtime import stopping\n"
        "stopping.AT_ONCE, stopping.GRACE = 0.2, 0.2\n"
        "def press():\n"
        "    for _ in range(2):\n"
        "        time.sleep(0.4)\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "threading.Thread(target=press, daemon=True).start()\n"
        "with stopping.terminable():\n"
        "    hashlib.pbkdf2_hmac('sha256', b'a', b'b', 2**31 - 1)\n"
    )
    command, environment = python("-c", code)
    done = subprocess.run(
        command, env=environment, capture_output=True, encoding="utf-8", timeout=60, check=False
    )
    assert (done.returncode, done.stderr.strip()) == (1, "egs-jax: stopped")


def test_signals_are_as_before_afterwards():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), terminable():
        signal.raise_signal(signal.SIGTERM)
        time.sleep(5)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert signal.set_wakeup_fd(-1) == -1


def test_a_signal_that_is_put_off_comes_after_the_block():
    came = []
    before = signal.signal(signal.SIGTERM, lambda *_: came.append(True))
    try:
        with undisturbed():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            assert not came
        assert came == [True]
    finally:
        signal.signal(signal.SIGTERM, before)
