"""Several hosts train one model: a process on each, joined by `jax.distributed`.

All get the same command but for their number (`--hosts`). Host 0 alone has the run folder: it hands
its state to the others at the start, and writes and tells for all. What only one host comes to know
(a stop signal) is asked for where all are at the same step. A host that fails ends its process;
JAX ends the others. Before: `run_folder`; after: `parallel`, `loop`.
"""

import contextlib
import hashlib
import io
import socket
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from typing import NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from egs_jax.runtime.errors import InputError

State = TypeVar("State")
PATIENCE = 300
"""Seconds that hosts wait for each other at the start."""
FOREVER = 10**6
"""Seconds after which JAX would end a process that waits; `PATIENCE` is over long before."""


class Place(NamedTuple):
    """The place of a host among all of them."""

    address: str
    """Address of host 0, as the others reach it."""
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
def joined(text: str | None, told: Mapping[str, str]) -> Iterator[None]:
    """Work as one of several hosts, of which only host 0 prints; begin before JAX computes.

    Args:
      text: This host among the others (see `place`); None: there are none.
      told: What must be the same on all of them, by name: settings and dataset.

    Raises:
      InputError: a host is missing, has other devices, or was told something else.
    """
    if text is None:
        yield
        return
    where = place(text)
    _meet(where)
    try:
        compare({"number of hosts": str(where.count), **told})
        with contextlib.redirect_stdout(io.StringIO()) if where.index else contextlib.nullcontext():
            yield
    except (KeyboardInterrupt, _Disagreement):  # all hosts are here, for the same reason
        jax.distributed.shutdown()
        raise
    jax.distributed.shutdown()  # once all are here: host 0 may still be writing


class _Disagreement(InputError):
    """An error that all hosts raise together."""


def _meet(where: Place) -> None:
    """Find each other by `jax.distributed`.

    JAX ends the process without an exception where a host does not come in time; so another thread
    waits in JAX, and this one no longer than `PATIENCE`. Host 0 listens on all its addresses unless
    JAX_COORDINATOR_BIND_ADDRESS names one.

    Raises:
      InputError: not all hosts came, or the port is taken.
    """
    if where.index == 0:
        _check_port(where.port)
    target, met = f"{where.address}:{where.port}", Future()

    def meet() -> None:
        try:
            jax.distributed.initialize(
                target, where.count, where.index, initialization_timeout=FOREVER,
                cluster_detection_method="deactivate",  # it would hide devices
            )  # fmt: skip
            met.set_result(None)
        except Exception as error:
            met.set_exception(error)

    threading.Thread(target=meet, daemon=True).start()
    try:
        met.result(PATIENCE)
    except TimeoutError:
        raise InputError(
            f"--hosts: not all of the {where.count} hosts met at {target} within {PATIENCE} s; "
            "start all by the same command and see that they can reach that port"
        ) from None
    except (RuntimeError, ValueError) as error:
        raise InputError(f"--hosts: cannot meet at {target} ({error})") from error


def _check_port(port: int) -> None:
    """Refuse a port that is taken, where JAX would crash."""
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        socket.create_server(("", port), family=family, dualstack_ipv6=both).close()
    except OSError as error:
        raise InputError(
            f"--hosts: cannot listen on port {port} ({error}); name another on all hosts"
        ) from None


def compare(told: Mapping[str, str]) -> None:
    """Compare what every host was told; all must ask for the same names.

    Raises:
      InputError: on all hosts, with the same words.
    """
    devices_by_host()
    hashes = [hashlib.sha256(text.encode()).digest() for text in told.values()]
    own = np.frombuffer(b"".join(hashes), np.uint8).reshape(len(told), -1)
    for host, others in enumerate(multihost_utils.process_allgather(own)):
        if host == 0:
            first = others
        for name, same in zip(told, (others == first).all(axis=1), strict=True):
            if not same:
                raise _Disagreement(
                    f"--hosts: host {host} was started with another {name} than host 0; start all "
                    "by the same command, on the same dataset"
                )


def devices_by_host() -> list[list[jax.Device]]:
    """Return the devices of every host, as many of one as of another.

    Raises:
      InputError: if they are not.
    """
    count, devices = jax.process_count(), jax.devices()
    own = [[each for each in devices if each.process_index == host] for host in range(count)]
    if len({len(each) for each in own}) > 1:
        raise _Disagreement(
            f"devices: the hosts have {', '.join(str(len(each)) for each in own)}; hide some (by "
            "CUDA_VISIBLE_DEVICES) until all have as many"
        )
    return own


def first() -> bool:
    """Return whether this is host 0, or the only one."""
    return jax.process_index() == 0


def any_of(flag: bool) -> bool:
    """Return whether the flag is up on any host; all must ask at the same step."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.bool_(flag))))


def of_first(state: State) -> State:
    """Return host 0's state, bit for bit, in NumPy; all must have one of these shapes."""
    if jax.process_count() == 1:
        return state
    state = jax.device_get(state)
    # As bytes: JAX adds them to zeros, and -0.0 + 0.0 is another number.
    bits = jax.tree.map(lambda leaf: np.asarray(leaf).reshape(-1).view(np.uint8), state)
    bits = multihost_utils.broadcast_one_to_all(bits)
    return jax.tree.map(lambda own, leaf: own.view(leaf.dtype).reshape(leaf.shape), bits, state)
