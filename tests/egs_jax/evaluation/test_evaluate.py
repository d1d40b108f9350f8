"""Every number of `eval.json`, worked out from made-up pictures, sounds and landmarks.

Nothing is learned here and no network runs. A "drawing" is the background, darker, with three code
pixels: how far the sound that it hears opens its lips, how far its lids are shut, whether there is
a face. The "landmark model" reads the code pixels of whatever picture it is shown. So each figure
can be computed again below from the arrays alone, and differs from what a slip would give: sound
that was not shifted or not silent, another rectangle, the target in the place of the render.
"""

import json
from types import SimpleNamespace

import imageio.v3 as imageio
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import AUDIO_DIM, SIZE, make_dataset, micro_config, write_pictures
from skimage.metrics import structural_similarity

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.drawing import MICRO_BATCH
from egs_jax.data.dataset import Dataset
from egs_jax.evaluation import evaluate, measures, pictures, renders, signals
from egs_jax.media.audio_file import write_wav
from egs_jax.media.clock import SAMPLE_RATE
from egs_jax.runtime.errors import InputError

TRAIN, VAL, FPS = 24, 100, 25
FACELESS = TRAIN + 40
"""A held-out frame on which the landmark model sees no face."""
LAG = 3
"""Frames by which the drawn mouth is behind the loudness."""
SHIFTED_BY = range(FPS, VAL - FPS + 1)
"""All offsets of at least a second: 51, of which 50 are taken."""
HUSH = 0.49
"""Opening under silence: more than in some training frames, less than in others."""
CODES = ((0, 0), (0, 1), (0, 2))
"""Pixels (row, column) that tell opening, shut lids and presence."""
IMPLEMENTATIONS = {"rasterize": "xla: no GPU"}
CONTRACT = (
    "split frames width height head_fraction psnr psnr_head psnr_lips psnr_frame "
    "baseline_mean_frame baseline_nearest_frame ssim lpips lmd mouth_r mouth_r_shift_p95 "
    "mouth_silence_percentile sync_lag_frames sync_conf jitter_px blink_r num_gaussians drawn "
    "render_fps device notes source given seconds_trained seconds_held_out mouth_gain kernels "
    "psnr_person ssim_person lpips_person person_fraction psnr_person_given_body "
    "mouth_wide_error mouth_narrow_error num_closures closures closures_shift_p95"
).split()


def landmarks_of(opening, shut):
    """A face whose lips are 20 * `opening` px apart, and lids 5 * (1 - `shut`)."""
    points = np.random.default_rng(1).uniform(8, 40, (478, 3)).astype(np.float32)
    points[[33, 263]] = (10, 20, 0), (30, 20, 0)  # outer corners of the eyes, 20 px apart
    points[[133, 362]] = (15, 20, 0), (25, 20, 0)
    for upper, lower in ((82, 87), (13, 14), (312, 317)):
        points[lower] = points[upper] + (0, 20 * opening, 0)
    for upper, lower in ((160, 144), (159, 145), (158, 153), (387, 373), (386, 374), (385, 380)):
        points[lower] = points[upper] + (0, 5 * (1 - shut), 0)
    return points


class MadeUpLandmarker:
    """Reads the code pixels."""

    def landmark(self, image, roi):
        assert image.dtype == np.uint8 and roi.size > 0
        opening, shut, presence = (image[row, column, 0] / 255 for row, column in CODES)
        return SimpleNamespace(landmarks=landmarks_of(opening, shut), score=presence)


def opened_by(windows):
    """How far sound [T,W,16,F] opens the drawn lips, [T]."""
    return windows[..., 0].mean(axis=(1, 2))


def infer_step(avatar, drive):
    """Draw frames from what drives them alone."""
    rgb = 0.9 * drive.backgrounds.astype(np.float32) / 255
    rgb = rgb + 0.05 * drive.eyes[:, None, None, None] + drive.viewmats[:, None, None, :1, 3]
    codes = opened_by(drive.audio_windows), 0.8 * drive.eyes, drive.backgrounds[:, 0, 2, 0] / 255
    for (row, column), value in zip(CODES, codes, strict=True):
        rgb[:, row, column] = value[:, None]
    return SimpleNamespace(rgb=rgb, alpha=rgb[..., 0])


def make_clip(folder):
    """A dataset of noise: in each frame other pictures, masks, rectangles, sound and landmarks."""
    make_dataset(folder, frames=TRAIN + VAL)
    rng, count = np.random.default_rng(2), TRAIN + VAL
    shut = rng.random(count).astype(np.float32)
    rows = np.repeat(np.convolve(rng.random(count + 8), np.ones(9) / 9, "valid"), 2)
    sound = np.tile(rows[:, None], (1, AUDIO_DIM)).astype(np.float32)
    # The drawn lips, and those of the true frames: like them, with an error of their own.
    np.save(folder / "audio_features.npy", sound)
    hush = np.full((10, AUDIO_DIM), HUSH, np.float32)
    np.save(folder / "silence_features.npy", hush)
    heard = opened_by(Dataset.open(folder).audio_windows(np.arange(count), 8))
    true = np.clip(0.8 * heard + 0.05 * rng.standard_normal(count), 0.05, 0.95)
    frames = rng.integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)
    for (row, column), value in zip(CODES, (true, np.sqrt(shut), np.ones(count)), strict=True):
        frames[:, row, column] = np.rint(value * 255)[:, None]
    frames[FACELESS, 0, 2] = 0
    imageio.imwrite(folder / "plate.png", rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8))
    masks = np.zeros((count, SIZE, SIZE), bool)
    for mask, (top, left) in zip(masks, rng.integers(6, 20, (count, 2)), strict=True):
        mask[top : top + 24, left : left + 20] = True
    corners = rng.integers(20, 30, (count, 2))
    rects = np.stack([corners[:, 0], corners[:, 0] + 9, corners[:, 1], corners[:, 1] + 14], 1)
    landmarks = np.stack([landmarks_of(o, s) for o, s in zip(true, shut, strict=True)])
    landmarks[..., :2] += rng.integers(-4, 5, (count, 1, 2))  # whole pixels
    viewmats = np.tile(np.eye(4, dtype=np.float32), (count, 1, 1))
    viewmats[:, :3, 3] = rng.uniform(0, 0.1, (count, 3))
    people = masks.copy()
    people[:, 40:, 12:36] = True
    write_pictures(folder, frames=frames, head_masks=masks, person_masks=people * np.uint8(200))
    arrays = dict(
        lips_rects=rects.astype(np.int32), landmarks=landmarks.astype(np.float32), blink=shut,
        viewmats=viewmats, mouth_opening=true.astype(np.float32),
    )  # fmt: skip
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    levels = np.interp(np.arange(count) + LAG, np.arange(count), heard)
    samples = np.repeat(levels, SAMPLE_RATE // FPS)[SAMPLE_RATE // FPS // 2 :]
    write_wav(folder / "audio.wav", samples.astype(np.float32))
    meta = json.loads((folder / "meta.json").read_text())
    meta["splits"] = {"train": [0, TRAIN], "val": [TRAIN, count]}
    (folder / "meta.json").write_text(json.dumps(meta | {"tracking": {"jitter_px": 0.25}}))
    return Dataset.open(folder, body="head")


def made_up_lpips(network, a, b):
    assert network == "alexnet" and a.shape == b.shape == (1, SIZE, SIZE, 3)
    return 7 * jnp.mean(jnp.abs(a - b), axis=(1, 2, 3))


class World(SimpleNamespace):
    """The avatar, its run folder, what was measured, and the arrays to compute it from."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    home = tmp_path_factory.mktemp("made_up")
    data, alive, now = make_clip(home / "dataset"), np.arange(9) < 7, [0.0]
    avatar = Avatar(micro_config(data.folder), {}, alive, sh_degree=1, clip=data, step=9)
    (home / "run").mkdir()

    def fetch(batch):
        assert len(batch.frames) == MICRO_BATCH
        now[0] += 0.1  # seconds of a drawing
        yield from batch.frames

    seen = {}

    def report_pictures(avatar, measured):
        seen.update(measured=measured, shown=pictures.report_pictures(avatar, measured))
        return seen["shown"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(renders, "infer_step", infer_step)
        patch.setattr(renders, "dispatch", lambda _, batch: batch)
        patch.setattr(renders, "fetch", fetch)
        patch.setattr(renders, "time", SimpleNamespace(perf_counter=lambda: now[0]))
        patch.setattr(measures, "lpips", made_up_lpips)
        patch.setattr(measures, "load_perceptual", lambda name: name)
        patch.setattr(evaluate, "FaceLandmarker", MadeUpLandmarker)
        patch.setattr(evaluate, "implementations", lambda: IMPLEMENTATIONS)
        patch.setattr(evaluate, "report_pictures", report_pictures)
        patch.setattr(evaluate, "Avatar", SimpleNamespace(load=lambda *_, **__: avatar))
        result = evaluate.evaluate(home / "run")
        val = np.arange(TRAIN, TRAIN + VAL)
        drawn = infer_step(avatar, data.drive(val, 8)).rgb
    assert drawn.min() >= 0 and drawn.max() > 1  # what is too bright is cut
    targets = np.stack([np.where(data.head_mask(i)[..., None], data.frame(i), data.background(i))
                        for i in range(TRAIN + VAL)]) / 255  # fmt: skip
    return World(
        data=data, run=home / "run", result=result, val=val, drawn=np.clip(drawn, 0, 1),
        train_targets=targets[:TRAIN], targets=targets[TRAIN:],
        masks=np.stack([data.head_mask(i) for i in val]),
        people=np.stack([data.pictures["person_masks"][int(i)] > 127 for i in val]), **seen,
    )  # fmt: skip


def decibels(a, b, mask=None):
    error = np.mean((np.float64(a) - b) ** 2, axis=-1)
    return -10 * np.log10(error.mean() if mask is None else error[mask].mean())


def byte(value):
    """What a code pixel says after it was rounded to a byte."""
    return np.rint(255 * np.asarray(value)) / 255


def openings(world, frames, heard=None, silent=False):
    """Openings that are seen on drawings of frames, NaN where no face is."""
    windows = world.data.audio_windows(frames if heard is None else heard, 8)
    windows = np.full_like(windows, HUSH) if silent else windows
    return np.where(frames == FACELESS, np.nan, byte(opened_by(windows)))


def true_codes(world, which):
    row, column = CODES[which]
    codes = world.targets[:, row, column, 0]
    return np.where(world.val == FACELESS, np.nan, codes)


def r(a, b):
    both = np.isfinite(a) & np.isfinite(b)
    return np.corrcoef(a[both], b[both])[0, 1]


def test_all_names_of_the_contract_and_no_others_stand_in_eval_json(world):
    stored = json.loads((world.run / "eval.json").read_text())
    assert stored == world.result and stored.keys() == set(CONTRACT)
    numbers = {k for k, v in stored.items() if v is None or isinstance(v, float)}
    assert not [name for name in numbers if stored[name] is None]
    about = dict(
        source={"name": "painted", "sha256": ""}, split="val", frames=100, width=SIZE, height=SIZE,
        num_gaussians=7, drawn="exact", device="cpu", jitter_px=0.25,
        given=["pose", "eyes", "background"],
        seconds_trained=0.96, seconds_held_out=4.0, kernels=IMPLEMENTATIONS,
    )  # fmt: skip
    assert {name: stored[name] for name in about} == about
    assert stored["render_fps"] == pytest.approx(MICRO_BATCH / 0.1)


def test_image_figures_by_hand(world):
    pairs = list(zip(world.drawn, world.targets, strict=True))
    frames = [world.data.frame(i) / 255 for i in world.val]
    lips = [world.data.arrays["lips_rects"][i] for i in world.val]
    cut = lambda image, rect: image[rect[0] : rect[1], rect[2] : rect[3]]
    people = world.people
    inner = (slice(5, -5), slice(5, -5))
    similarity = lambda a, b, mask: structural_similarity(
        np.float64(a), b, channel_axis=-1, data_range=1.0, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, full=True,
    )[1][inner][mask[inner]].mean()  # fmt: skip
    everywhere = np.ones((SIZE, SIZE), bool)
    triples = list(zip(world.drawn, frames, people, strict=True))
    psnr_person = np.mean([decibels(a, f, p) for a, f, p in triples])
    wanted = {
        "head_fraction": world.masks.mean(),
        "psnr": np.mean([decibels(a, b) for a, b in pairs]),
        "psnr_head": np.mean(
            [decibels(a, b, m) for (a, b), m in zip(pairs, world.masks, strict=True)]
        ),
        "psnr_lips": np.mean(
            [decibels(cut(a, x), cut(b, x)) for (a, b), x in zip(pairs, lips, strict=True)]
        ),
        "psnr_frame": np.mean([decibels(a, f) for (a, _), f in zip(pairs, frames, strict=True)]),
        "ssim": np.mean([similarity(a, b, everywhere) for a, b in pairs]),
        "lpips": np.mean([7 * np.abs(a - b).mean() for a, b in pairs]),
        "person_fraction": people.mean(),
        "psnr_person": psnr_person,
        "ssim_person": np.mean([similarity(a, f, p) for a, f, p in triples]),
        "lpips_person": np.mean([7 * (np.abs(a - f) * p[..., None]).mean() for a, f, p in triples]),
        "psnr_person_given_body": psnr_person,  # a head's body is that of the frame
    }
    assert {name: world.result[name] for name in wanted} == pytest.approx(wanted, rel=1e-5)
    assert not wanted.keys() & world.result["notes"].keys()


def test_baselines_by_hand(world):
    points = world.data.arrays["landmarks"][:, :, :2].astype(float)
    mean = world.train_targets.mean(axis=0)
    scores = {"baseline_mean_frame": [], "baseline_nearest_frame": []}
    for i, target, mask in zip(world.val, world.targets, world.masks, strict=True):
        centered = points - points.mean(axis=1, keepdims=True)
        apart = [np.linalg.norm(centered[k] - centered[i], axis=1).mean() for k in range(TRAIN)]
        nearest = int(np.argmin(apart))
        dx, dy = points[i].mean(axis=0) - points[nearest].mean(axis=0)
        lines = lambda shift: np.clip(np.arange(SIZE) - shift, 0, SIZE - 1)
        # Lips and lids differ a little, so the shift is not quite whole; it is in this picture.
        moved = world.train_targets[nearest][lines(round(dy))][:, lines(round(dx))]
        scores["baseline_mean_frame"].append(decibels(mean, target, mask))
        scores["baseline_nearest_frame"].append(decibels(moved, target, mask))
    wanted = {name: np.mean(values) for name, values in scores.items()}
    for name, value in wanted.items():
        assert world.result[name] == pytest.approx(value, abs=0.05)
    assert abs(np.subtract(*wanted.values())) > 1  # so that one cannot pass for the other


def test_mouth_figures_by_hand(world):
    spoken, true = openings(world, world.val), true_codes(world, 0)
    offsets = np.array(SHIFTED_BY)[np.linspace(0, len(SHIFTED_BY) - 1, 50).round().astype(int)]
    shifted = [r(openings(world, world.val, np.roll(world.val, s)), true) for s in offsets]
    train = np.arange(TRAIN)
    loud = openings(world, train)
    hush = openings(world, train[:1], silent=True)[0]
    wanted = {
        "mouth_r": r(spoken, true),
        "mouth_gain": np.nanstd(spoken) / np.nanstd(true),
        "mouth_r_shift_p95": np.percentile(shifted, 95),
        "mouth_silence_percentile": 100 * np.mean((loud < hush) + 0.5 * (loud == hush)),
    }
    assert {name: world.result[name] for name in wanted} == pytest.approx(wanted, abs=1e-4)
    assert wanted["mouth_r_shift_p95"] < wanted["mouth_r"] - 0.2
    assert 0 < wanted["mouth_silence_percentile"] != 50
    assert world.result["notes"]["mouth_r"] == "1 of 100 frames left out: no face found"
    # Six of the forty lip landmarks move, the lower ones, by 20 px of the opening; centered.
    apart = 20 * np.abs(spoken - true)
    lmd = np.nanmean(apart * (3 * (1 - 3 / 40) + 37 * 3 / 40) / 40)
    assert world.result["lmd"] == pytest.approx(lmd, rel=1e-4)


def test_ends_and_closures_of_the_mouth_by_hand(world):
    spoken, true = openings(world, world.val), true_codes(world, 0)
    trained = np.sort(np.float64(world.data.arrays["mouth_opening"][:TRAIN]))
    rest, wide = (np.interp(q * (TRAIN - 1), np.arange(TRAIN), trained) for q in (0.05, 0.9))
    shut, nearly, parted = (rest + share * (wide - rest) for share in (0.2, 0.25, 0.35))
    closures, low, since = [], [], None  # frames that are shut since the mouth was last open
    for t, value in enumerate(true):
        if np.isnan(value):
            since = None
        elif value >= parted:
            if since is not None and low and t - since - 1 <= 12:
                closures.append(low[len(low) // 2])
            since, low = t, []
        elif value <= shut:
            low.append(t)
    near = lambda line: [np.nanmin(line[max(t - 2, 0) : t + 3]) for t in closures]
    share = lambda line: np.mean(np.array(near(line)) <= nearly)
    offsets = np.array(SHIFTED_BY)[np.linspace(0, len(SHIFTED_BY) - 1, 50).round().astype(int)]
    shares = [share(np.roll(spoken, by)) for by in offsets]
    seen = world.val != FACELESS
    order = np.argsort(true[seen])
    ends = [np.flatnonzero(seen)[part] for part in (order[-10:], order[:10])]
    way = true[ends[0]].mean() - true[ends[1]].mean()
    wanted = {
        "num_closures": len(closures),
        "closures": share(spoken),
        "closures_shift_p95": np.percentile(shares, 95),
        "mouth_wide_error": np.mean((spoken - true)[ends[0]]) / way,
        "mouth_narrow_error": np.mean((spoken - true)[ends[1]]) / way,
    }
    assert {name: world.result[name] for name in wanted} == pytest.approx(wanted, abs=1e-4)
    assert len(closures) > 3 and 0 < wanted["closures"] < 1
    assert wanted["closures_shift_p95"] != wanted["closures"]


def test_sync_and_lids_by_hand(world):
    spoken = openings(world, world.val)
    heard = opened_by(world.data.audio_windows(np.arange(TRAIN + VAL), 8))
    loud = np.interp(np.arange(TRAIN + VAL) + LAG, np.arange(TRAIN + VAL), heard)
    decibel = 20 * np.log10(loud)[world.val]
    curve = {
        lag: r(spoken[max(lag, 0) : VAL + min(lag, 0)], decibel[max(-lag, 0) : VAL - max(lag, 0)])
        for lag in range(-15, 16)
    }
    assert world.result["sync_lag_frames"] == max(curve, key=curve.get) == LAG
    sure = max(curve.values()) - np.median(list(curve.values()))
    assert world.result["sync_conf"] == pytest.approx(sure, abs=1e-3)
    seen = byte(0.8 * world.data.arrays["blink"][world.val])
    assert world.result["blink_r"] == pytest.approx(r(seen, true_codes(world, 1)), abs=1e-4)
    assert world.result["notes"]["blink_r"] == (
        f"{signals.ECHO}; 1 of 100 frames left out: no face found"
    )


def test_lines_and_worst_frames_are_those_of_the_pictures(world):
    data, measured = world.data, world.measured
    for t in (0, 57, 99):
        i, drawing = world.val[t], np.rint(255 * world.drawn[t]).astype(np.uint8)
        for which, picture in enumerate((data.target(i), drawing)):
            [row] = [y for y in range(SIZE) if np.array_equal(picture[y], measured.rows[which, t])]
            line = measured.columns[which, t]
            [column] = [x for x in range(SIZE) if np.array_equal(picture[:, x], line)]
            assert row == np.mean([data.eyes_rect(k)[:2] for k in world.val]) // 1
            assert column == np.mean([data.lips_rect(k)[2:] for k in world.val]) // 1
    assert measured.rows.base is None  # no picture is kept for the sake of a line
    heads = [
        decibels(*three) for three in zip(world.drawn, world.targets, world.masks, strict=True)
    ]
    worst = world.val[np.argmin(heads)]
    caption, picture = world.shown["Worst frames (truth, render)"][0]
    assert caption == f"frame {worst}: psnr_head {min(heads):.1f} dB"
    assert picture.shape == (SIZE, 2 * SIZE, 3)
    np.testing.assert_array_equal(picture[:, :SIZE], data.target(worst))


def test_the_openings_lines_show_every_closure(world):
    [(caption, picture)] = world.shown["Opening of the lips"]
    assert caption.startswith("time to the right: truth gray") and picture.shape == (161, 200, 3)
    bands = {tuple(color) for color in picture[0].tolist()}
    assert {pictures.CLOSED, pictures.MISSED, (255, 255, 255)} <= bands  # not all are closed


def test_the_report_shows_them(world):
    text = (world.run / "report.html").read_text(encoding="utf-8")
    assert text.count("data:image/png;base64,") == 7
    assert 'src="http' not in text and "href" not in text and "<script" not in text
    assert f"{world.result['psnr']:.4g}" in text and "pose, eyes, background" in text


def test_of_a_long_split_some_frames_are_drawn_under_shifted_sound(monkeypatch):
    asked, rng, count = [], np.random.default_rng(0), 1000
    frames = np.arange(50, 50 + count)

    def drawn(avatar, landmarker, chosen, heard, tick):
        asked.append((chosen, heard))
        return rng.random(len(chosen))

    monkeypatch.setattr(signals, "_openings", drawn)
    data = SimpleNamespace(
        fps=25.0, train_frames=np.arange(50), silence=lambda n, _: np.zeros(n),
        meta={"audio_features": {"kind": "mel"}}, arrays={"mouth_opening": rng.random(count + 50)},
        stretches=[SimpleNamespace(start=0, stop=count + 50)],
    )  # fmt: skip
    avatar = SimpleNamespace(
        dataset=data, config=SimpleNamespace(model=SimpleNamespace(window_frames=8))
    )
    points = rng.random((count, 478, 3)).astype(np.float32)
    measured = SimpleNamespace(frames=frames, landmarks=points, true_landmarks=points[::-1])
    figures = signals.mouth_figures(avatar, measured, None)
    assert abs(figures["mouth_r_shift_p95"].value) < 0.3
    for shift, (chosen, heard) in zip(np.linspace(25, 975, 50).round(), asked, strict=False):
        assert (len(chosen), chosen[0], chosen[-1]) == (128, 50, 1049)
        assert set(np.diff(chosen)) == {7, 8}
        np.testing.assert_array_equal(np.mod(chosen - heard, count), shift)


def test_a_short_split_has_reasons_instead_of_numbers(world):
    short = signals._shifted_figure([], np.zeros(9))
    assert short == (None, "the split is too short to shift its sound by 1 s")
    few = signals._shifted_figure([np.zeros(9)] * 11, np.zeros(9))
    assert few == (None, "only 11 shifts fit into the split")


def test_a_run_that_cannot_be_written_to_is_refused_before_it_is_measured(tmp_path, monkeypatch):
    nothing = SimpleNamespace(dataset=None, written=None)
    monkeypatch.setattr(evaluate.Avatar, "load", lambda *_, **__: nothing)
    with pytest.raises(InputError, match="cannot write there .*; copy the run"):
        evaluate.evaluate(tmp_path / "missing")
