"""Several films of one person, parts of a film, and one face of several."""

import contextlib
import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import film_file

from egs_jax.__main__ import main
from egs_jax.data.dataset import Dataset
from egs_jax.face.landmarks import FaceLandmarker
from egs_jax.face.mesh import mouth_opening
from egs_jax.media.audio_file import read_audio
from egs_jax.media.video_reader import probe, read_frames
from egs_jax.preprocess import shots
from egs_jax.preprocess.crop import choose_crops
from egs_jax.preprocess.face_pass import find_faces
from egs_jax.preprocess.films import Film, open_films
from egs_jax.runtime.errors import InputError

SIZE = 192
GAIN = np.array([0.8, 0.9, 1.0])
A_FRAME = 640


@pytest.fixture(scope="module")
def pictures(performer_dataset) -> list[np.ndarray]:
    return list(read_frames(performer_dataset.video))


@pytest.fixture(scope="module")
def sound(performer_dataset) -> np.ndarray:
    return read_audio(performer_dataset.video)


def placed(picture: np.ndarray, left: int, gain: np.ndarray) -> np.ndarray:
    """The performer somewhere in a wider gray picture, in another light."""
    room = np.full((SIZE, 320, 3), 110, np.uint8)
    room[:, left : left + SIZE] = picture
    return np.rint(room * gain).astype(np.uint8)


@pytest.fixture(scope="module")
def two(tmp_path_factory, pictures, sound) -> tuple[Dataset, str]:
    """A dataset of two films: the longer one, which is black for 15 frames, and a darker one."""
    home = tmp_path_factory.mktemp("two")
    long = [placed(p, 20, np.ones(3)) for p in pictures[:50]]
    long += [np.zeros_like(long[0])] * 15
    long += [placed(p, 20, np.ones(3)) for p in pictures[50:]]
    silence = np.zeros(15 * A_FRAME, np.float32)
    film_file(home / "a.mp4", long, np.insert(sound, 50 * A_FRAME, silence))
    dark = [placed(p, 100, GAIN) for p in [*pictures[90:], *pictures[::-1]]]
    film_file(home / "b.mkv", dark, np.resize(sound, len(dark) * A_FRAME))
    arguments = ["preprocess", str(home / "a.mp4"), str(home / "b.mkv"), str(home / "set")]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.MonkeyPatch.context() as patch:
        patch.setattr(shots, "LEAST_SECONDS", 8)  # quicker
        status = main([*arguments, "--size", "96", "--audio-features", "mel"])
    assert status == 0, printed.getvalue()
    return Dataset.open(home / "set"), printed.getvalue()


@pytest.mark.slow
def test_two_films_are_one_dataset(two, sound):
    dataset, said = two
    assert dataset.num_frames == 210 and dataset.valid.all()
    assert [part[:4] for part in dataset.stretches] == [
        (0, 50, 0, 0), (50, 100, 0, 65), (100, 210, 1, 0),
    ]  # fmt: skip
    assert "a.mp4: left out 2.0-2.6 s (no face)" in said
    assert "8.4 s in 3 stretches are used" in said
    films = dataset.meta["films"]
    assert [(film["name"], film["frames_used"]) for film in films] == [
        ("a.mp4", 100),
        ("b.mkv", 110),
    ]
    assert dataset.meta["source"]["name"] == "a.mp4 and 1 more"
    assert dataset.splits == {"train": (0, 190), "val": (190, 210)}


@pytest.mark.slow
def test_exposure_and_size_of_the_face_are_those_of_one(two):
    dataset, _ = two
    films = dataset.meta["films"]
    np.testing.assert_allclose(films[0]["gain"], GAIN, rtol=0.03)  # the longer film stays
    assert films[1]["gain"] == [1, 1, 1]
    assert films[0]["crop"]["side"] == films[1]["crop"]["side"] == SIZE
    points = np.stack([dataset.landmarks(i) for i in (10, 199)])
    eyes = np.linalg.norm(points[:, 33] - points[:, 263], axis=-1)
    assert eyes[0] == pytest.approx(eyes[1], rel=0.1)
    face = lambda i: dataset.frame(i)[dataset.head_mask(i)].mean(0)
    np.testing.assert_allclose(face(40), face(169), rtol=0.06)


@pytest.mark.slow
def test_sound_of_every_stretch_is_its_own(two, sound):
    dataset, _ = two
    wav = read_audio(dataset.folder / "audio.wav")
    assert len(wav) == 210 * A_FRAME
    for start, stop, at in ((0, 50, 0), (50, 100, 50)):
        true = sound[at * A_FRAME : (at + 50) * A_FRAME]
        got = wav[start * A_FRAME : stop * A_FRAME]
        assert np.corrcoef(true, got[: len(true)])[0, 1] > 0.98
    # What lies beside a stretch in its film is heard there, silence where there was none.
    window = dataset.audio_windows(np.array([49]), 8)[0, -1]
    quiet = dataset.silence(1, 1)[0, 0]
    assert np.abs(window[-4:] - quiet[-4:]).max() < 0.5 < np.abs(window[0] - quiet[0]).max()


@pytest.mark.slow
def test_poses_do_not_lead_over_a_cut(two):
    """The second film has the first one's pictures backwards: so its poses must be."""
    dataset, _ = two
    turns = dataset.arrays["viewmats"][:, :3, 2].astype(np.float64)
    forth, back = turns[5:45], turns[110 + 99 - np.arange(5, 45)]
    spread = lambda x: np.sqrt(np.square(x - x.mean(0)).sum(-1).mean())
    assert spread(forth - back) < 0.35 * spread(forth)
    opening = mouth_opening(np.asarray(dataset.arrays["landmarks"]))
    assert np.corrcoef(opening[:50], opening[209 - np.arange(50)])[0, 1] > 0.9


def duo(pictures: list[np.ndarray], count: int) -> list[np.ndarray]:
    """Two performers side by side, the right one larger and 40 frames ahead."""
    scenes = []
    for i in range(count):
        room = np.full((400, 720, 3), 110, np.uint8)
        room[80:360, 20:300] = cv2.resize(pictures[i], (280, 280))
        room[:, 320:] = cv2.resize(pictures[i + 40][:, ::-1], (400, 400))
        scenes.append(room)
    return scenes


@pytest.mark.parametrize(
    ("choice", "right"), [("left", False), ("right", True), (1, False), (2, True), (None, True)]
)
def test_face_is_the_one_that_is_asked_for(tmp_path, pictures, capsys, choice, right):
    path = film_file(tmp_path / "duo.mp4", duo(pictures, 6), np.zeros(6 * A_FRAME, np.float32))
    film = Film(path, probe(path))
    faces = find_faces(film, np.zeros(6 * A_FRAME, np.float32), FaceLandmarker(), choice)
    assert faces.valid.all() and faces.crowd == 2
    assert ((faces.landmarks[..., 0].mean(1) > 320) == right).all()
    told = "the largest is followed" if choice is None else f"--face {choice} is followed"
    assert told in capsys.readouterr().out


def test_face_that_is_not_there_is_refused(tmp_path, pictures, capsys):
    path = film_file(tmp_path / "one.mp4", pictures[:30], np.ones(30 * A_FRAME, np.float32))
    for asked in ("left", "3"):
        assert main(["preprocess", str(path), str(tmp_path / "set"), "--face", asked]) == 2
        assert f"--face {asked}: never more than 1 in the picture" in capsys.readouterr().err
    assert main(["preprocess", str(path), str(tmp_path / "set"), "--face", "0"]) == 2
    assert "expected left, right or a number from 1 on" in capsys.readouterr().err


def test_start_and_end_are_those_of_the_film(performer_dataset, sound):
    video = performer_dataset.video
    (film,) = open_films([video], 1.0, 2.4, None)
    assert (film.start, film.stop, film.length) == (25, 60, 35)
    assert sum(1 for _ in film.frames()) == 35
    np.testing.assert_array_equal(film.sound().samples, sound[25 * A_FRAME : 60 * A_FRAME])
    (film,) = open_films([video], 1.0, None, 0.4)
    assert (film.start, film.stop) == (25, 35)
    assert [f.length for f in open_films([video] * 3, None, None, 5.0)] == [100, 25]
    for start, end in ((4.0, None), (3.0, 2.0)):
        with pytest.raises(InputError, match="leave nothing of its 4.0 s"):
            open_films([video], start, end, None)
    with pytest.raises(InputError, match="times of one film"):
        open_films([video, video], 1.0, None, None)


def box(left: float, top: float, height: float) -> np.ndarray:
    """Landmarks over a square face."""
    corners = np.random.default_rng(0).uniform(0, height, (478, 3))
    corners[0], corners[1] = 0, height
    return (corners + [left, top, 0])[None].astype(np.float32)


def test_films_share_a_crop_a_side_or_a_size_of_the_face():
    near = [box(900, 300, 200), box(930, 310, 200)]
    a, b = choose_crops(near, [(1920, 1080)] * 2, None)
    assert a == b  # one room
    apart = [box(300, 300, 200), box(1500, 310, 200)]
    a, b = choose_crops(apart, [(1920, 1080)] * 2, None)
    assert a.side == b.side and b.left - a.left == 1200  # one focal length
    sizes = [(1920, 1080), (1280, 720)]
    a, b = choose_crops([box(300, 300, 300), box(500, 200, 150)], sizes, 256)
    assert a.side == pytest.approx(2 * b.side, abs=2) and a.size == b.size == 256
    square = choose_crops([box(60, 60, 100)] * 2, [(256, 256)] * 2, None)
    assert {(c.left, c.top, c.side) for c in square} == {(0, 0, 256)}
    tight = [box(60, 40, 130), box(200, 100, 200)]  # the first fills its picture
    a, b = choose_crops(tight, [(256, 256), (640, 480)], None)
    assert a.side == 256 and b.side == pytest.approx(256 * 200 / 130, abs=2)


def test_every_film_needs_sound(tmp_path, pictures, performer_dataset):
    mute = film_file(tmp_path / "mute.mp4", pictures[:5], None)
    with pytest.raises(InputError, match=r"mute.mp4: has no sound track"):
        open_films([performer_dataset.video, Path(mute)], None, None, None)


def test_description_of_one_film_names_it(performer_dataset):
    meta = json.loads((performer_dataset.folder / "meta.json").read_text())
    assert len(meta["films"]) == len(meta["stretches"]) == 1
    assert meta["films"][0]["sha256"] == meta["source"]["sha256"]
    assert meta["mouth_frames"] == 100
