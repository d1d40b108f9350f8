"""The page in a browser: the pictures of `draw_codes`, the sound's time, what a user does.

Chromium draws with its software GL, so every machine has the same pictures.
"""

import dataclasses
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import speech
from scipy.spatial.transform import Rotation, Slerp

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.avatar_writer import write_shown
from egs_jax.avatar.draw import draw_codes
from egs_jax.avatar.motion import packed
from egs_jax.avatar.page import page
from egs_jax.media.sound_encoder import encoded_sound
from egs_jax.model import rigid
from egs_jax.types import Drive
from experiments._browser import browser, picture
from kernels.codes import REACH, Patterns, limited
from kernels.deform import DeformInputs

pytestmark = pytest.mark.slow
GAUSSIANS, CODES, SHINE_CODES, FRAMES, FPS = 700, 5, 2, 40, 25


@pytest.fixture(scope="module")
def chromium():
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def avatar(trained_run):
    """A cloud of chance, of degree 3, that codes, head and body move by a lot."""
    found = Avatar.load(trained_run.folder, exact=False)
    rng = np.random.default_rng(5)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
    half = lambda values: jnp.asarray(np.float16(values), jnp.float32)
    cloud = DeformInputs(
        means=jnp.asarray(0.5 * normal(GAUSSIANS, 3)),
        log_scales=half(-3 + 0.7 * normal(GAUSSIANS, 3)),
        quats=half(normal(GAUSSIANS, 4)),
        logit_opacities=half(2 * normal(GAUSSIANS)),
        sh=half(normal(GAUSSIANS, 16, 3) * np.r_[0.8, np.full(15, 0.25)][None, :, None]),
    )
    counts = lambda *shape: jnp.asarray(rng.integers(-128, 128, shape), jnp.int8)
    sizes = np.repeat([0.05, 0.2, 0.2, 0.6, 0.3], [3, 3, 4, 1, 3]) / 128
    form = Patterns(counts(CODES, 14, GAUSSIANS), half(np.tile(sizes, (CODES, 1))))
    shine = Patterns(
        counts(SHINE_CODES, 45, GAUSSIANS), half(np.full((SHINE_CODES, 45), 0.1 / 128))
    )
    baked = found.baked.replace(
        cloud=cloud, form=form, shine=shine, follows=half(normal(CODES, SHINE_CODES)),
        skins=half(rng.uniform(0, 1, GAUSSIANS)),
        ranges=jnp.asarray([[-1.0, -2, -1, -3, 0], [1.0, 1, 2, 0, 1]]),
        alive=jnp.ones(GAUSSIANS, bool), offsets=jnp.zeros((GAUSSIANS, 2)),
    )  # fmt: skip
    model = dataclasses.replace(found.config.model, sh_degree=3)
    made = dataclasses.replace(found, config=dataclasses.replace(found.config, model=model))
    made.__dict__["baked"], made.__dict__["scene"] = baked, _scene(found.scene)
    return made


def _scene(scene):
    """One of 96 x 80 pixels, over noise."""
    plate = np.random.default_rng(1).integers(0, 256, (80, 96, 3)).astype(np.uint8)
    intrinsics = np.float32([[170, 0, 44], [0, 165, 42], [0, 0, 1]])
    own = dataclasses.replace(scene.own, plate=plate)
    return dataclasses.replace(scene, width=96, height=80, intrinsics=intrinsics, own=own)


@pytest.fixture(scope="module")
def frames(avatar):
    """Codes and a drive of frames, the head beyond the seen poses in most."""
    rng = np.random.default_rng(2)
    ranges = np.asarray(avatar.baked.ranges)
    codes = limited(rng.normal(size=(FRAMES, CODES)).astype(np.float32), ranges)
    time = np.linspace(0, 6, FRAMES)
    poses = np.tile(np.eye(4, dtype=np.float32), (2, FRAMES, 1, 1))
    for which, size in ((0, 0.5), (1, 0.2)):
        vectors = size * np.stack([np.sin(time), np.cos(1.3 * time), 0.3 * np.sin(2 * time)], 1)
        poses[which, :, :3, :3] = Rotation.from_rotvec(vectors).as_matrix()
        poses[which, :, :3, 3] = [0, 0, 4] + 0.2 * vectors
    scene = avatar.scene
    drive = Drive(
        audio_windows=np.zeros((FRAMES, 1, 1, 1), np.float32),
        eyes=np.zeros(FRAMES, np.float32), viewmats=poses[0], bodies=poses[1],
        Ks=np.tile(scene.intrinsics, (FRAMES, 1, 1)),
        backgrounds=np.tile(scene.own.plate, (FRAMES, 1, 1, 1)),
    )  # fmt: skip
    return np.asarray(codes), drive


@pytest.fixture(scope="module")
def opened(chromium, avatar, frames, tmp_path_factory):
    """The page of these frames, and what it asked for and complained of."""
    codes, drive = frames
    parts = io.BytesIO()
    write_shown(parts, avatar.baked, avatar.scene)
    motion = packed(np.asarray(avatar.baked.ranges), codes, drive.viewmats, drive.bodies)
    sound = encoded_sound([0.2 * speech(FRAMES / FPS)], 16_000)
    path = tmp_path_factory.mktemp("web") / "a page.html"
    text = page("<i>&amp; name", avatar, parts.getvalue(), motion.tobytes(), sound)
    path.write_text(text, encoding="utf-8")
    tab = chromium.new_page(viewport={"width": 300, "height": 420})
    tab.asked, tab.said = [], []
    tab.on("request", lambda request: tab.asked.append(request.url))
    tab.on("console", lambda message: tab.said.append(message.text))
    tab.on("pageerror", lambda error: tab.said.append(str(error)))
    tab.goto(path.as_uri())
    tab.wait_for_selector("#play:not([disabled])")
    yield tab
    assert tab.said == [] and tab.inner_text("#trouble") == ""
    assert [url for url in tab.asked if not url.startswith("blob:")] == [path.as_uri()]


@pytest.fixture
def tab(opened):
    """The page as it was opened."""
    opened.evaluate("""() => {
        talk.sound.pause();
        talk.seek(0);
        talk.reset();
        talk.player.renderer.showPicture(talk.avatar.plate, talk.avatar.width, talk.avatar.height);
    }""")
    return opened


def shown(tab, frame, width=96, height=80):
    return picture(tab, frame / FPS, width, height) / 255


def drawn(avatar, frames, frame):
    codes, drive = frames
    one = jax.tree.map(lambda v: v[frame : frame + 1], drive)
    return draw_codes(avatar, codes[frame : frame + 1], one)


def psnr(got, want):
    return -10 * np.log10(np.square(got - want).mean())


@pytest.mark.parametrize("frame", [0, 7, 19, FRAMES - 1])
def test_pictures_are_those_of_the_rasterizer(tab, avatar, frames, frame):
    want = np.clip(np.asarray(drawn(avatar, frames, frame).rgb[0]), 0, 1)
    got = shown(tab, frame)
    assert np.ptp(want) > 0.8 and np.all(got[..., 3] == 1)
    assert psnr(got[..., :3], want) > 50  # 40 is what users are promised


def test_from_aside_it_is_what_a_server_draws(tab, avatar, frames):
    codes, drive = frames
    tab.evaluate("talk.player.turn(0.1, -0.06)")
    view = tab.evaluate("talk.player.view")
    for frame in (0, 7):
        part = slice(frame, frame + 1)
        heads, bodies = avatar.limits.looked_at(
            drive.viewmats[part], drive.bodies[part], np.array([[view["yaw"], view["pitch"]]])
        )
        assert np.abs(heads - drive.viewmats[part]).max() > 0.01
        one = jax.tree.map(lambda v, part=part: v[part], drive)
        moved = one.replace(viewmats=heads, bodies=bodies)
        want = np.clip(np.asarray(draw_codes(avatar, codes[part], moved).rgb[0]), 0, 1)
        assert psnr(shown(tab, frame)[..., :3], want) > 50


def test_over_nothing_it_is_transparent_and_over_a_color_that_shows(tab, avatar, frames):
    alpha = np.asarray(drawn(avatar, frames, 3).alpha[0])
    tab.evaluate("talk.player.renderer.showColor([1, 0, 0, 0])")
    clear = shown(tab, 3)
    assert 0.1 < alpha.mean() < 0.9 and psnr(clear[..., 3], alpha) > 50
    assert np.all(clear[..., :3] <= clear[..., 3:])  # premultiplied
    tab.evaluate("talk.player.renderer.showColor([0.2, 0.4, 0.6, 1])")
    over = shown(tab, 3)
    want = clear[..., :3] + (1 - alpha[..., None]) * np.array([0.2, 0.4, 0.6])
    inside = clear[..., :3].max(axis=2) < clear[..., 3] - 0.01  # no color brighter than white
    assert psnr(over[inside][:, :3], want[inside]) > 45


def test_a_larger_picture_is_the_same_one(tab):
    tab.evaluate("talk.player.renderer.showColor([0, 0, 0, 1])")
    small, large = shown(tab, 5), shown(tab, 5, 384, 320)
    shrunk = large.reshape(80, 4, 96, 4, 4).mean(axis=(1, 3))
    assert psnr(shrunk, small) > 30


def test_between_frames_it_goes_from_one_to_the_other(tab, frames):
    codes, drive = frames
    got = tab.evaluate("() => { const m = talk.motion.at(10.25 / 25);"
                       "return { codes: [...m.codes], head: m.head, body: m.body } }")  # fmt: skip
    np.testing.assert_allclose(got["codes"], 0.75 * codes[10] + 0.25 * codes[11], atol=1e-3)
    for name, poses in (("head", drive.viewmats), ("body", drive.bodies)):
        between = Slerp([0, 1], Rotation.from_matrix(poses[10:12, :3, :3]))(0.25).as_matrix()
        np.testing.assert_allclose(np.reshape(got[name]["turn"], (3, 3)), between, atol=1e-5)
        shift = 0.75 * poses[10, :3, 3] + 0.25 * poses[11, :3, 3]
        np.testing.assert_allclose(got[name]["shift"], shift, atol=1e-5)


def test_what_is_seen_follows_the_sound(tab):
    tab.click("#play")
    late = tab.evaluate("""async () => {
        const late = [];
        while (late.length < 12 && !talk.sound.ended) {
            await new Promise(requestAnimationFrame);
            const told = talk.sound.currentTime;
            if (!talk.sound.paused && told > 0.1) late.push(Math.abs(talk.drawn - told));
        }
        return late;
    }""")
    tab.click("#play")
    assert len(late) >= 5 and max(late) < 0.04
    assert tab.evaluate("talk.player.share") <= 1


def test_an_hour_of_a_sound_that_tells_its_time_in_steps(tab):
    """The clock of a machine that is 0.1 % too fast, and a sound's time that stands for 50 ms."""
    worst, back = tab.evaluate("""() => {
        const sound = { currentTime: 0, paused: false, playbackRate: 1 };
        const clock = new talk.clock.constructor(sound);
        let worst = 0, back = 0, before = 0;
        for (let time = 0; time < 3600; time += 1 / 60) {
            sound.currentTime = Math.floor(time / 0.05) * 0.05;
            const seconds = clock.seconds(1001 * time);
            worst = Math.max(worst, Math.abs(seconds - time));
            back = Math.max(back, before - seconds);
            before = seconds;
        }
        return [worst, back];
    }""")
    assert worst < 0.04 and back < 0.02


def test_drag_turns_within_the_poses_that_were_seen(tab, avatar):
    def seen():  # of one frame, drawn at once: the page itself draws another time
        return np.array(
            tab.evaluate("""() => {
            talk.player.show(talk.motion.at(0.4));
            const { head } = talk.player.seen;
            return [...head.turn, ...head.shift];
        }""")
        )

    box = tab.locator("canvas").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    before = seen()
    tab.mouse.move(x, y)
    tab.mouse.down()
    tab.mouse.move(x + 140, y + 60, steps=3)
    tab.mouse.up()
    after = seen()
    assert np.abs(after - before).max() > 0.01
    own, turned = (_radius(avatar, each) for each in (before, after))
    assert turned <= max(1 + REACH, own) + 1e-3
    tab.click("#reset")
    np.testing.assert_array_equal(seen(), before)


def _radius(avatar, pose):
    """How far a head pose's direction is from the middle of the seen ones."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = pose[:9].reshape(3, 3), pose[9:]
    x, y, z = rigid.inverse(rigid.parts(jnp.asarray(matrix[None], jnp.float32))).shift
    angles = np.array([np.arctan2(x, -z)[0], np.arctan2(y, np.hypot(x, z))[0]])
    limits = np.asarray(avatar.limits.values)
    return np.linalg.norm((angles - limits[21:23]) / limits[23:25])


def test_keys_and_wheel(tab):
    view = lambda: tab.evaluate("({ ...talk.player.view })")
    tab.focus("#picture")
    tab.keyboard.press("ArrowLeft")
    tab.keyboard.press("ArrowUp")
    tab.keyboard.press("+")
    turned = view()
    assert turned["yaw"] > 0 and turned["pitch"] > 0 and turned["zoom"] > 1
    tab.keyboard.press("0")
    assert view() == {"yaw": 0, "pitch": 0, "zoom": 1, "x": 48, "y": 40}
    tab.hover("#picture", position={"x": 20, "y": 20})
    tab.mouse.wheel(0, -400)
    tab.wait_for_timeout(200)
    zoomed = view()
    assert zoomed["zoom"] > 1.5 and zoomed["x"] < 48 and zoomed["y"] < 40
    tab.mouse.wheel(0, 4000)
    tab.wait_for_timeout(200)
    assert view()["zoom"] == 1 and view()["x"] == 48
    tab.focus("#picture")
    for says in ("Pause", "Play"):
        tab.keyboard.press(" ")
        tab.get_by_role("button", name=says).wait_for()
    tab.focus("#seek")
    tab.keyboard.press("End")
    assert tab.evaluate("talk.sound.currentTime") > FRAMES / FPS - 0.1


def test_names_are_text(tab):
    assert tab.inner_text("h1") == "<i>&amp; name" == tab.title()
    assert "synthetic" in tab.inner_text("main")
