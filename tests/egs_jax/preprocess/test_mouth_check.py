"""What is before the mouth: hands, cups and microphones that come and go."""

import cv2
import numpy as np

from egs_jax.preprocess.mouth_check import mouth_patch, mouth_seen

SKIN, LIP, TEETH = (190, 140, 120), (150, 60, 70), (240, 235, 225)
RNG = np.random.default_rng(0)


def face(opening: float, width: float, shift: float) -> np.ndarray:
    """The lower half of a face, 120 px between the eyes' corners, whose mouth speaks."""
    picture = np.full((240, 240, 3), SKIN, np.uint8)
    picture[:, :, 0] -= np.linspace(0, 40, 240).astype(np.uint8)[:, None]
    middle = (120 + round(shift), 170)
    half = (round(30 + 8 * width), round(8 + 16 * opening))
    cv2.ellipse(picture, middle, half, 0, 0, 360, LIP, -1)
    cv2.ellipse(picture, middle, (half[0] - 6, round(12 * opening)), 0, 0, 360, (40, 10, 15), -1)
    if opening > 0.5:
        cv2.rectangle(picture, (middle[0] - 15, 160), (middle[0] + 15, 164), TEETH, -1)
    return cv2.add(picture, RNG.integers(0, 6, picture.shape, dtype=np.uint8))


def points(turn: float = 0.0) -> np.ndarray:
    landmarks = np.zeros((478, 3), np.float32)
    landmarks[[33, 263], :2] = [[60, 60], [180, 60 + turn]]
    return landmarks


def speaks(count: int) -> np.ndarray:
    time = np.arange(count)
    return np.stack([face(abs(np.sin(t / 3)), np.sin(t / 5), 4 * np.sin(t / 20)) for t in time])


def patches(frames: np.ndarray) -> np.ndarray:
    return np.stack([mouth_patch(frame, points()) for frame in frames])


def hide(frame: np.ndarray, kind: str, t: int) -> None:
    x = 120 + round(6 * np.sin(t / 4))
    if kind == "hand":
        for finger in range(-2, 3):
            at = (x + 22 * finger, 190)
            cv2.ellipse(frame, at, (10, 45), 0, 0, 360, (200, 150, 130), -1)
            cv2.ellipse(frame, at, (10, 45), 0, 0, 360, (120, 80, 70), 2)
    elif kind == "microphone":
        cv2.line(frame, (x, 175), (x - 90, 239), (25, 25, 25), 18)
        cv2.circle(frame, (x, 175), 32, (45, 45, 48), -1)
    else:
        cv2.rectangle(frame, (x - 45, 150), (x + 45, 239), (235, 235, 230), -1)


HIDDEN = {"hand": range(60, 85), "microphone": range(130, 145), "cup": range(200, 225)}


def test_what_hides_the_mouth_for_a_while_is_found():
    frames, hidden = speaks(270), np.zeros(270, bool)
    for kind, times in HIDDEN.items():
        for t in times:
            hide(frames[t], kind, t)
        hidden[times] = True
    seen = mouth_seen(patches(frames))
    assert not seen[hidden].any()
    assert seen[~hidden].sum() >= (~hidden).sum() - 8 * len(HIDDEN)  # what comes and goes around


def test_mouth_that_only_speaks_is_seen():
    assert mouth_seen(patches(speaks(240))).all()


def test_what_is_always_there_is_part_of_the_person():
    frames = speaks(210)
    for t in range(210):
        hide(frames[t], "microphone", 0)
    assert mouth_seen(patches(frames)).all()


def test_patch_follows_the_eyes():
    frame = face(0.8, 0.0, 0.0)
    turned = cv2.warpAffine(
        frame,
        cv2.getRotationMatrix2D((60, 60), -10, 1.0),
        (240, 240),
        borderMode=cv2.BORDER_REPLICATE,
    )
    landmarks = points()
    angle = np.radians(10)
    landmarks[263, :2] = 60 + 120 * np.cos(angle), 60 + 120 * np.sin(angle)
    apart = np.abs(mouth_patch(frame, points()).astype(int) - mouth_patch(turned, landmarks))
    assert apart[:10].mean() < 4 and mouth_patch(frame, points()).shape == (12, 12, 3)
