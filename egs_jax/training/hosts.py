"""Several hosts train one model: a process on each, joined by `jax.distributed`.

All get the same command but for their number (`--hosts`). Host 0 alone has the run folder: it hands
its state to the others at the start, and writes and tells for all. What only one host comes to know
(a stop signal) is asked for where all are at the same step. A host that fails ends its process;
JAX ends the others. Before: `run_log`; after: `parallel`, `loop`.
"""

import contextlib
import hashlib
import io
import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from egs_jax.runtime.errors import InputError

State = TypeVar("State")
PATIENCE = 300
"""Seconds that hosts wait for each other at the start."""


class Place(NamedTuple):
    """What a host is told of all of them."""

    address: str
    """Of host 0, as the others reach it."""
    port: int
    count: int
    index: int
    """This host's number, from 0."""


def place(text: str) -> Place:
    """Read `ADDRESS:PORT,COUNT,INDEX`.

    Raises:
      InputError: if it is not that.
    """
    with contextlib.suppress(ValueError):
        target, count, index = text.split(",")
        address, port = target.rsplit(":", 1)
        read = Place(address, int(port), int(count), int(index))
        if read.address and 0 < read.port < 65536 and 0 <= read.index < read.count:
            return read
    raise InputError(
        f"--hosts: got {text!r}, expected ADDRESS:PORT of host 0, the number of hosts and this "
        "host's own, counted from 0: 10.0.0.5:1234,2,0 and 10.0.0.5:1234,2,1"
    )


@contextlib.contextmanager
def joined(text: str | None, told: str) -> Iterator[None]:
    """Work as one of several hosts, of which only host 0 prints; begin before JAX computes.

    Args:
      text: This host among the others (see `place`); None: there are none.
      told: What must be the same on all of them: the settings.

    Raises:
      InputError: a host is missing, or was told something else.
    """
    if text is None:
        yield
        return
    where = place(text)
    meet(where, hashlib.sha256(told.encode()).hexdigest())
    jax.distributed.initialize(
        f"{where.address}:{where.port}",
        where.count,
        where.index,
        cluster_detection_method="deactivate",  # it would hide devices
    )
    try:
        with contextlib.redirect_stdout(io.StringIO()) if where.index else contextlib.nullcontext():
            yield
    except KeyboardInterrupt:  # all agreed on it
        jax.distributed.shutdown()
        raise
    jax.distributed.shutdown()  # once all are here: host 0 may still be writing


def meet(where: Place, told: str) -> None:
    """Find each other and compare what was told.

    JAX does not compare, and where a host is missing it ends the process without an exception.

    Raises:
      InputError: on every host that could be reached, with the same words.
    """
    until = time.monotonic() + PATIENCE
    fault = _ask_first(where, told, until) if where.index else _hear_others(where, told, until)
    if fault:
        raise InputError(f"--hosts: {fault}")


def first() -> bool:
    """Whether this is host 0, or the only one."""
    return jax.process_index() == 0


def any_of(flag: bool) -> bool:
    """Whether the flag is up on any host; all must ask at the same step."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.bool_(flag))))


def of_first(state: State) -> State:
    """Host 0's state, bit for bit, in NumPy; all must have one of these shapes."""
    if jax.process_count() == 1:
        return state
    state = jax.device_get(state)
    # As bytes: JAX adds them to zeros, and -0.0 + 0.0 is another number.
    bits = jax.tree.map(lambda leaf: np.asarray(leaf).reshape(-1).view(np.uint8), state)
    bits = multihost_utils.broadcast_one_to_all(bits)
    return jax.tree.map(lambda own, leaf: own.view(leaf.dtype).reshape(leaf.shape), bits, state)


class Nothing:
    """Stands where host 0 has a file: whatever it is told to do, it does nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


def _hear_others(where: Place, told: str, until: float) -> str:
    """Host 0: wait for the others, then tell them all what is wrong, or nothing."""
    heard: set[int] = set()
    waiting: list[socket.socket] = []
    fault = ""
    with contextlib.ExitStack() as calls:
        try:
            server = calls.enter_context(_server(where.port))
        except OSError as error:
            return f"cannot listen on port {where.port} ({error}); name another on all hosts"
        while len(heard) < where.count - 1 and not fault:
            try:
                server.settimeout(max(until - time.monotonic(), 0.01))
                call = calls.enter_context(server.accept()[0])
            except TimeoutError:
                missing = ", ".join(str(i) for i in range(1, where.count) if i not in heard)
                fault = f"no call from host {missing} within {PATIENCE} s; start all by one command"
                break
            call.settimeout(5)
            try:
                index, count, other = json.loads(call.makefile().readline(200))
                index, count = int(index), int(count)
            except (OSError, ValueError, TypeError):
                continue  # no host of ours
            if count != where.count:
                fault = f"host {index} was told of {count} hosts, host 0 of {where.count}"
            elif index in heard:
                fault = f"two hosts were told that they are host {index}"
            elif other != told:
                fault = (
                    f"host {index} has other settings or another dataset than host 0; start all "
                    "by the same command"
                )
            heard.add(index)
            waiting.append(call)
        for call in waiting:
            with contextlib.suppress(OSError):
                call.sendall(json.dumps({"fault": fault}).encode())
    return fault


def _ask_first(where: Place, told: str, until: float) -> str:
    """Another host: call host 0 until it answers, and hear what is wrong, or nothing."""
    target = f"{where.address}:{where.port}"
    while True:
        try:
            call = socket.create_connection((where.address.strip("[]"), where.port), timeout=5)
            break
        except OSError as error:
            if time.monotonic() > until:
                return (
                    f"no answer from {target} within {PATIENCE} s ({error}); start host 0 there "
                    "and see that the port can be reached"
                )
            time.sleep(0.2)
    with call:
        try:
            call.sendall(json.dumps([where.index, where.count, told]).encode() + b"\n")
            call.settimeout(PATIENCE + 5)  # host 0 may have begun later
            return str(json.loads(call.makefile().read(1000))["fault"])
        except (OSError, ValueError, TypeError, KeyError):
            return f"{target} does not answer as host 0 of a training; name another port on all"


def _server(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))
