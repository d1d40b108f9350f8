"""The four verbs one after the other on a film of the performer, as a user types them."""

import json
import subprocess

import av
import numpy as np
import pytest
from helpers import ROOT, python, train_arguments

from egs_jax.media.audio_file import write_wav

SCRIPT = """
import json, sys
from egs_jax.__main__ import main
for arguments in json.loads(sys.argv[1]):
    status = main(arguments)
    if status:
        sys.exit(status)
"""


@pytest.mark.slow
def test_film_to_dataset_to_avatar_to_speech(performer_dataset, tmp_path):
    """One process for all, for the sake of imports; the micro schedule speaks nonsense, quickly."""
    data, run, talk = tmp_path / "my data", tmp_path / "run", tmp_path / "talk.mp4"
    time = np.arange(32_000) / 16_000
    write_wav(tmp_path / "new.wav", np.sin(1200 * time).astype(np.float32) * 0.3)
    verbs = [
        ["preprocess", str(performer_dataset.video), str(data), "--size", "96",
         "--audio-features", "mel", "--max-seconds", "2.4"],
        train_arguments(data, run),
        ["evaluate", str(run)],
        ["render", str(run), str(tmp_path / "new.wav"), "--out", str(talk)],
    ]  # fmt: skip
    command, environment = python("-c", SCRIPT, json.dumps(verbs))
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    meta = json.loads((data / "meta.json").read_text())
    assert meta["num_frames"] == 60 and meta["width"] == 96
    *lines, last = (run / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 8 and f"state_sha256 {json.loads(last)['state_sha256']}" in done.stdout
    figures = json.loads((run / "eval.json").read_text())
    assert figures["frames"] == meta["splits"]["val"][1] - meta["splits"]["val"][0]
    assert "psnr_head" in done.stdout and (run / "report.html").stat().st_size > 10_000
    with av.open(str(talk)) as film:
        kinds = {s.type: s.codec_context.name for s in film.streams}
        assert kinds == {"video": "h264", "audio": "aac"}
        assert sum(1 for _ in film.decode(video=0)) == 50
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"my data", "run", "new.wav", "talk.mp4"} and (ROOT / "egs_jax").is_dir()
