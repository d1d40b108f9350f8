"""Masks: the real person network on a drawn figure; the parser's border on stand-in networks."""

import cv2
import numpy as np
import pytest

from egs_jax.face import segmentation
from egs_jax.face.segmentation import FACE_CLASSES, FaceParser, PersonSegmenter
from egs_jax.runtime.assets import asset_path
from egs_jax.runtime.errors import InputError


def draw_person(height: int, width: int) -> np.ndarray:
    """A head with hair, eyes and mouth on shoulders, before a plain wall."""
    image = np.full((400, 400, 3), (150, 165, 170), np.uint8)
    for center, axes, color in (
        ((200, 430), (180, 150), (45, 55, 95)),
        ((200, 290), (42, 60), (196, 150, 125)),
        ((200, 165), (98, 120), (40, 28, 22)),
        ((200, 190), (84, 108), (222, 174, 148)),
        ((168, 175), (14, 7), (245, 240, 235)),
        ((232, 175), (14, 7), (245, 240, 235)),
        ((168, 175), (6, 6), (50, 32, 22)),
        ((232, 175), (6, 6), (50, 32, 22)),
        ((200, 215), (12, 16), (205, 152, 128)),
        ((200, 252), (30, 9), (176, 80, 82)),
    ):
        cv2.ellipse(image, center, axes, 0, 0, 360, color, -1, cv2.LINE_AA)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize("size", [(400, 400), (270, 320), (120, 120)])
def test_person_is_told_from_the_wall(size):
    image = draw_person(*size)
    mask = PersonSegmenter().segment(image)
    height, width = size
    assert mask.shape == size and mask.dtype == np.float32
    assert mask.min() >= 0.0 and mask.max() <= 1.0
    assert mask[int(0.47 * height), width // 2] > 0.8  # nose
    assert mask[: height // 8, : width // 8].max() < 0.2
    assert mask[: height // 8, -width // 8 :].max() < 0.2


def test_memory_layout_of_the_frame_does_not_matter():
    image = draw_person(200, 200)
    padded = np.zeros((200, 216, 3), np.uint8)
    padded[:, :200] = image
    segmenter = PersonSegmenter()
    np.testing.assert_array_equal(segmenter.segment(padded[:, :200]), segmenter.segment(image))


def test_wrong_files_are_bad_input(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        FaceParser(tmp_path / "absent.tflite")
    junk = tmp_path / "junk.tflite"
    junk.write_bytes(b"junk" * 100)
    with pytest.raises(InputError, match="cannot be loaded"):
        FaceParser(junk)
    with pytest.raises(InputError, match="expected one float32 input"):
        FaceParser(asset_path("person_segmenter"))


class Labels:
    """Stands in for the parser's network: labels from the brightness of what it is given."""

    offset = 0

    def __init__(self, *_, input_shape, **__):
        self.output_shapes = {"final_output": input_shape[1:3]}

    def __call__(self, array):
        assert array.shape == (448, 448, 3) and -1 <= array.min() and array.max() <= 1
        return {"final_output": np.where(array[..., 0] > 0, 17, 1).astype(np.int64) + self.offset}


def test_parser_scales_its_input_and_keeps_labels_unmixed(tmp_path, monkeypatch):
    monkeypatch.setattr(segmentation, "Network", Labels)
    file = tmp_path / "parser.tflite"
    file.write_bytes(b"")
    image = np.zeros((90, 60, 3), np.uint8)
    image[:, 30:] = 255
    labels = FaceParser(file).parse(image)
    assert labels.shape == (90, 60) and labels.dtype == np.uint8
    assert FACE_CLASSES[17] == "hair" and len(FACE_CLASSES) == 19
    np.testing.assert_array_equal(labels, np.where(image[..., 0] > 0, 17, 1))
    monkeypatch.setattr(Labels, "offset", 5)
    with pytest.raises(InputError, match=r"labels reach 6\.\.22"):
        FaceParser(file).parse(image)
