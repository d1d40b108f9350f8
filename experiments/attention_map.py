"""A map of where on the head each token acts: sound, eyes, pose, null and lips.

Claim of the paper: the attention binds sound to the lips' Gaussians and the other tokens to the
rest. The pictures of the original code show reshaped features, not attention. Three true measures
here, for every Gaussian and token, over the frames of the held-out clip:

  share   how much it listens: the mix P G, mean over frames (rows sum to one);
  norm    what it hears: share times the token's length, mean over frames;
  moves   what that does: rms shift of its center, world units, when the token stays at its mean
          over the frames instead of changing (sound: the whole window at once).

A share says little by itself: a token that never changes may have all of it and move nothing.

    python -m experiments.attention_map RUN_DIR [--frames 64] [--figure FILE.png] [--tiny]

17 s on two CPU cores with 16 frames of 3,000 Gaussians at 96 px. Adds one case per (video, preset,
seed) to `results/attention_map.json`: means per region of the face. The picture is drawn by
`kernels.rasterize` with the values as colors; as it shows a person's head, it goes into the run's
folder unless --figure names another place.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from egs_jax.avatar import precomputed as prepared
from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.listening import (
    in_float32,
    listen,
    mean_shares,
    token_groups,
    token_names,
)
from egs_jax.runtime.arguments import Parser
from egs_jax.runtime.errors import InputError
from egs_jax.types import Drive
from experiments._regions import REGIONS, region_means, regions_of
from experiments._runs import add_case, figure, parsed, rounded, run_main
from kernels import rasterize
from kernels.deform import deform

NAME = "attention_map"
MEASURES = ("share", "norm", "moves")
AT_ONCE = 8
"""Frames that go through the network together."""


class Acting(NamedTuple):
    """Measures of N live Gaussians and T tokens."""

    share: np.ndarray
    """[N,T]."""
    norm: np.ndarray
    """[N,T]."""
    moves: np.ndarray
    """Shift by each group of tokens, world units [N,G]."""


def main(argv: list[str] | None = None) -> Path:
    """Measure one run; returns the figure."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--figure", type=Path, metavar="FILE.png")
    arguments = parsed(parser, argv, figures=False)
    if arguments.frames < 1:
        raise InputError(f"--frames: got {arguments.frames}, expected at least 1")
    avatar = in_float32(Avatar.load(arguments.run_dir, exact=True))
    data = avatar.dataset
    held_out = data.frames_of("val")
    count = min(2 if arguments.tiny else arguments.frames, len(held_out))
    frames = held_out[np.linspace(0, len(held_out) - 1, count).astype(int)]
    acting = measure(avatar, frames)
    means = np.asarray(avatar.prepared.canonical.means)
    regions = regions_of(means, np.asarray(data.arrays["mean_shape"]))
    regions[~np.asarray(avatar.prepared.alive)] = -1  # those that only round their number up
    case = {
        "video": Path(data.meta["source"]["name"]).stem,
        "preset": avatar.config.preset,
        "seed": avatar.config.seed,
        "frames": count,
        "gaussians": {name: int(np.sum(regions == k)) for k, name in enumerate(REGIONS)},
        **_by_region(avatar, acting, regions),
    }
    key = lambda c: (c["video"], c["preset"], c["seed"])
    add_case(NAME, rounded(case, 6), key, arguments.out)
    path = arguments.figure or arguments.run_dir / f"{NAME}.png"
    draw(avatar, acting, int(frames[len(frames) // 2]), path)
    return path


def moving_groups(names: list[str]) -> dict[str, list[int]]:
    """Return the places of each kind of tokens but the null token, which never changes."""
    return {kind: places for kind, places in token_groups(names).items() if kind != "null"}


def measure(avatar: Avatar, frames: np.ndarray) -> Acting:
    """Measure share, norm and moves over the clip's own `frames` (int [B])."""
    config, kept = avatar.config, avatar.prepared
    parts = [
        listen(config, kept, _drive(avatar, frames[at : at + AT_ONCE]))
        for at in range(0, len(frames), AT_ONCE)
    ]
    tokens, mixes = (jnp.concatenate(part) for part in zip(*parts, strict=True))
    lengths = jnp.linalg.norm(tokens, axis=-1)
    share, norm = (mean_shares(kept, each) for each in (mixes, mixes * lengths[:, None]))
    groups = moving_groups(token_names(avatar)).values()
    moves = np.stack([_moves(avatar, tokens, mixes, group) for group in groups], axis=1)
    return Acting(np.asarray(share), np.asarray(norm), moves)


def _drive(avatar: Avatar, frames: np.ndarray) -> Drive:
    return avatar.dataset.drive(frames, avatar.config.model.window_frames)


def _moves(avatar: Avatar, tokens: jax.Array, mixes: jax.Array, group: list[int]) -> np.ndarray:
    """Rms shift of every center when the tokens of `group` stay at their mean, [N].

    The mix stays as it is: what is asked is what a token says, not who else would be heard.
    """
    kept, place = avatar.prepared, jnp.asarray(group)
    still = tokens.at[:, place].set(tokens[:, place].mean(axis=0)[None])
    square = 0.0
    for at in range(0, len(tokens), AT_ONCE):
        part = slice(at, at + AT_ONCE)
        means = [
            deform(kept.canonical, kept.features, kept.static_mix, mixes[part], said[part],
                   kept.weights, implementation="xla").means
            for said in (tokens, still)
        ]  # fmt: skip
        square += jnp.sum(jnp.square(means[0] - means[1]), axis=(0, 2))
    return np.asarray(jnp.sqrt(square / len(tokens)))


def _by_region(avatar: Avatar, acting: Acting, regions: np.ndarray) -> dict[str, Any]:
    """Means of the three measures: {measure: {token: {region: value}}}."""
    names = token_names(avatar)
    labels = {"share": names, "norm": names, "moves": list(moving_groups(names))}
    return {
        measure: {
            label: region_means(values[:, k], regions) for k, label in enumerate(labels[measure])
        }
        for measure, values in zip(MEASURES, acting, strict=True)
    }


def draw(avatar: Avatar, acting: Acting, frame: int, path: Path) -> None:
    """Draw a panel a token (for `moves` a kind of tokens), as the camera of `frame` sees it."""
    from matplotlib.colors import PowerNorm  # roots: shares of a dozen tokens are small

    names = token_names(avatar)
    rows = [
        ("share", names, acting.share, 1.0),
        ("norm", names, acting.norm, float(acting.norm.max())),
        ("moves", list(moving_groups(names)), acting.moves, float(acting.moves.max())),
    ]
    images = _painted(avatar, np.concatenate([values for _, _, values, _ in rows], axis=1), frame)
    with figure(path, 3, len(names), (1.5 * len(names), 5.2)) as axes:
        for axis in axes.flat:
            axis.set_axis_off()
        for line, (measure, labels, values, top) in zip(axes, rows, strict=True):
            panels, images = np.split(images, [values.shape[1]], axis=2)
            norm = PowerNorm(0.5, vmin=0, vmax=max(top, 1e-9))
            for k, label in enumerate(labels):
                shown = line[k].imshow(panels[..., k], norm=norm, cmap="inferno")
                line[k].set_title(f"{measure}: {label}", fontsize=7)
            line[0].figure.colorbar(shown, ax=list(line), shrink=0.7)


def _painted(avatar: Avatar, values: np.ndarray, frame: int) -> np.ndarray:
    """Draw the cloud of `frame` with `values` [N,K] for colors over black, [H,Wd,K]."""
    drive = _drive(avatar, np.array([frame]))
    pose = jax.jit(prepared.pose, static_argnums=0)
    moved, viewmats = pose(avatar.config, avatar.prepared, drive)
    height, width = drive.backgrounds.shape[1:3]
    image = lambda colors: rasterize(
        moved.means[0], moved.quats[0], moved.scales[0], moved.opacities[0], colors,
        viewmats[0], drive.Ks[0], width, height, implementation="xla",
    ).rgb  # fmt: skip
    # Three at a time, as pictures are drawn: one program serves all.
    padded = jnp.pad(jnp.asarray(values, jnp.float32), ((0, 0), (0, -values.shape[1] % 3)))
    parts = [jax.jit(image)(padded[:, at : at + 3]) for at in range(0, padded.shape[1], 3)]
    return np.concatenate(parts, axis=2)[..., : values.shape[1]]


if __name__ == "__main__":
    run_main(main)
