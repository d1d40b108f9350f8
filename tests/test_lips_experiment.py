"""The experiment on lips told from sound: its cases, and the prior that it writes."""

import json
import shutil

import pytest

from egs_jax.data.dataset import Dataset
from egs_jax.runtime.errors import InputError
from experiments import lips_from_sound


def test_it_measures_and_writes_priors(painted, tmp_path):
    folders = [str(shutil.copytree(painted, tmp_path / name)) for name in ("mine", "other")]
    out = ["--tiny", "--out", str(tmp_path / "results")]
    path = lips_from_sound.main([*folders, "--seconds", "0.4", "0.8", *out])
    cases = json.loads(path.read_text())["cases"]
    assert [(case["seconds"], case["others"]) for case in cases] == [
        (0.4, False), (0.4, True), (0.8, False), (0.8, True),
    ]  # fmt: skip
    assert all(-1 <= case["opening_r"] <= 1 for case in cases)
    path = lips_from_sound.main([*folders, "--write", *out])
    mine, other = map(Dataset.open, folders)
    assert mine.arrays["lips_prior"].any() and "lips_prior" not in other.arrays
    assert mine.fitted_lips().prior_share.any() and path.parent == mine.folder
    with pytest.raises(InputError, match="a prior is of other clips"):
        lips_from_sound.main([folders[0], "--write", *out])
