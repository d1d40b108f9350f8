"""Clients of a real server: they are heard, bounded, and nobody's harm is another's."""

import asyncio
import contextlib
import dataclasses
import gc
import importlib.util
import json
import sys
import threading
import time
import types
import weakref
from pathlib import Path

import aiohttp
import av
import numpy as np
import pytest
from helpers import voice

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.look import Look
from egs_jax.avatar.motion import record
from egs_jax.avatar.session import Session
from egs_jax.avatar.sessions import Sessions
from egs_jax.media.live_video import LiveVideo
from egs_jax.performer.voice import synthesize
from egs_jax.runtime.errors import InputError
from egs_jax.serve import pictures, protocol, server, speaker
from egs_jax.serve.arguments import HOST
from egs_jax.serve.pictures import seen
from egs_jax.serve.protocol import HEADER, Hello
from egs_jax.serve.server import Clients, avatar_files, is_shown_by_page, loaded
from egs_jax.serve.site import application, listening
from egs_jax.serve.speaker import Left, Speaker
from experiments.serve_hour import Client as LiveClient

TOKEN = "a-token-of-a-test"
WAIT = 20.0
"""Seconds after which what should have come has not."""


@pytest.fixture(scope="module")
def avatar(trained_run):
    return Avatar.load(trained_run.folder, exact=False)


@pytest.fixture(scope="module")
def shared(avatar):
    with Sessions() as found:
        found.warm_up(avatar, pictures=False)
        yield found


class Client:
    """A program at the socket: its frames and events as they come."""

    def __init__(self, socket):
        self.socket, self.frames, self.events = socket, [], []

    async def say(self, **words):
        await self.socket.send_str(json.dumps(words))

    async def hear(self, samples):
        await self.socket.send_bytes(np.int16(32767 * samples).tobytes())

    async def until(self, is_so):
        """Read until something is so; the last message that was read."""
        async with asyncio.timeout(WAIT):
            while not is_so(self):
                message = await self.socket.receive()
                if message.type == aiohttp.WSMsgType.TEXT:
                    self.events.append(json.loads(message.data))
                elif message.type == aiohttp.WSMsgType.BINARY:
                    self.frames.append((HEADER.unpack_from(message.data), message.data[16:]))
                else:
                    raise ConnectionError(f"closed by {message.data}")

    def told(self, kind):
        return [event for event in self.events if event["type"] == kind]

    async def until_told(self, kind):
        await self.until(lambda client: client.told(kind))
        return self.told(kind)[-1]

    async def until_closed(self):
        with pytest.raises(ConnectionError):
            await self.until(lambda _: False)
        return self.socket.close_code


def served(avatar, shared, work, most=4):
    """Run `work(connect, clients)`, where `connect(**hello)` gives a client."""

    async def serve():
        clients = Clients({"me": avatar, "too": avatar}, shared, most)
        app = application(TOKEN, {}, local=True, socket=clients.answer)
        async with contextlib.AsyncExitStack() as stack:
            port = await stack.enter_async_context(listening(app, HOST, 0))
            browser = await stack.enter_async_context(aiohttp.ClientSession())

            async def connect(**words):
                address = f"http://{HOST}:{port}/{TOKEN}/socket"
                client = Client(await browser.ws_connect(address))
                if words.get("type", "hello"):
                    await client.say(**({"type": "hello"} | words))
                return client

            await work(connect, clients)

    asyncio.run(serve())


async def so(condition):
    """Wait until something is so."""
    async with asyncio.timeout(WAIT):
        while not condition():
            await asyncio.sleep(0.01)


def test_two_clients_speak_and_are_told_of_it(avatar, shared):
    async def work(connect, clients):
        quiet, loud = await connect(), await connect(avatar="too", rate=32_000)
        ready = await loud.until_told("ready")
        assert (ready["rate"], ready["want"], ready["fps"]) == (32_000, "codes", 25)
        assert ready["width"] == avatar.scene.width and clients.count == 2
        await loud.until(lambda client: len(client.frames) >= 2)
        spoken = 0.5 * synthesize(1.0, seed=0).samples
        await loud.hear(np.repeat(spoken, 2))
        await loud.say(type="finish")
        finished = await loud.until_told("finished")
        [heard] = loud.told("sound")
        assert heard["sample"] == 0 and heard["time"] >= ready["latency"]
        assert finished["time"] == pytest.approx(heard["time"] + 1.0, abs=0.05)
        count = len(loud.frames)
        assert 0 < loud.told("speaking_started")[0]["time"] < finished["time"]
        await quiet.until(lambda client: len(client.frames) >= count)
        for client in (quiet, loud):
            heads, bodies = zip(*client.frames, strict=True)
            assert [head[3] for head in heads] == list(range(len(heads)))
            assert all(head[0] == protocol.CODES for head in heads)
            np.testing.assert_allclose([h[4] for h in heads], np.arange(len(heads)) / 25)
            kind = record(avatar.baked.ranges.shape[1])
            assert {len(body) for body in bodies} == {kind.itemsize}
        records = [
            np.stack([np.frombuffer(body, kind)[0] for _, body in client.frames[:count]])
            for client in (quiet, loud)
        ]
        np.testing.assert_array_equal(*(each["head"] for each in records))  # no sound moves it
        codes = [each["codes"].astype(int) for each in records]
        assert np.abs(codes[0] - codes[1]).max() > 100

    served(avatar, shared, work)


def test_an_interruption_is_answered_and_speech_goes_on(avatar, shared):
    async def work(connect, _):
        client = await connect()
        await client.until(lambda c: len(c.frames) >= 2)
        await client.hear(voice(4.0))
        await client.until(lambda c: len(c.frames) >= 20)
        await client.say(type="interrupt")
        told = await client.until_told("interrupted")
        await client.hear(voice(0.2))
        await client.say(type="finish")
        finished = await client.until_told("finished")
        assert finished["time"] < told["time"] + 2.0
        numbers = [head[3] for head, _ in client.frames]
        assert numbers == list(range(len(numbers)))
        assert client.told("sound")[-1]["sample"] == 64_000

    served(avatar, shared, work)


def test_an_interruption_before_the_first_frame_stops_nobody(avatar, shared, monkeypatch):
    ready, interrupt, interrupted = Session.ready, Session.interrupt, []
    held = lambda session, most=None: ready(session, most) if interrupted else []
    noted = lambda session: interrupted.append(session) or interrupt(session)
    monkeypatch.setattr(Session, "ready", held)
    monkeypatch.setattr(Session, "interrupt", noted)

    async def work(connect, _):
        client = await connect()
        await client.until_told("ready")
        await asyncio.sleep(0.3)  # it waits for its first frame
        await client.hear(voice(0.1))
        await client.say(type="interrupt")
        await client.until(lambda c: len(c.frames) >= 3)
        assert [head[3] for head, _ in client.frames] == list(range(len(client.frames)))

    served(avatar, shared, work)


def test_interruptions_of_nothing_drop_nothing(avatar, shared, monkeypatch):
    """Whoever holds the key down would otherwise get no frame: each is thrown away half made."""
    interrupt, interrupted = Session.interrupt, []
    noted = lambda session: interrupted.append(session) or interrupt(session)
    monkeypatch.setattr(Session, "interrupt", noted)

    async def work(connect, _):
        client = await connect()
        await client.until(lambda c: len(c.frames) >= 2)
        for dropped in (0, 1):
            client.events.clear()
            for _ in range(20):
                await client.say(type="interrupt")
            await client.until(lambda c: len(c.told("interrupted")) == 20)
            assert len(interrupted) == dropped
            await client.hear(voice(0.1))
        numbers = [head[3] for head, _ in client.frames]
        assert numbers == list(range(len(numbers)))

    served(avatar, shared, work)


def test_drawn_frames(avatar, shared):
    async def work(connect, _):
        client = await connect(want="jpeg")
        await client.say(type="look", zoom=2, background="#00ff00")
        await client.until(lambda c: len(c.frames) >= 3)
        assert all(head[0] == protocol.WANTS["jpeg"] for head, _ in client.frames)
        ends = {(body[:2], body[-2:]) for _, body in client.frames}
        assert ends == {(b"\xff\xd8", b"\xff\xd9")}

    served(avatar, shared, work)


def decoded(units):
    """What a decoder makes of access units of H.264, one picture of each."""
    decoder = av.CodecContext.create("h264", "r")
    frames = [f for unit in units for f in decoder.decode(av.Packet(unit))] + decoder.decode(None)
    return [f.reformat(format="rgb24", src_colorspace="itu709").to_ndarray() for f in frames]


def test_frames_of_h264_are_the_drawn_ones(avatar, shared, monkeypatch):
    drawn, encoders = {}, weakref.WeakSet()

    def note(frame, plate, framing):
        drawn[frame.number] = seen(frame, plate, framing)
        return drawn[frame.number]

    class Noted(LiveVideo):
        def __init__(self, *size):
            super().__init__(*size)
            encoders.add(self)

    monkeypatch.setattr(speaker, "seen", note)
    monkeypatch.setattr(pictures, "LiveVideo", Noted)

    async def work(connect, clients):
        client = await connect(want="h264")
        assert (await client.until_told("ready"))["want"] == "h264"
        await client.hear(voice(3.0))
        await client.until(lambda c: c.told("speaking_started") and len(c.frames) >= 25)
        await client.say(type="look", zoom=2, background="#2040ff")
        await client.say(type="interrupt")  # an encoder drops nothing
        await client.until_told("interrupted")
        await client.hear(voice(0.5))
        await client.say(type="finish")
        await client.until_told("finished")
        heads, units = zip(*client.frames, strict=True)
        assert {head[0] for head in heads} == {3} and len(units) >= 30
        assert [head[3] for head in heads] == list(range(len(heads)))
        found = decoded(units)
        assert len(found) == len(units)
        for number, picture in enumerate(found):
            error = np.mean((drawn[number].astype(float) - picture) ** 2)
            assert -10 * np.log10(error / 255**2) > 30
        later = max(k for k, unit in enumerate(units) if unit[4] & 31 == 7)
        assert later > 0
        np.testing.assert_array_equal(decoded(units[later:]), found[later:])
        assert len(encoders) == 1
        client.socket._response.connection.transport.abort()
        await so(lambda: clients.count == 0)

    served(avatar, shared, work)
    gc.collect()
    assert not encoders


@pytest.mark.parametrize(
    ("hello", "answer"),
    [
        ({"type": "interrupt"}, "first"),
        ({"avatar": "nobody"}, "there are me, too"),
        ({"rate": 5}, "whole number of Hz"),
        ({"want": "vp9"}, "codes, jpeg, h264"),
    ],
)
def test_who_says_no_hello_is_told_and_left(avatar, shared, hello, answer):
    async def work(connect, clients):
        client = await connect(**hello)
        assert answer in (await client.until_told("error"))["message"]
        assert await client.until_closed() == 1008
        await so(lambda: clients.count == 0)

    served(avatar, shared, work)


def test_where_nothing_encodes_h264_it_is_told(avatar, shared, monkeypatch):
    monkeypatch.setattr(av, "codecs_available", set())

    async def work(connect, _):
        client = await connect(want="h264")
        assert "libx264" in (await client.until_told("error"))["message"]
        assert await client.until_closed() == 1008
        assert not [session for session in shared._open if not session._is_closed]

    served(avatar, shared, work)


def test_who_says_nothing_is_left(avatar, shared, monkeypatch):
    monkeypatch.setattr(server, "MOST_GREETING", 0.05)

    async def work(connect, _):
        client = await connect(type=None)
        assert "no hello" in (await client.until_told("error"))["message"]

    served(avatar, shared, work)


def test_who_stays_silent_for_long_is_left(avatar, shared, monkeypatch):
    monkeypatch.setattr(speaker, "MOST_IDLE", 0.1)

    async def work(connect, _):
        client = await connect()
        assert "nothing was said" in (await client.until_told("error"))["message"]
        assert await client.until_closed() == 1008

    served(avatar, shared, work)


def test_when_all_places_are_taken_others_are_told(avatar, shared):
    async def work(connect, clients):
        first = await connect()
        await first.until_told("ready")
        second = await connect()
        assert "places are taken" in (await second.until_told("full"))["message"]
        assert await second.until_closed() == 1013
        await first.socket.close()
        await so(lambda: clients.count == 0)
        third = await connect()
        await third.until_told("ready")

    served(avatar, shared, work, most=1)


def test_nothing_that_is_said_stops_the_speaker(avatar, shared, count=10_000):
    rng = np.random.default_rng(3)
    texts = ["", "{", "[]", "null", "\0", '{"type":"look","zoom":1e999}', '{"type":"hello"}',
             '{"type":"finish"}', '{"type":"interrupt"}', '{"type":"source","live":true}',
             "[" * 1000, '{"type":' + "9" * 5000 + "}"]  # fmt: skip

    async def work(connect, clients):
        good, bad = await connect(), await connect()
        for _ in range(count):
            if rng.random() < 0.6:
                await bad.socket.send_str(texts[rng.integers(len(texts))])
            else:
                await bad.socket.send_bytes(rng.bytes(rng.integers(0, 500)))
        before = len(bad.frames)
        await bad.until(lambda c: len(c.frames) > before + 5 and len(c.told("error")) > 50)
        await good.until(lambda c: len(c.frames) > 10)
        await bad.socket.send_bytes(bytes(protocol.MOST_BYTES + 1))
        assert await bad.until_closed() == 1009
        await so(lambda: clients.count == 1)
        before = len(good.frames)
        await good.until(lambda c: len(c.frames) > before + 5)

    served(avatar, shared, work)


def test_more_sound_than_may_wait_is_refused(avatar, shared, monkeypatch):
    monkeypatch.setattr(speaker, "MOST_WAITING", 1.0)

    async def work(connect, _):
        client = await connect()
        await client.until(lambda c: len(c.frames) >= 1)
        for _ in range(8):
            await client.hear(voice(0.5))
        assert "wait" in (await client.until_told("error"))["message"]
        before = len(client.frames)
        await client.until(lambda c: len(c.frames) > before + 30)
        assert client.told("state")[-1]["dropped"] > 0.4

    served(avatar, shared, work)


def test_clients_that_are_killed_leave_nothing(avatar, shared):
    async def work(connect, clients):
        threads = threading.active_count()
        for _ in range(3):
            killed = [await connect() for _ in range(3)]
            for client in killed:
                await client.until_told("ready")
                await client.hear(voice(2.0))
            for client in killed:
                client.socket._response.connection.transport.abort()
            await so(lambda: clients.count == 0)
        await so(lambda: not any("Speaker" in repr(task) for task in asyncio.all_tasks()))
        assert threading.active_count() <= threads + 1
        killed = client = None
        gc.collect()
        assert not [session for session in shared._open if not session._is_closed]

    served(avatar, shared, work)


class Deaf:
    """A socket whose client takes nothing, and says nothing."""

    async def receive(self, timeout):
        await asyncio.sleep(timeout)
        raise TimeoutError

    async def send_str(self, _):
        await asyncio.sleep(WAIT)

    send_bytes = send_str


def test_who_does_not_read_is_left(avatar, shared, monkeypatch):
    monkeypatch.setattr(speaker, "MOST_SENDING", 0.1)

    async def work():
        begun = time.monotonic()
        with pytest.raises(Left, match="nothing was read"):
            await Speaker(Deaf(), avatar, Hello(None, 16_000, "codes"), shared.open).run()
        assert time.monotonic() - begun < 5
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(work())


def test_a_failure_of_the_server_is_told(avatar, shared, capsys, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(speaker.protocol, "coded", fail)

    async def work(connect, clients):
        client = await connect()
        assert "connect again" in (await client.until_told("error"))["message"]
        assert await client.until_closed() == 1011
        await so(lambda: clients.count == 0)

    served(avatar, shared, work)
    assert "the device is gone" in capsys.readouterr().out


def example(name):
    """A module of the examples."""
    path = Path(__file__).parents[3] / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_of_a_client(avatar, shared):
    async def work(connect, _):
        address = str((await connect()).socket._response.url).removesuffix("socket")
        frames = await example("live_client").speak(address, 0.5 * synthesize(1.0, 0).samples)
        assert [number for number, _, _ in frames] == list(range(len(frames)))
        assert (
            len(frames) >= 25 and len(frames[0][2]) == record(avatar.baked.ranges.shape[1]).itemsize
        )

    served(avatar, shared, work)


class Output:
    """Stands for LiveTalking's, and for its speech synthesis."""

    def __init__(self):
        self.pictures, self.sound = [], []

    def start(self, *_):
        pass

    render = stop = flush_talk = start

    def push_video_frame(self, picture):
        self.pictures.append(picture)

    def push_audio_frame(self, samples, told):
        self.sound.append((samples, told))


def test_the_example_of_a_plugin(avatar, shared, monkeypatch):
    class Base:
        def __init__(self, opt):
            self.tts, self.output, self.speaking = Output(), Output(), False

        def flush_talk(self):
            self.tts.flush_talk()

    registered = {}
    named = lambda kind, name: lambda made: registered.setdefault((kind, name), made)
    for name, words in {"registry": {"register": named}, "avatars": {},
                        "avatars.base_avatar": {"BaseAvatar": Base}}.items():  # fmt: skip
        monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(**words))
    example("livetalking/egs_avatar")
    plugin = registered["avatar", "egs"](None, shared, avatar)
    stop, pieces = threading.Event(), np.split(synthesize(1.0, 0).samples, 50)
    thread = threading.Thread(target=plugin.render, args=(stop,))
    thread.start()
    for number, piece in enumerate(pieces):
        plugin.put_audio_frame(piece, {"number": number})
    deadline = time.monotonic() + WAIT
    while sum("number" in told for _, told in plugin.output.sound) < 20:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    plugin.flush_talk()
    time.sleep(0.3)
    stop.set()
    thread.join()
    output = plugin.output
    said = [told["number"] for _, told in output.sound if "number" in told]
    assert said == list(range(len(said))) and 20 <= len(said) < 50
    assert len(output.sound) == 2 * len(output.pictures)
    assert output.pictures[0].shape == (avatar.scene.height, avatar.scene.width, 3)


def test_the_hours_measures():
    client = LiveClient(np.zeros(16_000), 0)
    client.sent = [10 + 0.02 * k for k in range(1000)]
    client.runs = [(0, 1.0), (160_000, 11.5)]  # half a second was lost between
    arrived = [(10 + (t - 1.0) + 0.9, t) for t in np.arange(1.0, 11.0, 0.04)]
    client.arrived = arrived + [(10 + (t - 1.5) + 0.7, t) for t in np.arange(11.52, 20, 0.04)]
    delays = client.delays()
    np.testing.assert_allclose(delays[:120], 0.9, atol=1e-6)
    np.testing.assert_allclose(delays[-200:], 0.7, atol=1e-6)
    client.arrived[200] = client.arrived[200][0] + 0.03, client.arrived[200][1]
    late = client.lateness()
    assert late.max() == pytest.approx(0.03, abs=1e-6) and (late > 1e-6).sum() == 1


def test_avatars_have_names_and_no_voice(trained_run, avatar, capsys):
    named = loaded([trained_run.folder, trained_run.folder], Look(poses="still", blinks=0))
    assert list(named) == ["run", "run-2"] and named["run"].look.poses == "still"
    files = avatar_files({"me": avatar})
    [words] = json.loads(files["avatars.json"].data)
    assert words["name"] == "me" and words["file"] in files and is_shown_by_page(avatar)
    np.testing.assert_allclose(words["axes"], avatar.limits.values[23:])
    head = dataclasses.replace(avatar, is_exact=True)
    files = avatar_files({"head": head})
    assert not is_shown_by_page(head) and list(files) == ["avatars.json"]
    with pytest.raises(InputError):
        loaded([trained_run.folder / "nothing"], Look())


def test_a_dataset_that_was_moved_is_that_of_one_avatar(trained_run, painted, tmp_path):
    folder, moved = trained_run.folder, tmp_path / "moved"
    with pytest.raises(InputError, match=r"^--data-dir \S+: is the dataset of one[^\n]+ 2 are"):
        loaded([folder, folder], Look(), moved)
    with pytest.raises(InputError, match="moved"):
        loaded([folder], Look(), moved)
    moved.symlink_to(painted)
    [found] = loaded([folder], Look(), moved).values()
    assert found.dataset.folder == moved
