"""A scene in another size and before another background, and backgrounds that are none."""

import dataclasses

import imageio.v3 as imageio
import numpy as np
import pytest
from helpers import SIZE, make_dataset, number_of, numbered

from egs_jax.avatar.look import Look
from egs_jax.avatar.scene import scene_of
from egs_jax.avatar.staging import COLORS, covering, staged
from egs_jax.data.dataset import Dataset
from egs_jax.media.feeding import write_video
from egs_jax.runtime.errors import InputError


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return Dataset.open(make_dataset(tmp_path_factory.mktemp("painted") / "data"))


def show(dataset, **look):
    return staged(scene_of(dataset), Look(**look), lambda: dataset)


def behind(scene, numbers, frames=None):
    return scene.backgrounds(np.asarray(numbers), np.asarray(frames or numbers))


def test_another_size_shows_the_same_place_by_the_same_share(dataset):
    scene, small = scene_of(dataset), show(dataset, size=96)
    assert (small.width, small.height) == (96, 96) and behind(small, [3]).shape == (1, 96, 96, 3)
    point = np.array([0.3, -0.2, 4.0])
    for each in (scene, small):
        x, y, _ = each.intrinsics @ point / point[2]
        np.testing.assert_allclose((x / each.width, y / each.height), (0.65, 0.4), atol=1e-6)
    assert show(dataset, size=SIZE).own is show(dataset).own or True
    np.testing.assert_array_equal(behind(show(dataset, size=SIZE), [0]), behind(scene, [0]))


@pytest.mark.parametrize(
    ("word", "color"), [("#0a64FF", (10, 100, 255)), ("Teal", (0, 128, 128)), ("white", (255,) * 3),
                        ("transparent", (0, 0, 0))],
)  # fmt: skip
def test_a_color_is_everywhere(dataset, word, color):
    scene = show(dataset, background=word)
    assert (behind(scene, [0, 7]) == color).all() and (scene.still_background == color).all()
    assert len(COLORS) == 16


def test_a_picture_covers_and_is_cut_on_both_sides(dataset, tmp_path):
    picture = np.zeros((20, 60, 3), np.uint8)
    picture[:, :20], picture[:, 20:40], picture[:, 40:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    imageio.imwrite(tmp_path / "a b.png", picture)
    found = behind(show(dataset, background=tmp_path / "a b.png"), [5])[0]
    assert found.shape == (SIZE, SIZE, 3) and np.abs(found[:, 4:-4] - (0, 255, 0)).max() < 40
    gray = np.full((9, 9), 77, np.uint8)
    imageio.imwrite(tmp_path / "gray.png", gray)
    assert (behind(show(dataset, background=str(tmp_path / "gray.png")), [5]) == 77).all()


@pytest.mark.parametrize(("width", "height"), [(48, 48), (50, 30), (33, 97)])
@pytest.mark.parametrize("shape", [(48, 48), (7, 300), (501, 20)])
def test_covering_has_the_size_asked_for(width, height, shape):
    assert covering(np.zeros((*shape, 3), np.uint8), width, height).shape == (height, width, 3)


def test_a_film_goes_on_and_begins_anew_in_any_order(dataset, tmp_path):
    write_video(tmp_path / "v.mp4", (numbered(i) for i in range(10)), 25)
    wide = dataclasses.replace(scene_of(dataset), width=160, height=48)
    scene = staged(wide, Look(background=tmp_path / "v.mp4"), lambda: dataset)
    assert scene.still_background is None
    order = [0, 9, 3, 10, 25, 1, 1]
    assert [number_of(p) for p in behind(scene, order)] == [n % 10 for n in order]
    fast = staged(wide, Look(background=tmp_path / "v.mp4", fps=50), lambda: dataset)
    shown = [number_of(p) for p in behind(fast, range(22))]
    assert np.abs(np.array(shown[:20]) - np.arange(20) / 2).max() <= 1 and shown[20] == shown[0]


def test_the_clips_own_frames_follow_its_poses(dataset):
    scene = show(dataset, background="clip")
    found = behind(scene, [0, 1, 2], [7, 7, 3])
    for picture, frame in zip(found, [7, 7, 3], strict=True):
        np.testing.assert_array_equal(picture, dataset.frame(frame))


def test_what_is_no_background_is_one_line(dataset, tmp_path):
    (tmp_path / "cut.png").write_bytes(
        imageio.imwrite("<bytes>", numbered(1), extension=".png")[:90]
    )
    (tmp_path / "words.txt").write_text("no picture")
    for word, message in (
        ("purpel", "and there is no such file"), ("#12345", "and there is no such file"),
        ("#12345g", "expected plate, clip"), (tmp_path, "no such file"),
        (tmp_path / "cut.png", "neither a picture nor a film"),
        (tmp_path / "words.txt", "neither a picture nor a film"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message) as error:
            show(dataset, background=word)
        assert "\n" not in str(error.value) and "--background" in str(error.value)


def test_a_head_alone_stays_before_its_clip(dataset):
    head = dataset.view(None, "head")
    sized = show(head, size=64, background="clip")
    assert behind(sized, [0], [5]).shape == (1, 64, 64, 3)
    with pytest.raises(InputError, match="--background red: this avatar is a head"):
        show(head, background="red")
