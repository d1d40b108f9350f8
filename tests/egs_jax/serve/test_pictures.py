"""Frames for pages that cannot draw: what is behind, what part is seen."""

import cv2
import numpy as np

from egs_jax.avatar.drawing import StreamFrame
from egs_jax.serve.pictures import jpeg, over, seen, zoomed
from egs_jax.serve.protocol import Framing

RNG = np.random.default_rng(0)
PLATE = RNG.integers(0, 256, (24, 32, 3)).astype(np.uint8)
PERSON = RNG.integers(0, 256, (24, 32, 3)).astype(np.uint8)


def drawn(alpha, behind):
    share = alpha[..., None] / 255
    return np.rint(share * PERSON + (1 - share) * behind).astype(np.uint8)


def test_a_color_takes_the_place_of_the_plate():
    alpha = RNG.integers(0, 256, (24, 32)).astype(np.uint8)
    color = (10, 200, 90)
    got = over(drawn(alpha, PLATE), alpha, PLATE, color)
    want = drawn(alpha, np.broadcast_to(np.uint8(color), PLATE.shape))
    assert np.abs(got.astype(int) - want).max() <= 1


def test_zoom_keeps_its_middle_and_never_leaves_the_picture():
    picture = cv2.GaussianBlur(PLATE, (9, 9), 3)
    assert zoomed(picture, Framing()) is picture
    near = zoomed(picture, Framing(zoom=2.0, x=0.5, y=0.5))
    assert near.shape == picture.shape
    # A pixel of the one is where half as far from the middle it is in the other.
    np.testing.assert_allclose(near[4:20:4, 4:28:4], picture[8:16:2, 10:22:2], atol=6)
    corner = zoomed(picture, Framing(zoom=2.0, x=0.0, y=0.0))
    np.testing.assert_array_equal(corner, zoomed(picture, Framing(2.0, 0.25, 0.25)))


def test_what_is_seen_is_zoomed_over_what_is_wanted():
    alpha = RNG.integers(0, 256, (24, 32)).astype(np.uint8)
    frame, framing = StreamFrame(0, 0.0, PERSON, alpha, False), Framing(2.0, 0.3, 0.6, (255, 0, 0))
    assert seen(frame, PLATE, Framing()) is PERSON
    want = zoomed(over(PERSON, alpha, PLATE, (255, 0, 0)), framing)
    np.testing.assert_array_equal(seen(frame, PLATE, framing), want)
    # A head over its clip keeps that.
    np.testing.assert_array_equal(seen(frame, None, framing), zoomed(PERSON, framing))


def test_it_is_a_jpeg_of_the_picture():
    smooth = cv2.GaussianBlur(PERSON, (9, 9), 3)
    back = cv2.imdecode(np.frombuffer(jpeg(smooth), np.uint8), cv2.IMREAD_COLOR)
    assert np.abs(cv2.cvtColor(back, cv2.COLOR_BGR2RGB).astype(int) - smooth).mean() < 4
