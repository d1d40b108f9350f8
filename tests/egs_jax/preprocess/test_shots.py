"""Which frames of a film are used, told from landmarks, thumbnails and colors."""

from pathlib import Path

import numpy as np
import pytest

from egs_jax.face.mesh import RIGID_POINTS
from egs_jax.preprocess import shots
from egs_jax.preprocess.exposure import exposed, exposure_gains
from egs_jax.preprocess.face_pass import Faces
from egs_jax.preprocess.films import Film
from egs_jax.preprocess.shots import choose_all, choose_parts, same_person
from egs_jax.runtime.errors import InputError

COUNT = 400
LIGHT = np.linspace(40, 200, 36)[:, None] + np.linspace(-30, 30, 64)[None]
OTHER_ROOM = LIGHT[::-1, ::-1] * 0.8


def person(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A face's shape, 200 px across, and the colors of its rigid points."""
    rng = np.random.default_rng(seed)
    common = np.random.default_rng(99).uniform(-100, 100, (478, 3))
    common[[33, 263]] = [[-90, 0, 0], [90, 0, 0]]
    shape = common + np.where(
        np.isin(np.arange(478), [33, 263])[:, None], 0, 6 * rng.normal(size=(478, 3))
    )
    return shape + [320, 240, 0], rng.uniform(60, 220, (len(RIGID_POINTS), 3))


def film_of(who: int = 0, count: int = COUNT, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Landmarks, thumbnails and colors of a head that sways in a room."""
    rng = np.random.default_rng(seed)
    shape, color = person(who)
    sway = 30 * np.sin(np.arange(count) / 9)[:, None, None] * np.float64([1, 0.3, 0])
    points = shape[None] + sway + rng.normal(size=(count, 478, 3)) * 0.3
    pictures = (
        LIGHT[None]
        + 4 * np.sin(np.arange(count) / 9)[:, None, None]
        + rng.normal(size=(count, 36, 64))
    )
    colors = np.repeat(color[None], -(-count // 5), 0)
    return points.astype(np.float32), pictures, colors


def found(points, pictures, colors, crowd=1) -> Faces:
    thumbnails = np.clip(np.rint(pictures), 0, 255).astype(np.uint8)
    return Faces(points, thumbnails, colors.astype(np.float32), None, crowd)


def film(name: str = "a.mp4", start: int = 0) -> Film:
    return Film(Path(name), None, start)


def test_one_long_take_is_one_stretch():
    choice = choose_parts(found(*film_of()))
    assert choice == ([(0, COUNT)], [])


def test_face_that_is_away_ends_a_stretch_and_a_blink_of_it_does_not(capsys):
    points, pictures, colors = film_of()
    points[:30] = np.nan  # a title
    points[100:110] = np.nan  # bridged
    points[250:270] = np.nan
    points[390:] = np.nan
    assert choose_all([film()], [found(points, pictures, colors)]) == [[(30, 250), (270, 390)]]
    said = capsys.readouterr().out
    assert "a.mp4: left out 0.0-1.2 s (no face), 10.0-10.8 s (no face), 15.6-16.0 s" in said
    assert "13.6 s in 2 stretches are used" in said


@pytest.mark.parametrize("kind", ["face", "picture"])
def test_cut_ends_a_stretch_and_loses_nothing(kind):
    points, pictures, colors = film_of()
    if kind == "face":
        points[200:] += np.float32([40, 10, 0])
    else:
        pictures[200:] = OTHER_ROOM + pictures[200:] - LIGHT
    assert choose_parts(found(points, pictures, colors)) == ([(0, 200), (200, COUNT)], [])


def test_camera_that_repeats_pictures_is_not_cut():
    """A film of 12 pictures a second at 25: every other step is none, the others are double."""
    points, pictures, colors = film_of()
    held = np.arange(COUNT) // 2 * 2
    assert choose_parts(found(points[held], pictures[held], colors)).parts == [(0, COUNT)]


@pytest.mark.parametrize("seconds", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("kind", ["from black", "to white", "into another scene"])
def test_fades_and_dissolves_are_left_out(kind, seconds):
    points, pictures, colors = film_of()
    length = round(25 * seconds)
    share = (np.arange(length) + 1)[:, None, None] / (length + 1)
    if kind == "from black":
        pictures[:length] *= share
        where = slice(0, length)
    elif kind == "to white":
        pictures[-length:] = 255 * share + (1 - share) * pictures[-length:]
        where = slice(COUNT - length, COUNT)
    else:
        where = slice(200, 200 + length)
        pictures[where] = share * OTHER_ROOM + (1 - share) * pictures[where]
        pictures[where.stop :] = OTHER_ROOM + pictures[where.stop :] - LIGHT
    choice = choose_parts(found(points, pictures, colors))
    used = np.zeros(COUNT, bool)
    for start, stop in choice.parts:
        used[start:stop] = True
    assert used[where].mean() < 0.25 and used.sum() > COUNT - length - 30
    assert all(part.why == "a fade" for part in choice.left_out)


def test_picture_that_stands_still_is_left_out():
    points, pictures, colors = film_of()
    points[100:150], pictures[100:150] = points[100], pictures[100]
    choice = choose_parts(found(points, pictures, colors))
    assert choice.left_out == [(100, 150, "a picture that stands still")]


def test_somebody_else_is_left_out_and_one_person_in_other_light_is_not():
    films = [film_of(0, seed=1), film_of(1, 200, seed=2), film_of(0, 300, seed=3)]
    films[2] = (films[2][0], films[2][1] * 0.7, films[2][2] * np.float64([0.7, 0.8, 0.9]))
    faces = [found(*each) for each in films]
    choices = same_person(faces, [choose_parts(each) for each in faces])
    assert [choice.parts for choice in choices] == [[(0, COUNT)], [], [(0, 300)]]
    assert choices[1].left_out == [(0, 200, "somebody else")]


def test_stretches_of_an_interview_are_those_of_one_person():
    (a, scene, color), (b, _, other) = film_of(0), film_of(1)
    points = np.concatenate([a[:150], b[150:250] + np.float32([80, 0, 0]), a[250:]])
    colors = np.concatenate([color[:30], other[30:50], color[50:]])
    pictures = np.concatenate([scene[:150], scene[150:250] - LIGHT + OTHER_ROOM, scene[250:]])
    assert choose_all([film()], [found(points, pictures, colors)]) == [[(0, 150), (250, COUNT)]]


def test_less_than_ten_seconds_are_refused_where_something_is_left_out():
    points, pictures, colors = film_of()
    points[20:180] = np.nan
    told = r"a.mp4: 8.8 s of one person's face are left, 10 s are needed; .* 4.0-11.2 s \(no face\)"
    with pytest.raises(InputError, match=told):
        choose_all([film(start=100)], [found(points, pictures, colors)])
    two = [found(points, pictures, colors), found(*film_of(0, 60, seed=4))]
    parts = choose_all([film(), film("b.mp4")], two)  # together they have enough
    assert parts == [[(180, COUNT)], [(0, 60)]]
    short = tuple(each[: 100 if each.ndim == 3 and len(each) > 99 else 20] for each in film_of())
    assert choose_all([film()], [found(*short)]) == [[(0, 100)]]  # short as a whole: warned of


def test_no_such_face_is_told():
    points, pictures, colors = film_of()
    nobody = np.full_like(points, np.nan)
    with pytest.raises(InputError, match="a.mp4: no face in any of 400 frames"):
        choose_all([film()], [found(nobody, pictures, colors, crowd=0)])
    with pytest.raises(InputError, match="--face 3: never more than 2 in the picture"):
        choose_all([film()], [found(nobody, pictures, colors, crowd=2)], face=3)


def test_exposures_of_films_are_brought_to_that_of_the_longest():
    _, colors = person(0)
    gain = np.array([1.2, 1.0, 0.8])
    gains = exposure_gains([colors, colors / gain, colors * 1.005], [100, 50, 20])
    np.testing.assert_allclose(gains[1], gain, rtol=1e-3)
    assert (gains[0] == 1).all() and (gains[2] == 1).all()
    picture = np.random.default_rng(0).integers(0, 200, (8, 9, 3), dtype=np.uint8)
    np.testing.assert_array_equal(exposed(picture, gain), np.rint(picture * gain).clip(0, 255))
    assert exposed(picture, np.ones(3)) is picture
    dark = exposure_gains([colors, np.zeros_like(colors)], [100, 50])
    assert (dark[1] == 1).all()  # nothing to tell it by


def test_runs_of_a_mask():
    mask = np.array([1, 1, 0, 0, 1, 0, 1], bool)
    assert shots.runs_of(mask) == [(0, 2), (4, 5), (6, 7)] and shots.runs_of(~mask[:2]) == []
