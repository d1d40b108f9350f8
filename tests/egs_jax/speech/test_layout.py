"""Look-ahead by hand, in samples; which entries a frame hears; which layout is chosen."""

import pytest

from egs_jax.runtime.errors import InputError
from egs_jax.speech.layout import LAYOUTS, Layout, layout_of, told_look_ahead


def test_the_default_look_ahead_by_hand():
    """Whisper: 280 ms of the window's last entry, 412.5 of its windows, 160 for the block."""
    assert layout_of("whisper").look_ahead() == pytest.approx((4480 + 6600 + 2560) / 16_000)
    assert layout_of("mel").look_ahead() == pytest.approx((4480 + 160 + 2560) / 16_000)
    assert layout_of("imported") == layout_of("whisper")


def test_a_layout_by_hand():
    """Blocks of 3 frames, 2 rows beyond a block, entries to 1 frame ahead: rows to 2 i + 9."""
    layout = Layout(6, 30, 8, False, (40, 200), future_frames=1)
    assert layout.look_ahead() == pytest.approx((10 * 320 + 2 * 320 + 200 + 2 * 640) / 16_000)
    assert (layout.window_offset, layout.window_samples) == (-30 * 320 - 40, 38 * 320 + 240)
    assert layout.kept_rows == (30, 36)
    assert layout.offsets().tolist() == [-4, -3, -2, -1, 0, 1, 1, 1]
    assert layout.offsets(5).tolist() == [-2, -1, 0, 1, 1]
    assert layout.offsets(2).tolist() == [-1, 0] and layout.offsets(1).tolist() == [0]


@pytest.mark.parametrize("kind", LAYOUTS)
def test_a_layout_is_as_slow_as_allowed(kind):
    usual, *others = LAYOUTS[kind]
    assert layout_of(kind) == layout_of(kind, 5.0) == usual
    assert layout_of(kind, 0.4) in others and layout_of(kind, 0.4).look_ahead() <= 0.4
    for layout in LAYOUTS[kind]:
        assert layout_of(kind, layout.look_ahead()) == layout
    least = min(layout.look_ahead() for layout in LAYOUTS[kind])
    for seconds in (least - 1e-3, 0.0, float("nan")):
        with pytest.raises(InputError, match=f"{kind} features need {least:.4g} s of sound"):
            layout_of(kind, seconds)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_every_layout_is_whole_frames_and_sees_what_it_finishes(kind):
    for layout in LAYOUTS[kind]:
        assert layout.hop_rows % 2 == 0 and layout.ahead_rows >= layout.hop_rows
        assert layout.left_rows >= (layout.hop_rows if layout.is_crossfaded else 0)
        for window in range(1, 12):
            assert layout.offsets(window)[window // 2] == 0


def test_the_default_is_not_written_down():
    assert told_look_ahead("mel", layout_of("mel", 3.0)) == {}
    written = told_look_ahead("mel", layout_of("mel", 0.4))["look_ahead"]
    assert layout_of("mel", written).look_ahead() == written <= 0.4
