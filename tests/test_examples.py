"""The examples: short, explained, their commands parse, and each runs in its `--tiny` form."""

import argparse
import importlib
import io
import itertools
import json
import re
import shlex
import sys
from types import SimpleNamespace

import imageio.v3 as imageio
import numpy as np
import pytest
from helpers import ROOT, voice

import egs_jax as egs
from egs_jax.avatar.film import draw_speech
from egs_jax.media.audio_file import write_wav
from egs_jax.media.clock import SAMPLE_RATE
from egs_jax.media.video_reader import probe
from egs_jax.runtime.errors import InputError
from examples import batch_of_speeches, fit_a_picture, live_microphone, own_video, several_seeds

NAMES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))
MOST_LINES = 80


@pytest.fixture(scope="module")
def avatar_file(trained_run, tmp_path_factory):
    path = tmp_path_factory.mktemp("avatar") / "me.egs"
    egs.export(egs.Avatar.load(trained_run.folder), path)
    return path


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """What `own_video` makes of the drawn person."""
    out = tmp_path_factory.mktemp("own")
    own_video.main(["--tiny", "--out", str(out)])
    return out


def speech(path, seconds):
    write_wav(path, voice(seconds), SAMPLE_RATE)
    return str(path)


def commands_of(name):
    """What the docstring of an example tells to type, without `python examples/NAME.py`."""
    text = importlib.import_module(f"examples.{name}").__doc__
    found = re.findall(rf"^    python examples/{name}\.py(.*)$", text, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in found]


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_short_and_say_how_they_are_run(name, monkeypatch, capsys):
    path, module = ROOT / "examples" / f"{name}.py", importlib.import_module(f"examples.{name}")
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES
    with pytest.raises(SystemExit, match="0"):
        module.main(["--help"])
    assert "--tiny" in capsys.readouterr().out

    class Parsed(Exception):
        pass

    def parse(parser, argv):
        parser.parse_known_args(argv)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    assert commands_of(name)
    for command in commands_of(name):
        with pytest.raises(Parsed):
            module.main(command)


def test_the_table_names_every_example():
    text = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \[`(\w+)\.py`\]\(\1\.py\)", text, re.MULTILINE) != []
    assert sorted(re.findall(r"^\| \[`(\w+)\.py`\]\(\1\.py\)", text, re.MULTILINE)) == NAMES


@pytest.mark.slow
def test_fit_a_picture(tmp_path):
    fit_a_picture.main(["--tiny", "--out", str(tmp_path / "fitted.png")])
    row = imageio.imread(tmp_path / "fitted.png").astype(np.float32)
    before, after, target = np.split(row, 3, axis=1)
    np.testing.assert_allclose(target, 255 * fit_a_picture.painted(48), atol=1)
    assert np.abs(after - target).mean() < 0.4 * np.abs(before - target).mean()


def test_fit_a_picture_of_the_users(tmp_path, monkeypatch):
    """Of any shape, gray as well: it is scaled, not stretched."""
    drawn = []
    monkeypatch.setattr(fit_a_picture, "draw", lambda *a: drawn.append(a[1:]) or 1 / 0)
    imageio.imwrite(tmp_path / "gray.png", np.zeros((30, 90), np.uint8))
    with pytest.raises(ZeroDivisionError):
        fit_a_picture.main([str(tmp_path / "gray.png"), "--tiny"])
    assert drawn == [(16, 48)]


@pytest.mark.slow
def test_live_microphone(avatar_file, tmp_path):
    sound, out = speech(tmp_path / "speech.wav", 3), tmp_path / "frames"
    live_microphone.main(
        [str(avatar_file), "--file", sound, "--frames", str(out), "--interrupt", "1", "--tiny"]
    )
    names = sorted(path.name for path in out.iterdir())
    assert names == [f"{number:06}.png" for number in range(len(names))] and len(names) >= 50
    for frame in itertools.islice(draw_speech(egs.Avatar.load(avatar_file), sound), 3):
        np.testing.assert_array_equal(imageio.imread(out / names[frame.number]), frame.rgb)


def test_microphone_is_heard_and_bounded(monkeypatch):
    class InputStream:
        """Hears 25 blocks at once, numbered."""

        def __init__(self, rate, block, *, channels, callback):
            assert (rate, block, channels) == (SAMPLE_RATE, SAMPLE_RATE // 10, 1)
            for number in range(25):
                callback(np.full((block, 1), number, np.float32), block, None, None)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return False

    monkeypatch.setitem(sys.modules, "sounddevice", SimpleNamespace(InputStream=InputStream))
    heard = list(itertools.islice(live_microphone.microphone(), 20))
    assert [chunk.shape for chunk in heard] == [(SAMPLE_RATE // 10,)] * 20
    assert [chunk[0] for chunk in heard] == list(range(20))


def test_microphone_that_is_missing_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(SystemExit, match="^microphone: .*sounddevice.* or name a --file$"):
        next(live_microphone.microphone())


def test_window_shows_frames_and_hears_the_space_bar(monkeypatch):
    """With a toolkit that only takes notes."""
    notes, value = {}, [False]
    widget = lambda *_, **__: SimpleNamespace(pack=lambda: None)
    root = SimpleNamespace(
        bind=notes.__setitem__, protocol=notes.__setitem__, update=lambda: notes.update(shown=True)
    )
    variable = SimpleNamespace(get=lambda: value[0], set=lambda new: value.__setitem__(0, new))
    toolkit = SimpleNamespace(
        Tk=lambda: root, Label=widget, BooleanVar=lambda: variable,
        PhotoImage=lambda: SimpleNamespace(configure=notes.update),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "tkinter", toolkit)
    show, is_silent = live_microphone.window()
    rgb = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    show(SimpleNamespace(rgb=rgb, alpha=rgb[..., 0]))
    assert notes["shown"]
    np.testing.assert_array_equal(imageio.imread(io.BytesIO(notes["data"]), extension=".ppm"), rgb)
    for want in (False, True, False):
        assert is_silent(0.0) == want
        notes["<space>"](None)
    assert notes["WM_DELETE_WINDOW"] is sys.exit


@pytest.mark.slow
def test_codes_are_those_of_every_frame(avatar_file, tmp_path):
    """In batches of one size, of which the last may overlap; a short speech is one batch."""
    avatar = egs.Avatar.load(avatar_file)
    for seconds in (0.2, 1.0):
        drive = egs.load_drive(speech(tmp_path / "speech.wav", seconds), avatar)
        codes = batch_of_speeches.codes_of(avatar, drive)
        assert len(codes) == drive.num_frames
        last = egs.motion_codes(avatar, drive.frames(drive.num_frames - 5, drive.num_frames))
        np.testing.assert_allclose(codes[-5:], last, atol=1e-5)


@pytest.mark.slow
def test_batch_of_speeches(avatar_file, tmp_path):
    sounds = [speech(tmp_path / f"{name}.wav", 1.2) for name in "ab"]
    out = tmp_path / "talks"
    batch_of_speeches.main([str(avatar_file), *sounds, "--out", str(out), "--tiny"])
    made = sorted(path.name for path in out.iterdir())
    assert made == ["a.mp4", "a.npy", "a.png", "b.mp4", "b.npy", "b.png"]
    assert len(np.load(out / "a.npy", allow_pickle=False)) == 30
    assert imageio.imread(out / "a.png").shape == (48, 48, 3) and probe(out / "b.mp4").has_audio
    one = tmp_path / "one"
    batch_of_speeches.main([str(avatar_file), sounds[0], "--out", str(one), "--tiny"])
    assert sorted(path.name for path in one.iterdir()) == made[:3]


@pytest.mark.slow
@pytest.mark.xdist_group("own")
def test_own_video(own):
    assert probe(own / "talk.mp4").has_audio
    assert egs.Avatar.load(own / "avatar.egs").clip_scene.width == 48


@pytest.mark.slow
@pytest.mark.xdist_group("own")
def test_several_seeds(own, tmp_path, capsys):
    out = tmp_path / "seeds"
    command = [str(own / "dataset"), "--seeds", "0", "1", "--out", str(out), "--tiny"]
    several_seeds.main(command)
    found = json.loads((out / "seeds.json").read_text(encoding="utf-8"))
    assert list(found) == ["0", "1"] and found["0"]["psnr_head"] != found["1"]["psnr_head"]
    values = [each["psnr_head"] for each in found.values()]
    shown = f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"
    assert re.search(rf"head.*{re.escape(shown)}", capsys.readouterr().out)


def test_own_video_needs_a_film_and_a_speech(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        own_video.main(["me.mp4"])
    assert "name a film and a speech" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"no\.mp4: no such file"):
        own_video.main([str(tmp_path / "no.mp4"), "a.wav", "--out", str(tmp_path / "out")])
