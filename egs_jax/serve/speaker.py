"""One client: its socket on one side, its session on the other.

Two tasks: one reads what the client says, the other sends frames when they are due and gives the
session silence meanwhile. Whoever does not read is waited for a few seconds, and then left: nobody
else waits. Before: `protocol`, `pace`; after: `server`.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
from aiohttp import WSMsgType, web

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.drawing import StreamFrame
from egs_jax.avatar.scene import PersonScene
from egs_jax.avatar.session import Frame, Session
from egs_jax.media.clock import FPS
from egs_jax.runtime.errors import InputError
from egs_jax.serve import protocol
from egs_jax.serve.pace import Pace
from egs_jax.serve.pictures import encoder, seen

MOST_WAITING = 30.0
"""Seconds of sound that may wait to be heard."""
MOST_IDLE = 600.0
"""Seconds after which a client that says nothing is left."""
MOST_SENDING = 5.0
"""Seconds after which a client that does not read is left."""
QUIET = 328
"""Peak of sound in which nobody speaks: a hundredth of full scale."""
TOLD = 1.0
"""Seconds between two `state` events."""
_LEAST_REST = 0.001  # seconds


class Left(Exception):
    """The client is to be left; what it is told is the message."""


class Speaker:
    """A client that has said hello."""

    def __init__(
        self, socket: web.WebSocketResponse, avatar: Avatar, hello: protocol.Hello,
        open_session: Callable[..., Session],
    ):  # fmt: skip
        """Open its session.

        Args:
          socket: Of the client.
          avatar: Who speaks.
          hello: What the client said.
          open_session: `Sessions.open`.

        Raises:
          InputError: if it wants pictures that this machine cannot encode.
        """
        self._socket, self._avatar, self._hello = socket, avatar, hello
        self._loop, self._ready = asyncio.get_running_loop(), asyncio.Event()
        self._encode = encoder(hello.want, avatar.scene.width, avatar.scene.height)
        self._session = open_session(
            avatar, sample_rate=hello.rate, pictures=hello.want != "codes",
            most_waiting=MOST_WAITING, most_ready=1.0, notify=self._notify,
        )  # fmt: skip
        self._pace = Pace(self._session.latency, hello.rate)
        self._framing = protocol.Framing()
        self._received = 0  # samples of the client
        self._has_heard = False  # any of them since it was interrupted last
        self._ends: float | None = None  # when all that it said before `finish` is shown
        self._was_speaking, self._told = False, 0.0

    async def run(self) -> None:
        """Speak until the client goes, or has to be left.

        Raises:
          Left: if it has to be left.
        """
        tasks = [asyncio.create_task(work()) for work in (self._listen, self._speak)]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._session.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _notify(self) -> None:
        """Wake the one that sends; called by the sessions' threads."""
        with contextlib.suppress(RuntimeError):  # the server has stopped
            self._loop.call_soon_threadsafe(self._ready.set)

    # What the client says.

    async def _listen(self) -> None:
        while True:
            try:
                message = await self._socket.receive(timeout=MOST_IDLE)
            except TimeoutError:
                raise Left(f"nothing was said for {MOST_IDLE:.0f} s") from None
            try:
                if message.type == WSMsgType.BINARY:
                    await self._hear(protocol.sound(message.data))
                elif message.type == WSMsgType.TEXT:
                    await self._obey(protocol.command(message.data))
                else:
                    return
            except InputError as error:
                await self._tell("error", message=str(error))

    async def _hear(self, samples: np.ndarray) -> None:
        """Have the session hear sound, when it is its turn; say when, where a run begins."""
        first, self._received = self._received, self._received + len(samples)
        if self._session.waiting > MOST_WAITING:
            self._pace.refuse(len(samples))
            raise InputError(
                f"sound: more than {MOST_WAITING:.0f} s wait; some was dropped: send it later"
            )
        is_quiet = int(np.abs(samples.astype(np.int32)).max(initial=0)) < QUIET
        taken = self._pace.take(self._loop.time(), len(samples), is_quiet=is_quiet)
        self._hush(taken.silence)
        if taken.is_heard:
            self._has_heard = True
            self._session.push(samples)
        if taken.run is not None:
            await self._tell("sound", sample=first, time=taken.run)

    def _hush(self, samples: int) -> None:
        """Have the session hear so many samples of silence."""
        if samples:
            self._session.push(np.zeros(samples, np.int16))

    async def _obey(self, command: protocol.Command) -> None:
        if command.kind == "interrupt":
            if self._has_heard:  # else there is nothing to drop, and what is being made goes on
                self._pace.interrupted(self._session.interrupt())
                self._ready.set()  # before the first frame the silence it was given is gone as well
            self._has_heard, self._ends = False, None
            await self._tell("interrupted", time=self._pace.number / FPS)
        elif command.kind == "finish":
            self._ends = self._pace.heard
        elif command.kind == "source":
            self._pace.is_live = command.live
        else:
            self._framing, self._session.view = command.framing, command.view

    # What the client gets.

    async def _speak(self) -> None:
        await self._greet()
        while True:
            self._ready.clear()
            now = self._loop.time()
            self._hush(self._pace.silence(now))
            if self._pace.wait(now) > 0:
                await asyncio.sleep(max(self._pace.rest(now), _LEAST_REST))
            elif frames := self._session.ready(1):
                await self._show(frames[0])
            else:  # until it is made, no more silence is wanted: time stands still
                await self._ready.wait()

    async def _greet(self) -> None:
        scene = self._avatar.scene
        await self._tell(
            "ready", rate=self._hello.rate, want=self._hello.want, fps=FPS,
            width=scene.width, height=scene.height, latency=self._session.latency,
            most_waiting=MOST_WAITING,
        )  # fmt: skip

    async def _show(self, frame: Frame) -> None:
        if isinstance(frame, StreamFrame):
            data = await asyncio.to_thread(self._pictured, frame, self._framing)
        else:
            data = protocol.coded(np.asarray(self._avatar.baked.ranges), frame)
        now = self._loop.time()
        self._pace.sent(now)
        if frame.speaking != self._was_speaking:
            self._was_speaking = frame.speaking
            kind = "speaking_started" if frame.speaking else "speaking_ended"
            await self._tell(kind, time=frame.time)
        await self._send(self._socket.send_bytes, data)
        if self._ends is not None and frame.time + 1 / FPS >= self._ends:
            self._ends = None
            await self._tell("finished", time=frame.time)
        if now - self._told >= TOLD:
            self._told = now
            delay = self._pace.heard - self._pace.time(now)
            await self._tell(
                "state", delay=round(delay, 3), waiting=round(self._session.waiting, 3),
                late=self._pace.late, dropped=round(self._pace.dropped, 3),
            )  # fmt: skip

    def _pictured(self, frame: StreamFrame, framing: protocol.Framing) -> bytes:
        """Return the message of a drawn frame; takes a while."""
        own = self._avatar.scene.own
        plate = own.plate if isinstance(own, PersonScene) else None
        picture = self._encode(seen(frame, plate, framing))
        return protocol.pictured(
            self._hello.want, frame.number, frame.time, picture, speaking=frame.speaking
        )

    async def _tell(self, kind: str, **words: Any) -> None:
        await self._send(self._socket.send_str, protocol.event(kind, **words))

    async def _send(self, send: Callable[[Any], Any], data: Any) -> None:
        try:
            async with asyncio.timeout(MOST_SENDING):
                await send(data)
        except TimeoutError:
            raise Left(f"nothing was read for {MOST_SENDING:.0f} s") from None
