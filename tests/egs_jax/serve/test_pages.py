"""The live page and the researcher's in a browser, at a real server.

The avatar stands still and does not blink, so that only sound changes its picture. Chromium draws
with its software GL and hears a file as its microphone.
"""

import asyncio
import base64
import contextlib
import dataclasses
import threading
import time

import jax.numpy as jnp
import numpy as np
import pytest

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.look import Look
from egs_jax.avatar.sessions import Sessions
from egs_jax.media.audio_file import write_wav
from egs_jax.performer.voice import synthesize
from egs_jax.serve.arguments import HOST
from egs_jax.serve.server import Clients, avatar_files
from egs_jax.serve.site import application, listening, page_files
from egs_jax.serve.view import speech_files
from experiments._browser import browser

pytestmark = pytest.mark.slow
WAIT = 20_000
"""Milliseconds after which what should have come has not."""
PIXELS = """async (before) => {
    const { motion } = live.player, last = motion.first + motion.frames.length - 1;
    await live.player.showSorted(motion.at((last - before) / motion.fps));
    return [...live.player.renderer.pixels()];
}"""
"""The picture of a frame, so many before the last that has come."""


@contextlib.contextmanager
def serving(make):
    """The address of an application that `make()` returns, run by a thread of its own."""
    told, found = threading.Event(), {}

    async def work():
        nonlocal found
        found |= {"stop": asyncio.Event(), "loop": asyncio.get_running_loop()}
        async with listening(make(), HOST, 0) as port:
            found["port"] = port
            told.set()
            await found["stop"].wait()

    thread = threading.Thread(target=lambda: asyncio.run(work()))
    thread.start()
    assert told.wait(30)
    try:
        yield f"http://{HOST}:{found['port']}/token/"
    finally:
        found["loop"].call_soon_threadsafe(found["stop"].set)
        thread.join()


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    path = tmp_path_factory.mktemp("speech") / "speech.wav"
    write_wav(path, np.tile(0.7 * synthesize(2.0, seed=0).samples, 3), 16_000)
    return path


@pytest.fixture(scope="module")
def chromium(speech):
    with browser(
        "--autoplay-policy=no-user-gesture-required", "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={speech}",
        "--auto-select-tab-capture-source-by-title=Another tab", is_mute=False,
    ) as found:  # fmt: skip
        yield found


@pytest.fixture(scope="module")
def avatar(trained_run):
    found = Avatar.load(trained_run.folder, exact=False)
    made = dataclasses.replace(found, look=Look(poses="still", blinks=0))
    # A few steps of training teach nobody to speak: here every code shifts all Gaussians.
    form, ranges = found.baked.form, np.asarray(found.baked.ranges)
    counts = np.zeros(form.counts.shape, np.int8)
    counts[:, :3] = np.random.default_rng(0).integers(-100, 101, counts[:, :3].shape)
    steps = np.broadcast_to(0.002 / (ranges[1] - ranges[0])[:, None], form.steps.shape)
    patterns = form._replace(counts=jnp.asarray(counts), steps=jnp.asarray(steps, jnp.float32))
    made.__dict__["baked"] = found.baked.replace(form=patterns)
    return made


@pytest.fixture(scope="module")
def server(avatar):
    with Sessions() as shared:
        shared.warm_up(avatar, pictures=False)
        made = {}

        def make():
            avatars = {"me": avatar, "too": avatar}
            made["clients"] = Clients(avatars, shared, 2)
            files = page_files("live.html") | avatar_files(avatars)
            return application("token", files, local=True, socket=made["clients"].answer)

        with serving(make) as address:
            yield address, made["clients"]


@pytest.fixture
def opened(chromium, server):
    """Opens a page; whatever the browser complained of is told at the end."""
    said, contexts = [], []

    def opens(query="", hears=True):
        context = chromium.new_context(
            viewport={"width": 400, "height": 800}, permissions=["microphone"] if hears else []
        )
        contexts.append(context)
        tab = context.new_page()
        tab.set_default_timeout(WAIT)
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.goto(server[0] + query)
        tab.wait_for_selector("#speak:not([disabled])")
        return tab

    opens.said = said
    yield opens
    for context in contexts:
        context.close()
    until(lambda: server[1].count == 0)
    assert said == []


def until(is_so):
    deadline = time.monotonic() + WAIT / 1000
    while not is_so():
        assert time.monotonic() < deadline, "did not come"
        time.sleep(0.02)


def state(tab, word):
    tab.get_by_role("status").filter(has_text=word).wait_for()


def pixels(tab, before=0):
    return np.array(tab.evaluate(PIXELS, before))


def moved(tab, rest):
    """How far the last frame is from the nearest of those at rest."""
    return np.abs(pixels(tab) - rest).max(axis=1).min()


def at_rest(tab):
    """Pictures of silence, whose features repeat every few frames, once they come."""
    until(lambda: tab.evaluate("live.playout.time() > 1.2 && live.player.motion.frames.length > 0"))
    tab.evaluate("live.player.fit = () => Object.assign(live.canvas, { width: 96, height: 96 })")
    return np.stack([pixels(tab, before) for before in range(12)])


def test_it_speaks_a_file_and_comes_to_rest(opened, speech):
    tab = opened()
    state(tab, "Idle")
    rest = at_rest(tab)
    assert moved(tab, rest) <= 1 and np.ptp(rest) > 50
    tab.set_input_files("#file", speech)
    state(tab, "Speaking")
    until(lambda: moved(tab, rest) > 8)
    assert tab.evaluate("live.playout.hasSound && live.voice.runs.length") == 1
    state(tab, "Idle")
    until(lambda: moved(tab, rest) <= 1)
    until(lambda: "sound is seen" in tab.inner_text("#figures"))
    assert tab.inner_text("#trouble") == ""


def test_an_interruption_shuts_the_mouth(opened, speech):
    tab = opened()
    rest = at_rest(tab)
    tab.set_input_files("#file", speech)
    until(lambda: moved(tab, rest) > 8)
    last = "live.player.motion.first + live.player.motion.frames.length - 1"
    frame = tab.evaluate(last)
    tab.keyboard.press("Escape")
    frames = 25 * (tab.evaluate("live.ready.latency") + 0.6)  # and what was on its way
    until(lambda: tab.evaluate(last) >= frame + frames)
    assert moved(tab, rest) <= 1
    assert tab.evaluate("live.file === null && live.voice.pieces.length === 0")


def test_it_says_what_the_microphone_hears(opened):
    tab = opened()
    tab.click("#microphone")
    state(tab, "Speaking")
    tab.get_by_role("button", name="Microphone", pressed=True).wait_for()
    assert tab.evaluate("live.voice.sent > 0 && live.voice.pieces.length === 0")
    tab.click("#microphone")
    state(tab, "Idle")


def test_it_says_what_the_computer_plays(opened, speech):
    tab = opened()
    share = """async ([sound, isSilent]) => {
        const context = live.playout.context, shared = context.createMediaStreamDestination();
        const bytes = Uint8Array.from(sound), playing = context.createBufferSource();
        playing.buffer = await context.decodeAudioData(bytes.buffer);
        playing.loop = true;
        playing.connect(shared);
        playing.start();
        const track = shared.stream.getAudioTracks()[0];
        track.getSettings = () => ({ suppressLocalAudioPlayback: isSilent });
        const canvas = document.createElement("canvas");
        canvas.getContext("2d");
        shared.stream.addTrack(canvas.captureStream().getVideoTracks()[0]);
        navigator.mediaDevices.getDisplayMedia = async () => (window.shared = shared.stream);
    }"""
    for is_silent in (False, True):
        tab.evaluate(share, [list(speech.read_bytes()), is_silent])
        tab.select_option("#voice", "interrupts")  # which is what the microphone hears
        tab.click("#computer")
        state(tab, "Speaking")
        tab.get_by_role("button", name="This computer's sound", pressed=True).wait_for()
        # What is heard already is not played again.
        assert tab.evaluate("live.voice.pieces.length > 0") == is_silent
        tab.evaluate("shared.getAudioTracks()[0].dispatchEvent(new Event('ended'))")
        state(tab, "Idle")
        assert tab.evaluate("shared.getTracks().every((track) => track.readyState === 'ended')")


def test_it_says_what_another_tab_plays(opened, speech):
    tab = opened()
    other = tab.context.new_page()
    sound = base64.b64encode(speech.read_bytes()).decode()
    other.set_content(
        f"<title>Another tab</title><audio autoplay loop src='data:audio/wav;base64,{sound}'>"
    )
    tab.bring_to_front()
    tab.click("#computer")
    state(tab, "Speaking")
    tracks = "live.ear.stream.getTracks().map((track) => [track.kind, track.readyState])"
    assert sorted(tab.evaluate(tracks)) == [["audio", "live"], ["video", "ended"]]
    given = tab.evaluate("live.ear.stream.getAudioTracks()[0].getSettings()")
    assert not (given["echoCancellation"] or given["noiseSuppression"] or given["autoGainControl"])
    assert tab.evaluate("live.ear.isSilent && live.voice.pieces.length > 0")
    other.close()
    state(tab, "Idle")
    assert tab.evaluate("live.ear === null")
    # Chromium says so of whatever is shared, since pages may not use a camera.
    assert opened.said == ["Permissions policy violation: camera is not allowed in this document."]
    opened.said.clear()


def test_a_file_goes_on_while_the_computer_plays(opened, speech):
    tab = opened()
    tab.evaluate("live.ear = { id: 'computer' }")  # none that is released before it is closed
    tab.set_input_files("#file", speech)
    state(tab, "Speaking")
    tab.evaluate("for (let i = 0; i < 40; i++) live.listen(new Float32Array(960).fill(0.2))")
    assert tab.evaluate("live.file !== null && live.voice.pieces.length > 0")
    tab.evaluate("live.ear = null")


def test_an_ear_that_cannot_be_opened_is_closed(opened):
    tab = opened()
    tab.evaluate("""() => {
        const devices = navigator.mediaDevices, ask = devices.getUserMedia.bind(devices);
        devices.getUserMedia = async (wanted) => (window.given = await ask(wanted));
        live.playout.context.audioWorklet.addModule = async () => {
            throw new Error("the server has gone");
        };
    }""")
    tab.click("#microphone")
    tab.get_by_role("alert").filter(has_text="the server has gone").wait_for()
    assert tab.evaluate("given.getTracks().every((track) => track.readyState === 'ended')")
    tab.get_by_role("button", name="Microphone", pressed=False).wait_for()


def test_of_two_ears_that_were_asked_for_the_last_is_heard(opened):
    tab = opened()
    tab.evaluate("""() => {
        const devices = navigator.mediaDevices, ask = devices.getUserMedia.bind(devices);
        window.streams = [], window.answers = [];
        devices.getUserMedia = (wanted) => new Promise((resolve) => answers.push(async () => {
            streams.push(await ask(wanted));
            resolve(streams.at(-1));
        }));
        live.toggle("microphone");
        live.toggle("microphone");
        answers[1]();
    }""")
    tab.get_by_role("button", name="Microphone", pressed=True).wait_for()
    tab.evaluate("answers[0]()")
    until(
        lambda: tab.evaluate(
            "streams.length === 2 && streams[1].getTracks()[0].readyState === 'ended'"
        )
    )
    assert tab.evaluate("live.ear.stream === streams[0]")
    tab.click("#microphone")
    assert tab.evaluate("streams[0].getTracks()[0].readyState") == "ended"
    assert tab.evaluate("live.isHearing") is False  # whoever is heard next is live again


def test_a_computer_that_shares_no_sound_is_told(opened):
    tab = opened()
    tab.evaluate("""() => {
        const canvas = document.createElement("canvas");
        canvas.getContext("2d");
        const stream = canvas.captureStream();
        navigator.mediaDevices.getDisplayMedia = async () => stream;
    }""")
    tab.click("#computer")
    tab.get_by_role("alert").filter(has_text="no sound was shared").wait_for()
    tab.get_by_role("button", name="This computer's sound", pressed=False).wait_for()


def test_a_voice_interrupts(opened, speech):
    tab = opened()
    tab.select_option("#voice", "interrupts")
    tab.evaluate(
        "live.ear = { id: 'microphone' }"
    )  # none that is heard: what it hears is said here
    tab.set_input_files("#file", speech)
    state(tab, "Speaking")
    tab.evaluate("for (let i = 0; i < 12; i++) live.listen(new Float32Array(960).fill(0.2))")
    assert tab.evaluate("live.file === null && live.voice.pieces.length === 0")
    tab.evaluate("live.ear = null")
    state(tab, "Idle")


def test_a_microphone_that_is_refused_is_told(opened):
    tab = opened(hears=False)
    tab.click("#microphone")
    tab.get_by_role("alert").filter(has_text="may not hear that").wait_for()
    state(tab, "Idle")


def test_the_server_draws_for_who_cannot(opened, speech):
    tab = opened("?want=jpeg")
    data = """() => {
        const copy = new OffscreenCanvas(live.canvas.width, live.canvas.height);
        const context = copy.getContext("2d", { willReadFrequently: true });
        context.drawImage(live.canvas, 0, 0);
        return [...context.getImageData(0, 0, copy.width, copy.height).data];
    }"""
    until(lambda: np.ptp(tab.evaluate(data)[:3]) or sum(tab.evaluate(data)) > 0)
    rest = np.array(tab.evaluate(data))
    tab.set_input_files("#file", speech)
    until(lambda: np.abs(np.array(tab.evaluate(data)) - rest).max() > 8)
    tab.select_option("#behind", "color")
    tab.fill("#color", "#00ff00")
    green = lambda: np.abs(np.reshape(tab.evaluate(data), (-1, 4)) - (0, 255, 0, 255)).max(axis=1)
    until(lambda: green().min() < 9)
    state(tab, "Idle")
    before = np.array(tab.evaluate(data))
    tab.focus("#picture")
    for key in ("ArrowLeft", "ArrowLeft", "ArrowUp"):
        tab.keyboard.press(key)
    assert 0 < tab.evaluate("live.player.view.yaw") < 0.1  # no further than it was seen from
    until(lambda: np.abs(np.array(tab.evaluate(data)) - before).max() > 20)
    assert tab.inner_text("#trouble") == ""


def test_look_and_keys(opened):
    tab = opened()
    at_rest(tab)
    tab.select_option("#behind", "nothing")
    clear = pixels(tab).reshape(-1, 4)
    assert clear[:, 3].min() < 10
    tab.fill("#color", "#0000ff")
    assert tab.input_value("#behind") == "color"
    blue = pixels(tab).reshape(-1, 4)
    assert (np.abs(blue[clear[:, 3] == 0] - (0, 0, 255, 255)) <= 1).all()
    tab.focus("#picture")
    tab.keyboard.press("ArrowLeft")
    tab.keyboard.press("+")
    view = tab.evaluate("({ ...live.player.view })")
    assert view["yaw"] > 0 and view["zoom"] > 1 and float(tab.input_value("#zoom")) > 1
    tab.get_by_role("button", name="Reset view").click()
    assert tab.evaluate("live.player.view.zoom") == 1
    tab.select_option("#avatar", "1")
    until(lambda: tab.evaluate("live.words.name === 'too' && live.ready !== null"))
    at_rest(tab)


def test_what_was_wrong_is_no_longer_told_once_it_works(opened, speech):
    tab = opened()
    tab.set_input_files("#file", {"name": "a.wav", "mimeType": "audio/wav", "buffer": b"nothing"})
    tab.get_by_role("alert").filter(has_text="cannot read that file as sound").wait_for()
    tab.set_input_files("#file", speech)
    state(tab, "Speaking")
    assert tab.inner_text("#trouble") == ""


def test_of_avatars_chosen_in_haste_the_last_is_shown(opened, server):
    tab = opened()
    tab.evaluate("() => { live.open(1); live.open(1); live.open(0); }")
    assert tab.inner_text("#state") == "Loading" and not tab.is_visible("#connect")
    tab.select_option("#behind", "nothing")  # of nobody yet
    tab.keyboard.press("Escape")
    until(lambda: tab.evaluate("live.words.name === 'me' && live.ready !== null"))
    at_rest(tab)
    assert server[1].count == 1 and tab.inner_text("#trouble") == ""
    assert pixels(tab).reshape(-1, 4)[:, 3].min() < 10


def test_a_microphone_is_opened_once(opened):
    tab = opened()
    tab.evaluate("""() => {
        const devices = navigator.mediaDevices, ask = devices.getUserMedia.bind(devices);
        window.streams = [];
        devices.getUserMedia = async (wanted) => {
            streams.push(await ask(wanted));
            return streams.at(-1);
        };
        for (let i = 0; i < 3; i++) document.getElementById("microphone").click();
    }""")
    tab.get_by_role("button", name="Microphone", pressed=True).wait_for()
    assert tab.evaluate("streams.length") == 1
    tab.evaluate("live.open(0)")  # nobody is heard there until asked
    until(lambda: tab.evaluate("live.ready !== null"))
    assert tab.evaluate("streams[0].getTracks().every((track) => track.readyState === 'ended')")
    tab.get_by_role("button", name="Microphone", pressed=False).wait_for()


def test_two_fingers_zoom(opened):
    tab = opened()
    tab.evaluate("""() => {
        const { left, top, width, height } = live.canvas.getBoundingClientRect();
        live.canvas.setPointerCapture = () => {}; // of fingers that are not there
        const finger = (kind, pointerId, x, y) => live.canvas.dispatchEvent(new PointerEvent(kind, {
            pointerId, pointerType: "touch", clientX: left + x * width, clientY: top + y * height,
        }));
        finger("pointerdown", 1, 0.4, 0.5);
        finger("pointerdown", 2, 0.6, 0.5);
        finger("pointermove", 2, 0.8, 0.5);
        finger("pointermove", 1, 0.2, 0.5);
        finger("pointerup", 2, 0.8, 0.5);
    }""")
    view = tab.evaluate("({ ...live.player.view })")
    assert view["zoom"] == pytest.approx(3) and view["yaw"] == view["pitch"] == 0
    width = tab.evaluate("live.player.avatar.width")
    assert abs(view["x"] / width - 0.5) < 0.1


def test_pictures_that_the_browser_loses_come_back(opened):
    tab = opened()
    at_rest(tab)
    tab.fill("#color", "#0000ff")
    before = pixels(tab, 3)
    tab.evaluate("""() => {
        const { gl } = live.player.renderer, lost = gl.getExtension("WEBGL_lose_context");
        live.canvas.addEventListener("webglcontextlost", () => {
            setTimeout(() => lost.restoreContext(), 50); // once all have heard that it is gone
        });
        live.canvas.addEventListener("webglcontextrestored", () => (window.isBack = true));
        lost.loseContext();
    }""")
    until(lambda: tab.evaluate("window.isBack === true"))
    at_rest(tab)
    until(lambda: np.abs(pixels(tab, 3) - before).mean() < 3)


def test_tabs_reloads_and_full_houses(opened, server):
    first = opened()
    until(lambda: server[1].count == 1)
    first.reload()
    first.wait_for_selector("#speak:not([disabled])")
    until(lambda: server[1].count == 1)
    opened()
    until(lambda: server[1].count == 2)
    third = first.context.new_page()
    third.goto(server[0])
    third.get_by_role("alert").filter(has_text="places are taken").wait_for()
    assert third.get_by_role("button", name="Connect again").is_visible()
    first.reload()  # gives its place to whoever asks first
    third.close()


def test_an_hour_of_frames_of_a_clock_that_is_not_the_sounds(opened):
    tab = opened()
    for drift in (0.9999, 1.0001):
        moves, least, most = tab.evaluate(
            """(drift) => {
                const playout = new live.playout.constructor();
                let now = 5, moves = 0, least = 1, most = 0;
                playout.now = () => now;
                for (let frame = 0; frame < 90000; frame++) {
                    now = 5 + frame * 0.04 * drift + 0.02 * Math.abs(Math.sin(frame * 12.9898));
                    const before = playout.zero;
                    playout.arrive(frame * 0.04);
                    moves += before !== playout.zero;
                    const wait = playout.zero + frame * 0.04 - now;
                    least = Math.min(least, wait);
                    most = Math.max(most, wait);
                }
                return [moves, least, most];
            }""",
            drift,
        )
        assert least >= 0 and most < 0.16 and 2 <= moves < 20


def test_the_end_of_a_server_is_told(chromium, avatar):
    with Sessions() as shared:

        def make():
            files = page_files("live.html") | avatar_files({"me": avatar})
            clients = Clients({"me": avatar}, shared, 2)
            return application("token", files, local=True, socket=clients.answer)

        with contextlib.ExitStack() as stack:
            address = stack.enter_context(serving(make))
            tab = chromium.new_page()
            tab.goto(address)
            tab.wait_for_selector("#speak:not([disabled])")
            stack.close()
            tab.get_by_role("button", name="Connect again").wait_for()
            assert "ended" in tab.inner_text("#trouble")
            tab.close()


def test_what_a_researcher_sees(chromium, avatar, speech, trained_run):
    networks = Avatar.load(trained_run.folder, exact=True)
    files = page_files("view.html") | speech_files(avatar, "me", speech, networks)
    with serving(lambda: application("token", files, local=True)) as address:
        tab, said = chromium.new_page(), []
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.goto(address)
        tab.wait_for_selector("#play:not([disabled])")
        tab.evaluate("view.seek(1.0)")
        until(lambda: tab.inner_text("#time") == "1.00 s")
        seen = []
        for shape, paint in [
            ("splats", "picture"), ("points", "picture"), ("ellipsoids", "picture"),
            ("splats", "depth"), ("splats", "opacity"), ("splats", "all"),
            ("splats", "token lips"),
        ]:  # fmt: skip
            tab.select_option("#shape", shape)
            tab.select_option("#paint", paint)
            tab.evaluate("() => view.player.showSorted(view.motions.all.at(1.0))")
            got = tab.evaluate(
                "() => { view.player.draw(); return [...view.player.renderer.pixels()] }"
            )
            seen.append(np.reshape(got, (-1, 4)))
        for k, one in enumerate(seen):
            assert np.ptp(one[:, :3]) > 50
            assert all(np.abs(one - other).max() > 20 for other in seen[:k])
        assert np.ptp(seen[3][:, :3], axis=1).max() <= 1  # depth and opacity are gray
        assert np.ptp(seen[4][:, :3], axis=1).max() <= 1
        assert not tab.is_visible("#most") and "of their attention" in tab.inner_text("#legend")
        tab.click("#play")
        until(lambda: float(tab.input_value("#seek")) > 1.2)
        tab.focus("#seek")  # as whoever has just moved it
        until(lambda: float(tab.input_value("#seek")) > 1.6)
        tab.click("#play")
        for _ in range(3):  # it ends between two pictures, now here, now there
            tab.evaluate("view.seek(view.duration - 0.2)")
            tab.click("#play")
            until(lambda: tab.evaluate("view.sound.ended"))
            until(lambda: tab.inner_text("#time") == "6.00 s")
        tab.evaluate("view.turn(3.0, 0)")  # from behind, where no training went
        assert tab.evaluate("view.player.view.yaw") == 3.0
        assert said == []
        tab.close()
