"""Experiments on the mouth, and on where errors lie: pictures and sounds of known answers."""

import dataclasses
import json
from types import SimpleNamespace

import cv2
import jax
import numpy as np
import pytest
from helpers import fill_shapes

from egs_jax.avatar import precomputed as prepared
from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.drive import blinks
from egs_jax.avatar.look import Look
from egs_jax.media.audio_file import write_wav
from egs_jax.media.clock import SAMPLE_RATE
from egs_jax.runtime.assets import file_sha256
from egs_jax.runtime.errors import InputError
from egs_jax.speech.features import silence_features
from experiments import _silences, cross_driven, error_by_place, stillness, tables_mouth
from experiments.stillness import Seen

SIZE = 96


def decibels(sound):
    return 10 * np.log10(np.mean(np.square(np.float64(sound))))


def test_sounds_without_a_voice_have_their_levels_and_are_always_the_same():
    made = {name: make(4.0) for name, make in _silences.SOUNDS.items()}
    assert {len(sound) for sound in made.values()} == {4 * SAMPLE_RATE}
    assert {sound.dtype for sound in made.values()} == {np.dtype(np.float32)}
    assert not made["silence"].any()
    assert decibels(made["room noise"]) == pytest.approx(-60, abs=0.01)
    assert decibels(made["music"]) == pytest.approx(-18, abs=0.01)
    for name, make in _silences.SOUNDS.items():
        np.testing.assert_array_equal(make(4.0), made[name])
    power = np.square(np.abs(np.fft.rfft(made["room noise"])))
    hertz = np.fft.rfftfreq(4 * SAMPLE_RATE, 1 / SAMPLE_RATE)
    assert power[hertz < 1000].mean() > 4 * power[hertz > 5000].mean()


def test_music_has_chords_and_a_beat():
    sound = _silences.music(4.0)
    hertz = np.fft.rfftfreq(SAMPLE_RATE, 1 / SAMPLE_RATE)
    for second, root in ((0, 130.81), (1, 98.0)):  # C, then G
        spectrum = np.abs(np.fft.rfft(sound[second * SAMPLE_RATE : (second + 1) * SAMPLE_RATE]))
        near = lambda f, spectrum=spectrum: spectrum[np.abs(hertz - f) < 3].max()
        assert near(root) > 3 * near(root * 2 ** (1 / 12))
    halves = np.square(sound[: 4 * SAMPLE_RATE]).reshape(-1, SAMPLE_RATE // 20).mean(axis=1)
    attacks, before = halves[10::10], halves[9::10][: len(halves[10::10])]
    assert np.all(attacks > 2 * before)


class Landmarker:
    """Finds the same face in every picture."""

    def landmark(self, image, roi):
        points = np.random.default_rng(0).uniform(8, 40, (478, 3)).astype(np.float32)
        return SimpleNamespace(landmarks=points, score=1.0)


@pytest.fixture
def moved(trained_run):
    """An avatar far from its start, where sound moves its Gaussians, with a mouth."""
    avatar = Avatar.load(trained_run.folder, exact=True)
    shape = np.random.default_rng(0).uniform(-0.5, 0.5, (478, 3)).astype(np.float32)
    hush = silence_features("mel")
    arrays = avatar.dataset.arrays | {"mean_shape": shape, "silence_features": hush}
    avatar.dataset.arrays = arrays
    networks = fill_shapes(avatar.params["networks"])
    networks["deform"] = jax.tree.map(lambda value: 3 * value, networks["deform"])
    params = {**avatar.params, "networks": networks}
    return dataclasses.replace(avatar, params=params, look=Look(poses="still"))


def test_the_gap_is_that_of_the_gaussians_at_the_lips(moved):
    frames = moved.dataset.frames_of("val")
    found = stillness.seen(
        moved, stillness.of_the_clip(moved, frames), len(frames), Landmarker(), "speech"
    )
    assert found.gap.shape == found.opening.shape == found.lids.shape == (len(frames),)
    assert np.ptp(found.gap) > 2e-6  # hardly: these networks are nobody's
    [drive] = stillness.of_the_clip(moved, frames)
    np.testing.assert_array_equal(drive.audio_windows, moved.dataset.audio_windows(frames, 8))
    assert np.ptp(drive.viewmats, axis=0).max() == 0
    move = jax.jit(prepared.move, static_argnums=0)
    means = np.asarray(move(moved.config.program, moved.prepared, drive).means)
    rest = np.asarray(moved.prepared.canonical.means)
    center = lambda k: means[:, np.argsort(
        np.linalg.norm(rest - moved.dataset.arrays["mean_shape"][k], axis=1)
    )[:8]].mean(axis=1)  # fmt: skip
    gaps = [
        np.linalg.norm(center(a) - center(b), axis=1) for a, b in ((82, 87), (13, 14), (312, 317))
    ]
    np.testing.assert_allclose(found.gap, np.mean(gaps, axis=0), rtol=0, atol=1e-6)


def test_under_silence_nothing_moves_but_the_lids(moved):
    """Silence of mel features has no pattern: whatever moves then would be a blink's."""
    count = 12
    silent = list(stillness.of_a_film(moved, np.tile(silence_features("mel"), (4, 1)), count))
    assert sum(len(drive.eyes) for drive in silent) == count
    eyes = np.concatenate([drive.eyes for drive in silent])
    np.testing.assert_array_equal(eyes, blinks(moved.config.seed, np.arange(count)))
    hush = [drive.replace(eyes=0 * drive.eyes) for drive in silent]
    found = stillness.seen(moved, iter(hush), count, Landmarker(), "silence")
    assert np.ptp(found.gap) == 0
    shut = [drive.replace(eyes=np.float32(drive.eyes > -1)) for drive in silent]
    assert stillness.seen(moved, iter(shut), count, Landmarker(), "").gap[0] != found.gap[0]


def test_shares_and_blinks_by_hand(moved):
    line = np.array([0.0, 1.0, 2.0, 3.0, np.nan])
    assert stillness.moves(0.02 * line + 5, line).value == pytest.approx(2.0)
    assert stillness.moves(line, np.full(5, np.nan)).note.startswith("no face found")
    assert (
        stillness.moves(line, np.full(5, 0.3)).note == "the held-out sound does not move the mouth"
    )
    eyes = blinks(moved.config.seed, np.arange(400))
    assert stillness.blinks_of(moved, 0.3 - 0.25 * eyes) == (4, 4)
    assert stillness.blinks_of(moved, 0.3 - 0.05 * eyes) == (4, 0)
    assert stillness.blinks_of(moved, np.where(np.arange(400) < 200, 0.3 - 0.25 * eyes, 0.3)) == (
        4,
        2,
    )
    assert stillness.blinks_of(moved, np.full(400, np.nan)) == (4, 0)
    still = Seen(np.full(3, 0.1), np.array([0.1, 0.2, 0.3]), np.zeros(3))
    figures = stillness.figures_of(still, Seen(line[:4], line[:4], np.zeros(4)))
    assert figures["moves_percent"].value < 1e-9 and figures["seen_r"].value == pytest.approx(1)
    assert figures["percentile"].value == 25


def test_stillness_measures_every_sound(moved, tmp_path, monkeypatch):
    monkeypatch.setattr(stillness, "FaceLandmarker", Landmarker)
    monkeypatch.setattr(stillness.Avatar, "load", lambda run_dir, exact: moved)
    path = stillness.main(["run", "--tiny", "--out", str(tmp_path)])
    cases = json.loads(path.read_text())["cases"]
    assert [case["sound"] for case in cases] == ["silence", "room noise", "music"]
    for case in cases:
        assert case["body"] == "person" and case["seconds"] == 0.32
        assert case["notes"].keys() == {name for name in case if case[name] is None}
        assert case["moves_landmarks_percent"] is None  # this landmark network sees no change
    assert cases[0]["moves_percent"] < 1e-3 and cases[0]["blinks"] == 0
    text = tables_mouth.stillness(cases)
    assert text.count("\n") == 4 and "| silence, 0 s |" in text
    with pytest.raises(InputError, match="--seconds: got 0.0, expected more than 0"):
        stillness.main(["run", "--seconds", "0"])


def picture(seed=0):
    """Soft blobs: what can be aligned."""
    noise = np.random.default_rng(seed).random((SIZE, SIZE, 3)).astype(np.float32)
    soft = cv2.GaussianBlur(noise, (0, 0), 3)
    return (soft - soft.min()) / np.ptp(soft)


HEAD = cv2.circle(np.zeros((SIZE, SIZE), np.uint8), (48, 48), 30, 1, -1) > 0


def psnr(a, b):
    return -10 * np.log10(np.mean(np.square(a - b)[HEAD]))


def test_a_turned_and_shifted_render_is_aligned():
    target = picture()
    turn = cv2.getRotationMatrix2D((48, 48), 2.0, 1.02) + np.array([[0, 0, 1.3], [0, 0, -0.7]])
    image = cv2.warpAffine(target, turn, (SIZE, SIZE), flags=cv2.INTER_CUBIC)
    aligned = error_by_place.best_affine(image, target, HEAD)
    assert psnr(aligned, target) > psnr(image, target) + 10
    other = picture(1)  # of something else: it may not get worse
    assert psnr(error_by_place.best_affine(other, target, HEAD), target) >= psnr(other, target)
    flat = np.full_like(target, 0.5)  # has no correlation with anything
    np.testing.assert_array_equal(error_by_place.best_affine(flat, target, HEAD), flat)


def test_a_smooth_flow_mends_a_bend_and_no_noise():
    target = picture()
    rows, columns = np.indices((SIZE, SIZE), dtype=np.float32)
    bend = 1.5 * np.sin(rows / 12)
    image = cv2.remap(
        target, columns + bend, rows, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    mended = error_by_place.by_smooth_flow(image, target, HEAD, 3.0)
    assert psnr(mended, target) > psnr(image, target) + 6
    noisy = target + np.float32(0.03 * np.random.default_rng(2).standard_normal(target.shape))
    same = error_by_place.by_smooth_flow(np.clip(noisy, 0, 1), target, HEAD, 3.0)
    assert abs(psnr(same, target) - psnr(noisy, target)) < 3


def test_error_of_every_region_and_second(trained_run, tmp_path):
    avatar = Avatar.load(trained_run.folder, exact=True)
    data, frames = avatar.dataset, avatar.dataset.frames_of("val")
    for i in frames:
        masks = error_by_place.regions_of(data, i)
        assert np.all(masks.sum(axis=0) == 1)
        np.testing.assert_array_equal(masks[:3].any(axis=0), data.head_mask(i))
    errors = error_by_place.measured(avatar, frames, moved=True)
    drawn = list(error_by_place.rendered_frames(avatar, frames))
    square = [np.square(np.clip(a, 0, 1) - data.frame(i) / 255).mean(axis=-1)
              for i, a in zip(frames, drawn, strict=True)]  # fmt: skip
    head = [square[t][data.head_mask(i)] for t, i in enumerate(frames)]
    by_hand = [-10 * np.log10(each.mean()) for each in head]
    np.testing.assert_allclose(errors.psnr["psnr_head"], by_hand, rtol=1e-5)
    np.testing.assert_allclose(errors.squared.sum(axis=1), [s.sum() for s in square], rtol=1e-5)
    table = error_by_place.by_region(errors)
    assert sum(row["error_percent"] for row in table.values()) == pytest.approx(100)
    assert sum(row["pixels_percent"] for row in table.values()) == pytest.approx(100)
    lips = [s[error_by_place.regions_of(data, i)[0]] for s, i in zip(square, frames, strict=True)]
    assert table["lips"]["psnr"] == pytest.approx(-10 * np.log10(np.concatenate(lips).mean()))
    later = errors._replace(frames=frames + np.array([0, 0, 25, 75]))
    seconds = error_by_place.by_second(data, later)
    assert seconds == [pytest.approx(np.mean(by_hand[:2])), pytest.approx(by_hand[2]), None,
                       pytest.approx(by_hand[3])]  # fmt: skip
    path = error_by_place.main([str(trained_run.folder), "--tiny", "--out", str(tmp_path)])
    [case] = json.loads(path.read_text())["cases"]
    assert case["psnr_head"] == pytest.approx(np.mean(by_hand), abs=1e-4)
    assert case["psnr_head_aligned"] >= case["psnr_head"] and case["frames"] == 4
    assert (
        case["error_pose_r"] is None and "error_pose_r" in case["notes"]
    )  # poses are all the same
    text = tables_mouth.error_by_place([case, case | {"seed": 1}])
    assert f"| 2 | {case['psnr_head']:.2f} ± 0.00 |" in text
    with pytest.raises(InputError, match="--frames: got 0, expected at least 1"):
        error_by_place.main(["run", "--frames", "0"])


def test_a_clips_own_film_is_no_foreign_speech(tmp_path):
    own, other = tmp_path / "own.wav", tmp_path / "other.wav"
    for path, level in ((own, 0.1), (other, 0.2)):
        write_wav(path, np.full(1600, level, np.float32))
    data = SimpleNamespace(meta={"source": {"sha256": file_sha256(own)}})
    missing = tmp_path / "missing.wav"  # is told of where it is read
    assert cross_driven.foreign([own, other, missing], data) == [other, missing]
    with pytest.raises(InputError, match="own.wav: the clip's own film; name another's"):
        cross_driven.foreign([own], data)
    with pytest.raises(InputError, match="--figure: one file for 2 runs; leave it out"):
        cross_driven.main(["a", "b.wav", "--more", "c", "--figure", "x.png"])


def test_heads_stand_beside_foreign_speeches():
    about = dict(preset="fast", width=256, poses="own training clip", mouth_sound_r_true=0.35)
    case = lambda video, speech, r, **more: about | dict(
        video=video, speech=speech, mouth_sound_r=r, seed=0
    ) | more  # fmt: skip
    cases = [
        case("a", "x", 0.3), case("a", "x", 0.5, seed=1), case("a", "y", 0.1), case("b", "x", None),
        case("a", "x", 0.9, poses="another"), case("b", "x", 0.2, body="person"),
    ]  # fmt: skip
    rows = tables_mouth.mouths_of_others(cases).splitlines()[2:]
    assert rows[0].endswith("| 2 | 0.35 ± 0.00 | 0.40 ± 0.14 (+0.05 ± 0.14) | 0.10 (-0.25) |")
    assert rows[1].endswith("| 1 | 0.35 | - (-) | - |") and "head" in rows[1]
    assert rows[2].endswith("| 1 | 0.35 | 0.20 (-0.15) | - |") and "person" in rows[2]
