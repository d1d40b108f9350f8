"""Head masks, clean background and painted-out heads on drawn people, whose truth is known."""

import cv2
import numpy as np
import pytest

from egs_jax.face.mesh import FACE_OVAL, LIPS_OUTER
from egs_jax.preprocess import masks as masks_module
from egs_jax.preprocess.masks import BackgroundModel, HeadMasker, lips_rect, paint_out_head

SIZE = 200
HEAD, NECK, SHIRT = (200, 90, 80), (190, 120, 90), (30, 40, 120)


def landmarks_at(x: float, y: float, radius: float = 40.0) -> np.ndarray:
    """Landmarks of an upright face whose outline is an ellipse 0.8 as wide as high."""
    points = np.random.default_rng(0).uniform(-0.4, 0.4, (478, 3))
    around = np.linspace(0, 2 * np.pi, len(FACE_OVAL), endpoint=False)
    points[FACE_OVAL, 0], points[FACE_OVAL, 1] = 0.8 * np.sin(around), -np.cos(around)
    points[[33, 263], :2] = [[-0.5, -0.3], [0.5, -0.3]]
    lips = np.linspace(0, 2 * np.pi, len(LIPS_OUTER), endpoint=False)
    points[LIPS_OUTER, 0], points[LIPS_OUTER, 1] = 0.3 * np.cos(lips), 0.5 + 0.1 * np.sin(lips)
    return (points * radius + np.asarray([x, y, 0.0])).astype(np.float32)


def room() -> np.ndarray:
    ramp = np.linspace(60, 160, SIZE)
    rows = np.broadcast_to(ramp[:, None], (SIZE, SIZE))
    return np.stack([rows, rows.T, np.full_like(rows, 90)], -1).astype(np.uint8)


def person_at(x: float, y: float = 90.0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw a person: frame, true head (skull, face, ears), true person, landmarks."""
    head, rest = np.zeros((2, SIZE, SIZE), np.uint8)
    frame = room()
    cv2.rectangle(rest, (round(x - 20), round(y)), (round(x + 20), SIZE), 1, -1)
    cv2.ellipse(rest, (round(x), SIZE), (80, round(SIZE - y - 65)), 0, 0, 360, 2, -1)
    cv2.ellipse(head, (round(x), round(y)), (32, 40), 0, 0, 360, 1, -1)  # face
    cv2.ellipse(head, (round(x), round(y - 22)), (38, 38), 0, 180, 360, 1, -1)  # hair
    for side in (-1, 1):
        cv2.ellipse(head, (round(x + side * 36), round(y - 4)), (5, 12), 0, 0, 360, 1, -1)
    frame[rest == 1], frame[rest == 2], frame[head > 0] = NECK, SHIRT, HEAD
    return frame, head > 0, (head > 0) | (rest > 0), landmarks_at(x, y)


def probability(person: np.ndarray, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    small = cv2.resize(person.astype(np.float32), (256, 256), interpolation=cv2.INTER_LINEAR)
    small = cv2.GaussianBlur(small, (0, 0), 1.5)
    ripple = np.random.default_rng(seed).normal(0, 1, (256, 256)).astype(np.float32)
    return np.clip(small + noise * 3 * cv2.GaussianBlur(ripple, (0, 0), 2.0), 0, 1)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


def test_lips_rect_is_the_square_of_the_original():
    landmarks = np.full((478, 3), 100.0, np.float32)
    landmarks[LIPS_OUTER, :2] = [70.0, 60.0]
    landmarks[LIPS_OUTER[0], :2] = [50.9, 60.2]  # extent 50..91 across, 60..73 down
    landmarks[LIPS_OUTER[10], :2] = [91.3, 73.9]
    assert lips_rect(landmarks, 200, 200).tolist() == [46, 86, 50, 90]
    assert lips_rect(landmarks, 80, 85).tolist() == [46, 80, 50, 85]
    assert lips_rect(landmarks, 200, 200).dtype == np.int32


@pytest.mark.parametrize("x", [70.0, 100.0, 128.0])
def test_head_is_found_without_neck_and_torso(x):
    _, head, person, landmarks = person_at(x)
    masks = HeadMasker(SIZE, SIZE).update(landmarks, probability(person))
    assert overlap(masks.head, head) > 0.93
    assert overlap(masks.person, person) > 0.95
    assert not masks.head[round(90 + 40 + 4) :].any()  # nothing below the chin
    assert (masks.foreground | ~masks.person).all()


def test_a_second_person_and_a_raised_hand_are_not_head():
    _, head, person, landmarks = person_at(70.0)
    cv2.circle(other := person.astype(np.uint8), (175, 60), 20, 1, -1)
    masks = HeadMasker(SIZE, SIZE).update(landmarks, probability(other > 0))
    assert overlap(masks.head, head) > 0.93


def test_face_parser_decides_where_given():
    _, head, person, landmarks = person_at(100.0)
    labels = np.where(head, 1, np.where(person, 14, 0)).astype(np.uint8)
    labels[:60][head[:60]] = 17
    labels[10:20, 10:20] = 8  # a stray ear in the corner
    masks = HeadMasker(SIZE, SIZE).update(landmarks, probability(person), labels)
    assert overlap(masks.head, head) > 0.97 and not masks.head[:25, :25].any()


def flicker(step: float) -> tuple[float, float]:
    """Mean share of wrong head pixels and mean overlap with the truth, over a moving clip."""
    masker, wrong, alike, before = HeadMasker(SIZE, SIZE), [], [], None
    for index in range(12):
        _, head, person, landmarks = person_at(round(70 + step * index))
        found = masker.update(landmarks, probability(person, 0.5, index)).head
        errors = found ^ head
        if before is not None and step == 0:
            wrong.append((errors ^ before).sum() / head.sum())
        alike.append(overlap(found, head))
        before = errors
    return float(np.mean(wrong or 0)), float(np.mean(alike))


def test_masks_are_steady_and_follow_the_head(monkeypatch):
    steady, alike = flicker(0.0)
    assert flicker(5.0)[1] > 0.92  # five pixels a frame: no trail
    monkeypatch.setattr(masks_module, "_SMOOTHING", 0.0)
    noisy, _ = flicker(0.0)
    assert steady < 0.7 * noisy and alike > 0.93


def test_a_head_is_all_but_background_neck_and_clothes():
    assert masks_module.HEAD_LABELS == (*range(1, 14), 17, 18)
    assert sorted({*masks_module.PERSON_LABELS} - {*masks_module.HEAD_LABELS}) == [14, 15, 16]


def clean_of(centers) -> np.ndarray:
    model = BackgroundModel(SIZE, SIZE)
    for x in centers:
        frame, _, person, _ = person_at(x)
        model.update(frame, cv2.dilate(person.astype(np.uint8), np.ones((5, 5))) > 0)
    return model.result()


def test_background_is_found_where_the_person_moved_away():
    clean = clean_of([40, 100, 160])
    seen = np.zeros((SIZE, SIZE), bool)
    for x in (40, 100, 160):
        seen |= cv2.dilate(person_at(x)[2].astype(np.uint8), np.ones((9, 9))) == 0
    assert seen.mean() > 0.7
    assert np.abs(clean.astype(int) - room())[seen].max() <= 1


def test_what_was_always_covered_is_filled_from_around():
    clean = clean_of([100])
    hidden = person_at(100)[1]
    error = np.abs(clean.astype(int) - room())[hidden]
    assert error.mean() < 25  # of a ramp of 100 levels; the head's own color is off by 90
    assert np.abs(np.diff(clean.astype(int)[:120], axis=1)).max() < 40  # no hard edge


def test_nothing_uncovered_is_gray():
    model = BackgroundModel(8, 8)
    model.update(np.zeros((8, 8, 3), np.uint8), np.ones((8, 8), bool))
    assert (model.result() == 128).all()


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
