"""Heads painted out of drawn frames, whose truth is known."""

import cv2
import numpy as np
from drawn_person import HEAD, NECK, SIZE, person_at, room

from egs_jax.data.paint import paint_out_head


def test_head_is_painted_out_and_the_rest_is_untouched():
    frame, head, person, _ = person_at(100.0)
    painted = paint_out_head(frame, head, person, room())
    near = cv2.dilate(head.astype(np.uint8), np.ones((15, 15))) > 0
    assert (painted[~near] == frame[~near]).all()
    body = cv2.erode((person & ~head).astype(np.uint8), np.ones((9, 9))) > 0
    assert (painted[body] == frame[body]).all()
    assert np.abs(painted.astype(int) - HEAD).max(-1).min() > 8  # no head color is left
    above = np.zeros_like(head)
    above[:85] = True
    assert np.abs(painted.astype(int) - room())[head & above].max() <= 1
    column = painted[100:, 100].astype(int)
    assert np.abs(np.diff(column[:30], axis=0)).max() < 60  # neck goes on up, no gap at the seam
    assert np.abs(painted[128, 100].astype(int) - np.asarray(NECK)).max() < 20


def test_thin_corners_of_the_body_stay_and_slivers_along_the_hair_go():
    frame, head, person, _ = person_at(100.0)
    sliver = (cv2.dilate(head.astype(np.uint8), np.ones((5, 5))) > 0) & ~person
    frame[sliver] = HEAD
    painted = paint_out_head(frame, head, person | sliver, room())
    body = person & ~head
    assert (painted[body] == frame[body]).all()
    error = np.abs(painted.astype(int) - room()).max(-1)
    neck = cv2.dilate(body.astype(np.uint8), np.ones((25, 25))) > 0
    assert error[sliver & ~neck].max() <= 1
    near = cv2.dilate((body | sliver).astype(np.uint8), np.ones((5, 5))) > 0
    beside = head & ~near & (np.abs(np.arange(SIZE) - 100) > 21)
    assert error[beside].max() <= 1  # no corner goes on up


def test_painting_without_body_or_head_does_not_fail():
    frame = room()
    nothing, everything = np.zeros((SIZE, SIZE), bool), np.ones((SIZE, SIZE), bool)
    assert (paint_out_head(frame, nothing, nothing, frame) == frame).all()
    assert paint_out_head(frame, everything, everything, frame).shape == frame.shape
