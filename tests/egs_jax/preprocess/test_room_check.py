"""How still a room is: drawn rooms behind a person who sways, whose camera does what is known."""

import cv2
import numpy as np
import pytest

from egs_jax.preprocess import room_check
from egs_jax.preprocess.masks import BackgroundModel, FrameMasks
from egs_jax.preprocess.room_check import RoomCheck, RoomFigures

SIZE, WIDE = 96, 160
NOBODY = np.zeros((SIZE, SIZE), bool)


def texture(seed: int, sigma: float = 2.0) -> np.ndarray:
    """A room twice as large as the picture, float32."""
    picture = np.random.default_rng(seed).normal(size=(WIDE, WIDE, 3))
    picture = cv2.GaussianBlur(picture, (0, 0), sigma)
    return (120 + 30 * picture / picture.std()).astype(np.float32)


ROOM, OTHER = texture(0), texture(1)
PLAIN = np.full((WIDE, WIDE, 3), (150, 160, 170), np.float32)


def seen(room: np.ndarray, x: float = 0.0, y: float = 0.0, zoom: float = 1.0) -> np.ndarray:
    """The room through a camera turned by x and y pixels."""
    middle = WIDE / 2 - 0.5
    affine = np.array(
        [
            [zoom, 0, SIZE / 2 - 0.5 - zoom * middle + x],
            [0, zoom, SIZE / 2 - 0.5 - zoom * middle + y],
        ]
    )
    return cv2.warpAffine(room, affine, (SIZE, SIZE), flags=cv2.INTER_LINEAR)


def person(i: int) -> np.ndarray:
    image = np.zeros((SIZE, SIZE), np.uint8)
    x = round(48 + 5 * np.sin(0.7 * i))
    cv2.ellipse(image, (x, 45), (16, 22), 0, 0, 360, 1, -1)
    cv2.ellipse(image, (x, 105), (36, 42), 0, 0, 360, 1, -1)
    return image > 0


def measured(views, others=lambda i: NOBODY) -> RoomFigures | None:
    """What is found in a clip of these rooms, the person before them."""
    plate, check = BackgroundModel(SIZE, SIZE), RoomCheck()
    for i, view in enumerate(views):
        body = person(i)
        frame = np.where(body[..., None], 40, np.clip(np.round(view), 0, 255)).astype(np.uint8)
        foreground = cv2.dilate(body.view(np.uint8), np.ones((3, 3), np.uint8)) > 0
        plate.update(frame, foreground, others(i))
        check.update(frame, FrameMasks(body, body * np.uint8(255), foreground, others(i)))
    return check.result(plate.result())


def rms(path: np.ndarray) -> float:
    return float(np.sqrt(np.square(path - path.mean(0)).sum(-1).mean()))


def test_noise_flicker_and_exposure_are_not_motion():
    noise = np.random.default_rng(2)
    light = lambda i: (0.8 + 0.03 * i) * (1 + 0.03 * (-1) ** i)
    views = [light(i) * seen(ROOM) + noise.normal(0, 6, (SIZE, SIZE, 3)) for i in range(12)]
    found = measured(views)
    assert found.camera < 1e-3 and found.elsewhere == 0 and found.changing < 0.01


@pytest.mark.parametrize("far", [0.5, 2.0, 8.0])
def test_a_moving_camera_is_measured(far):
    t = np.arange(12)
    path = far * np.stack([np.sin(0.9 * t), np.sin(1.7 * t)], -1)
    found = measured([seen(ROOM, *place) for place in path])
    assert found.camera == pytest.approx(rms(path) / SIZE, rel=0.1)
    assert found.elsewhere == 0


def test_zoom_is_motion():
    found = measured([seen(ROOM, zoom=1 + 0.02 * i) for i in range(8)])
    assert found.camera > 0.015 and found.elsewhere == 0


@pytest.mark.parametrize("grain", [0.0, 6.0])
def test_before_a_plain_wall_the_camera_may_move(grain):
    noise = np.random.default_rng(3)
    views = [seen(PLAIN, 3.0 * i) + grain * noise.normal(size=(SIZE, SIZE, 3)) for i in range(8)]
    found = measured(views)
    assert found.camera < 1e-3 and found.elsewhere == 0 and found.changing < 0.01


def test_a_wall_with_one_edge_does_not_slide_along_it():
    """A curtain rail and shades of light: nothing tells how far the room moves sideways."""
    noise, shades = np.random.default_rng(4), np.linspace(-30, 30, WIDE)
    room = PLAIN + shades[None, :, None].astype(np.float32)
    room[: WIDE // 2 - SIZE // 2 + 4] = 20
    still = [seen(room) + noise.normal(0, 2, (SIZE, SIZE, 3)) for _ in range(12)]
    assert measured(still).camera < 2.5e-3
    moved = [seen(room, y=i % 3) + noise.normal(0, 2, (SIZE, SIZE, 3)) for i in range(12)]
    assert measured(moved).camera > 5e-3


def test_a_few_lamps_do_not_tell_the_exposure():
    """Of a dark blue room in which hardly a pixel is lit, by a lamp that comes and goes."""
    dark = np.full((SIZE, SIZE, 3), (0, 0, 6), np.uint8)
    lamp = np.full((SIZE, SIZE, 3), (0, 0, 6), np.uint8)
    lamp[4:9, 4:9] = 12, 12, 200
    assert measured([dark, lamp] * 4).elsewhere == 0


@pytest.mark.parametrize("first", [ROOM, PLAIN])
def test_a_cut_is_another_room(first):
    """Nine views of one, three of another: only these are elsewhere."""
    found = measured([seen(first if i < 9 else 0.7 * OTHER) for i in range(12)])
    assert found.elsewhere == 0.25 and found.camera < 1e-3


def walked_by(i: int, view: np.ndarray) -> np.ndarray:
    return cv2.ellipse(view.copy(), (12 * i - 6, 50), (9, 45), 0, 0, 360, (30, 20, 90), -1)


def test_a_passer_by_and_a_screen_are_no_moving_camera():
    passed = measured([walked_by(i, seen(ROOM)) for i in range(9)])
    views = [seen(ROOM) for _ in range(10)]
    for i, view in enumerate(views):
        view[5:30, 5:35] = texture(10 + i)[:25, :30]
    screen = measured(views)
    for found in (passed, screen):
        assert found.camera < 1e-3 and found.elsewhere == 0 and found.changing > 0.03


def test_other_people_are_counted_and_hide_the_room():
    def somebody(i: int) -> np.ndarray:
        return walked_by(i, np.zeros((SIZE, SIZE, 3), np.uint8))[..., 2] > 0 if i < 3 else NOBODY

    found = measured(
        [walked_by(i, seen(ROOM)) if i < 3 else seen(ROOM) for i in range(9)], somebody
    )
    assert found.others == pytest.approx(1 / 3) and found.changing < 0.01


def test_without_a_room_nothing_is_told():
    check = RoomCheck()
    everywhere = np.ones((SIZE, SIZE), bool)
    frame = np.zeros((SIZE, SIZE, 3), np.uint8)
    check.update(frame, FrameMasks(everywhere, everywhere * np.uint8(255), everywhere, NOBODY))
    assert check.result(frame) is None and RoomCheck().result(frame) is None


def test_looks_are_thinned_evenly(monkeypatch):
    monkeypatch.setattr(room_check, "_MOST", 6)
    check, nothing = RoomCheck(), FrameMasks(NOBODY, NOBODY * np.uint8(0), NOBODY, NOBODY)
    for i in range(29):
        check.update(np.full((SIZE, SIZE, 3), i, np.uint8), nothing)
    assert [look.picture[0, 0, 0] for look in check._looks] == [0, 8, 16, 24]


def test_kept_pictures_are_small():
    check, wide = RoomCheck(), np.zeros((300, 600), bool)
    hidden = wide.copy()
    hidden[0, 0] = True
    frame = np.zeros((300, 600, 3), np.uint8)
    check.update(frame, FrameMasks(wide, wide * np.uint8(0), hidden, wide))
    [look] = check._looks
    assert look.picture.shape == (80, 160, 3) and look.hidden.sum() == 1
