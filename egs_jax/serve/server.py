"""`egs-jax serve`: avatars on a page of this machine, and at a socket for programs.

One process: this thread has all sockets, those of `Sessions` have the work. Before: `site`,
`speaker`; after: `__main__`.
"""

import asyncio
import contextlib
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from aiohttp import WSMsgType, web

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.avatar_writer import write_shown
from egs_jax.avatar.look import Look
from egs_jax.avatar.scene import PersonScene
from egs_jax.avatar.sessions import Sessions
from egs_jax.runtime.device import say_device
from egs_jax.runtime.errors import InputError
from egs_jax.serve import protocol
from egs_jax.serve.site import File, application, file_of, page_files, run
from egs_jax.serve.speaker import Left, Speaker

MOST_GREETING = 10.0
"""Seconds in which a client has to say hello."""
HEARTBEAT = 10.0
"""Seconds between two signs of life that a client is asked for."""
_PARTING = 1.0  # seconds in which a client may still read why it is left
_TRY_LATER, _REFUSED, _FAILED = 1013, 1008, 1011  # codes with which sockets are closed


def serve(
    avatars: Sequence[Path], look: Look, *, data_dir: Path | None, host: str, port: int,
    sessions: int,
) -> None:  # fmt: skip
    """Serve avatars until the process is told to stop.

    Args:
      avatars: Run folders, or files that were exported.
      look: Their poses and blinks; the rest is as usual, and up to who looks at them.
      data_dir: See `loaded`.
      host: Name or address to listen at: this machine's own, unless all may ask.
      port: Number to listen at; 0: any that is free.
      sessions: Most clients at once.

    Raises:
      InputError: if an avatar cannot be loaded, or nobody can listen there.
    """
    named = loaded(avatars, look, data_dir)
    say_device("serving", after=f": {', '.join(named)}")
    with Sessions() as shared:
        for avatar in named.values():
            shared.warm_up(avatar, pictures=not is_shown_by_page(avatar))
        clients = Clients(named, shared, sessions)
        files = page_files("live.html") | avatar_files(named)
        run(lambda token, local: application(token, files, local=local, socket=clients.answer),
            host, port)  # fmt: skip


def loaded(
    paths: Sequence[Path], look: Look, data_dir: Path | None = None
) -> dict[str, Avatar]:  # fmt: skip
    """Load avatars by their names: those of their files and folders, numbered where they repeat.

    Args:
      paths: Run folders, or files that were exported.
      look: See `serve`.
      data_dir: Where the dataset of the only one was moved.

    Raises:
      InputError: if one cannot be loaded, or `data_dir` is given for several.
    """
    if data_dir is not None and len(paths) > 1:
        raise InputError(
            f"--data-dir {data_dir}: is the dataset of one avatar, and {len(paths)} are named; "
            "serve that one alone, or export it: an .egs file needs no dataset"
        )
    found: dict[str, Avatar] = {}
    for path in paths:
        name, count = path.resolve().stem, 1
        while name in found:
            count += 1
            name = f"{path.resolve().stem}-{count}"
        found[name] = dataclasses.replace(Avatar.load(path, data_dir), look=look)
    return found


def is_shown_by_page(avatar: Avatar) -> bool:
    """Tell whether a page can draw an avatar: a whole person that codes move."""
    return isinstance(avatar.scene.own, PersonScene) and not avatar.is_exact


def avatar_files(avatars: Mapping[str, Avatar]) -> dict[str, File]:
    """Return the list of avatars, and what pages draw each by: no networks, no voice."""
    listed, files = [], {}
    for number, (name, avatar) in enumerate(avatars.items()):
        scene = avatar.scene
        words = {"name": name, "width": scene.width, "height": scene.height, "file": None,
                 "axes": _axes(avatar)}  # fmt: skip
        if is_shown_by_page(avatar):
            words["file"] = f"avatar{number}.egs"
            shown = io.BytesIO()
            write_shown(shown, avatar.baked, scene)
            files[words["file"]] = file_of(words["file"], shown.getvalue())
        listed.append(words)
    files["avatars.json"] = file_of("avatars.json", json.dumps(listed).encode())
    return files


def _axes(avatar: Avatar) -> list[float]:
    """Return how far yaw and pitch of seen directions reach [radians]: no way of a head alone."""
    return [0.0, 0.0] if avatar.limits is None else np.asarray(avatar.limits.values)[23:].tolist()


class Clients:
    """All clients of a server.

    Attributes:
      count: How many there are now.
    """

    def __init__(self, avatars: Mapping[str, Avatar], shared: Sessions, most: int):
        """Begin with none.

        Args:
          avatars: Who can speak, by name; the first is who speaks if none is named.
          shared: Sessions of this process.
          most: Clients at once.
        """
        self._avatars, self._shared, self._most, self.count = avatars, shared, most, 0
        self._warm: set[str] = set()  # those whose drawing is compiled
        self._warming = asyncio.Lock()

    async def answer(self, request: web.Request) -> web.WebSocketResponse:
        """Serve a client as long as it stays."""
        socket = web.WebSocketResponse(
            heartbeat=HEARTBEAT, max_msg_size=protocol.MOST_BYTES, compress=False, timeout=2.0
        )  # fmt: skip
        await socket.prepare(request)
        if self.count >= self._most:
            words = f"all {self._most} places are taken; come back later"
            await _leave(request, socket, _TRY_LATER, protocol.event("full", message=words))
            return socket
        self.count += 1
        try:
            await self._serve(request, socket)
        finally:
            self.count -= 1
        return socket

    async def _serve(self, request: web.Request, socket: web.WebSocketResponse) -> None:
        try:
            speaker = await self._greeted(socket)
            if speaker is not None:
                await speaker.run()
        except (InputError, Left) as error:
            await _leave(request, socket, _REFUSED, protocol.event("error", message=str(error)))
        except ConnectionError:
            pass  # it has gone
        except Exception as error:  # this client's, and nobody else's
            print(f"egs-jax: a session failed: {error!r}", flush=True)
            words = "the server failed to go on; connect again"
            await _leave(request, socket, _FAILED, protocol.event("error", message=words))

    async def _greeted(self, socket: web.WebSocketResponse) -> Speaker | None:
        """Wait for a client's hello; None: it went.

        Raises:
          InputError: if it says none, or one that cannot be met.
        """
        try:
            message = await socket.receive(timeout=MOST_GREETING)
        except TimeoutError:
            raise InputError(f"no hello in {MOST_GREETING:.0f} s") from None
        if message.type == WSMsgType.BINARY:
            raise InputError('say {"type": "hello", ...} first')
        if message.type != WSMsgType.TEXT:
            return None
        hello = protocol.hello(message.data)
        name = next(iter(self._avatars)) if hello.avatar is None else hello.avatar
        if name not in self._avatars:
            raise InputError(f"avatar: there are {', '.join(self._avatars)}")
        avatar = self._avatars[name]
        if hello.want == "codes" and not is_shown_by_page(avatar):
            raise InputError("want: this avatar is a head alone, which comes as jpeg or h264 only")
        if hello.want != "codes":
            async with self._warming:
                if name not in self._warm:
                    await asyncio.to_thread(self._shared.warm_up, avatar)
                    self._warm.add(name)
        return Speaker(socket, avatar, hello, self._shared.open)


async def _leave(
    request: web.Request, socket: web.WebSocketResponse, code: int, last_words: str
) -> None:
    """Say why, and close; a client that does not read is not waited for."""
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(_PARTING):
            await socket.send_str(last_words)
            await socket.close(code=code)
            return
    if request.transport is not None:
        request.transport.abort()
