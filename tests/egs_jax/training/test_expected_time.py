"""The time that training's first line expects is that of recorded runs of the same kind."""

import json

import jax
import pytest
from helpers import ROOT

from egs_jax.config_text import override
from egs_jax.presets import PRESETS
from egs_jax.training import expected_time
from egs_jax.training.expected_time import expectation, expected_seconds, in_words


def cases(name: str) -> list[dict]:
    path = ROOT / "experiments" / "results" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))["cases"]


@pytest.mark.parametrize("kernels", ["triton", "xla"])
def test_steps_take_what_was_measured(kernels):
    measured = {
        case["stage"]: case["median_ms"] / 1000
        for case in cases(f"bench_training_{kernels}")
        if case["perceptual"]
    }
    expected = measured["static"], measured["deform"]
    assert expected_time.STEP_S[kernels] == pytest.approx(expected, rel=0.05)


def test_a_cpu_takes_what_was_measured():
    took = [
        case["train_seconds"] for case in cases("self_reconstruction") if case["device"] == "cpu"
    ]
    head = override(PRESETS["tiny"], {"model.body": "head"})
    expected = expected_seconds(head, 160, 0, "cpu", "xla", cores=2) - expected_time.CPU_START_S
    assert len(took) >= 2 and min(took) < expected < max(took)
    person = expected_seconds(PRESETS["tiny"], 160, 0, "cpu", "xla", cores=2)
    assert person == pytest.approx(200 + 13e-6 * 3_900 * 160**2, rel=1e-6)


def test_whole_runs_on_the_gpu_take_about_as_long():
    runs = [case for case in cases("bench_runs") if case["devices"] == 1]
    assert {case["preset"] for case in runs} == {"paper", "fast"}
    for case in runs:
        config = PRESETS[case["preset"]]
        expected = expected_seconds(config, case["width"], 0, "gpu", "triton", cores=16)
        assert 0.5 < expected / case["seconds"][0] < 2.1


def test_what_is_left_takes_less():
    config = PRESETS["fast"]
    left = [expected_seconds(config, 256, done, "cpu", "xla", 2) for done in (0, 1500, 4500)]
    assert left[0] > left[1] > left[2] == 0


def test_words(monkeypatch):
    assert [in_words(s) for s in (0.2, 89, 90, 5000, 6000, 96_000)] == [
        "1 s", "89 s", "2 min", "83 min", "2 h", "27 h",
    ]  # fmt: skip
    monkeypatch.setattr(expected_time, "usable_cores", lambda: 2)
    told = expectation(PRESETS["paper"], 450, 0, "xla")
    assert told == ": paper at 450 px takes about 64 h"
    other = type("Card", (), {"platform": "gpu", "device_kind": "NVIDIA L4"})
    monkeypatch.setattr(jax, "local_devices", lambda: [other])
    told = expectation(PRESETS["fast"], 256, 100, "triton")
    assert told == (
        ": fast at 256 px from step 100 on takes about 57 s on an NVIDIA H200, which was measured: "
        "this device was not"
    )
