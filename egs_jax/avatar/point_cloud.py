"""The Gaussians of one moment -> NAME.ply, in the form that viewers of 3D Gaussians open.

The properties of a point are those of the original 3DGS code: x, y, z; normals, which are 0; f_dc
and f_rest, harmonics by color channel; opacity and scales before activation; rot as w, x, y, z.
Places are in head space, the axes as in OpenCV: y points down.

Before: `avatar`; after: other programs.
"""

from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.draw import load_drive
from egs_jax.avatar.drive import compose
from egs_jax.avatar.poses import pose_path
from egs_jax.avatar.precomputed import pose
from egs_jax.media.clock import FPS
from egs_jax.runtime.errors import InputError
from egs_jax.runtime.files import atomically
from egs_jax.types import Drive
from kernels.deform import Deformed

CLOUD_SUFFIX = ".ply"

_posed = jax.jit(pose, static_argnums=0)


def at_rest(avatar: Avatar) -> Drive:
    """Return what drives one frame of silence at the clip's calmest pose, with open eyes."""
    scene, config = avatar.scene, avatar.config
    window, path = config.model.window_frames, pose_path(scene, "still")
    drive = compose(scene, path, scene.silence[:0], 0, np.zeros(1, int), window, config.seed)
    return drive.replace(eyes=np.zeros_like(drive.eyes))


def spoken(avatar: Avatar, audio: str | Path, seconds: float) -> Drive:
    """Return what drives one frame of a speech.

    Raises:
      InputError: if it cannot be read, or is shorter.
    """
    drive = load_drive(audio, avatar)
    frame = int(seconds * FPS)
    if not frame < drive.num_frames:
        raise InputError(
            f"--at {seconds:g}: {audio} ends at {drive.num_frames / FPS:.2f} s; name a moment of it"
        )
    return drive.frames(frame, frame + 1)


def write_cloud(avatar: Avatar, drive: Drive, path: Path) -> None:
    """Write the live Gaussians of one frame, head and body where they stand, or nothing.

    Raises:
      InputError: if the file cannot be written.
    """
    moved, _ = _posed(avatar.config.drawing, avatar.kept, drive)
    alive = np.asarray(avatar.kept.alive)
    points = properties(jax.tree.map(lambda value: np.asarray(value)[0][alive], moved))
    lines = "".join(f"property float {name}\n" for name in points.dtype.names or ())
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(points)}\n{lines}"
    try:
        with atomically(path) as part, part.open("wb") as file:
            file.write(f"{header}end_header\n".encode())
            file.write(points.tobytes())
    except OSError as error:
        raise InputError(f"{path}: cannot write there ({error}); name another place") from None


def properties(cloud: Deformed) -> Float[np.ndarray, " N"]:
    """Return the points of N activated Gaussians as a structured array."""
    count, harmonics = cloud.sh.shape[:2]
    opacities = np.clip(cloud.opacities, 1e-7, 1 - 1e-7)
    rest = cloud.sh[:, 1:].transpose(0, 2, 1).reshape(count, -1)
    lengths = np.linalg.norm(cloud.quats, axis=1, keepdims=True)
    columns = {
        "x y z": cloud.means,
        "nx ny nz": np.zeros((count, 3)),
        "f_dc_0 f_dc_1 f_dc_2": cloud.sh[:, 0],
        " ".join(f"f_rest_{i}" for i in range(3 * (harmonics - 1))): rest,
        "opacity": np.log(opacities / (1 - opacities))[:, None],
        "scale_0 scale_1 scale_2": np.log(cloud.scales),
        "rot_0 rot_1 rot_2 rot_3": cloud.quats / lengths,
    }
    names = [name for several in columns for name in several.split()]
    table = np.concatenate(list(columns.values()), axis=1).astype("<f4")
    return table.view([(name, "<f4") for name in names])[:, 0]
