"""Preprocessing against the performer's ground truth, and what it says to clips it cannot use."""

import errno
import hashlib
import json
import os
import shutil
from fractions import Fraction
from pathlib import Path

import av
import cv2
import imageio.v3 as imageio
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import egs_jax.preprocess as preprocess_room
from egs_jax.__main__ import main
from egs_jax.avatar.scene import film_of
from egs_jax.data.dataset import Dataset
from egs_jax.data.pictures import Pictures
from egs_jax.face.landmarks import FaceLandmarker
from egs_jax.face.mesh import NUM_MESH_VERTICES, RIGID_POINTS, eye_openness, mouth_opening
from egs_jax.media.audio_file import read_audio
from egs_jax.media.video_reader import probe, read_frames
from egs_jax.performer import head as performer_head
from egs_jax.performer.anatomy import CLOTH
from egs_jax.performer.mesh import rasterize_triangles
from egs_jax.performer.shading import background
from egs_jax.preprocess.crop import Crop, choose_crops
from egs_jax.preprocess.dataset_folder import NAMES
from egs_jax.preprocess.face_pass import Faces, find_faces
from egs_jax.preprocess.films import Film
from egs_jax.preprocess.frame_pass import write_frames
from egs_jax.preprocess.material import Material, align_sound, moved_sounds
from egs_jax.preprocess.pipeline import (
    SEEN_OF_ALL_FRAMES,
    blink_signal,
    models_used,
    preprocess,
    split_at,
)
from egs_jax.preprocess.shots import MAX_GAP, Part, bridge_gaps, choose_all
from egs_jax.runtime.assets import ASSETS
from egs_jax.runtime.errors import InputError
from egs_jax.speech.features import extract_features

SIZE = 192


@pytest.fixture(scope="module")
def arrays(performer_dataset) -> dict[str, np.ndarray]:
    return Dataset.open(performer_dataset.folder).arrays


@pytest.fixture(scope="module")
def pictures(performer_dataset) -> list[np.ndarray]:
    return list(read_frames(performer_dataset.video))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def true_masks(truth, i: int) -> tuple[np.ndarray, np.ndarray]:
    """Head (what moves with the skull, cloth apart) and person of frame i, bool [H,W]."""
    model = performer_head.build_head()
    world = performer_head.to_world(performer_head.pose_vertices(model, truth.expression(i)))
    share = model.torso_weight[:, None]
    camera = sum(
        weight * (world @ viewmat[:3, :3].T + viewmat[:3, 3])
        for weight, viewmat in ((1 - share, truth.viewmats[i]), (share, truth.torso_viewmats[i]))
    )
    pixels = camera @ truth.K.T
    where, faces, weights = rasterize_triangles(
        pixels[:, :2] / pixels[:, 2:], camera[:, 2], model.triangles, SIZE, SIZE
    )
    of_torso = (model.torso_weight[model.triangles[faces]] * weights).sum(1)
    head, person = np.zeros(SIZE * SIZE, bool), np.zeros(SIZE * SIZE, bool)
    person[where] = True
    head[where] = (of_torso < 0.05) & (model.materials[faces] != CLOTH)
    return head.reshape(SIZE, SIZE), person.reshape(SIZE, SIZE)


OPTIONAL = {"backgrounds.zip", "film_plates.zip", "lips_prior.npy"}


def test_every_frame_has_a_face_and_the_folder_is_whole(performer_dataset):
    dataset = Dataset.open(performer_dataset.folder)
    meta = dataset.meta
    assert dataset.num_frames == meta["face_frames"] == performer_dataset.truth.num_frames
    assert (dataset.width, dataset.height, dataset.fps) == (SIZE, SIZE, 25.0)
    assert meta["splits"] == {"train": [0, 90], "val": [90, 100]}
    sha = hashlib.sha256(performer_dataset.video.read_bytes()).hexdigest()
    assert meta["source"]["sha256"] == sha and meta["source"]["name"] == "performer.mp4"
    assert not list(performer_dataset.folder.parent.glob(".*"))
    assert {path.name for path in performer_dataset.folder.iterdir()} == NAMES - OPTIONAL
    assert "face found in 100 of 100 frames" in performer_dataset.output


def test_frames_and_sound_are_the_videos(performer_dataset, arrays, pictures):
    kept = Pictures(performer_dataset.folder / "frames.zip")
    assert np.array_equal(np.stack([*kept]), np.stack(pictures))
    sound = read_audio(performer_dataset.folder / "audio.wav")
    assert len(sound) == 4 * 16000
    assert correlation(sound, read_audio(performer_dataset.video)[: len(sound)]) > 0.999
    assert arrays["audio_features"].shape == (200, 80)


def test_blinks_and_lips_follow_the_truth(performer_dataset, arrays):
    truth = performer_dataset.truth
    assert correlation(arrays["blink"], truth.blink) > 0.9
    assert arrays["blink"].min() == 0 and arrays["blink"].max() > 0.9
    assert correlation(arrays["mouth_opening"], truth.mouth_opening) > 0.9
    lips = truth.landmarks[:, [0, 17, 61, 291], :2]
    low, high = lips.min(1), lips.max(1)
    found = arrays["lips_rects"][:, [[2, 0], [3, 1]]]  # corners [T,2,2], x before y
    assert np.abs(found.mean(1) - (low + high) / 2).max() < 4
    assert (found[:, 0] < low + 3).all() and (found[:, 1] > high - 3).all()
    assert (found[:, 1] - found[:, 0]).max() < 1.4 * (high - low)[:, 0].max()


def test_head_turns_as_the_true_head(performer_dataset, arrays):
    """Turns between frames do not depend on where the head's own axes lie (the gauge)."""

    def turns(viewmats: np.ndarray, lag: int) -> np.ndarray:
        R = viewmats[:, :3, :3].astype(np.float64)
        return np.degrees(Rotation.from_matrix(R[lag:] @ R[:-lag].transpose(0, 2, 1)).as_rotvec())

    rms = lambda x: float(np.sqrt(np.square(x).sum(-1).mean()))
    for lag, share in ((10, 0.4), (50, 0.3)):
        true = turns(performer_dataset.truth.viewmats, lag)
        assert rms(turns(arrays["viewmats"], lag) - true) < share * rms(true)


def posed(arrays: dict[str, np.ndarray], points: np.ndarray) -> np.ndarray:
    """The mean face, moved by the tracked poses: pixels [T,P,2]."""
    viewmats = arrays["viewmats"].astype(np.float64)
    camera = arrays["mean_shape"][points] @ viewmats[:, :3, :3].transpose(0, 2, 1)
    pixels = (camera + viewmats[:, None, :3, 3]) @ arrays["K"].T
    return pixels[..., :2] / pixels[..., 2:]


def test_posed_head_moves_in_the_picture_as_the_true_head(performer_dataset, arrays):
    rigid = RIGID_POINTS[RIGID_POINTS < NUM_MESH_VERTICES]
    true = performer_dataset.truth.landmarks[:, rigid, :2]
    seen = posed(arrays, rigid)
    spread = lambda x: float(np.sqrt(np.square(x - x.mean(0, keepdims=True)).sum(-1).mean()))
    assert spread(true) > 2  # pixels: there is motion to follow
    assert spread(seen - true) < 0.35
    assert np.linalg.norm((seen - true).mean(0), axis=-1).mean() < 2.0
    shake = np.diff(seen - true, 2, axis=0) / np.sqrt(6)  # white noise of 1 px would give 1 px
    assert np.sqrt(np.square(shake).sum(-1).mean()) < 0.1


def test_jitter_is_reported_and_small(performer_dataset):
    figures = json.loads((performer_dataset.folder / "meta.json").read_text())["tracking"]
    assert 0 < figures["jitter_px"] < 0.4 and figures["reprojection_rms_px"] < 1
    assert f"jitter {figures['jitter_px']:.2f} px" in performer_dataset.output


def test_head_masks_and_backgrounds_are_the_true_ones(performer_dataset, arrays):
    dataset = Dataset.open(performer_dataset.folder, body="head")
    anybody = np.zeros((SIZE, SIZE), bool)
    for i in range(0, 100, 20):
        head, person = true_masks(performer_dataset.truth, i)
        mask = dataset.head_mask(i)
        assert (mask & head).sum() / (mask | head).sum() > 0.93
        anybody |= person
        soft = dataset.pictures["person_masks"][i]
        inside = soft > 127
        assert (inside & person).sum() / (inside | person).sum() > 0.93
        assert 0.002 < ((soft > 0) & (soft < 255)).mean() < 0.1  # an edge, and no more
        away = cv2.dilate(mask.astype(np.uint8), np.ones((15, 15))) == 0
        assert np.array_equal(dataset.background(i)[away], dataset.frame(i)[away])
    true = cv2.resize(background(2 * SIZE), (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    clean = imageio.imread(performer_dataset.folder / "plate.png")
    error = np.abs(clean.astype(int) - true)
    assert error[~cv2.dilate(anybody.astype(np.uint8), np.ones((9, 9))).astype(bool)].mean() < 2.5
    hidden = anybody & (np.arange(SIZE)[:, None] < 0.8 * SIZE)
    assert error[hidden].mean() < 15  # made up behind the person, without the person's colors
    person_error = np.abs(dataset.frame(0).astype(int) - true)[hidden].mean()
    assert error[hidden].mean() < 0.3 * person_error


def test_what_saw_held_out_frames_is_listed(performer_dataset):
    meta = json.loads((performer_dataset.folder / "meta.json").read_text())
    assert meta["seen_of_all_frames"] == list(SEEN_OF_ALL_FRAMES)
    told = " ".join(preprocess_room.__doc__.split())
    words = "crop sound mean.face focal.length poses body hull first.colors clean.background eye"
    words += " exposure before.the.mouth"
    for word in words.split():
        assert word.replace(".", " ") in told
    assert len(meta["seen_of_all_frames"]) == len(words.split())


def test_blink_scale_is_of_all_frames_and_sound_features_are_not(performer_dataset, arrays):
    """One of the list and one that is not on it: what a changed last second changes before it."""
    openness = eye_openness(arrays["landmarks"]).mean(-1)
    shut = np.concatenate([openness[:75], 0.0 * openness[75:]])
    assert not np.array_equal(blink_signal(shut)[:75], blink_signal(openness)[:75])
    sound = read_audio(performer_dataset.folder / "audio.wav")
    loud = np.concatenate([sound[:48_000], sound[48_000:] + 0.5])
    before, after = (extract_features(x, "mel")[:140] for x in (sound, loud))
    np.testing.assert_array_equal(before, after)


def test_first_cloud_is_the_head(arrays):
    points = arrays["points"]
    assert points.shape == (25_000, 3) and np.isfinite(points).all()
    assert 0.5 < np.abs(points[:, :2]).max() < 1.2
    assert arrays["point_colors"].std(0).min() > 10


def test_short_clip_is_warned_of(performer_dataset):
    report = json.loads((performer_dataset.folder / "meta.json").read_text())["capture"]
    assert report["duration"]["verdict"] == "bad" and "minutes" in report["duration"]["remedy"]
    assert "record one to five minutes" in performer_dataset.output


def test_body_check_is_told_and_kept(performer_dataset):
    found = json.loads((performer_dataset.folder / "meta.json").read_text())["body_check"]
    assert found["plate"] == {"verdict": "ok", "why": ""} and found["camera"]["value"] < 0.1
    wrong = {name for name in found if found[name]["verdict"] != "ok"}
    assert wrong == set() and "Body check" in performer_dataset.output


def test_room_of_a_camera_that_moves_is_seen_to_move(tmp_path, performer_dataset, pictures, arrays):
    larger = [cv2.resize(image, (SIZE + 24, SIZE + 24)) for image in pictures[:41:2]]
    at = [round(12 + 12 * np.sin(0.5 * i)) for i in range(21)]
    film = [image[12:-12, x : x + SIZE] for image, x in zip(larger, at, strict=True)]
    points = arrays["landmarks"][:41:2] * np.float32((SIZE + 24) / SIZE)
    points = points - np.float32([[[x, 12, 0]] for x in at])
    video = encode(tmp_path / "clip.mp4", film, sound=False)
    faces = Faces(points, np.zeros((21, 1, 1), np.uint8), np.ones((5, 3, 3)), None, 1)
    material = Material([Film(video, probe(video))], [faces], [[Part(0, 21)]], None)
    room = write_frames(tmp_path, material, None).room
    true = np.std([at[i] for i in (0, 10, 20)]) / SIZE
    assert room.camera == pytest.approx(true, rel=0.1) and true > 0.01
    assert room.elsewhere == room.others == 0


# --- clips nobody can use -----------------------------------------------------------------------


def encode(path: Path, images, stamps=None, rate=25, matrix=None, sound=True) -> Path:
    """Write pictures at given times (90 kHz ticks), stored as they are, with a hum as sound."""
    stamps = np.arange(len(images)) * 90000 / float(rate) if stamps is None else stamps
    with av.open(str(path.resolve()), "w") as out:
        stream = out.add_stream("libx264", rate=rate, options={"preset": "ultrafast", "crf": "14"})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 90000)
        if matrix is not None:
            stream.set_display_matrix(matrix)
        hum = out.add_stream("aac", rate=16000, layout="mono") if sound else None
        for image, stamp in zip(images, stamps, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")
            frame.pts, frame.time_base = round(stamp), Fraction(1, 90000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        for k in range(round(stamps[-1] / 90000 * 16000 / 1024) if sound else 0):
            wave = 0.2 * np.sin(np.arange(k * 1024, (k + 1) * 1024) * 0.1)
            chunk = av.AudioFrame.from_ndarray(wave[None].astype(np.float32), "fltp", "mono")
            chunk.sample_rate, chunk.pts, chunk.time_base = 16000, k * 1024, Fraction(1, 16000)
            out.mux(hum.encode(chunk))
        if sound:
            out.mux(hum.encode(None))
    return path


def blank(image: np.ndarray) -> np.ndarray:
    return np.full_like(image, 128)


def cut_short(path: Path, source: Path) -> None:
    data = source.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def make_bad_clip(kind: str, path: Path, film: Path, pictures: list[np.ndarray]) -> Path:
    some = pictures[:30]
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut short":
        cut_short(path, film)
    elif kind == "text":
        path.write_text("this is not a video\n" * 50)
    elif kind == "cut short, no index":
        path = path.with_suffix(".mkv")
        cut_short(path, encode(path.with_name("whole.mkv"), pictures[:50]))
        path.with_name("whole.mkv").unlink()
    elif kind == "no sound":
        encode(path, some, sound=False)
    elif kind == "no face":
        encode(path, [blank(image) for image in some])
    elif kind == "face away":
        away = {*range(5, 20), *range(28, 40)}
        encode(path, [blank(p) if i in away else p for i, p in enumerate(pictures[:48])])
    elif kind == "too short":
        encode(path, pictures[:20])
    return path


BAD_CLIPS = {
    "missing": "no such file",
    "empty": "0 bytes",
    "cut short": "cut short",
    "text": "cannot be read as a video",
    "cut short, no index": "cut short",
    "no sound": "no sound track",
    "no face": "no face in any of 30 frames",
    "face away": "0.0-1.9 s (no face); keep the face in view",
    "too short": "20 frames at 25 fps, at least 25",
}


@pytest.mark.parametrize("kind", BAD_CLIPS)
def test_unusable_clip_is_one_line_and_leaves_nothing(
    tmp_path, capsys, performer_dataset, pictures, kind
):
    name = "ein Clip mit Ümlaut 顔.mp4"
    video = make_bad_clip(kind, tmp_path / name, performer_dataset.video, pictures)
    before = sorted(tmp_path.iterdir())
    assert main(["preprocess", str(video), str(tmp_path / "data" / "set")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith(f"egs-jax: {video}: ") and BAD_CLIPS[kind] in lines[-1]
    assert not any("Traceback" in line for line in lines)
    assert sorted(tmp_path.iterdir()) == before


def test_full_disk_is_told_before_anything_is_written(tmp_path, monkeypatch, performer_dataset):
    tight = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: tight)
    with pytest.raises(InputError, match="takes 0.0 GB, 0.0 GB are free; make room"):
        preprocess(performer_dataset.video, tmp_path / "set", max_seconds=2.0)
    assert not list(tmp_path.iterdir())


def test_disk_that_fills_up_or_fails_leaves_nothing(tmp_path, monkeypatch, performer_dataset):
    """Only where it is full, room is asked for."""
    fill = "egs_jax.preprocess.pipeline._fill"
    run = lambda: preprocess(
        performer_dataset.video, tmp_path / "set", max_seconds=1.2, audio_features="mel"
    )
    for number, end in ((errno.ENOSPC, "; make room"), (errno.EROFS, "")):

        def fail(work, *_, number=number):
            (work / "frames.zip").touch()
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fill, fail)
        with pytest.raises(OSError) as failed:
            run()
        cause = f"[Errno {number}] {os.strerror(number)}"
        told = f"{tmp_path / 'set'}: cannot make the dataset ({cause}){end}"
        assert str(failed.value) == told and not list(tmp_path.iterdir())

    def mistake(*_):
        raise TypeError("a fault of the program")

    monkeypatch.setattr(fill, mistake)
    with pytest.raises(TypeError, match="a fault of the program"):
        run()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["foreign", "dataset and more", "a file", "under a file"])
def test_existing_foreign_folder_is_refused_untouched(tmp_path, performer_dataset, kind):
    target = tmp_path / "set"
    if kind in ("a file", "under a file"):
        target.write_text("mine")
    else:
        target.mkdir()
        (target / "photo.jpg").write_bytes(b"mine")
        if kind == "dataset and more":
            (target / "meta.json").write_text("{}")
    before = sorted(p.name for p in tmp_path.rglob("*"))
    asked = target / "set" if kind == "under a file" else target
    with pytest.raises(InputError, match="another"):
        preprocess(performer_dataset.video, asked, max_seconds=1.2, audio_features="mel")
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"audio_features": "wav2vec"}, "choose one of whisper, whisper-base, mel"),
        ({"audio_features": "mel", "look_ahead": 0.1}, "mel features need .* of sound after"),
        ({"val_seconds": 60.0}, "hold out less"),
        ({"face_parser": "no such parser.tflite"}, "no such parser.tflite"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, performer_dataset, arguments, message):
    with pytest.raises(InputError, match=message):
        preprocess(performer_dataset.video, tmp_path / "set", **({"max_seconds": 1.2} | arguments))
    assert not list(tmp_path.iterdir())


def test_what_heard_the_speech_is_named():
    others = models_used("mel", None)
    assert models_used("imported", None) == others
    for kind, asset in (("whisper", "whisper_tiny_en"), ("whisper-base", "whisper_base")):
        assert models_used(kind, None) == others | {asset: ASSETS[asset].sha256}


# --- clips that must work -----------------------------------------------------------------------


def stage(image: np.ndarray) -> np.ndarray:
    """The performer in an upright 540x960 picture below a smaller one."""
    room = np.full((960, 540, 3), (90, 110, 120), np.uint8)
    room[500:900, 30:430] = cv2.resize(image, (400, 400), interpolation=cv2.INTER_CUBIC)
    room[150:430, 200:480] = cv2.resize(image[:, ::-1], (280, 280))
    return room


@pytest.mark.parametrize("away", [MAX_GAP, MAX_GAP + 1])
def test_bystander_never_stands_in_for_the_largest_face(tmp_path, pictures, capsys, away):
    scenes = [stage(image) for image in pictures[:40]]
    for scene in scenes[15 : 15 + away]:
        scene[500:] = 128  # the large one is gone, the small one stays
    video = encode(tmp_path / "clip.mp4", scenes)
    film = Film(video, probe(video))
    faces = find_faces(film, read_audio(video), FaceLandmarker())
    assert np.flatnonzero(~faces.valid).tolist() == list(range(15, 15 + away))
    if away > MAX_GAP:
        with pytest.raises(InputError, match="0.0 s of one person's face are left"):
            choose_all([film], [faces])
        return
    assert choose_all([film], [faces]) == [[(0, 40)]]
    middle = bridge_gaps(faces.landmarks, faces.valid)[..., 1].mean(1)
    assert middle.min() > 500 and np.ptp(middle) < 20  # rows of the large face, also when bridged
    assert "2 faces in the picture (first at 0 s, 2 of 2 looks)" in capsys.readouterr().out


ONE = 1 << 16
PORTRAIT = (0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30)  # what a phone held upright writes


def test_phone_clip_with_gap_and_two_faces(
    tmp_path, monkeypatch, capsys, performer_dataset, pictures
):
    """Sideways pixels, varying rate, a gap of 0.4 s, a bystander, and a name like an option."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    ticks = np.concatenate([[0], np.cumsum(rng.choice([1500, 3000, 6000], 49))])
    truth = np.rint(ticks / 3600).astype(int)  # frame of the film that each picture shows
    gap = (ticks >= 14.5 * 3600) & (ticks <= 22.5 * 3600)
    upright = [stage(pictures[k]) for k in truth]
    upright = [blank(image) if away else image for image, away in zip(upright, gap, strict=True)]
    name = Path("-meine Aufnahme 顔.mp4")
    encode(name, [np.rot90(image) for image in upright], ticks, rate=30, matrix=PORTRAIT)
    (tmp_path / "-d").mkdir()
    (tmp_path / "-d" / "meta.json").write_text("{}")  # a dataset that is there is replaced
    assert (
        main(["preprocess", "--size", "96", "--audio-features", "mel", "--", name.name, "-d"]) == 0
    )
    printed = capsys.readouterr().out
    dataset = Dataset.open(tmp_path / "-d")
    count = dataset.num_frames
    assert abs(count - ticks[-1] / 3600) <= 2 and (dataset.width, dataset.height) == (96, 96)
    assert "2 faces in the picture" in printed and "the largest is followed" in printed
    missing = count - dataset.meta["face_frames"]
    assert 5 <= missing <= MAX_GAP
    crop = dataset.meta["source"]["crop"]
    assert crop["side"] <= 540 and crop["top"] > 350
    scale = 96 / crop["side"]
    corner = np.array([30 - crop["left"], 500 - crop["top"]])
    face = performer_dataset.truth.landmarks[:count, :, :2] * (400 / SIZE) + corner
    distance = np.linalg.norm(
        dataset.arrays["landmarks"][:, :468, :2].mean(1) - scale * face.mean(1), axis=-1
    )
    assert distance.max() < 3  # pixels of 96: the large one, also across the gap
    np.testing.assert_allclose(dataset.intrinsics[:2, 2], 48)
    place = film_of(dataset)  # where an avatar of it is put back
    whole = list(read_frames(name))[place.start + 7]
    square = Crop(place.left, place.top, place.side, 96).image(whole)
    np.testing.assert_array_equal(square, dataset.frame(dataset.playback[0] + 7))


def resampled(path: Path, pictures: list[np.ndarray], rate: Fraction) -> Path:
    """1.2 s of the film at another rate."""
    shown = np.rint(np.arange(round(1.2 * rate)) * 25 / float(rate)).astype(int)
    return encode(path, [pictures[k] for k in shown], rate=rate)


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(30), Fraction(60)], ids=str)
def test_other_rates_become_25_per_second(tmp_path, performer_dataset, pictures, rate):
    video = resampled(tmp_path / "clip.mp4", pictures, rate)
    faces = find_faces(Film(video, probe(video)), read_audio(video), FaceLandmarker())
    assert faces.landmarks.shape == (30, 478, 3) and faces.valid.all()
    assert faces.check.report()["frame rate"].value == pytest.approx(float(rate), 0.01)
    truth = performer_dataset.truth.mouth_opening[:30]
    assert correlation(mouth_opening(faces.landmarks), truth) > 0.8


@pytest.mark.slow  # the tracker alone repeats in test_tracking
def test_repeats_bit_for_bit_and_replaces_a_dataset(tmp_path, pictures):
    video = resampled(tmp_path / "clip.mp4", pictures, Fraction(24000, 1001))
    first, second = tmp_path / "one", tmp_path / "two"
    preprocess(video, first, audio_features="mel", size=64)
    dataset = Dataset.open(first)
    assert dataset.num_frames == 30 and dataset.arrays["audio_features"].shape == (60, 80)
    shutil.copytree(first, second)
    (second / "meta.json").write_text("{}")
    preprocess(video, second, audio_features="mel", size=64)
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.mp4", "one", "two"]


# --- parts ---------------------------------------------------------------------------------------


def test_gaps_are_bridged():
    valid = np.array([0, 1, 1, 0, 0, 1, 0], bool)
    line = np.arange(7.0)[:, None, None] * np.ones((1, 478, 3))
    broken = np.where(valid[:, None, None], line, np.nan).astype(np.float32)
    bridged = bridge_gaps(broken, valid)
    np.testing.assert_allclose(bridged[:, 5, 1], [1, 1, 2, 3, 4, 5, 5])


@pytest.mark.parametrize("where", [(200, 300), (1700, 300), (960, 900)])
def test_crop_holds_the_head_within_the_picture(where):
    rng = np.random.default_rng(0)
    face = np.concatenate([rng.uniform(-100, 100, (478, 2)) + where, np.zeros((478, 1))], -1)
    landmarks = np.stack([face + [shift, 0, 0] for shift in (-20, 0, 20)])
    (crop,) = choose_crops([landmarks], [(1920, 1080)], None)
    assert crop.size == min(512, crop.side) and crop.size % 2 == 0
    assert 0 <= crop.left <= 1920 - crop.side and 0 <= crop.top <= 1080 - crop.side
    inside = crop.landmarks(landmarks)
    assert inside[..., :2].min() > 0 and inside[..., :2].max() < crop.size
    image = np.zeros((1080, 1920, 3), np.uint8)
    cv2.circle(image, where, 12, (255, 255, 255), -1)
    rows, cols = np.nonzero(crop.image(image)[..., 0] > 127)
    center = crop.landmarks(np.array([[*where, 0.0]]))[0]
    np.testing.assert_allclose([cols.mean(), rows.mean()], center[:2], atol=1.0)


def test_square_clip_is_not_cropped(pictures):
    landmarks = np.full((2, 478, 3), 90.0)
    (crop,) = choose_crops([landmarks], [(SIZE, SIZE)], None)
    assert (crop.left, crop.top, crop.side, crop.size) == (0, 0, SIZE, SIZE)
    assert np.array_equal(crop.image(pictures[0]), pictures[0])


def test_late_sound_is_moved_and_natural_lag_kept():
    samples = np.arange(16000, dtype=np.float32)
    for lag in (None, 1.0, 2.0, 3.0):
        kept, shift = align_sound(samples, lag)
        assert kept is samples and shift == 0
    moved, shift = align_sound(samples, 6.0)
    assert shift == 4 and moved[0] == 4 * 640
    moved, shift = align_sound(samples, -3.0)
    assert shift == -5 and not moved[: 5 * 640].any() and moved[5 * 640 + 1] == 1
    late, early = moved_sounds(["a.mp4", "b.mp4", "c.mp4", "d.mp4"], [-5, 0, 4, 4])
    assert "a.mp4: the sound comes 3 frames before the lips, 2 after are natural; " in late
    assert "2 films: the sound comes 6 frames after the lips" in early
    assert late.endswith("moved 5 later") and early.endswith("moved 4 earlier")


def test_blink_is_zero_open_and_one_shut():
    openness = np.full(100, 0.3)
    openness[40:45] = [0.2, 0.05, 0.02, 0.1, 0.25]
    blink = blink_signal(openness)
    assert blink.max() == 1 and blink.argmax() == 42 and not blink[:40].any()
    assert blink_signal(np.full(50, 0.3)).max() == 0  # a clip without a blink


def test_split_is_the_papers():
    assert split_at(1100, None) == 1000 and split_at(1100, 8.0) == 900
    with pytest.raises(InputError, match="hold out less"):
        split_at(100, 4.0)
