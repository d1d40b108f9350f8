"""What the experiments share, and that README shows their numbers and no others."""

import json

import pytest

from experiments import readme
from experiments._common import RESULTS, commit, record, spread


def test_record_says_where_it_ran(tmp_path):
    path = record("made_up", [{"value": 1.5}], tmp_path)
    written = json.loads(path.read_text())
    assert written.keys() == {"commit", "device", "host", "versions", "cases"}
    assert written["cases"] == [{"value": 1.5}]
    assert "jax" in written["versions"]


def test_commit_is_a_hash_or_unknown():
    name = commit().removesuffix("+")
    assert name == "unknown" or (len(name) == 40 and int(name, 16) > 0)


def test_spread_is_the_median_with_percentiles():
    seconds = [0.001 * k for k in range(1, 12)]
    assert spread(seconds) == {"median_ms": 6.0, "p10_ms": 2.0, "p90_ms": 10.0}


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda p: p.name)
def test_every_result_has_commit_device_and_cases(path):
    result = json.loads(path.read_text())
    assert result["commit"] and result["device"] and result["cases"]


def test_readme_tables_come_from_the_results():
    text = readme.README.read_text()
    assert readme.filled(text) == text, "run python -m experiments.readme"


def test_tables_are_filled_between_their_marks():
    text = "a\n<!-- table:training -->\nold\n<!-- end:training -->\nb\n"
    start, end = "<!-- table:reconstruction -->", "<!-- end:reconstruction -->"
    filled = readme.filled(text + f"{start}\n{end}\n")
    assert "old" not in filled and filled.startswith("a\n") and "\nb\n" in filled
    assert "| static |" in filled
