"""The curve of data: what every length trains on, and that no test film is ever seen."""

import itertools
import json
import subprocess
import threading
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from helpers import make_dataset, micro_config, write_pictures

from egs_jax.config_text import to_json
from egs_jax.data.dataset import Dataset
from egs_jax.runtime.errors import InputError
from experiments import _jobs, _runs, data_curve, tables_curve
from experiments._linked import linked

FILMS, TESTED, LENGTH = 8, 2, 6  # frames of a film
TRAIN, ALL = LENGTH * (FILMS - TESTED), LENGTH * FILMS


def filmed(folder, border=TRAIN, hashes=None):
    """Make the painted dataset one of eight films, of which the last two are tested on."""
    make_dataset(folder, frames=ALL)
    films = [
        {"name": f"film{k}.mpg", "sha256": (hashes or "abcdefgh")[k], "fps": 25.0,
         "frames_used": LENGTH, "crop": {}}
        for k in range(FILMS)
    ]  # fmt: skip
    stretches = [
        {"start": k * LENGTH, "stop": (k + 1) * LENGTH, "film": k, "sound_frame": k * LENGTH,
         "sound_rows": [2 * k * LENGTH, 2 * (k + 1) * LENGTH]}
        for k in range(FILMS)
    ]  # fmt: skip
    change(folder, films=films, stretches=stretches,
           splits={"train": [0, border], "val": [border, ALL]},
           source={"name": f"film0.mpg and {FILMS - 1} more", "sha256": "0" * 64})  # fmt: skip
    return folder


def change(folder, **entries):
    path = folder / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    return filmed(tmp_path_factory.mktemp("films") / "dataset")


def shortened(folder, seconds, seed, place):
    return data_curve.shortened(Dataset.open(folder), seconds, seed, place)


def test_a_length_is_whole_films_but_the_last(films, tmp_path):
    assert data_curve.split_films(Dataset.open(films)) == ([0, 1, 2, 3, 4, 5], [6, 7])
    kept = {}
    for seed in (0, 1):
        for frames in (9, 18, TRAIN):
            data = shortened(films, frames / 25, seed, tmp_path / f"{frames}-{seed}")
            assert len(data.train_frames) == frames
            assert data.frames_of("val").tolist() == list(range(TRAIN, ALL))
            kept[seed, frames] = set(data.train_frames.tolist())
            numbers = {k // LENGTH for k in kept[seed, frames]}
            assert len(numbers) == -(-frames // LENGTH) == data.meta["curve"]["films"]
            whole = [len({k for k in kept[seed, frames] if k // LENGTH == n}) for n in numbers]
            assert sorted(whole)[1:] == [LENGTH] * (len(numbers) - 1)
        assert kept[seed, 9] < kept[seed, 18] < kept[seed, TRAIN] == set(range(TRAIN))
    assert kept[0, 9] != kept[1, 9]
    assert (tmp_path / "9-0" / "frames.zip").resolve() == (films / "frames.zip").resolve()


def test_what_was_left_out_before_stays_out_and_links_are_made_anew(tmp_path):
    folder, place = filmed(tmp_path / "films"), tmp_path / "short"
    change(folder, left_out=[0, TRAIN + 1])
    data = shortened(folder, TRAIN / 25, 0, place)
    assert data.train_frames.tolist() == list(range(1, TRAIN))
    assert data.frames_of("val").tolist() == [TRAIN, *range(TRAIN + 2, ALL)]
    before = (place / "meta.json").stat().st_mtime_ns
    shortened(folder, TRAIN / 25, 0, place)
    assert (place / "meta.json").stat().st_mtime_ns == before  # other runs may be reading
    (place / "blink.npy").unlink()
    (place / "blink.npy").write_bytes(b"of another dataset")
    assert shortened(folder, TRAIN / 25, 0, place).arrays["blink"].shape == (ALL,)


def test_no_test_film_is_ever_drawn_heard_or_measured_in_training(films, tmp_path):
    """Training is the same, bit by bit, whatever the test films show and say."""
    other = filmed(tmp_path / "other")
    rng = np.random.default_rng(0)
    for name in ("landmarks", "viewmats", "body_viewmats", "blink", "mouth_opening"):
        array = np.load(other / f"{name}.npy")
        array[TRAIN:] += rng.normal(size=array[TRAIN:].shape).astype(np.float32)
        np.save(other / f"{name}.npy", array)
    sound = np.load(other / "audio_features.npy")
    sound[2 * TRAIN :] = 9.0
    np.save(other / "audio_features.npy", sound)
    pictures = np.stack([Dataset.open(other).frame(i) for i in range(ALL)])
    pictures[TRAIN:] = 255 - pictures[TRAIN:]
    write_pictures(other, frames=pictures)
    for seed, frames in ((0, 9), (1, TRAIN)):
        both = [
            shortened(folder, frames / 25, seed, tmp_path / f"{name}-{frames}")
            for name, folder in (("films", films), ("other", other))
        ]
        config = micro_config(both[0].folder)
        for step in (3, 19, 20, 21, 30):  # of both stages
            one, two = (data.batch(config, step) for data in both)
            assert jax.tree.all(jax.tree.map(np.array_equal, one, two))
            drawn = both[0].drawn_frames(config, step)
            seen = {*drawn.frames.tolist(), *drawn.heard.tolist(), *drawn.lips.tolist()}
            assert seen <= set(both[0].train_frames.tolist()) <= set(range(TRAIN))
        assert both[0].still_frame == both[1].still_frame < TRAIN


def test_test_films_may_be_left_out_to_choose_by(films, tmp_path):
    data = data_curve.training_films_alone(Dataset.open(films), tmp_path / "dev")
    assert data_curve.split_films(data) == ([0, 1, 2, 3, 4], [5])
    assert data.splits == {"train": (0, 30), "val": (30, TRAIN)}
    assert data.meta["source"]["name"] == "film0.mpg and 5 more"
    assert data.meta["source"]["sha256"] != "0" * 64  # another clip: no report clip


def test_split_must_fall_between_films(films, tmp_path):
    inside = filmed(tmp_path / "inside", border=TRAIN + 2)
    with pytest.raises(InputError, match=r"film6.mpg is trained on and tested on; .* such as 0.48"):
        data_curve.split_films(Dataset.open(inside))
    change(inside, splits={"train": [0, 2], "val": [2, ALL]})
    with pytest.raises(InputError, match=r"film0.mpg is trained on .* such as 1.68"):
        data_curve.split_films(Dataset.open(inside))
    twice = filmed(tmp_path / "twice", hashes="abcdefgb")
    with pytest.raises(InputError, match=r"film7.mpg is trained on and tested on \(as film1.mpg\)"):
        data_curve.split_films(Dataset.open(twice))
    with pytest.raises(InputError, match="made of one film; preprocess several"):
        data_curve.split_films(Dataset.open(make_dataset(tmp_path / "one")))


def trained(config, dataset, *, run_dir):
    """Leave what training leaves."""
    run_dir.mkdir(parents=True)
    (run_dir / "config.json").write_text(to_json(config))
    (run_dir / "metrics.jsonl").write_text("")
    (run_dir / "environment.json").write_text(json.dumps({"packages": {}, "commit": "c" * 40}))


def measured(run_dir):
    """Leave what measuring leaves: figures that grow with the seconds and differ by the seed."""
    config = json.loads((run_dir / "config.json").read_text())
    data = Dataset.open(config["data_dir"])
    seconds, seed = len(data.train_frames) / 25, config["seed"]
    figures = {
        "source": {name: data.meta["source"][name] for name in ("name", "sha256")}, "width": 48,
        "seconds_trained": seconds, "seconds_held_out": len(data.frames_of("val")) / 25,
        "psnr_head": 30 + seconds + 0.01 * seed, "psnr_lips": 25.0 + seed, "lpips": 0.02,
        "lmd": 1.0, "mouth_r": None if seconds < 0.5 else 0.6, "mouth_r_shift_p95": 0.2,
        "mouth_gain": 0.9, "baseline_nearest_frame": 27.0, "render_fps": 50.0, "notes": {},
    }  # fmt: skip
    (run_dir / "eval.json").write_text(json.dumps(figures))


def test_a_series_goes_on_where_it_was_and_says_what_longer_films_gain(
    films, tmp_path, monkeypatch, capsys
):
    ran = []
    monkeypatch.setattr(_jobs, "fit", lambda *a, run_dir: (trained(*a, run_dir=run_dir), ran.append(
        run_dir.name)))  # fmt: skip
    monkeypatch.setattr(_jobs, "evaluate", measured)
    places = ["--out", str(tmp_path), "--figures", str(tmp_path)]
    work = ["--work", str(tmp_path / "runs"), *places]
    command = [str(films), "--tiny", *work, "--seconds", "0.36", "0.72", "9", "10"]
    figure = data_curve.main([*command, "--seeds", "0", "1"])
    printed = capsys.readouterr().out
    assert printed.count("the training films hold 1.44 s, all are used") == 2
    names = [f"{s}s-{seed}-tiny-person" for seed in (0, 1) for s in ("0.36", "0.72", "1.44")]
    assert ran == names and figure.read_bytes().startswith(b"\x89PNG")
    cases = json.loads((tmp_path / "data_curve.json").read_text())["cases"]
    assert [(c["seconds"], c["films"], c["films_tested"], c["seed"]) for c in cases] == [
        (0.36, 2, 2, 0), (0.72, 3, 2, 0), (1.44, 6, 2, 0), (0.36, 2, 2, 1), (0.72, 3, 2, 1),
        (1.44, 6, 2, 1),
    ]  # fmt: skip
    assert {(c["video"], c["set"], c["seconds_held_out"]) for c in cases} == {
        ("film0", "dev", 0.48)
    }
    text = tables_curve.data_curve(cases)
    assert "| 0.72 (0.7 ± 0.0) | 3 | 2 | 30.73 ± 0.01 (**+0.36 ± 0.00**) | 25.50" in text
    assert (
        "1.44 s instead of 0.36 s: PSNR head +1.08 ± 0.00 dB; no more than its deviation: "
        "PSNR lips, LPIPS, LMD, mouth gain" in text
    )
    assert text.splitlines()[-1] in printed
    monkeypatch.setattr(data_curve._plots, "data_curve", lambda *_: None)
    data_curve.main([*command, "--seeds", "0", "1", "2", "--only-run"])
    assert ran == [*names, *(name.replace("-1-", "-2-") for name in names[3:])]
    one = tmp_path / "runs" / "film0" / names[0]
    (tmp_path / "data_curve.json").unlink()
    data_curve.main(["--collect", str(one), *places])
    [case] = json.loads((tmp_path / "data_curve.json").read_text())["cases"]
    assert case == {**cases[0], "commit": "c" * 40}
    assert "one length alone" in tables_curve.gains_text([case])
    (one / "curve.json").unlink()
    with pytest.raises(InputError, match="no curve.json; only runs of data_curve"):
        data_curve.main(["--collect", str(one), *places])


def test_jobs_are_told_all_that_makes_a_run(films, tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "")
    alone = threading.Lock()

    def process(command, env, **_):
        assert command[1:3] == ["-m", "experiments.data_curve"] and "--only-run" in command
        with alone:  # of the threads that wait for processes
            data_curve.main(command[3:])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(_jobs, "subprocess", SimpleNamespace(run=process))
    monkeypatch.setattr(data_curve._plots, "data_curve", lambda *_: None)
    monkeypatch.setattr(_jobs, "fit", trained)
    monkeypatch.setattr(_jobs, "evaluate", measured)
    arguments = [str(films), "--dev", "--tiny", "--jobs", "2", "--work", str(tmp_path / "runs"),
                 "--out", str(tmp_path), "--figures", str(tmp_path)]  # fmt: skip
    data_curve.main([*arguments, "--seconds", "0.36", "0.7200001", "--body", "head"])
    cases = json.loads((tmp_path / "data_curve.json").read_text())["cases"]
    assert len(cases) == 6 and {c["films_tested"] for c in cases} == {1}
    assert {(c["body"], c["render_fps"]) for c in cases} == {("head", None)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a DATASET"),
        (["x", "--seconds", "0"], "--seconds: got 0, expected more than 0"),
        (["x", "--jobs", "0"], "--jobs: got 0, expected at least 1"),
        (["x"], "x: not a dataset folder"),
        (["--collect", "x"], "x: not measured yet"),
        (["x", "--tiny"], "--tiny: its numbers mean nothing"),
    ],
)
def test_bad_input_is_one_line_and_status_2(monkeypatch, tmp_path, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        _runs.run_main(lambda: data_curve.main(arguments))
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and message in error
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_curve_is_trained_and_measured(performer_dataset, tmp_path):
    """On the performer, as if every second were a film; the last one is tested on."""
    whole = Dataset.open(performer_dataset.folder)
    borders = [*range(0, whole.num_frames - 24, 25), whole.num_frames]
    stretches = [
        {"start": a, "stop": b, "film": k, "sound_frame": a, "sound_rows": [2 * a, 2 * b]}
        for k, (a, b) in enumerate(itertools.pairwise(borders))
    ]
    films = [{"name": f"{k}.mp4", "sha256": str(k)} for k in range(len(stretches))]
    splits = {"train": [0, borders[-2]], "val": borders[-2:]}
    changes = {"stretches": stretches, "films": films, "splits": splits}
    folder = linked(performer_dataset.folder, tmp_path / "films", changes).folder
    command = [str(folder), "--tiny", "--seconds", "1.4", "210", "--seeds", "0"]
    places = ["--work", str(tmp_path / "runs"), "--out", str(tmp_path), "--figures", str(tmp_path)]
    assert data_curve.main([*command, *places]).read_bytes().startswith(b"\x89PNG")
    short, long = json.loads((tmp_path / "data_curve.json").read_text())["cases"]
    assert (short["seconds"], short["films"], long["seconds"]) == (1.4, 2, borders[-2] / 25)
    assert 1 < short["seconds_trained"] <= 1.4 < long["seconds_trained"] <= long["seconds"]
    assert short["frames"] == long["frames"] and short["psnr_head"] != long["psnr_head"]
