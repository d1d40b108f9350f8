"""Speech in chunks of any size: the same frames, the same bits; bounds, faults, resets."""

import dataclasses
import itertools
import json
import shutil

import jax
import numpy as np
import pytest
from helpers import compilations, frames_of, voice

from egs_jax.avatar import draw as infer
from egs_jax.avatar import drawing, speech_batches
from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.draw import Pictures
from egs_jax.avatar.drawing import StreamFrame
from egs_jax.avatar.drive import SpeechDrive
from egs_jax.avatar.scene import Scene
from egs_jax.avatar.stream import Stream
from egs_jax.config import FITTED_WINDOW
from egs_jax.config_text import override
from egs_jax.data.dataset import Dataset
from egs_jax.media.clock import SAMPLE_RATE
from egs_jax.performer.voice import synthesize
from egs_jax.runtime import programs
from egs_jax.runtime.errors import InputError
from egs_jax.runtime.programs import Kept
from egs_jax.speech.features import Rows, extract_features
from egs_jax.speech.layout import LAYOUTS, Layout

SOONER = Layout(4, 0, 6, False, (160, 160), future_frames=1)
"""Of "mel": two frames at once, two rows beyond a block, entries to one frame ahead: 0.29 s."""


@pytest.fixture(scope="module")
def avatar(trained_run):
    return Avatar.load(trained_run.folder, exact=True)


@pytest.fixture
def sooner(avatar, tmp_path, monkeypatch):
    """The same avatar as of a dataset of a shorter look-ahead."""
    monkeypatch.setitem(LAYOUTS, "mel", (LAYOUTS["mel"][0], SOONER))
    folder = shutil.copytree(avatar.dataset.folder, tmp_path / "sooner")
    meta = json.loads((folder / "meta.json").read_text())
    meta["audio_features"]["look_ahead"] = SOONER.look_ahead()
    (folder / "meta.json").write_text(json.dumps(meta))
    hush = np.load(folder / "silence_features.npy")
    np.save(folder / "silence_features.npy", np.resize(hush, (4, hush.shape[1])))
    return dataclasses.replace(avatar, clip=Dataset.open(folder))


def whole_drive(avatar, sound):
    return SpeechDrive(
        avatar.scene, avatar.path, avatar.scene.hear(sound), infer.num_video_frames(len(sound)),
        avatar.config.model.window_frames, avatar.config.seed,
    )  # fmt: skip


def assert_same(got, want):
    assert [f.number for f in got] == [f.number for f in want]
    for a, b in zip(got, want, strict=True):
        assert a.time == b.time
        np.testing.assert_array_equal(a.rgb, b.rgb, err_msg=f"frame {a.number}")
        np.testing.assert_array_equal(a.alpha, b.alpha)
        assert a.speaking == b.speaking


SLOW = [pytest.param(seconds, marks=pytest.mark.slow) for seconds in (0.1, 4.3)]


@pytest.mark.parametrize("seconds", [1.0, *SLOW])
def test_frames_do_not_depend_on_the_chunks(avatar, seconds):
    sound, live = voice(seconds), Stream(avatar)
    whole = frames_of(live, sound, [len(sound)])
    assert [f.number for f in whole] == list(range(int(np.ceil(seconds * 25))))
    assert all(f.time == f.number / 25 for f in whole)
    for sizes in ([1600], [7, 640, 0, 3201], [20_000]):
        live.reset()
        assert_same(frames_of(live, sound, sizes), whole)
    drive = whole_drive(avatar, sound)
    for frame in whole[:: max(1, len(whole) // 3)]:
        exact = infer.infer_step(avatar, drive.frames(frame.number, frame.number + 1))
        want = infer.to_uint8(np.asarray(exact.rgb[0]))
        assert np.abs(frame.rgb.astype(int) - want).max() <= 1, frame.number


def test_frames_of_a_shorter_look_ahead_do_not_depend_on_the_chunks(sooner):
    sound, live = voice(1.0), Stream(sooner)
    whole = frames_of(live, sound, [len(sound)])
    assert [f.number for f in whole] == list(range(25))
    live.reset()
    assert_same(frames_of(live, sound, [7, 640, 0, 3201]), whole)
    drive = whole_drive(sooner, sound).frames(12, 13)
    want = infer.to_uint8(np.asarray(infer.infer_step(sooner, drive).rgb[0]))
    assert np.abs(whole[12].rgb.astype(int) - want).max() <= 1


def ready_at(batches, sound, size):
    """Samples that were heard when each frame could be drawn, pushed `size` at a time."""
    found = {}
    for heard in range(size, len(sound) + 1, size):
        for batch in batches.push(sound[heard - size : heard]):
            found |= dict.fromkeys(batch.frames.tolist(), heard)
    return found


@pytest.mark.parametrize("which", ["avatar", "sooner"])
def test_a_frame_can_be_drawn_at_the_stated_sample(which, request):
    """To the sample: the worst frame waits for exactly the stated look-ahead, no frame longer."""
    speaker = request.getfixturevalue(which)
    layout = speaker.scene.layout
    sound, wanted = voice(1.6), round(speech_batches.latency(speaker) * SAMPLE_RATE)
    assert wanted == {"avatar": 7200, "sooner": 160 + 2 * 320 + 10 * 320 + 640}[which]
    heard = ready_at(speech_batches.SpeechBatches(speaker), sound, 32)
    waits = {frame: at - 640 * frame for frame, at in heard.items() if frame >= 5}
    assert len(waits) > 15 and max(waits.values()) == wanted
    assert min(waits.values()) == wanted - 640 * (layout.hop_frames - 1)


@pytest.mark.parametrize("which", ["avatar", "sooner"])
def test_a_frame_hears_up_to_the_stated_sample_and_no_further(which, request):
    speaker = request.getfixturevalue(which)
    frame, size = 20, speaker.scene.layout.hop_frames
    lead = speaker.scene.layout.lead_frames()
    first = frame - (frame + lead) % size  # of its block: this one waits longest
    stop = 640 * first + round(speech_batches.latency(speaker) * SAMPLE_RATE)
    # No level: it hears the sound before as well.
    kind, layout = speaker.scene.feature_kind, speaker.scene.layout

    def hears(sound):
        rows = extract_features(sound, kind, layout=layout)
        drive = SpeechDrive(speaker.scene, speaker.path, rows, 50, 8, 0)
        return drive.frames(first, first + size).audio_windows

    sound = voice(2.0)
    base, later, last = hears(sound), sound.copy(), sound.copy()
    later[stop:] = 0.5
    np.testing.assert_array_equal(hears(later), base)
    rows = 0 if which == "avatar" else 2  # which mel does not need, but the level does
    last[stop - 320 * rows - 160] += 0.5
    assert not np.array_equal(hears(last), base)


@pytest.mark.parametrize("kept", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_warm_stream_compiles_no_more(avatar, monkeypatch, tmp_path, kept):
    """Nor does a second one of the process, from its first frame on."""
    monkeypatch.setattr(programs, "_kept", {"folder": tmp_path} if kept else {})
    monkeypatch.setattr(infer, "_drawing", Kept(infer._draw, Pictures, donated=3))
    live = Stream(avatar)
    with compilations() as made:
        live.warm_up()
    assert sum("_draw" in name or "call" in name for name in made) == 1
    assert len(list(tmp_path.glob("draw-*"))) == kept
    frames = frames_of(live, voice(0.5), [480])  # sound has programs of its own
    with compilations() as made:
        assert_same(frames_of(Stream(avatar), voice(0.5), [480]), frames)
    assert frames and made == []


def test_kept_programs_draw_the_same_bits(avatar, monkeypatch, tmp_path):
    sound = voice(0.5)
    monkeypatch.setattr(programs, "_kept", {})
    want = frames_of(Stream(avatar), sound, [480])
    for _ in range(2):  # traced and kept, then read
        monkeypatch.setattr(programs, "_kept", {"folder": tmp_path})
        made = Kept(infer._draw, Pictures, donated=3, on_cpu=infer._drawing._on_cpu)
        monkeypatch.setattr(infer, "_drawing", made)
        assert_same(frames_of(Stream(avatar), sound, [480]), want)


def test_programs_are_of_shapes_not_of_avatars(avatar, monkeypatch):
    """Another seed, clip, schedule, loss and other weights: nothing is traced for that avatar."""
    frames_of(Stream(avatar), voice(0.3), [480])
    other = override(avatar.config, {"seed": "5", "loss.l1": "0.5", "schedule.batch": "4",
                                     "optim.sh0": "0.1", "densify.every": "7",
                                     "model.dropout": "0.3"})  # fmt: skip
    other = dataclasses.replace(other, data_dir="elsewhere", preset="fast")
    params = jax.tree.map(lambda v: v * 1.01 if v.dtype == np.float32 else v, avatar.params)
    with compilations() as made:
        second = dataclasses.replace(avatar, config=other, params=params)
        frames = frames_of(Stream(second), voice(0.3), [480])
    assert len(frames) == 8 and not [name for name in made if "multiply" not in name]


@pytest.mark.parametrize("rate", [16_000, 8_000, 44_100])
def test_frames_come_as_soon_as_their_sound_is_there(avatar, rate):
    sound, live = voice(3.0, rate), Stream(avatar, sample_rate=rate)
    assert 0.2 < live.latency < 1.2
    worst, size = 0.0, rate // 100
    for heard in range(size, len(sound) + 1, size):
        for frame in live.push(sound[heard - size : heard]):
            worst = max(worst, heard / rate - frame.time)
    assert live.latency - (0 if rate == SAMPLE_RATE else 0.02) <= worst <= live.latency + 0.011


@pytest.mark.parametrize("which", ["avatar", "sooner"])
@pytest.mark.parametrize("window", [2, 5, 8])
def test_batches_hold_what_the_whole_speech_has(which, window, request):
    """Only the drive is compared: no network is built for these windows."""
    avatar = request.getfixturevalue(which)
    lips = "fitted" if window >= FITTED_WINDOW else "learned"
    model_config = dataclasses.replace(avatar.config.model, window_frames=window, lips=lips)
    other = dataclasses.replace(
        avatar, config=dataclasses.replace(avatar.config, model=model_config)
    )
    sound = voice(2.02)
    drive, seen = whole_drive(other, sound), []
    for batch in speech_batches.speech_batches(other, np.array_split(sound, 17)):
        seen += batch.frames.tolist()
        part = slice(batch.first, batch.first + len(batch.frames))
        want = drive.frames(batch.frames[0], batch.frames[-1] + 1)
        for name in ("audio_windows", "eyes", "viewmats", "backgrounds"):
            got = getattr(batch.drive, name)
            assert len(got) == avatar.scene.layout.hop_frames
            np.testing.assert_array_equal(got[part], getattr(want, name))
    assert seen == list(range(51))


def test_quiet_speech_moves_the_mouth_as_loud_speech_does(avatar):
    """At -24 dB the same sound is heard, to rounding, from the first frame to the last."""
    sound = synthesize(2.0, 0).samples
    loud, quiet = (
        np.concatenate([
            batch.drive.audio_windows for batch in speech_batches.speech_batches(avatar, [part])
        ])
        for part in (sound, (10 ** (-24 / 20) * sound).astype(np.float32))
    )  # fmt: skip
    assert np.ptp(loud) > 0.5 and np.abs(loud - quiet).max() < 1e-3


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_other_rates_are_resampled_alike_in_any_chunks(avatar, rate):
    sound = voice(1.3, rate)
    whole = frames_of(Stream(avatar, sample_rate=rate), sound, [len(sound)])
    assert 33 <= len(whole) <= 34
    assert_same(frames_of(Stream(avatar, sample_rate=rate), sound, [480, 1, 1000]), whole)


def test_integer_sound_is_the_same_sound(avatar):
    sound = np.round(voice(0.7) * 32767).astype(np.int16)
    got = frames_of(Stream(avatar), sound, [1000])
    assert_same(got, frames_of(Stream(avatar), sound.astype(np.float32) / 32768, [1000]))


def test_a_bad_chunk_is_refused_and_forgotten(avatar):
    sound, live = voice(1.0), Stream(avatar)
    frames = list(live.push(sound[:9000]))
    bad = sound[9000:].copy()
    bad[5] = np.nan
    for chunk, message in ((bad, "NaN or infinite"), (sound.reshape(2, -1), "expected mono"),
                           (sound.astype(complex), "got complex128"),
                           (["a"], "expected mono"), ([[1.0], [1.0, 2.0]], "expected mono"),
                           (sound * 32767, "beyond full scale")):  # fmt: skip
        with pytest.raises(InputError, match=message):
            live.push(chunk)
    frames += [*live.push(sound[9000:]), *live.finish()]
    assert_same(frames, frames_of(Stream(avatar), sound, [len(sound)]))


@pytest.mark.parametrize("rate", [0, -1, 16_000.5, 4_000, 1_000_000, None, "16k"])
def test_a_rate_that_is_none_is_refused(avatar, rate):
    with pytest.raises(InputError, match=r"sample_rate: got .*, expected a whole number"):
        Stream(avatar, sample_rate=rate)


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_limits_that_are_none_are_refused(avatar, seconds):
    with pytest.raises(InputError, match="most_waiting: got .*, expected more than 0 seconds"):
        Stream(avatar, most_waiting=seconds)


def test_a_finished_stream_takes_nothing_until_it_is_reset(avatar):
    sound, live = voice(0.3), Stream(avatar)
    assert list(live.finish()) == [] and list(live.finish()) == []  # no sound, no frame
    with pytest.raises(InputError, match="finished; call reset"):
        live.push(sound)
    live.reset()
    assert len(frames_of(live, sound, [100])) == 8


@pytest.mark.parametrize("stage", ["draw_to_host", "compose"])
def test_after_a_failure_only_a_reset_helps(avatar, monkeypatch, stage):
    sound, live = voice(2.0), Stream(avatar)
    module = {"draw_to_host": drawing, "compose": speech_batches}[stage]
    original, calls = getattr(module, stage), iter(range(100))

    def fails_once(*arguments):
        if next(calls) == 2:
            raise MemoryError("no room")
        return original(*arguments)

    monkeypatch.setattr(module, stage, fails_once)
    frames = live.push(sound)
    with pytest.raises(MemoryError, match="no room"):
        list(frames)
    for call in (lambda: live.push(sound), live.finish):
        with pytest.raises(InputError, match="frames are missing; call reset"):
            call()
    live.reset()
    again = frames_of(live, sound, [len(sound)])
    assert [f.number for f in again] == list(range(50))


def draw_nothing(avatar, drive):
    rgb = np.zeros((len(drive.eyes), 2, 2, 3), np.uint8)
    return Pictures(rgb=rgb, alpha=rgb[..., 0])


def test_sound_waits_up_to_a_limit_and_no_frame_is_lost(avatar, monkeypatch):
    monkeypatch.setattr(drawing, "draw_to_host", draw_nothing)
    sound, live = voice(6.0), Stream(avatar, most_waiting=2)
    first = next(iter(live.push(sound[:48_000])))  # and leave the others
    assert first.number == 0 and 0 < live.waiting < 3
    live.push(sound[48_000:64_000])
    with pytest.raises(InputError, match=r"[23]\.\d s of sound wait to be drawn, at most 2;"):
        live.push(sound[64_000:])
    rest = list(live.push(sound[:0]))
    assert live.waiting == 0
    rest += [*live.push(sound[64_000:]), *live.finish()]
    assert [f.number for f in (first, *rest)] == list(range(150))


@pytest.mark.parametrize("minutes", [5, pytest.param(60, marks=pytest.mark.slow)])
def test_a_long_speech_keeps_time_and_little_memory(avatar, monkeypatch, minutes):
    """Features are made up: only the book-keeping runs for so long."""
    held = []
    silent = lambda count: Rows(np.zeros((count, 80), np.float32), np.zeros(count, np.float32))

    class Listener:
        def __init__(self):
            self.samples = self.rows = 0

        def hear(self, chunk):
            self.samples += len(chunk)
            done = max(0, (self.samples - 9_800) // 3_200 * 10)
            count, self.rows = done - self.rows, max(done, self.rows)
            return silent(max(0, count))

        def hear_rest(self):
            return silent(2 * -(-self.samples // 640) - self.rows)

    original = speech_batches.compose

    def compose(dataset, path, rows, first_row, frames, *rest):
        held.append(len(rows))
        if not drives:
            drives.append(original(dataset, path, rows, first_row, frames, *rest))
        return drives[0]

    drives = []
    monkeypatch.setattr(Scene, "listener", lambda _: Listener())
    monkeypatch.setattr(speech_batches, "compose", compose)
    monkeypatch.setattr(drawing, "draw_to_host", draw_nothing)
    live, second = Stream(avatar), np.zeros(SAMPLE_RATE, np.float32)
    numbers = itertools.count()
    for _ in range(60 * minutes):
        for frame in live.push(second):
            assert frame.number == next(numbers) and frame.time == frame.number / 25
    for frame in live.finish():
        assert isinstance(frame, StreamFrame) and frame.number == next(numbers)
    assert next(numbers) == 60 * minutes * 25 and max(held) <= 100
