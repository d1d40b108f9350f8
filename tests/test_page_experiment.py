"""The benchmark of the page, in the smallest form."""

import json

import pytest
from helpers import speech

from egs_jax.media.audio_file import write_wav
from experiments import bench_page


@pytest.mark.slow
def test_a_page_is_measured(trained_run, tmp_path):
    write_wav(tmp_path / "speech.wav", speech(0.5), 16_000)
    arguments = ["--speech", str(tmp_path / "speech.wav"), "--rounds", "1", "--out", str(tmp_path)]
    path = bench_page.main([str(trained_run.folder), *arguments])
    [case] = json.loads(path.read_text(encoding="utf-8"))["cases"]
    assert case["psnr_least"] > 45 and case["sound_s"] == 0.52 and case["megabytes"] < 1
    assert min(case["draw_ms"], case["show_ms"], case["sort_ms"], case["open_s"]) > 0
