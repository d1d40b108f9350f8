"""The table of mutations fits the tree, and the script does with it what it says."""

import pytest
from helpers import ROOT
from mutate import copy_tree, outcome_of
from mutations import MUTATIONS, Mutation, misfits


def test_every_old_text_occurs_once_and_every_test_exists():
    assert misfits(ROOT, MUTATIONS) == []
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS) >= 25


def test_what_does_not_fit_is_found():
    fits = MUTATIONS[0]
    wrong = [
        fits._replace(old="no such text"), fits._replace(old="e"), fits._replace(new=fits.old),
        fits._replace(tests=("tests/test_mutations.py::test_that_is_not_there",)),
    ]  # fmt: skip
    assert len(misfits(ROOT, wrong)) == len(wrong)
    assert misfits(ROOT, [fits]) == []


@pytest.mark.parametrize(
    ("text", "verdict"), [("1 == 2", "killed"), ("2 == 2", "survived"), ("1 ==", "broken")]
)
def test_an_edit_is_made_in_a_copy_and_undone(tmp_path, text, verdict):
    name, source = "tests/made_up/test_it.py", "def test_it():\n    assert 1 == 1\n"
    (tmp_path / "tests" / "made_up").mkdir(parents=True)
    (tmp_path / name).write_text(source)
    found = outcome_of(tmp_path, Mutation("", name, "1 == 1", text, (f"{name}::test_it",)))
    assert found.verdict == verdict and found.seconds > 0
    assert (found.by == f"{name}::test_it") == (verdict == "killed")
    assert (tmp_path / name).read_text() == source


def test_a_copy_has_the_tracked_files_and_the_compiled_programs(tmp_path):
    copy = copy_tree(tmp_path)
    assert (copy / "egs_jax" / "config.py").read_bytes() == (
        ROOT / "egs_jax" / "config.py"
    ).read_bytes()
    assert (copy / ".cache").resolve() == (ROOT / ".cache").resolve()
