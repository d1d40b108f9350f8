"""Many speeches, one avatar: first what moves its face and a poster of each, then the films.

    python examples/batch_of_speeches.py me.egs one.wav two.mp3 --out talks
    python examples/batch_of_speeches.py me.egs *.wav --out talks --background transparent --fps 50

Needs an avatar. All that a speech says of a face is a few numbers a frame, its motion codes: quick
to make, small to keep, and enough to draw any frame. On two cores and at 256 px a minute of speech
takes ten seconds for its codes and a minute for its film.
"""

import argparse
import dataclasses
from pathlib import Path

import imageio.v3 as imageio
import numpy as np

import egs_jax as egs
from egs_jax.avatar.label import marked

BATCH = 16  # frames a call


def codes_of(avatar, drive):
    """Return the motion codes of all frames of a speech, [T, K]."""
    count, codes = drive.num_frames, {}
    # The last batch overlaps the one before it: all have one size, and so one compiled program.
    for start in [*range(0, count - BATCH, BATCH), max(0, count - BATCH)]:
        stop = min(start + BATCH, count)
        made = egs.motion_codes(avatar, drive.frames(start, stop))
        codes.update(zip(range(start, stop), np.asarray(made), strict=True))
    return np.stack([codes[frame] for frame in range(count)])


def main(argv=None):
    """Write codes and a poster of every speech, then their films."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("avatar", help="an .egs file, or a run folder")
    parser.add_argument("speeches", type=Path, nargs="+", metavar="SPEECH", help="any sounds")
    parser.add_argument("--out", type=Path, default=Path("talks"), help="a folder (talks)")
    parser.add_argument("--background", default="plate", help="see `egs-jax render --help`")
    parser.add_argument("--fps", type=int, default=25, help="25, 30, 50 or 60 (25)")
    parser.add_argument("--tiny", action="store_true", help="films of 48 pixels")
    args = parser.parse_args(argv)
    size = 48 if args.tiny else None  # as it was trained
    look = egs.Look(background=args.background, fps=args.fps, size=size, label=True)
    avatar = dataclasses.replace(egs.Avatar.load(args.avatar), look=look)
    args.out.mkdir(exist_ok=True)
    for speech in args.speeches:
        drive = egs.load_drive(speech, avatar)
        codes = codes_of(avatar, drive)
        np.save(args.out / f"{speech.stem}.npy", codes)
        # The poster shows the frame whose face differs most from the mean, marked as AI-generated.
        most = int(np.abs(codes - codes.mean(axis=0)).sum(axis=1).argmax())
        poster = egs.draw_codes(avatar, codes[most : most + 1], drive.frames(most, most + 1)).rgb[0]
        poster = marked(np.uint8(255 * np.clip(poster, 0, 1)))
        imageio.imwrite(args.out / f"{speech.stem}.png", poster)
        print(f"{speech}: {len(codes)} frames, {codes.shape[1]} codes each")
    place = args.out  # for several films, each with the name of its speech; for one it is the film
    if len(args.speeches) == 1:
        end = "webm" if look.is_transparent else "mp4"
        place = args.out / f"{args.speeches[0].stem}.{end}"
    egs.render_video(args.avatar, args.speeches, place, look=look)


if __name__ == "__main__":
    main()
