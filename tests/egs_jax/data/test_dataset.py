"""Batches are functions of (seed, step); folders that do not hold together are refused."""

import dataclasses
import json
import shutil
from pathlib import Path
from unittest import mock

import cv2
import imageio.v3 as imageio
import jax
import numpy as np
import pytest
from helpers import AUDIO_DIM, FOCAL, FRAMES, SIZE, make_dataset, write_pictures

from egs_jax.config import HEARD_FRAMES, Config, LossConfig, ModelConfig, ScheduleConfig
from egs_jax.data import dataset as dataset_module
from egs_jax.data import statistics
from egs_jax.data.dataset import Dataset
from egs_jax.data.folder import FILES, PICTURES
from egs_jax.data.pictures import Pictures
from egs_jax.data.statistics import REST_SHARE
from egs_jax.face.mesh import LEFT_EYE, RIGHT_EYE
from egs_jax.runtime.errors import InputError
from egs_jax.speech.layout import layout_of
from egs_jax.speech.lips import cut_rows, fit_prior
from egs_jax.training.frames_on_device import DeviceDataset
from egs_jax.types import Batch

TRAIN = FRAMES - 4


def config_of(
    seed: int = 0, size: int | None = None, body: str = "head", lips: str | None = None, **schedule
) -> Config:  # fmt: skip
    """Four static steps, then deformation; no perceptual term, so that nothing is fetched."""
    settings = {"static_steps": 4, "deform_steps": 100, "batch": 3, "silence_share": 0.0}
    return Config(
        seed=seed, size=size, schedule=ScheduleConfig(**(settings | schedule)),
        model=ModelConfig(body=body, lips=lips), loss=LossConfig(perceptual=0.0),
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("painted") / "data")


@pytest.fixture(scope="module")
def dataset(folder) -> Dataset:
    return Dataset.open(folder, body="head")


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    """A folder that a test may damage."""
    return shutil.copytree(folder, tmp_path / "data")


def drawn(dataset: Dataset, config: Config, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames of a step, and which of them hear silence."""
    seen = dataset.drawn_frames(config, step)
    return seen.frames, seen.silent


def equal(a: Batch, b: Batch) -> bool:
    same = jax.tree.map(lambda x, y: bool(np.array_equal(x, y)), a, b)
    return all(jax.tree.leaves(same)) and a.stage == b.stage


def test_frames_are_as_painted(dataset):
    assert (dataset.num_frames, dataset.fps, dataset.width, dataset.height) == (24, 25.0, 48, 48)
    assert dataset.splits == {"train": (0, 20), "val": (20, 24)} and dataset.audio_dim == AUDIO_DIM
    frame, background, mask = dataset.frame(3), dataset.background(3), dataset.head_mask(3)
    assert frame.dtype == background.dtype == np.uint8 and mask.dtype == bool
    assert mask[24, 24] and not mask[0, 0] and mask.mean() == pytest.approx(0.39, abs=0.03)
    assert np.array_equal(frame[~mask], background[~mask])
    assert np.array_equal(dataset.target(3), frame)
    camera = dataset.camera(3)
    assert (camera.width, camera.height, float(camera.K[0, 0])) == (SIZE, SIZE, FOCAL)
    with pytest.raises(IndexError, match="frame 24: the dataset has frames 0 to 23"):
        dataset.frame(24)
    with pytest.raises(IndexError):
        dataset.camera(-1)


def test_arrays_and_pictures_stay_on_disk(dataset):
    for name in ("audio_features", "landmarks"):
        assert (
            isinstance(dataset.arrays[name], np.memmap) and not dataset.arrays[name].flags.writeable
        )
    assert set(dataset.pictures) == {"frames", "head_masks", "person_masks"}
    assert all(isinstance(pictures, Pictures) for pictures in dataset.pictures.values())


def test_a_person_is_the_whole_frame_over_the_plate(folder):
    person = Dataset.open(folder)
    assert np.array_equal(person.target(3), person.frame(3))
    assert person.background(3) is person.background(7)
    assert np.array_equal(person.mask(3), person.pictures["person_masks"][3])
    config = config_of(size=32, body="person")
    batch, (frames, _) = person.batch(config, 4), drawn(person, config, 4)
    assert batch.masks.shape == (3, 32, 32) and batch.drive.backgrounds.shape == (3, 32, 32, 3)
    assert np.array_equal(batch.drive.backgrounds[2], person.view(32, "person").plate)
    assert np.array_equal(batch.drive.bodies, person.arrays["body_viewmats"][frames])
    assert np.array_equal(person.drive(frames, 8).bodies, batch.drive.bodies)
    head = Dataset.open(folder, body="head")
    assert head.drive(frames, 8).bodies is None is head.batch(config_of(), 4).drive.bodies
    asked = person.batch(config_of(), 4)  # the config says what it trains
    assert asked.drive.bodies is None and equal(asked, head.batch(config_of(), 4))


def test_frames_left_out_are_never_drawn(copy):
    meta = json.loads((copy / "meta.json").read_text())
    (copy / "meta.json").write_text(json.dumps(meta | {"left_out": [0, 1, 2, 7]}))
    dataset, config = Dataset.open(copy), config_of(silence_share=0.3)
    kept = set(range(3, TRAIN)) - {7}
    assert set(dataset.train_frames) == kept
    (copy / "meta.json").write_text(json.dumps(meta | {"left_out": [0, FRAMES - 2]}))
    held_out = Dataset.open(copy).frames_of("val")
    assert held_out.tolist() == [*range(TRAIN, FRAMES - 2), FRAMES - 1]
    seen = [dataset.drawn_frames(config, step) for step in range(4, 60)]
    assert set(np.concatenate([d.frames for d in seen])) == kept
    assert set(np.concatenate([d.lips for d in seen])) <= kept


def test_open_mouths_where_nobody_is_heard_are_not_trained_on(copy):
    sound, hush = (np.load(copy / f"{n}_features.npy") for n in ("audio", "silence"))
    opening = np.load(copy / "mouth_opening.npy")
    opening[:TRAIN] = np.linspace(0.1, 0.2, TRAIN)
    opening[2:6] = [0.19, 0.0, 0.19, 0.19]
    quiet = np.arange(4, 10)  # rows of frames 2 to 4
    sound[quiet] = hush[quiet % len(hush)]
    np.save(copy / "audio_features.npy", sound)
    np.save(copy / "mouth_opening.npy", opening)
    dataset = Dataset.open(copy)
    assert np.setdiff1d(dataset.frames_of("train"), dataset.train_frames).tolist() == [2, 4]
    assert len(dataset.frames_of("val")) == FRAMES - TRAIN


def test_the_background_is_painted_over_the_plate(dataset):
    for i in (0, 7):
        assert np.array_equal(dataset.background(i), dataset.arrays["plate"])


@pytest.mark.parametrize("step", [0, 3, 4, 17, 103])
def test_batch_is_a_function_of_seed_and_step(folder, step):
    config = config_of(silence_share=0.4)
    first = Dataset.open(folder).batch(config, step)
    other = Dataset.open(folder)
    other.batch(config, 60)  # what was asked before plays no part
    assert equal(first, other.batch(config, step))
    frames = lambda seed: [drawn(other, config_of(seed), k)[0].tolist() for k in range(40)]
    assert frames(0) == frames(0) and frames(0) != frames(1)


def test_batch_shapes_and_stage(dataset):
    config = config_of()
    static, deform = dataset.batch(config, 3), dataset.batch(config, 4)
    assert (static.stage, deform.stage) == ("static", "deform")
    assert static.targets.shape == (1, SIZE, SIZE, 3) and deform.targets.shape == (3, SIZE, SIZE, 3)
    drive = deform.drive
    assert drive.audio_windows.shape == (3, config.model.window_frames, 16, AUDIO_DIM)
    assert drive.viewmats.shape == (3, 4, 4) and drive.Ks.shape == (3, 3, 3)
    assert drive.eyes.shape == (3,) and drive.backgrounds.shape == deform.targets.shape
    assert deform.masks.shape == (3, SIZE, SIZE) and deform.lips_rects.shape == (3, 4)
    assert not deform.perceptual
    frames, _ = drawn(dataset, config, 4)
    for k, i in enumerate(frames):
        assert np.array_equal(deform.targets[k], dataset.target(i))
        assert np.array_equal(deform.masks[k], dataset.head_mask(i) * np.uint8(255))


@pytest.mark.parametrize("size", [1, 3, 4, 7, 32])
def test_every_epoch_is_a_permutation_of_the_training_frames(dataset, size):
    config = config_of(batch=size, static_steps=0)
    steps = -(-3 * TRAIN // size)
    frames = np.concatenate([drawn(dataset, config, k)[0] for k in range(steps)])
    epochs = [frames[k * TRAIN : (k + 1) * TRAIN].tolist() for k in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(TRAIN))  # no val frame, each train frame once
    assert epochs[0] != epochs[1] and epochs[0] != list(range(TRAIN))


def test_silence_is_paired_with_frames_at_rest_while_deforming(dataset):
    config = config_of(silence_share=0.3, batch=4, deform_steps=400)
    opening = dataset.arrays["mouth_opening"][:TRAIN]
    limit = np.quantile(opening, REST_SHARE)
    assert set(dataset.rest_frames) == set(np.flatnonzero(opening <= limit))
    assert 1 <= len(dataset.rest_frames) <= 4
    share = []
    for step in range(4, 204):
        frames, silent = drawn(dataset, config, step)
        assert np.isin(frames[silent], dataset.rest_frames).all()
        share.append(silent.mean())
    assert np.mean(share) == pytest.approx(0.3, abs=0.05)
    assert not any(drawn(dataset, config, step)[1].any() for step in range(4))
    step = 4 + int(np.flatnonzero(np.array(share) > 0)[0])
    frames, silent = drawn(dataset, config, step)
    batch = dataset.batch(config, step)
    hush = dataset.silence(1, config.model.window_frames)[0]
    own = dataset.audio_windows(frames, config.model.window_frames)
    for k in range(4):
        assert np.array_equal(batch.drive.audio_windows[k], hush if silent[k] else own[k])
        assert np.array_equal(batch.targets[k], dataset.target(frames[k]))


def test_a_share_of_the_deformation_batches_shows_shut_eyes(dataset):
    config = config_of(blink_share=0.3, silence_share=0.2, batch=4, deform_steps=400)
    blinks = np.zeros(FRAMES, np.float32)
    blinks[[5, 6, FRAMES - 1]] = [0.9, 0.5, 1.0]  # the last lies in the val split
    blinking = dataset.view(None, "head")
    blinking.arrays = dataset.arrays | {"blink": blinks}
    assert blinking.blink_frames.tolist() == [5, 6]
    shut, silence = [], []
    for step in range(4, 304):
        frames, silent = drawn(blinking, config, step)
        assert np.isin(frames[silent], dataset.rest_frames).all()
        shut.append(np.isin(frames[~silent], [5, 6]).sum() / 4)
        silence.append(silent.mean())
    by_chance = (1 - 0.3 - 0.2) * 2 / TRAIN
    assert np.mean(shut) == pytest.approx(0.3 + by_chance, abs=0.04)
    assert np.mean(silence) == pytest.approx(0.2, abs=0.04)
    assert dataset.blink_frames.size == 0  # a clip without blinks draws as if there were no share
    without = config_of(blink_share=0.0, silence_share=0.2, batch=4, deform_steps=400)
    for step in range(4, 24):
        pairs = zip(drawn(dataset, config, step), drawn(dataset, without, step), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs)


def test_lips_are_paired_with_the_sound_of_their_frames(dataset):
    shapes = dataset.lip_shapes
    assert shapes.shape == (FRAMES, 2) and shapes.dtype == np.float32
    opening = dataset.arrays["mouth_opening"]
    assert np.corrcoef(shapes[:, 0], opening)[0, 1] > 0.99
    np.testing.assert_allclose(shapes[:TRAIN].mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(shapes[:TRAIN, 0].std(), 1, rtol=1e-4)
    quiet = dataclasses.replace(
        config_of(silence_share=0.3), loss=LossConfig(perceptual=0.0, hearing_noise=0.0)
    )
    batch = dataset.batch(quiet, 9)
    assert batch.entries.shape == (HEARD_FRAMES, 16, AUDIO_DIM) and batch.lip_shapes.shape == (
        HEARD_FRAMES,
        2,
    )
    own, hush = dataset.audio_windows(np.arange(TRAIN), 1)[:, 0], dataset.silence(1, 1)[0, 0]
    silent = 0
    for entry, shape in zip(batch.entries, batch.lip_shapes, strict=True):
        frames = [i for i in range(TRAIN) if np.array_equal(own[i], entry)]
        if np.array_equal(entry, hush):
            silent, frames = silent + 1, dataset.rest_frames
        assert any(np.array_equal(shape, shapes[i]) for i in frames)
    assert 5 <= silent <= 35
    assert np.array_equal(batch.entry_noise, 0 * dataset.sound_spread)
    loud = dataset.batch(config_of(silence_share=0.3), 9)
    assert np.array_equal(loud.entries, batch.entries)
    assert np.array_equal(loud.entry_noise, dataset.sound_spread)
    deaf = dataclasses.replace(quiet, loss=LossConfig(perceptual=0.0, hearing=0.0))
    assert dataset.batch(deaf, 9).entries.shape == (0, 16, AUDIO_DIM)


def test_training_says_lips_between_true_ones_and_what_unseen_sound_tells(dataset):
    """Of frames that hear silence, between the true ones and lips at rest."""
    assert dataset.batch(config_of(lips="learned"), 9).drive.lips is None
    told, shapes = dataset.fitted_lips().told, dataset.lip_shapes
    assert told.shape == (TRAIN, 2) and np.corrcoef(told[:, 0], shapes[:TRAIN, 0])[0, 1] > 0.5
    rest = shapes[dataset.rest_frames].mean(axis=0)
    for share in (0.0, 0.25, 1.0):
        config = config_of(silence_share=0.5, batch=16, lips_truth=share)
        frames, silent = drawn(dataset, config, 9)
        assert 0 < silent.sum() < 16
        want = np.where(silent[:, None], rest, told[frames]) * (1 - share)
        got = dataset.batch(config, 9).drive.lips
        np.testing.assert_allclose(got, want + share * shapes[frames], atol=1e-5)
        device = DeviceDataset(dataset, fits_lips=True).batch(config, 9)
        np.testing.assert_array_equal(device.drive.lips, got)
    view = dataset.view(32, "head")
    assert view.fitted_lips() is dataset.fitted_lips()  # not fitted again
    assert dataset.drive(np.arange(3), 8).lips is None  # nothing but the sound tells them


def test_what_other_people_say_of_lips_may_lie_in_the_folder(copy):
    dataset = Dataset.open(copy)
    rows, shapes = cut_rows(dataset.audio_windows, dataset.train_frames), dataset.lip_shapes
    prior = fit_prior([(rows, shapes[dataset.train_frames])])
    np.save(copy / "lips_prior.npy", prior)
    assert (
        Dataset.open(copy).fitted_lips().prior_share[0] > 0 == dataset.fitted_lips().prior_share[0]
    )
    np.save(copy / "lips_prior.npy", prior[1:])
    refused(copy, "lips_prior.npy", f"[{len(prior)}, 2]")


def test_spread_of_the_sound_is_that_of_the_training_frames(dataset):
    rows = np.asarray(dataset.arrays["audio_features"])
    np.testing.assert_array_equal(dataset.sound_spread, rows[: 2 * TRAIN].std(axis=0))
    assert np.any(dataset.sound_spread != rows.std(axis=0))


def test_silence_ends_with_the_period_of_its_pattern(performer_dataset):
    """Digital silence is not zeros: windows of it follow the frame's place in the pattern."""
    dataset = Dataset.open(performer_dataset.folder)
    windows, pattern = dataset.silence(5, 8), dataset.arrays["silence_features"]
    assert windows.shape == (5, 8, 16, 80)
    np.testing.assert_array_equal(windows[2, 4, 8], pattern[4])  # frame 2's own row is row 4


def test_resized_scales_pictures_and_geometry_alike(dataset):
    half = dataset.view(SIZE // 2, "head")
    assert (half.width, half.height) == (24, 24) and half.frame(0).shape == (24, 24, 3)
    assert (dataset.width, dataset.view(None, "head").width) == (48, 48)
    expected = dataset.frame(0).astype(float).reshape(24, 2, 24, 2, 3).mean((1, 3))
    assert np.abs(half.frame(0) - expected).max() <= 0.5
    assert half.head_mask(0).mean() == pytest.approx(dataset.head_mask(0).mean(), abs=0.03)
    np.testing.assert_allclose(half.landmarks(1), dataset.landmarks(1) / 2)
    np.testing.assert_allclose(half.intrinsics[:2], dataset.intrinsics[:2] / 2)
    np.testing.assert_allclose(half.intrinsics[2], [0, 0, 1])
    assert half.lips_rect(0).tolist() == [12, 18, 9, 15]
    points = dataset.landmarks(0)[np.concatenate([RIGHT_EYE, LEFT_EYE]), :2]
    x, y = points[:, 0], points[:, 1]
    margin = 0.1 * np.ptp(x)
    eyes = [y.min() - margin, y.max() + margin, x.min() - margin, x.max() + margin]
    assert dataset.eyes_rect(0).tolist() == np.rint(eyes).astype(int).tolist()
    assert np.abs(half.eyes_rect(0) * 2 - dataset.eyes_rect(0)).max() <= 1
    larger = dataset.view(96, "head")
    assert larger.background(0).shape == (96, 96, 3) and larger.lips_rect(0).max() <= 96
    assert np.array_equal(larger.frame(0), cv2.resize(dataset.frame(0), (96, 96), interpolation=3))


def test_config_size_resizes_the_batch(dataset):
    batch = dataset.batch(config_of(size=32), 5)
    assert batch.targets.shape == (3, 32, 32, 3) == batch.drive.backgrounds.shape
    np.testing.assert_allclose(batch.drive.Ks[0, 0, 0], FOCAL * 32 / 48)
    assert equal(batch, dataset.view(32, "head").batch(config_of(size=32), 5))


def test_what_a_clip_is_at_another_size_is_computed_once(painted, monkeypatch):
    """The lips' shapes at each size and at the dataset's own, where they are fitted for all."""
    dataset = Dataset.open(painted)
    shaped = mock.Mock(wraps=statistics.lip_shapes)
    fitted = mock.Mock(wraps=dataset_module.fit_lips)
    monkeypatch.setattr(statistics, "lip_shapes", shaped)
    monkeypatch.setattr(dataset_module, "fit_lips", fitted)
    for step in range(3):
        for size in (32, 40):
            batch = dataset.batch(config_of(size=size), step)
            assert batch.targets.shape[1] == size and batch.drive.lips is not None
    assert shaped.call_count == 3 and fitted.call_count == 1
    view = dataset._seen_by(config_of(size=32))
    assert (
        view is dataset._seen_by(config_of(seed=1, size=32)) and view.arrays is dataset.arrays
    )  # nothing is copied


def test_the_perceptual_term_comes_only_when_due(dataset):
    config = Config(schedule=ScheduleConfig(batch=1), loss=LossConfig(perceptual_every=3))
    seen = [dataset.batch(config, step).perceptual for step in range(6)]
    assert seen == [True, False, False, True, False, False]


# --- folders that cannot be used ------------------------------------------------------------------


def refused(folder: Path, *parts: str) -> None:
    with pytest.raises(InputError) as caught:
        Dataset.open(folder)
    message = str(caught.value)
    assert "\n" not in message and "preprocess" in message
    for part in parts:
        assert part in message


def test_folders_without_a_dataset(tmp_path):
    (tmp_path / "file").write_text("")
    refused(tmp_path / "nowhere", "nowhere: not a dataset folder (no meta.json)")
    refused(tmp_path, "not a dataset folder")
    refused(tmp_path / "file", "file")


def test_files_that_may_not_be_read_are_not_called_damaged(copy, monkeypatch):
    def load(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("numpy.load", load)
    with pytest.raises(
        InputError, match=r"audio_features\.npy: may not be read .*; give yourself the right"
    ):
        Dataset.open(copy)


def test_a_plate_that_may_not_be_read_is_not_called_damaged(copy, monkeypatch):
    def read(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("egs_jax.data.folder.imageio.imread", read)
    with pytest.raises(InputError, match=r"plate\.png: may not be read"):
        Dataset.open(copy)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "\xff\xfe", '"text"', "null"])
def test_damaged_description(copy, text):
    (copy / "meta.json").write_bytes(text.encode("latin-1"))
    refused(copy, "meta.json: unreadable")


@pytest.mark.parametrize("version", [0, 1, 3, "2", None])
def test_foreign_version(copy, version):
    meta = json.loads((copy / "meta.json").read_text())
    (copy / "meta.json").write_text(json.dumps(meta | {"format_version": version}))
    refused(copy, f"dataset format {version}, this version reads 2")


@pytest.mark.parametrize(
    "change",
    [
        {"num_frames": None},
        {"width": "wide"},
        {"fps": 0},
        {"splits": {}},
        {"splits": {"train": [0, 20]}},
        {"splits": {"train": [0, 20], "val": [20, 99]}},
        {"splits": {"train": [5, 5], "val": [20, 24]}},
        {"splits": [0, 20]},
        {"audio_features": {}},
    ],
)
def test_description_that_makes_no_sense(copy, change):
    meta = json.loads((copy / "meta.json").read_text())
    (copy / "meta.json").write_text(json.dumps(meta | change))
    refused(copy, "meta.json: damaged")


@pytest.mark.parametrize("key", ["num_frames", "height", "fps", "splits", "audio_features"])
def test_description_that_lacks_a_value(copy, key):
    meta = json.loads((copy / "meta.json").read_text())
    del meta[key]
    (copy / "meta.json").write_text(json.dumps(meta))
    refused(copy, f"meta.json: damaged (no '{key}')")


FLAGS = ("valid.npy", "mouth_seen.npy")  # without a file, every frame has them


OPTIONAL = ("lips_prior.npy",)


@pytest.mark.parametrize(
    "file", sorted(f for f in FILES.values() if f.endswith(".npy") and f not in OPTIONAL)
)
def test_every_array_is_needed_and_checked(copy, file):
    path = copy / file
    array = np.ones(FRAMES, bool) if file in FLAGS else np.load(path)
    if file not in FLAGS:
        path.unlink()
        refused(copy, f"{file}: missing")
    np.save(path, array[..., None])
    refused(copy, file, "expected finite")
    np.save(path, array.astype(np.float64))
    refused(copy, f"{file}: float64", "expected finite")
    if array.dtype.kind == "f":
        array.flat[0] = np.nan
        np.save(path, array)
        refused(copy, file, "expected finite")


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_is_needed_and_checked(copy, name):
    pictures = np.stack([*Pictures(copy / f"{name}.zip")])
    (copy / f"{name}.zip").unlink()
    refused(copy, f"{name}.zip: missing")
    write_pictures(copy, **{name: pictures[:-1]})
    refused(copy, f"{name}.zip", "expected finite", str(list(pictures.shape)))
    write_pictures(copy, **{name: pictures[:, :-1]})
    refused(copy, f"{name}.zip", "expected finite")
    (copy / f"{name}.zip").write_bytes(b"hello")
    refused(copy, f"{name}.zip: damaged")


def test_what_is_behind_the_head_may_be_brought_along(copy):
    brought = np.random.default_rng(0).integers(0, 256, (FRAMES, SIZE, SIZE, 3), np.uint8)
    write_pictures(copy, backgrounds=brought)
    head = Dataset.open(copy, body="head")
    assert np.array_equal(head.background(5), brought[5])
    assert np.array_equal(head.target(5)[~head.head_mask(5)], brought[5][~head.head_mask(5)])
    assert np.array_equal(Dataset.open(copy, body="person").background(5), head.plate)
    write_pictures(copy, backgrounds=brought[:-1])
    refused(copy, "backgrounds.zip", "expected finite")


def test_features_of_another_program_have_the_size_that_they_say(copy):
    meta = json.loads((copy / "meta.json").read_text())
    heard = {"kind": "imported", "dim": AUDIO_DIM, "name": "hubert"}
    (copy / "meta.json").write_text(json.dumps(meta | {"audio_features": heard}))
    assert Dataset.open(copy).audio_dim == AUDIO_DIM
    (copy / "meta.json").write_text(json.dumps(meta | {"audio_features": heard | {"dim": 29}}))
    refused(copy, "audio_features.npy", "29")
    (copy / "meta.json").write_text(json.dumps(meta | {"audio_features": {"kind": "imported"}}))
    refused(copy, "meta.json: damaged (no 'dim')")


def test_the_plate_is_needed_and_checked(copy):
    imageio.imwrite(copy / "plate.png", np.zeros((4, 4, 3), np.uint8))
    refused(copy, "plate.png: uint8 [4, 4, 3]", f"[{SIZE}, {SIZE}, 3]")
    (copy / "plate.png").write_bytes(b"hello")
    refused(copy, "plate.png: damaged")
    (copy / "plate.png").unlink()
    refused(copy, "plate.png: missing")


def test_one_frame_too_few(copy):
    for name in ("landmarks", "blink"):
        whole = np.load(copy / f"{name}.npy")
        np.save(copy / f"{name}.npy", whole[:-1])
        refused(copy, f"{name}.npy", "expected finite", str(list(whole.shape)))
        np.save(copy / f"{name}.npy", whole)
    np.save(copy / "silence_features.npy", np.zeros((10, AUDIO_DIM + 1), np.float32))
    refused(copy, "silence_features.npy", f"[10, {AUDIO_DIM}]")


def test_sound_features_that_no_avatar_can_hear(copy):
    for rows in (0, 7):
        np.save(copy / "silence_features.npy", np.zeros((rows, AUDIO_DIM), np.float32))
        refused(copy, f"silence_features.npy: {rows} rows, expected a multiple of 10")
    meta = json.loads((copy / "meta.json").read_text())
    for kind, width in (("whisper", 384), ("whisper-base", 512)):
        (copy / "meta.json").write_text(json.dumps(meta | {"audio_features": {"kind": kind}}))
        refused(copy, "audio_features.npy", f"{width}]")
    (copy / "meta.json").write_text(json.dumps(meta | {"audio_features": {"kind": "hubert"}}))
    refused(copy, "meta.json: damaged (sound features of kind 'hubert')")


def test_features_of_a_shorter_look_ahead(copy):
    meta = json.loads((copy / "meta.json").read_text())
    assert Dataset.open(copy).layout == layout_of("mel")  # as before there was another one

    def tell(seconds):
        heard = meta["audio_features"] | {"look_ahead": seconds}
        (copy / "meta.json").write_text(json.dumps(meta | {"audio_features": heard}))

    sooner = layout_of("mel", 0.4)
    tell(sooner.look_ahead())
    refused(copy, f"silence_features.npy: 10 rows, expected a multiple of {sooner.hop_rows}")
    hush = np.arange(sooner.hop_rows, dtype=np.float32)[:, None] + np.zeros(AUDIO_DIM, np.float32)
    np.save(copy / "silence_features.npy", hush)
    dataset = Dataset.open(copy)
    assert dataset.layout == sooner
    np.testing.assert_array_equal(dataset.silence(3, 8)[1, 4, :, 0], np.arange(-6, 10) % len(hush))
    for seconds, why in (
        (0.01, "look-ahead 0.01 s: mel features need"), (0.4, "look-ahead of 0.4 s"),
        ("soon", "could not convert"),
    ):  # fmt: skip
        tell(seconds)
        refused(copy, "meta.json: damaged", why)


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "archive"])
def test_damaged_array(copy, damage):
    path = copy / "landmarks.npy"
    data = path.read_bytes()
    if damage == "archive":
        np.savez(copy / "a.npz", x=np.zeros(3))
        data = (copy / "a.npz").read_bytes()
    path.write_bytes(
        {"empty": b"", "cut": data[: len(data) // 2], "text": b"hello"}.get(damage, data)
    )
    refused(copy, "landmarks.npy")


class Bomb:
    """Runs something when unpickled."""

    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


def test_pickles_are_never_loaded(copy, monkeypatch):
    monkeypatch.chdir(copy)
    np.save(copy / "blink.npy", np.array([Bomb()] * FRAMES, object), allow_pickle=True)
    refused(copy, "blink.npy: damaged")
    (copy / "blink.npy").write_bytes(np.array([Bomb()], object).dumps())
    refused(copy, "blink.npy: damaged")
    assert not (copy / "exploded").exists()
