"""Files under a token, by a server that stops when it is told to.

All files are read before the server starts and asked for by their whole names: no request leads to
a path. Before: `gate`; after: `server` and `view`.
"""

import asyncio
import contextlib
import gzip
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from importlib import resources
from typing import NamedTuple

from aiohttp import web

from egs_jax.runtime.consent import CONSENT
from egs_jax.runtime.errors import InputError
from egs_jax.serve.gate import Handler, gate, is_loopback, new_token, refusal

TYPES = {
    "js": "text/javascript",
    "css": "text/css",
    "html": "text/html",
    "json": "application/json",
}
"""Of files by the ends of their names."""
OTHER_TYPE = "application/octet-stream"
"""Of all other files."""
_LEAST_PACKED = 1024  # bytes from which on files go packed
_WARNING = (
    "warning: other machines can reach this address, and nothing on the way is encrypted. Whoever "
    "sees the address can have the avatar say anything. Browsers give a microphone only to https "
    "and to this machine itself: put a server in front that speaks https."
)


class File(NamedTuple):
    """A file that is asked for by its name."""

    data: bytes
    """Packed by gzip if that is worth it."""
    is_packed: bool
    type: str


def file_of(name: str, data: bytes) -> File:
    """Return a file of a name that tells its type."""
    kind = TYPES.get(name.rpartition(".")[2], OTHER_TYPE)
    if len(data) < _LEAST_PACKED:
        return File(data, is_packed=False, type=kind)
    return File(gzip.compress(data, 6, mtime=0), is_packed=True, type=kind)


def page_files(page: str) -> dict[str, File]:
    """Return the scripts and styles of web/, and a page of it at the empty name."""
    folder = resources.files("egs_jax").joinpath("web")
    found = {
        each.name: file_of(each.name, each.read_bytes())
        for each in folder.iterdir()
        if each.name.endswith((".js", ".css"))
    }
    found[""] = file_of(page, folder.joinpath(page).read_bytes())
    return found


def application(
    token: str, files: Mapping[str, File], *, local: bool, socket: Handler | None = None
) -> web.Application:  # fmt: skip
    """Return a server's application.

    Args:
      token: First part of every address.
      files: By their names after it.
      local: Whether only this machine is answered.
      socket: What answers at the name "socket".
    """

    async def send(request: web.Request) -> web.Response:
        file = files.get(request.match_info["name"])
        if file is None:
            return refusal(404)
        packed = {"Content-Encoding": "gzip"} if file.is_packed else {}
        return web.Response(body=file.data, content_type=file.type, headers=packed)

    async def complete(_: web.Request) -> web.Response:
        # The names in a page are relative to it.
        return web.Response(status=302, headers={"Location": f"/{token}/"})

    app = web.Application(middlewares=[gate(token, local=local)])
    if socket is not None:
        app.router.add_get(f"/{token}/socket", socket)
    app.router.add_get(f"/{token}", complete)
    app.router.add_get(f"/{token}/{{name:.*}}", send)
    return app


@contextlib.asynccontextmanager
async def listening(app: web.Application, host: str, port: int) -> AsyncIterator[int]:
    """Serve an application; gives the port, which the system chooses for port 0.

    Raises:
      InputError: if nobody can listen there.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0)  # the log has the token
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except (OSError, OverflowError) as error:
            raise InputError(
                f"cannot listen at {host}, port {port} ({error}); name others by --host and --port"
            ) from None
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def run(make: Callable[[str, bool], web.Application], host: str, port: int) -> None:
    """Serve until the process is told to stop, and say where.

    Args:
      make: Makes the application of a token, and of whether only this machine is answered.
      host: Name or address to listen at.
      port: Number to listen at.

    Raises:
      InputError: if nobody can listen there.
    """
    token, local = new_token(), is_loopback(host)

    async def work() -> None:
        async with listening(make(token, local), host, port) as found:
            if not local:
                print(_WARNING, file=sys.stderr)
            named = f"[{host}]" if ":" in host else host
            print(f"open http://{named}:{found}/{token}/ in a browser; Ctrl-C ends. {CONSENT}",
                  flush=True)  # fmt: skip
            await asyncio.Event().wait()

    asyncio.run(work())
