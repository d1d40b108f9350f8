"""Closures and both ends of an opening, on lines drawn by hand."""

import numpy as np
import pytest

from egs_jax.evaluation import mouth

LEVELS = mouth.Levels(shut=0.2, shut_render=0.25, open=0.35)
FPS = 25.0


def line(text: str) -> np.ndarray:
    """An opening: a digit is that many tenths, "-" a frame without a face."""
    return np.array([np.nan if c == "-" else int(c) / 10 for c in text])


def test_levels_are_shares_of_the_way_from_rest_to_wide():
    opening = np.linspace(0, 1, 101)  # rest 0.05, wide 0.9
    levels = mouth.levels_of(np.append(opening, np.nan))
    assert levels == pytest.approx((0.05 + 0.2 * 0.85, 0.05 + 0.25 * 0.85, 0.05 + 0.35 * 0.85))
    assert mouth.levels_of(0.034 * opening) is None  # 0.0289 from rest to wide
    assert mouth.levels_of(0.037 * opening) is not None


@pytest.mark.parametrize(
    ("opening", "closures"),
    [
        ("9909", [2]),
        ("990009", [3]),
        ("93213123" + "9", [5]),  # two dips, not open between them: one closure
        ("90909", [1, 3]),
        ("9333339", []),  # never shut
        ("0009000", []),  # does not open before, or after
        ("9" + 12 * "0" + "9", [7]),
        ("9" + 13 * "0" + "9", []),  # a pause
        ("90-09", []),  # nobody knows what was there
        ("9-909", [3]),
        ("", []),
    ],
)
def test_closures_by_hand(opening, closures):
    assert mouth.closures_of(line(opening), LEVELS, FPS).tolist() == closures


def test_a_pause_is_one_of_seconds_not_of_frames():
    opening = line("9" + 13 * "0" + "9")
    assert mouth.closures_of(opening, LEVELS, 30.0).tolist() == [7]


@pytest.mark.parametrize(
    ("rendered", "share"),
    [
        ("99999909999999", 1 / 2),  # one frame late
        ("99900999999099", 2 / 2),  # two early, two late
        ("99099999999909", 0 / 2),  # three early, three late
        ("99999299999999", 1 / 2),  # shut enough for a render
        ("99999399999999", 0 / 2),
        ("999999--999099", 1 / 2),
    ],
)
def test_a_closure_may_be_two_frames_off(rendered, share):
    true = line("99999099909999")
    closures = mouth.closures_of(true, LEVELS, FPS)
    assert closures.tolist() == [5, 9]
    assert mouth.closed_share(line(rendered), closures, LEVELS).value == share
    assert mouth.closed_share(true, closures, LEVELS).value == 1


def test_without_a_closure_there_is_a_reason_and_no_number():
    opening = line("999999")
    none = mouth.closures_of(opening, LEVELS, FPS)
    for share in (mouth.closed_share, lambda run, *rest: mouth.shifted_share([run], *rest)):
        assert share(opening, none, LEVELS) == (
            None, "no lip closure: the true mouth never shuts between two openings",
        )  # fmt: skip
        still = share(opening, none, None)
        assert still.value is None and still.note.startswith("the mouth hardly moves in training")


def test_a_mouth_that_is_always_shut_closes_under_any_sound():
    closures = mouth.closures_of(line("9909990999"), LEVELS, FPS)
    shut, open_ = np.zeros(10), np.ones(10)
    assert mouth.closed_share(shut, closures, LEVELS).value == 1
    assert mouth.shifted_share(50 * [shut], closures, LEVELS).value == 1
    assert mouth.shifted_share(46 * [open_] + 4 * [shut], closures, LEVELS).value == 1
    assert mouth.shifted_share(48 * [open_] + 2 * [shut], closures, LEVELS).value == 0
    assert not len(mouth.closures_of(shut, None, FPS))
    few = mouth.shifted_share(49 * [shut], closures, LEVELS)
    assert few == (None, "49 shifted runs; 50 are needed")


def test_errors_at_both_ends_by_hand():
    true = np.linspace(0, 1, 40)[np.random.default_rng(0).permutation(40)]
    widest, narrowest = mouth.end_errors(0.5 + 0.6 * (true - 0.5), true)  # flattened
    # Means of the ends: 1.5 steps of 1/39 from either end.
    end = 0.5 - 1.5 / 39
    assert widest.value == pytest.approx(-0.4 * end / (2 * end))
    assert narrowest.value == pytest.approx(0.4 * end / (2 * end))
    shifted = mouth.end_errors(true + 0.1, true)
    assert [figure.value for figure in shifted] == pytest.approx([0.05 / end] * 2)
    seen = true.copy()
    seen[true > 0.95] = np.nan  # no face where it is widest: the next tenth
    assert mouth.end_errors(true + 0.1, seen)[0].value > 0.05 / end
    short = mouth.end_errors(true[:19], true[:19])
    assert short == 2 * ((None, "only 19 of 19 frames have both values"),)
    assert mouth.end_errors(true, 0.01 * true) == 2 * ((None, "the true mouth hardly moves"),)
