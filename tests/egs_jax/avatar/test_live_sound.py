"""Sound that waits to be heard: all of it, once, in order, bounded."""

import numpy as np
import pytest
from helpers import tone

from egs_jax.avatar.live_sound import LiveSound
from egs_jax.runtime.errors import InputError


@pytest.mark.parametrize("most", [1, 700, 10_000])
def test_what_is_pushed_is_taken_in_order(most):
    sound, queue, taken = tone(0.5, 16_000), LiveSound(16_000, 10), []
    for part in np.split(sound, [10, 10, 3000]):
        queue.push(part)
    assert queue.samples == len(sound) and queue.waiting == 0.5
    while queue:
        taken.append(queue.take_all(most))
        assert len(taken[-1]) == most or not queue
    np.testing.assert_array_equal(np.concatenate(taken), sound)
    assert queue.samples == 0 and len(queue.take_all(most)) == 0


def test_another_rate_is_resampled_to_its_end():
    queue = LiveSound(48_000, 10)
    queue.push(tone(0.5, 48_000))
    assert queue.samples < 8000 and queue.waiting + queue.delay >= 0.5
    queue.finish()
    queue.finish()
    assert abs(queue.samples - 8000) <= 1 and queue.is_finished
    with pytest.raises(InputError, match="finished; call reset"):
        queue.push(tone(0.1, 48_000))
    queue.clear()
    assert not queue and not queue.is_finished and queue.samples == 0
    queue.hush(5)
    np.testing.assert_array_equal(queue.take_all(9), np.zeros(5))
