"""Many clients of `egs-jax serve` at once, for an hour: delay, lateness, memory, drift.

Claim: two CPU cores serve twenty live speakers by codes; a frame reaches its client at most 150 ms
after the sound was there that it has to hear first; after an hour that is still so, and the server
holds no more memory. The server is a process of its own. Every client sends a speech that repeats,
from another place on, in pieces of 20 ms as a microphone does, and reads its frames; they come one
after another. In a conversation nobody speaks all the time: after each repetition are `--pause`
seconds of silence. Measured: from the moment at which a piece was sent until the frame of its time
arrived (`delay`), less the stated latency (`beyond_latency`); how long after its turn a frame came,
its turn being every 40 ms since the last frame that moved the clock (`lateness`); how much later
frames came in the last minute than in the third (`drift`; of the first minute, beyond latency,
`first_minute`); events of the server (`late`, `dropped`); the server's memory every minute and its
share of the cores.

    python -m experiments.serve_hour AVATAR SPEECH.wav [--clients 20] [--seconds 3600] [--pause 0]

adds a row to `results/serve_hour.json`.
"""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import jax
import numpy as np

from egs_jax.avatar.avatar import Avatar
from egs_jax.media.audio_file import read_audio
from egs_jax.media.clock import FPS, SAMPLE_RATE
from egs_jax.runtime.arguments import Parser
from egs_jax.runtime.environment import usable_cores
from egs_jax.serve.protocol import HEADER
from experiments._common import RESULTS
from experiments._runs import add_case, run_main

NAME = "serve_hour"
PIECE = SAMPLE_RATE // 50
MINUTE = 60.0
APART = 0.5
"""Seconds between two who come."""
WARM = 5.0
"""Seconds at the start that are not counted."""
SETTLED = 120.0
"""Seconds after which drift is counted: while clients come, margins are wide, and they ease."""


class Client:
    """A live speaker's owner: sends a speech over and over, and notes when frames come."""

    def __init__(self, speech: np.ndarray, number: int):
        """Begin at a place of its own."""
        self.number = number
        self.pcm = np.roll(np.int16(32767 * speech), -number * SAMPLE_RATE * 2)
        self.sent: list[float] = []  # when each piece was sent
        self.runs: list[tuple[int, float]] = []
        self.arrived: list[tuple[float, float]] = []  # when, and of what time
        self.state: dict = {}
        self.latency = 0.0

    async def talk(self, address: str, seconds: float) -> None:
        """Talk for so long, after those who came before."""
        await asyncio.sleep(APART * self.number)
        async with aiohttp.ClientSession() as browser, browser.ws_connect(address) as socket:
            await socket.send_json({"type": "hello", "rate": SAMPLE_RATE})
            await socket.send_json({"type": "source", "live": True})
            reading = asyncio.create_task(self.read(socket))
            begun = time.monotonic()
            for k in range(round(seconds * 50)):
                await asyncio.sleep(max(0.0, begun + 0.02 * k - time.monotonic()))
                at = k * PIECE % (len(self.pcm) - PIECE)
                self.sent.append(time.monotonic())
                await socket.send_bytes(self.pcm[at : at + PIECE].tobytes())
            reading.cancel()

    async def read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Note what comes."""
        async for message in socket:
            if message.type == aiohttp.WSMsgType.BINARY:
                self.arrived.append((time.monotonic(), HEADER.unpack_from(message.data)[4]))
                continue
            event = json.loads(message.data)
            if event["type"] == "sound":
                self.runs.append((event["sample"], event["time"]))
            elif event["type"] == "ready":
                self.latency = event["latency"]
            elif event["type"] == "state":
                self.state = event

    def delays(self) -> np.ndarray:
        """Return seconds from sound that was sent to its frame, [T]."""
        starts = np.array([at for _, at in self.runs])
        found = []
        for arrived, at in self.arrived:
            run = int(np.searchsorted(starts, at, "right")) - 1
            if run < 0:
                continue
            sample = self.runs[run][0] + (at - starts[run]) * SAMPLE_RATE
            piece = int(sample // PIECE)
            is_over = run + 1 < len(starts) and sample >= self.runs[run + 1][0]
            if piece < len(self.sent) and not is_over:
                found.append(arrived - self.sent[piece] - sample % PIECE / SAMPLE_RATE)
        return np.array(found)[round(WARM * FPS) :]

    def lateness(self) -> np.ndarray:
        """Return seconds by which frames came after their turn, [T]."""
        offsets = np.array([arrived - at for arrived, at in self.arrived])[round(WARM * FPS) :]
        turn, found = offsets[0], []
        for offset in offsets:
            found.append(max(0.0, offset - turn))
            turn = offset if offset - turn > 1 / FPS else min(turn, offset)
        return np.array(found)


@contextlib.contextmanager
def served(avatar: Path, clients: int) -> Iterator[tuple[int, str]]:
    """Give a server's process and the address of its socket."""
    command = [sys.executable, "-m", "egs_jax", "serve", str(avatar), "--port", "0"]
    command += ["--sessions", str(clients)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8") as server:
        try:
            for line in server.stdout:
                if found := re.search(r"http://\S+/", line):
                    yield server.pid, f"{found[0]}socket"
                    break
            else:
                raise RuntimeError("the server did not start")
        finally:
            server.send_signal(signal.SIGTERM)


async def watch(pid: int, memory: list[float], seconds: float) -> float:
    """Note the memory of a process every minute, MiB; returns how many cores it used (Linux)."""
    stat = Path(f"/proc/{pid}/stat")
    used = lambda: sum(map(int, stat.read_text("utf-8").rpartition(")")[2].split()[11:13]))
    await asyncio.sleep(WARM)
    before, begun = used(), time.monotonic()
    while time.monotonic() - begun < seconds - 2 * WARM:
        pages = int(Path(f"/proc/{pid}/statm").read_text("utf-8").split()[1])
        memory.append(round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1))
        await asyncio.sleep(min(MINUTE, begun + seconds - 2 * WARM - time.monotonic()))
    ticks = used() - before
    return ticks / os.sysconf("SC_CLK_TCK") / (time.monotonic() - begun)


async def _all(address: str, pid: int, clients: list[Client], seconds: float) -> tuple:
    memory: list[float] = []
    talks = [client.talk(address, seconds) for client in clients]
    cores, *_ = await asyncio.gather(watch(pid, memory, seconds), *talks)
    return memory, cores


def run(path: Path, speech: np.ndarray, count: int, seconds: float) -> dict:
    """Have so many clients talk for so long."""
    clients = [Client(speech, number) for number in range(count)]
    with served(path, count) as (pid, address):
        memory, cores = asyncio.run(_all(address, pid, clients, seconds))
    avatar = Avatar.load(path)
    delays = [client.delays() - client.latency for client in clients]
    lateness = np.concatenate([client.lateness() for client in clients])
    ms = lambda value: round(float(value) * 1e3, 1)

    def minute(begin: float) -> float:
        """Return the median of the minute from here on, or of the last."""
        parts = [each[min(round(begin * FPS), max(0, len(each) - one)) :][:one] for each in delays]
        return float(np.median(np.concatenate(parts)))

    one = round(MINUTE * FPS)
    beyond = np.concatenate(delays)
    return dict(
        gaussians=avatar.num_gaussians, size=avatar.scene.width, clients=count, seconds=seconds,
        frames=sum(len(client.arrived) for client in clients),
        latency_s=round(clients[0].latency, 3),
        **{f"beyond_latency_p{q}_ms": ms(np.percentile(beyond, q)) for q in (50, 95, 99)},
        **{f"lateness_p{q}_ms": ms(np.percentile(lateness, q)) for q in (50, 95, 99)},
        late=sum(client.state["late"] for client in clients),
        dropped_s=round(sum(client.state["dropped"] for client in clients), 2),
        first_minute_ms=ms(minute(0.0)), drift_ms=ms(minute(seconds) - minute(SETTLED)),
        server_cores=round(cores, 2), resident_mb=memory,
        backend=jax.default_backend(), device=jax.devices()[0].device_kind, cores=usable_cores(),
    )  # fmt: skip


def main(argv: list[str] | None = None) -> Path:
    """Run the measurement; returns the file written."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("avatar", type=Path)
    parser.add_argument("speech", type=Path)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds of silence in between")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FOLDER")
    arguments = parser.parse_args(argv)
    spoken = read_audio(arguments.speech)
    speech = np.pad(spoken, (0, round(arguments.pause * SAMPLE_RATE)))
    case = run(arguments.avatar, speech, arguments.clients, arguments.seconds)
    case["speech_share"] = round(len(spoken) / len(speech), 3)
    print(case, flush=True)
    key = ("device", "size", "gaussians", "clients", "seconds", "speech_share")
    add_case(NAME, case, lambda c: tuple(c.get(name) for name in key), arguments.out)
    return arguments.out / f"{NAME}.json"


if __name__ == "__main__":
    run_main(main)
