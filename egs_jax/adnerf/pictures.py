"""The pictures of a dataset in the form of AD-NeRF (`adnerf_folder`): frames, masks, the room.

  parsing/NUMBER.png      classes as colors: head blue, neck green, clothes red, room white, and in
                          TalkingGaussian the inside of the mouth gray
  torso_imgs/NUMBER.png   neck and clothes with alpha, painted on a little way under the head
  bc.jpg                  the room without the person

Conventions: images uint8 [H, W, 3] RGB, masks bool [H, W].
"""

from pathlib import Path

import cv2
import imageio.v3 as imageio
import numpy as np
from jaxtyping import UInt8

from egs_jax.preprocess.masks import FrameMasks, person_margin, soft_edge
from egs_jax.runtime.errors import MAY_NOT_READ, InputError
from kernels.checks import typechecked

_ROOM, _NECK, _CLOTHES, _HEAD, _UNKNOWN = range(5)
# By which of red, green and blue are bright.
_CLASSES = np.array(
    [_HEAD, _HEAD, _NECK, _UNKNOWN, _CLOTHES, _UNKNOWN, _UNKNOWN, _ROOM], np.uint8
)  # fmt: skip
_BRIGHT, _GRAY = 127, 50
_MOST_UNKNOWN = 0.01  # of the pixels: edges that a lossy format has blurred


def read_picture(path: Path) -> np.ndarray:
    """Read a picture: uint8 [H, W, 3] RGB, or [H, W, 4] where it has alpha.

    Raises:
      InputError: if it is missing, damaged or of another depth.
    """
    try:
        picture = imageio.imread(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such picture; copy the folder again") from None
    except PermissionError:
        raise InputError(f"{path}: {MAY_NOT_READ}") from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: damaged ({why}); copy it again") from None
    if picture.ndim == 2:
        picture = np.repeat(picture[..., None], 3, axis=-1)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] not in (3, 4):
        got = f"{picture.dtype} {list(picture.shape)}"
        raise InputError(f"{path}: {got}, expected a picture of 8 bits a channel; convert it")
    return picture


def read_sized(path: Path, width: int, height: int) -> np.ndarray:
    """Read a picture that must have the frames' size.

    Raises:
      InputError: as `read_picture`, and if it has another size.
    """
    picture = read_picture(path)
    if picture.shape[:2] != (height, width):
        raise InputError(
            f"{path}: {picture.shape[1]} x {picture.shape[0]} pixels, the frames have {width} x "
            f"{height}; all pictures of a folder have one size"
        )
    return picture


def read_frame(path: Path, width: int, height: int) -> UInt8[np.ndarray, "H W 3"]:
    """Read a frame; see `read_sized`."""
    return np.ascontiguousarray(read_sized(path, width, height)[..., :3])


def read_parsing(path: Path, width: int, height: int) -> FrameMasks | None:
    """Read the masks of a frame; None if they show no head.

    Raises:
      InputError: as `read_sized`, and if its colors are not those of the classes.
    """
    return parsed_masks(read_frame(path, width, height), path)


@typechecked
def parsed_masks(colors: UInt8[np.ndarray, "H W 3"], name: Path) -> FrameMasks | None:
    """Tell the masks from a picture of classes; see `read_parsing`."""
    bright = (colors > _BRIGHT).astype(np.uint8)
    labels = _CLASSES[4 * bright[..., 0] + 2 * bright[..., 1] + bright[..., 2]]
    labels[(labels == _HEAD) & (colors.max(axis=-1) < _GRAY)] = _UNKNOWN
    if (labels == _UNKNOWN).mean() > _MOST_UNKNOWN:
        raise InputError(
            f"{name}: has other colors than blue for the head, green for the neck, red for clothes "
            "and white for the room; parse the frames again, or take the folder away"
        )
    head, person = labels == _HEAD, np.isin(labels, (_HEAD, _NECK, _CLOTHES))
    if not head.any():
        return None
    return FrameMasks(
        head=head,
        soft_person=soft_edge(person.astype(np.float32), person),
        foreground=person_margin(person),
        others=np.zeros_like(head),
    )


def read_behind_head(path: Path, plate: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """Read a frame's torso over the room: what the head is drawn over.

    Raises:
      InputError: as `read_sized`, and if the picture has no alpha.
    """
    torso = read_sized(path, plate.shape[1], plate.shape[0])
    if torso.shape[-1] != 4:
        raise InputError(
            f"{path}: has no alpha, so that nobody can tell where the torso is; make it again, or "
            "take torso_imgs away"
        )
    alpha = torso[..., 3:].astype(np.float32) / 255
    return np.round(plate + alpha * (torso[..., :3].astype(np.float32) - plate)).astype(np.uint8)


def read_plate(path: Path, width: int, height: int) -> UInt8[np.ndarray, "H W 3"]:
    """Read the room without the person, brought to the frames' size as the other programs do.

    Raises:
      InputError: as `read_picture`, and if it has another shape than the frames.
    """
    plate = np.ascontiguousarray(read_picture(path)[..., :3])
    if plate.shape[:2] == (height, width):
        return plate
    if abs(plate.shape[1] * height - plate.shape[0] * width) > max(width, height):
        raise InputError(
            f"{path}: {plate.shape[1]} x {plate.shape[0]} pixels do not fit frames of {width} x "
            f"{height}; take it away, and the room is made of the frames"
        )
    return cv2.resize(plate, (width, height), interpolation=cv2.INTER_AREA)
