"""Another program's dataset becomes ours: the same cameras, split, masks, lids and features."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import imageio.v3 as imageio
import numpy as np
import pytest
from adnerf_dataset import CV, torch_pickle, torch_zip, transform_matrix, write_split
from scipy.spatial.transform import Rotation

from egs_jax.__main__ import main
from egs_jax.adnerf.head_placement import place_head
from egs_jax.adnerf.imported import import_dataset
from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.scene import scene_of
from egs_jax.config import Config
from egs_jax.data.dataset import Dataset
from egs_jax.evaluation import signals
from egs_jax.face.mesh import canonical_face_mesh
from egs_jax.media.audio_file import read_audio
from egs_jax.preprocess.tracking import HeadTrack, initial_shape, reprojection_rms
from egs_jax.runtime.errors import InputError

FIRST, START, TRAIN, VAL = 30, 7, 24, 8  # of the performer's frames; its number there; lengths
GONE = START + TRAIN + 3  # a held-out frame without a picture
UNPARSED, UNPAINTED = 5, 6  # frames without masks, or without a torso
SCALE = 1.4
TURN = CV @ Rotation.from_euler("xyz", (0.1, -0.05, 0.02)).as_matrix()
SHIFT = np.array([0.02, 0.3, -0.4])


def tracked(viewmats):
    """Rotations and translations of the tracker, of cameras in our world."""
    turns = viewmats[:, :3, :3].astype(np.float64) @ TURN.T
    shifts = SCALE * viewmats[:, :3, 3] - turns @ SHIFT
    return CV @ turns, shifts @ CV


@pytest.fixture(scope="module")
def theirs(performer_dataset, tmp_path_factory):
    """A piece of the performer's film as AD-NeRF keeps it, with everything that may be there."""
    data = Dataset.open(performer_dataset.folder)
    folder = tmp_path_factory.mktemp("adnerf") / "her"
    for name in ("ori_imgs", "parsing", "torso_imgs"):
        (folder / name).mkdir(parents=True)
    frames, numbers = np.arange(FIRST, FIRST + TRAIN + VAL), START + np.arange(TRAIN + VAL)
    for i, number in zip(frames.tolist(), numbers.tolist(), strict=True):
        frame, head, person = data.frame(i), data.head_mask(i), data.person_mask(i)
        colors = np.full_like(frame, 255)
        colors[person], colors[head] = (255, 0, 0), (0, 0, 255)
        torso = np.dstack([frame, (person & ~head) * np.uint8(255)])
        imageio.imwrite(folder / "ori_imgs" / f"{number}.png", frame)
        imageio.imwrite(folder / "parsing" / f"{number}.png", colors)
        imageio.imwrite(folder / "torso_imgs" / f"{number}.png", torso)
    (folder / "ori_imgs" / f"{GONE}.png").unlink()
    (folder / "parsing" / f"{START + UNPARSED}.png").unlink()
    (folder / "torso_imgs" / f"{START + UNPAINTED}.png").unlink()
    imageio.imwrite(folder / "bc.jpg", data.plate, quality=95)
    K = data.arrays["K"]
    told = {"focal_len": float(K[0, 0]), "cx": float(K[0, 2]), "cy": float(K[1, 2])}
    turns, shifts = tracked(data.arrays["viewmats"][frames])
    matrices = [transform_matrix(*pose) for pose in zip(turns, shifts, strict=True)]
    write_split(folder, "train", numbers[:TRAIN], matrices[:TRAIN], **told)
    write_split(folder, "val", numbers[TRAIN:], matrices[TRAIN:], **told)
    euler = Rotation.from_matrix(turns).as_euler("XYZ") * [1, 1, -1]
    before = [np.zeros((START, 3))]
    rows = lambda values: np.float32(np.concatenate([*before, values]))
    params = {"euler": rows(euler), "trans": rows(shifts), "focal": np.float32([K[0, 0]])}
    torch_zip(folder / "track_params.pt", *torch_pickle(params))
    shut = np.linspace(0, 4, START + TRAIN + VAL)
    table = "".join(f"{i + 1}, {value:.3f}\n" for i, value in enumerate(shut))
    (folder / "au.csv").write_text(f"frame, AU45_r\n{table}")
    shutil.copy(performer_dataset.folder / "audio.wav", folder / "aud.wav")
    pairs = np.random.default_rng(0).normal(size=(START + TRAIN + VAL, 2, 6))
    np.save(folder / "aud_hu.npy", pairs.astype(np.float32))
    return SimpleNamespace(folder=folder, data=data, frames=frames, shut=shut, pairs=pairs)


@pytest.fixture(scope="module")
def imported(theirs, tmp_path_factory):
    """That folder imported by the command line, with its own features."""
    out = tmp_path_factory.mktemp("imported") / "dataset"
    command = ["import", str(theirs.folder), str(out), "--audio-features", "hubert"]
    assert main(command) == 0
    return out


def similarity_between(ours, others):
    """Largest error of the similarity that takes `ours` to `others`, of the distance."""
    turn = ours[0, :3, :3].T @ others[0, :3, :3]
    apart = np.abs(ours[:, :3, :3] @ turn - others[:, :3, :3]).max()
    # others' translation = scale * ours + R shift
    columns = np.concatenate([ours[:, :3, 3, None], ours[:, :3, :3]], axis=2).reshape(-1, 4)
    wanted = others[:, :3, 3].reshape(-1)
    solved, *_ = np.linalg.lstsq(columns, wanted, rcond=None)
    return max(apart, np.abs(columns @ solved - wanted).max() / wanted.max()), solved[0]


def test_cameras_are_theirs_in_our_units(theirs, imported):
    data = Dataset.open(imported)
    given = np.delete(np.arange(len(theirs.frames)), GONE - START)
    source = theirs.data.arrays["viewmats"][theirs.frames]
    off, scale = similarity_between(
        data.arrays["viewmats"][given].astype(float), source[given].astype(float)
    )
    assert off < 1e-4 and 0.95 < scale < 1.05  # they were 1.4 of our units
    np.testing.assert_allclose(data.arrays["K"], theirs.data.arrays["K"])
    track = HeadTrack(data.arrays["viewmats"], data.arrays["K"], data.arrays["mean_shape"])
    valid = np.isin(np.arange(data.num_frames), given)
    assert reprojection_rms(track, data.arrays["landmarks"], valid) < 1.5
    apart = data.arrays["mean_shape"] - theirs.data.arrays["mean_shape"]
    assert np.sqrt(np.square(apart).sum(-1).mean()) < 0.06


def test_split_masks_plate_and_lids_are_theirs(theirs, imported):
    data, head = Dataset.open(imported), Dataset.open(imported, body="head")
    assert data.splits == {"train": (0, TRAIN), "val": (TRAIN, TRAIN + VAL)}
    assert data.meta["left_out"] == [GONE - START]
    assert data.frames_of("val").tolist() == [i for i in range(24, 32) if i != GONE - START]
    for i in (0, 11, TRAIN + VAL - 1):
        frame, mask = theirs.data.frame(theirs.frames[i]), theirs.data.head_mask(theirs.frames[i])
        np.testing.assert_array_equal(data.frame(i), frame)
        np.testing.assert_array_equal(data.head_mask(i), mask)
        person = theirs.data.person_mask(theirs.frames[i]) | mask
        np.testing.assert_array_equal(data.person_mask(i), person)
        behind = np.where((person & ~mask)[..., None], frame, data.plate)
        np.testing.assert_array_equal(head.background(i), behind)
        np.testing.assert_array_equal(head.target(i), np.where(mask[..., None], frame, behind))
    np.testing.assert_array_equal(data.plate, imageio.imread(theirs.folder / "bc.jpg"))
    lids = np.clip(theirs.shut[START:], 0, 2) / 2
    np.testing.assert_allclose(data.arrays["blink"], lids, atol=1e-3)


def test_single_pictures_that_are_missing_are_made(theirs, imported):
    head = Dataset.open(imported, body="head")
    told = head.meta["imported"]
    assert (told["masks"], told["plate"]) == ("parsing, some made", "bc.jpg")
    assert told["backgrounds"] == "torso_imgs, some painted"
    mask = theirs.data.head_mask(theirs.frames[UNPARSED])
    assert 0 < (head.head_mask(UNPARSED) != mask).mean() < 0.02
    painted, whole = head.background(UNPAINTED), head.frame(UNPAINTED)
    covered = head.head_mask(UNPAINTED)
    assert (painted[covered] != whole[covered]).any(-1).mean() > 0.9
    assert (painted[~covered] == whole[~covered]).all(-1).mean() > 0.9


def test_sound_and_features_are_theirs(theirs, imported):
    data = Dataset.open(imported)
    assert data.audio_dim == 6 and data.meta["audio_features"]["name"] == "hubert"
    np.testing.assert_allclose(
        data.arrays["audio_features"], theirs.pairs[START:].reshape(-1, 6), rtol=1e-6
    )
    sound = read_audio(theirs.folder / "aud.wav")[START * 640 : (START + TRAIN + VAL) * 640]
    np.testing.assert_array_equal(read_audio(imported / "audio.wav"), sound)
    with pytest.raises(InputError, match=r"another program's \(hubert\)"):
        _ = scene_of(data).feature_kind


def test_silence_of_foreign_features_is_not_known(imported, monkeypatch):
    data, heard = Dataset.open(imported), []

    def openings(avatar, landmarker, frames, sound, tick):
        heard.append(sound)
        return np.linspace(0, 1, len(frames))

    monkeypatch.setattr(signals, "_openings", openings)
    frames = data.frames_of("val")
    points = data.arrays["landmarks"][frames]
    measured = SimpleNamespace(frames=frames, landmarks=points, true_landmarks=points)
    figures = signals.mouth_figures(Avatar(Config(), {}, None, 0, data, 0), measured, None)
    assert figures["mouth_silence_percentile"].value is None
    assert "another program's" in figures["mouth_silence_percentile"].note
    assert all(sound.ndim == 1 for sound in heard)  # frames, never windows of silence


def test_a_bare_folder_is_enough(theirs, tmp_path, capsys):
    """Without pt, parsing, torso, room and lids; all are made here, and said."""
    folder, out = tmp_path / "bare", tmp_path / "dataset"
    shutil.copytree(theirs.folder / "ori_imgs", folder / "gt_imgs")
    for name in ("transforms_train.json", "transforms_val.json"):
        told = json.loads((theirs.folder / name).read_text())
        told["frames"] = told["frames"][-13:] if "train" in name else told["frames"][:3]
        (folder / name).write_text(json.dumps(told))
    shutil.copy(theirs.folder / "aud.wav", folder / "bare.wav")
    import_dataset(folder, out, audio_features="mel")
    printed = capsys.readouterr().out
    for said in ("no ori_imgs", "no parsing", "no bc.jpg", "no torso_imgs",
                 "no au.csv"):  # fmt: skip
        assert said in printed
    data = Dataset.open(out)
    assert data.splits == {"train": (0, 13), "val": (13, 16)} and data.audio_dim == 80
    i = theirs.frames[TRAIN - 13]
    assert (data.head_mask(0) != theirs.data.head_mask(i)).mean() < 0.02
    assert not list(tmp_path.glob(".dataset*"))


def test_what_is_at_fault_leaves_nothing_behind(theirs, tmp_path, capsys):
    folder = tmp_path / "her"
    shutil.copytree(theirs.folder, folder)
    first = sorted((folder / "parsing").iterdir())[0]
    picture = imageio.imread(first)
    imageio.imwrite(first, picture[:, :-2])
    command = ["import", str(folder), str(tmp_path / "out"), "--audio-features", "hubert"]
    assert main(command) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("egs-jax: ") and str(first) in line
    assert {path.name for path in tmp_path.iterdir()} == {"her"}
    assert main(["import", str(folder), str(folder)]) == 2  # not into itself
    assert "is not only a dataset" in capsys.readouterr().err


def test_placement_refuses_cameras_of_another_film(theirs):
    viewmats = theirs.data.arrays["viewmats"][theirs.frames].astype(np.float64)
    landmarks = np.asarray(theirs.data.arrays["landmarks"][theirs.frames])
    canonical, K = canonical_face_mesh().vertices, theirs.data.arrays["K"]
    valid = np.ones(len(viewmats), bool)
    place = lambda poses: place_head(poses, K, landmarks, valid, canonical)
    assert np.ptp(place(viewmats).mean_shape[:, 1]) == pytest.approx(
        np.ptp(initial_shape(canonical)[:, 1]), rel=0.1
    )
    jumping = viewmats.copy()
    jumping[::2, 0, 3] += 1.5
    with pytest.raises(InputError, match="px beside the faces"):
        place(jumping)


def test_masks_of_other_frames_are_refused(theirs, tmp_path):
    folder = tmp_path / "her"
    shutil.copytree(theirs.folder, folder)
    for path in (folder / "parsing").iterdir():
        imageio.imwrite(path, np.ascontiguousarray(imageio.imread(path)[..., ::-1]))  # BGR
    with pytest.raises(InputError, match="not where the faces are"):
        import_dataset(folder, tmp_path / "out", audio_features="hubert")
    assert not Path(tmp_path / "out").exists()
