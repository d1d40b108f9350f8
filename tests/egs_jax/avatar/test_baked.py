"""Baked avatars: patterns of motion, codes, and pictures against the exact ones."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.baked import said
from egs_jax.avatar.baking import ROUGH, counted, floored, principal_patterns
from egs_jax.avatar.draw import draw_codes, infer_step, motion_codes
from kernels.codes import limited, pattern_sum


@pytest.fixture(scope="module")
def exact(trained_run):
    """One that moves: the run is so short that its own heads say next to nothing."""
    found = Avatar.load(trained_run.folder, exact=True)
    said = found.params["networks"]["deform"]
    louder = jax.tree.map(lambda value: 9 * value, said)
    networks = found.params["networks"] | {"deform": louder}
    return dataclasses.replace(found, params=found.params | {"networks": networks})


@pytest.fixture(scope="module")
def baked(exact):
    return dataclasses.replace(exact, is_exact=False)


def test_motion_of_few_patterns_is_found(frames=40, count=5000, numbers=17):
    rng = np.random.default_rng(0)
    true = rng.normal(size=(3, count, numbers)) * np.geomspace(1e-3, 10, numbers)
    weights = np.float32(rng.uniform(0.5, 2, (count, numbers)) / np.geomspace(1e-3, 10, numbers))
    motions = np.einsum("fk,knd->fnd", rng.normal(size=(frames, 3)) * (9, 3, 1), true)
    motions -= motions.mean(axis=0)
    patterns, codes = principal_patterns(np.float32(motions), weights, 8)
    assert patterns.shape == (3, count, numbers)  # there is no fourth
    made = np.einsum("fk,knd->fnd", codes, patterns)
    np.testing.assert_allclose(made, motions, atol=1e-3 * np.abs(motions).max())
    flat = (patterns * weights).reshape(3, -1)
    length = np.sum(flat[0] ** 2)
    np.testing.assert_allclose(flat @ flat.T, length * np.eye(3), atol=1e-3 * length)
    assert np.mean(codes[:, 0] ** 2) == pytest.approx(1, abs=1e-3)
    assert np.all(np.diff(codes.std(axis=0)) < 0)  # the leading one first


def test_what_nobody_sees_is_left_to_later_patterns(frames=20, count=100):
    rng = np.random.default_rng(0)
    motions = np.float32(rng.normal(size=(frames, count, 14)))
    motions[:, 50:] *= 5
    motions -= motions.mean(axis=0)
    weights = np.ones((count, 14), np.float32)
    weights[50:] = 1e-3
    patterns, codes = principal_patterns(motions, weights, 6)
    error = np.abs(motions - np.einsum("fk,knd->fnd", codes, patterns)).mean(axis=(0, 2))
    plain, codes = principal_patterns(motions, np.ones_like(weights), 6)
    without = np.abs(motions - np.einsum("fk,knd->fnd", codes, plain)).mean(axis=(0, 2))
    assert error[:50].mean() < 0.96 * without[:50].mean()
    assert floored(weights).min() > 0.2  # but not to none
    assert np.all(floored(np.zeros((4, 14), np.float32)) > 0)


def test_what_never_moves_has_one_pattern_of_nothing(frames=4, count=9):
    weights = np.ones((count, 14), np.float32)
    still = np.zeros((frames, count, 14), np.float32)
    patterns, codes = principal_patterns(still, weights, 5)
    assert patterns.shape == (1, count, 14) and not patterns.any()
    assert not np.asarray(counted(patterns, codes.std(axis=0), weights).counts).any()
    patterns, codes = principal_patterns(still[..., :0], weights[:, :0], 5)
    assert patterns.shape == (0, count, 0) and codes.shape == (frames, 0)
    assert counted(patterns, codes.std(axis=0), weights[:, :0]).counts.shape == (0, 0, count)


def test_counts_are_as_fine_as_their_code_moves_and_weighs(count=4000):
    rng = np.random.default_rng(1)
    weights = np.broadcast_to(np.linspace(1, 2, 14, dtype=np.float32), (count, 14))
    patterns = np.float32(rng.normal(size=(3, count, 14))) / weights
    spread = np.array([8.0, 2.0, 0.1], np.float32)
    whole = counted(patterns, spread, weights)
    counts, steps = np.asarray(whole.counts, np.float32), np.asarray(whole.steps)
    assert whole.counts.dtype == np.int8 and steps.shape == (3, 14)
    made = (counts * steps[..., None]).transpose(0, 2, 1)
    lost = np.median(np.abs(made - patterns) * weights, axis=(1, 2)) * spread
    assert np.all(lost <= 1.1 * ROUGH * lost[0])  # no pattern errs by much more than the first
    assert np.abs(counts[2]).max() < 40 < np.abs(counts[0]).max()  # which packs the last one well
    codes = rng.normal(size=(2, 3)).astype(np.float32)
    want = np.einsum("bk,kdn->bdn", codes, counts * steps[..., None])
    np.testing.assert_allclose(pattern_sum(whole, jnp.asarray(codes)), want, rtol=1e-5, atol=1e-4)


def test_baked_pictures_are_nearly_the_exact_ones(exact, baked):
    drive = exact.dataset.drive(exact.dataset.frames_of("val")[:4], 8, told=True)
    want, got = (np.asarray(infer_step(avatar, drive).rgb) for avatar in (exact, baked))
    error = np.square(np.clip(got, 0, 1) - np.clip(want, 0, 1)).mean(axis=(1, 2, 3))
    assert -10 * np.log10(error.max()) > 40
    narrow = np.outer([-1e-9, 1e-9], np.ones(baked.baked.ranges.shape[1]))
    still = baked.baked.replace(ranges=jnp.asarray(narrow, jnp.float32))
    still = infer_step(_with(baked, still), drive).rgb
    assert np.square(np.asarray(still) - want).mean() > 4 * error.mean()  # it is the codes


def _with(avatar, other):
    changed = dataclasses.replace(avatar)
    changed.__dict__["baked"] = other
    return changed


def test_codes_are_all_that_speech_says(baked):
    drive = baked.dataset.drive(np.arange(3, 6), 8)
    codes = motion_codes(baked, drive)
    kept = baked.baked
    assert codes.shape == (3, kept.ranges.shape[1])
    told = jax.jit(said, static_argnums=0)(baked.config, kept.sample, drive)
    beyond = (told - kept.sample_mean[None]) * kept.weights[None]
    want = limited(beyond.reshape(3, -1) @ kept.reader.T, kept.ranges)
    np.testing.assert_allclose(codes, want, atol=1e-4 * np.ptp(kept.ranges))
    drawn, want = draw_codes(baked, codes, drive).rgb, infer_step(baked, drive).rgb
    np.testing.assert_allclose(drawn, want, atol=1e-5)
    louder = drive.replace(audio_windows=3 * drive.audio_windows)
    assert np.abs(motion_codes(baked, louder) - codes).max() > 1e-3
    np.testing.assert_array_equal(draw_codes(baked, codes, louder).rgb, drawn)
