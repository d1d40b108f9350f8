"""Folders in the form of AD-NeRF: what is read of them, and what is said of those that are odd."""

import json

import imageio.v3 as imageio
import numpy as np
import pytest
from adnerf_dataset import (
    rotations,
    small_folder,
    torch_pickle,
    torch_zip,
    transform_matrix,
    write_split,
)

from egs_jax.adnerf.cameras import read_cameras
from egs_jax.adnerf.folder import REACH, read_folder
from egs_jax.adnerf.pictures import (
    parsed_masks,
    read_behind_head,
    read_parsing,
    read_picture,
    read_plate,
)
from egs_jax.adnerf.signals import (
    quiet_features,
    read_features,
    read_lids,
    read_sound,
)
from egs_jax.media.audio_file import write_wav
from egs_jax.runtime.errors import InputError


def poses(count, seed=0):
    """Angles and shifts as the tracker has them: about pi each, the head 8 units away."""
    rng = np.random.default_rng(seed)
    euler = np.pi + rng.uniform(-0.3, 0.3, (count, 3))
    trans = np.array([0.1, -0.1, -8.0]) + rng.uniform(-0.2, 0.2, (count, 3))
    return euler, trans


def matrices(euler, trans):
    return [transform_matrix(*pose) for pose in zip(rotations(euler), trans, strict=True)]


def edit(path, change):
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))


def refused(folder, match):
    with pytest.raises(InputError, match=match) as caught:
        read_cameras(read_folder(folder), 16, 16)
    assert "\n" not in str(caught.value)


# --- frames and split -----------------------------------------------------------------------------


def test_split_numbers_and_pictures(tmp_path):
    folder = small_folder(tmp_path / "a", count=10, first=5)
    theirs = read_folder(folder)
    assert theirs.splits == {"train": (0, 7), "val": (7, 10)}
    assert theirs.numbers.tolist() == list(range(5, 15)) and theirs.left_out == []
    assert [path.name for path in theirs.images[:2]] == ["5.jpg", "6.jpg"]
    assert theirs.notes == () and theirs.sound_shift == 0


def test_any_suffix_and_leading_zeros(tmp_path):
    folder = small_folder(tmp_path / "a")
    for i, path in enumerate(sorted((folder / "ori_imgs").iterdir())):
        path.rename(path.with_name(f"{int(path.stem):05d}{('.png', '.JPG', '.jpeg')[i % 3]}"))
    assert len(read_folder(folder).images) == 10


def test_a_mark_of_the_byte_order_is_passed_over(tmp_path):
    folder = small_folder(tmp_path / "a")
    (folder / "au.csv").write_text("frame, AU45_r\n2, 2\n3, 0\n")
    for path in (folder / "transforms_train.json", folder / "au.csv"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_folder(folder).images) == 10
    assert read_lids(folder / "au.csv", np.array([1, 2])).tolist() == [1, 0]


def test_frames_may_lie_in_gt_imgs_and_the_split_be_called_test(tmp_path):
    folder = small_folder(tmp_path / "a")
    (folder / "ori_imgs").rename(folder / "gt_imgs")
    (folder / "transforms_val.json").rename(folder / "transforms_test.json")
    theirs = read_folder(folder)
    assert "gt_imgs" in theirs.notes[0] and theirs.splits["val"] == (7, 10)


def test_missing_frames_are_left_out_and_said(tmp_path):
    folder = small_folder(tmp_path / "a", count=20, held_out=8)
    for number in (3, 4, 15, 18, 19):  # within train, within val, at the end of val
        (folder / "ori_imgs" / f"{number}.jpg").unlink()
    theirs = read_folder(folder)
    assert theirs.splits == {"train": (0, 12), "val": (12, 18)} and theirs.left_out == [3, 4, 15]
    assert theirs.images[3] == theirs.images[4] == theirs.images[2]
    assert "2 of 12 frames" in theirs.notes[0] and "3-4" in theirs.notes[0]
    assert "3 of 8 frames" in theirs.notes[1] and "15, 18-19" in theirs.notes[1]
    assert theirs.kept.tolist() == [0, 1, 2, *range(5, 15), 16, 17]


def test_a_frame_of_no_split_shows_itself_but_is_left_out(tmp_path):
    folder = small_folder(tmp_path / "a", count=12)
    edit(folder / "transforms_train.json", lambda told: told["frames"].pop(4))
    theirs = read_folder(folder)
    assert theirs.left_out == [4] and theirs.images[4].name == "4.jpg"


def test_long_holes_are_shortened(tmp_path):
    folder = small_folder(tmp_path / "a", count=10)
    for number in (7, 8, 9):
        path = folder / "ori_imgs" / f"{number}.jpg"
        path.rename(path.with_name(f"{number + 10**8}.jpg"))
    move = lambda told: [f.update(img_id=f["img_id"] + 10**8) for f in told["frames"]]
    edit(folder / "transforms_val.json", move)
    edit(
        folder / "transforms_val.json",
        lambda told: [frame.update(aud_id=frame["img_id"]) for frame in told["frames"]],
    )
    theirs = read_folder(folder)
    assert len(theirs.numbers) == 10 + 2 * REACH and (np.diff(theirs.numbers) > 1).sum() == 1
    assert theirs.splits == {"train": (0, 7), "val": (7 + 2 * REACH, 10 + 2 * REACH)}
    assert theirs.numbers[7 + 2 * REACH] == 10**8 + 7


def test_sound_may_be_shifted_as_a_whole(tmp_path):
    folder = small_folder(tmp_path / "a")
    shift = lambda told: [f.update(aud_id=f["img_id"] + 3) for f in told["frames"]]
    for split in ("train", "val"):
        edit(folder / f"transforms_{split}.json", shift)
    assert read_folder(folder).sound_shift == 3
    edit(folder / "transforms_val.json", lambda told: told["frames"][0].update(aud_id=0))
    refused(folder, "aud_id and img_id differ by different amounts")


FAULTS = {
    "no frames in a file": (lambda t: t.pop("frames"), "has no list of frames"),
    "an empty list": (lambda t: t.update(frames=[]), "lists no frame"),
    "no number": (lambda t: t["frames"][1].pop("img_id"), "entry 1 .*no 'img_id'"),
    "text for a number": (lambda t: t["frames"][1].update(img_id="x"), "entry 1 .* damaged"),
    "a negative number": (lambda t: t["frames"][1].update(img_id=-4), "img_id -4"),
    "a number without end": (lambda t: t["frames"][1].update(img_id=10**40), "entry 1 .*damaged"),
    "no whole number": (lambda t: t["frames"][1].update(img_id=float("inf")), "entry 1 .*damaged"),
    "half a number": (lambda t: t["frames"][1].update(img_id=1.5), "1.5 is no whole number"),
    "sound of nowhere": (lambda t: t["frames"][1].update(aud_id=10**40), "entry 1 .*damaged"),
    "a frame twice": (lambda t: t["frames"][1].update(img_id=0), "frame 0 twice"),
    "a frame that is a list": (lambda t: t.update(frames=[[1]]), "entry 0 .* damaged"),
    "a short matrix": (
        lambda t: t["frames"][0].update(transform_matrix=[[1, 0], [0, 1]]),
        "not 4 x 4",
    ),
    "a ragged matrix": (lambda t: t["frames"][0].update(transform_matrix=[[1], []]), "entry 0"),
    "NaN": (
        lambda t: t["frames"][0]["transform_matrix"][0].__setitem__(0, float("nan")),
        "finite",
    ),
    "no rotation": (
        lambda t: t["frames"][0]["transform_matrix"][0].__setitem__(0, 2.0),
        "no rotation",
    ),
    "frames of val": (
        lambda t: t["frames"].append({"img_id": 8, "aud_id": 8}),
        "1 frames are in both",
    ),
    "pictures elsewhere": (
        lambda t: [f.update(img_id=f["img_id"] + 7272) for f in t["frames"]],
        "lists 7272-7278, .* has 0-9",
    ),
    "another focal length": (lambda t: t.update(focal_len=900.0), "different cameras"),
    "no focal length": (lambda t: t.pop("focal_len"), "no focal_len"),
    "frames of another size": (lambda t: t.update(cx=225.0), "are of frames 450 px wide"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_json_at_fault_is_one_line(tmp_path, name):
    folder = small_folder(tmp_path / "a")
    change, match = FAULTS[name]
    edit(folder / "transforms_train.json", change)
    refused(folder, match)


def test_folders_that_are_no_dataset(tmp_path):
    refused(tmp_path / "none", "no such folder")
    refused(tmp_path, "no transforms_train.json")
    folder = small_folder(tmp_path / "a")
    (folder / "transforms_val.json").unlink()
    refused(folder, "neither transforms_val.json nor transforms_test.json")
    (folder / "transforms_val.json").write_text("{")
    refused(folder, "transforms_val.json: unreadable")
    for path in (folder / "ori_imgs").iterdir():
        path.unlink()
    (folder / "transforms_val.json").write_text('{"frames": []}')
    refused(folder, "no frames in ori_imgs or gt_imgs")


def test_mixed_splits_are_refused(tmp_path):
    folder = small_folder(tmp_path / "a")
    same = [transform_matrix(np.eye(3), np.array([0.0, 0.0, -8.0]))] * 5
    write_split(folder, "train", range(0, 10, 2), same)
    write_split(folder, "val", range(1, 10, 2), same)
    refused(folder, "they are mixed")


# --- cameras --------------------------------------------------------------------------------------


def test_json_and_tracker_tell_the_same_cameras(tmp_path):
    euler, trans = poses(10)
    folder = small_folder(tmp_path / "a")
    write_split(folder, "train", range(7), matrices(euler[:7], trans[:7]))
    write_split(folder, "val", range(7, 10), matrices(euler[7:], trans[7:]))
    of_json = read_cameras(read_folder(folder), 16, 16)
    for split, numbers in (("train", range(7)), ("val", range(7, 10))):
        write_split(folder, split, numbers, focal_len=None)
        edit(folder / f"transforms_{split}.json", lambda told: told.pop("focal_len"))
    params = {"euler": np.float32(euler), "trans": np.float32(trans), "focal": np.float32([1200])}
    torch_zip(folder / "track_params.pt", *torch_pickle(params))
    of_tracker = read_cameras(read_folder(folder), 16, 16)
    assert (of_json.source, of_tracker.source) == ("transform_matrix", "track_params.pt")
    np.testing.assert_allclose(of_tracker.viewmats, of_json.viewmats, atol=1e-5)
    np.testing.assert_array_equal(of_tracker.K, [[1200, 0, 8], [0, 1200, 8], [0, 0, 1]])
    # The tracker's projection: u = -f X / Z + W / 2, v = f Y / Z + H / 2 of X = R x + t.
    point = np.array([0.3, -0.2, 0.4])
    seen = rotations(euler) @ point + trans
    expected = np.stack([-seen[:, 0], seen[:, 1]], -1) / seen[:, 2:] * 1200 + 8
    camera = of_json.viewmats[:, :3, :3] @ point + of_json.viewmats[:, :3, 3]
    assert (camera[:, 2] > 0).all()
    projected = camera[:, :2] / camera[:, 2:] * 1200 + 8
    np.testing.assert_allclose(projected, expected, atol=1e-9)


def test_cameras_that_disagree_are_said(tmp_path):
    euler, trans = poses(10)
    folder = small_folder(tmp_path / "a")
    write_split(folder, "train", range(7), matrices(euler[:7], trans[:7]))
    write_split(folder, "val", range(7, 10), matrices(euler[7:], trans[7:]))
    path = folder / "track_params.pt"
    torch_zip(path, *torch_pickle({"euler": euler, "trans": trans}))
    assert read_cameras(read_folder(folder), 16, 16).notes == ()
    torch_zip(path, *torch_pickle({"euler": euler + 0.1, "trans": trans}))
    assert "differ by" in read_cameras(read_folder(folder), 16, 16).notes[0]


def test_cameras_between_those_told_are_interpolated(tmp_path):
    folder = small_folder(tmp_path / "a")
    shifts = [np.array([0.0, 0.0, -8.0 - i]) for i in range(10)]
    all_of = [transform_matrix(np.eye(3), shift) for shift in shifts]
    write_split(folder, "train", [0, 1, 4, 5, 6], [all_of[i] for i in (0, 1, 4, 5, 6)])
    write_split(folder, "val", range(7, 10), all_of[7:])
    depth = read_cameras(read_folder(folder), 16, 16).viewmats[:, 2, 3]
    np.testing.assert_allclose(depth, 8.0 + np.arange(10))


TRACKS = {
    "of another shape": ({"euler": np.zeros((9, 4)), "trans": np.zeros((9, 3))}, "expected"),
    "without angles": ({"trans": np.zeros((9, 3))}, "no euler and trans"),
    "too short": ({"euler": np.zeros((9, 3)), "trans": np.zeros((9, 3))}, "frame 9 has no"),
    "not finite": ({"euler": np.full((10, 3), np.nan), "trans": np.zeros((10, 3))}, "not finite"),
}


@pytest.mark.parametrize("name", TRACKS)
def test_a_tracker_at_fault_is_one_line(tmp_path, name):
    folder = small_folder(tmp_path / "a")
    for split, numbers in (("train", range(7)), ("val", range(7, 10))):
        write_split(folder, split, numbers)
    values, match = TRACKS[name]
    torch_zip(folder / "track_params.pt", *torch_pickle(values))
    refused(folder, match)
    (folder / "track_params.pt").unlink()
    refused(folder, "frame 0 has no transform_matrix, and there is no track_params.pt")


def test_a_file_that_is_no_tensors_need_not_be_there(tmp_path):
    folder = small_folder(tmp_path / "a")
    (folder / "track_params.pt").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    refused(folder, "track_params.pt: not a readable file .* may be taken away")


# --- pictures -------------------------------------------------------------------------------------

HEAD, NECK, CLOTHES, ROOM, MOUTH = (
    (0, 0, 255), (0, 255, 0), (255, 0, 0), (255, 255, 255), (100, 100, 100)
)  # fmt: skip


def parsing(size=40):
    picture = np.full((size, size, 3), ROOM, np.uint8)
    picture[5:20, 10:30], picture[20:25, 15:25], picture[25:, 5:35] = HEAD, NECK, CLOTHES
    picture[14:17, 16:24] = MOUTH
    return picture


def test_classes_are_told_by_color(tmp_path):
    colors = np.kron(parsing(), np.ones((4, 4, 1), np.uint8))
    masks = parsed_masks(colors, tmp_path)
    head = np.zeros((160, 160), bool)
    head[20:80, 40:120] = True  # the inside of the mouth is head
    np.testing.assert_array_equal(masks.head, head)
    np.testing.assert_array_equal(masks.soft_person > 127, (colors != 255).any(-1))
    assert masks.foreground.sum() > (masks.soft_person > 127).sum() and not masks.others.any()
    # A lossy format changes no class.
    imageio.imwrite(tmp_path / "0.jpg", colors, quality=90)
    assert (read_parsing(tmp_path / "0.jpg", 160, 160).head != head).mean() < 0.01


def test_other_colors_are_refused_and_no_head_is_none(tmp_path):
    assert parsed_masks(np.full((8, 8, 3), ROOM, np.uint8), tmp_path) is None
    for color in ((0, 0, 0), (255, 255, 0), (0, 255, 255)):
        with pytest.raises(InputError, match="other colors than blue"):
            parsed_masks(np.full((8, 8, 3), color, np.uint8), tmp_path)


def test_what_is_behind_a_head_is_torso_over_room(tmp_path):
    plate = np.full((8, 8, 3), 100, np.uint8)
    torso = np.zeros((8, 8, 4), np.uint8)
    torso[4:] = 200, 0, 50, 255
    torso[3] = 200, 0, 50, 51
    imageio.imwrite(tmp_path / "0.png", torso)
    behind = read_behind_head(tmp_path / "0.png", plate)
    assert (behind[:3] == 100).all() and (behind[4:] == (200, 0, 50)).all()
    assert (behind[3] == (120, 80, 90)).all()
    imageio.imwrite(tmp_path / "1.png", torso[..., :3])
    with pytest.raises(InputError, match="has no alpha"):
        read_behind_head(tmp_path / "1.png", plate)
    with pytest.raises(InputError, match="8 x 8 pixels, the frames have 9 x 8"):
        read_behind_head(tmp_path / "0.png", np.zeros((8, 9, 3), np.uint8))


def test_plate_is_brought_to_size(tmp_path):
    path = tmp_path / "bc.jpg"
    imageio.imwrite(path, np.full((32, 32, 3), 77, np.uint8))
    assert read_plate(path, 16, 16).shape == (16, 16, 3)
    assert abs(int(read_plate(path, 16, 16).mean()) - 77) < 3
    with pytest.raises(InputError, match="do not fit"):
        read_plate(path, 16, 24)


def test_pictures_at_fault_are_one_line(tmp_path):
    (tmp_path / "0.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing")
    with pytest.raises(InputError, match=r"0.jpg: damaged"):
        read_picture(tmp_path / "0.jpg")
    with pytest.raises(InputError, match="no such picture"):
        read_picture(tmp_path / "1.jpg")
    imageio.imwrite(tmp_path / "2.png", np.zeros((4, 4), np.uint16))
    with pytest.raises(InputError, match="8 bits"):
        read_picture(tmp_path / "2.png")
    imageio.imwrite(tmp_path / "3.png", np.full((4, 4), 9, np.uint8))  # gray is no fault
    assert (read_picture(tmp_path / "3.png") == 9).all()


# --- lids, sound, features ------------------------------------------------------------------------


def table(path, shut, first=1, **columns):
    """A table of OpenFace, with the spaces that its headers have."""
    columns = {"frame": np.arange(first, first + len(shut)), **columns, "AU45_r": shut}
    rows = zip(*columns.values(), strict=True)
    text = ", ".join(columns) + "\n" + "".join(", ".join(map(str, row)) + "\n" for row in rows)
    path.write_text(text)
    return path


def test_lids_are_au45_by_frame(tmp_path):
    path = table(tmp_path / "au.csv", [0, 0.5, 1, 2, 4])
    np.testing.assert_allclose(read_lids(path, np.arange(5)), [0, 0.25, 0.5, 1, 1])
    np.testing.assert_allclose(read_lids(path, np.array([2, 4, 9])), [0.5, 1, 1])
    lost = table(tmp_path / "b.csv", [1, 9, 9, 0], success=[1, 0, 0, 1])
    np.testing.assert_allclose(read_lids(lost, np.arange(4)), [0.5, 1 / 3, 1 / 6, 0], atol=1e-6)


def test_lids_without_numbers_of_frames_go_by_row(tmp_path):
    (tmp_path / "au.csv").write_text("AU45_r\n0\n2\n")
    assert read_lids(tmp_path / "au.csv", np.array([0, 1])).tolist() == [0, 1]


LIDS = {
    "no column": ("frame, AU01_r\n1, 2\n", "no column AU45_r"),
    "nothing": ("", "no column AU45_r"),
    "no rows": ("frame, AU45_r\n", "no frame with a face"),
    "text": ("frame, AU45_r\n1, x\n", "not a table of OpenFace"),
    "a short row": ("frame, AU45_r\n1\n", "not a table of OpenFace"),
    "no face": ("frame, success, AU45_r\n1, 0, 2\n", "no frame with a face"),
    "too few": ("frame, AU45_r\n1, 2\n", "has frames up to 0, the folder up to 50"),
}


@pytest.mark.parametrize("name", LIDS)
def test_lids_at_fault_are_one_line(tmp_path, name):
    text, match = LIDS[name]
    (tmp_path / "au.csv").write_text(text)
    with pytest.raises(InputError, match=match):
        read_lids(tmp_path / "au.csv", np.arange(51))


def test_sound_is_that_of_the_frames(tmp_path):
    samples = np.float32(np.arange(20 * 640) % 640 / 1000) + np.repeat(np.arange(20), 640) / 100
    write_wav(tmp_path / "aud.wav", samples.astype(np.float32))
    numbers = np.array([-1, 0, 3, 4, 19, 20, 21])
    heard = read_sound(tmp_path, numbers).reshape(-1, 640)
    blocks = samples.reshape(-1, 640)
    np.testing.assert_allclose(heard[1:5], blocks[[0, 3, 4, 19]], atol=1e-4)
    assert not heard[[0, 5, 6]].any()
    with pytest.raises(InputError, match=r"ends after 0.8 s, the frames go to 1.6 s"):
        read_sound(tmp_path, np.array([39]))


def test_sound_may_be_that_of_the_film(tmp_path):
    with pytest.raises(InputError, match=r"has no sound \(aud.wav, or the film .*\.mp4"):
        read_sound(tmp_path, np.arange(2))
    write_wav(tmp_path / f"{tmp_path.name}.wav", np.full(1280, 0.1, np.float32))
    assert len(read_sound(tmp_path, np.arange(2))) == 1280
    write_wav(tmp_path / "aud.wav", np.zeros(1280, np.float32))
    with pytest.raises(InputError, match=r"aud.wav: is silent"):
        read_sound(tmp_path, np.arange(2))


def test_features_of_others_are_two_rows_a_frame(tmp_path):
    rows = np.random.default_rng(0).normal(size=(2 * 12 + 16, 29)).astype(np.float32)
    windows = np.stack([rows[2 * i : 2 * i + 16] for i in range(12)])  # row 8: that of frame 0
    np.save(tmp_path / "aud_ds.npy", windows)
    np.save(tmp_path / "aud_hu.npy", rows[8:32].reshape(12, 2, 29))
    np.save(tmp_path / "aud_ave.npy", rows[8:32:2])
    numbers = np.array([0, 1, 5, 11, 14])
    expected = rows[8:32].reshape(12, 2, 29)[[0, 1, 5, 11, 11]]
    for name, file in (("deepspeech", "aud_ds.npy"), ("hubert", "aud_hu.npy")):
        found, read = read_features(tmp_path, name, numbers)
        assert read == file
        np.testing.assert_array_equal(found, expected.reshape(-1, 29))
    found, _ = read_features(tmp_path, "aud_ave.npy", numbers)
    np.testing.assert_array_equal(found, np.repeat(expected[:, 0], 2, axis=0))
    np.save(tmp_path / "fifty.npy", rows[8:32])  # two rows a frame already
    found, _ = read_features(tmp_path, "fifty.npy", numbers)
    np.testing.assert_array_equal(found, expected.reshape(-1, 29))


FEATURES = {
    "none of that name": ("wav2vec", None, "has no aud_eo.npy; choose .* deepspeech"),
    "an unknown name": ("klingon", None, "has no features of that name"),
    "windows of one frame apart": (
        "deepspeech",
        np.random.default_rng(0).normal(size=(20, 16, 29)),
        "not 16 rows every 2",
    ),
    "four axes": ("deepspeech", np.zeros((20, 16, 29, 1)), "expected"),
    "no rows": ("deepspeech", np.zeros((0, 16, 29)), "expected"),
    "whole numbers": ("deepspeech", np.zeros((20, 16, 29), int), "real numbers"),
    "too few": ("deepspeech", np.zeros((2, 16, 29)), "has features of 2 frames"),
    "NaN": ("hubert", np.full((20, 2, 4), np.nan), "not finite"),
    "pickled": ("deepspeech", np.array([None, {}], object), "not a readable array"),
}


@pytest.mark.parametrize("name", FEATURES)
def test_features_at_fault_are_one_line(tmp_path, name):
    kind, array, match = FEATURES[name]
    np.save(tmp_path / "aud_ds.npy", np.zeros((20, 16, 29)))
    if array is not None:
        file = "aud_hu.npy" if kind == "hubert" else "aud_ds.npy"
        np.save(tmp_path / file, array, allow_pickle=True)
    with pytest.raises(InputError, match=match):
        read_features(tmp_path, kind, np.arange(20))


def test_silence_stands_for_the_quietest_frames():
    rows = np.repeat(np.arange(40, dtype=np.float32), 2)[:, None] * np.ones((1, 3), np.float32)
    loud = np.ones(40)
    loud[[4, 6, 39]] = 0, 0.01, 0  # 39 is held out
    samples = np.repeat(loud, 640).astype(np.float32)
    np.testing.assert_allclose(quiet_features(rows, samples, np.arange(36)), [5, 5, 5])
