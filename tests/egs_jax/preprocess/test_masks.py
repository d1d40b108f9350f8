"""Head masks and clean background on drawn people, whose truth is known."""

import cv2
import numpy as np
import pytest
from drawn_person import SIZE, person_at, room

from egs_jax.face.mesh import LIPS_OUTER
from egs_jax.preprocess import masks as masks_module
from egs_jax.preprocess.masks import BackgroundModel, HeadMasker, lips_rect


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
    assert overlap(masks.soft_person > 127, person) > 0.95
    assert not masks.head[round(90 + 40 + 4) :].any()  # nothing below the chin
    assert (masks.foreground | (masks.soft_person < 128)).all()


def test_a_second_person_and_a_raised_hand_are_not_head():
    _, head, person, landmarks = person_at(70.0)
    cv2.circle(other := person.astype(np.uint8), (175, 60), 20, 1, -1)
    masks = HeadMasker(SIZE, SIZE).update(landmarks, probability(other > 0))
    assert overlap(masks.head, head) > 0.93


def test_another_person_apart_is_room():
    _, head, person, landmarks = person_at(60.0)
    other = cv2.circle(np.zeros((SIZE, SIZE), np.uint8), (175, 50), 18, 1, -1) > 0
    doubt = cv2.circle(np.zeros((SIZE, SIZE), np.uint8), (130, 20), 8, 1, -1) > 0
    believed = np.maximum(probability(person | other), 0.3 * probability(doubt))
    masks = HeadMasker(SIZE, SIZE).update(landmarks, believed)
    assert overlap(masks.soft_person > 127, person) > 0.95 and overlap(masks.head, head) > 0.93
    assert not masks.soft_person[other | doubt].any() and not masks.foreground[other | doubt].any()
    assert masks.others[other].all() and not masks.others[person].any()
    alone = HeadMasker(SIZE, SIZE).update(landmarks, probability(person))
    assert not alone.others.any()


def test_what_a_microphone_parts_from_the_head_is_still_the_person():
    _, _, person, landmarks = person_at(100.0)
    person[133:147] = False
    masks = HeadMasker(SIZE, SIZE).update(landmarks, probability(person))
    assert overlap(masks.soft_person > 127, person) > 0.95 and not masks.others.any()


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


def test_who_walks_by_is_not_in_the_room_and_who_stays_is():
    plain, nobody = np.full((40, 40, 3), 90, np.uint8), np.zeros((40, 40), bool)
    passing, staying = BackgroundModel(40, 40), BackgroundModel(40, 40)
    for i in range(8):
        other = nobody.copy()
        other[10:30, 5:20] = True
        frame = np.where(other[..., None], 200, plain).astype(np.uint8)
        staying.update(frame, nobody, other)
        passing.update(frame if i < 6 else plain, nobody, other if i < 6 else nobody)
    assert (staying.result() == frame).all()
    assert np.abs(passing.result().astype(int) - plain).max() <= 1


def test_nothing_uncovered_is_gray():
    model = BackgroundModel(8, 8)
    model.update(np.zeros((8, 8, 3), np.uint8), np.ones((8, 8), bool))
    assert (model.result() == 128).all()
