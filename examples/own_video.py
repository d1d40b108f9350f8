"""From a film of a person and a speech to a film in which that person gives the speech.

    python examples/own_video.py me.mp4 speech.wav --preset fast --out runs/me
    python examples/own_video.py --tiny                    # a drawn person, to see that it works

Needs one to five minutes of one person who speaks (README, "Your own avatar"), and that person's
consent. `tiny` trains for half an hour on two cores, `fast` for about a minute on an H200; `--tiny`
takes two minutes in all. What is done is kept: the same command goes on.
"""

import argparse
import dataclasses
from pathlib import Path

import egs_jax as egs
from egs_jax.media.audio_file import write_wav
from egs_jax.media.clock import SAMPLE_RATE
from egs_jax.performer.film import write_performer_video
from egs_jax.performer.voice import synthesize
from egs_jax.preprocess.pipeline import preprocess


def drawn_person(folder):
    """Make a film of four seconds, and a speech of one; both are nobody's."""
    film, speech = folder / "performer.mp4", folder / "speech.wav"
    write_performer_video(film, seconds=4, size=192)
    write_wav(speech, synthesize(1, seed=1).samples, SAMPLE_RATE)
    return film, speech


def smallest(config):
    """Return the same training in a few small steps: what it makes is a blur."""
    change = dataclasses.replace
    return change(
        config,
        size=48,
        schedule=change(config.schedule, static_steps=20, deform_steps=20, sh_interval=9),
        optim=change(config.optim, warmup_steps=0),
        densify=change(config.densify, capacity=500, points=300),
        loss=change(config.loss, perceptual=0.0),
    )


def main(argv=None):
    """Go the whole way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("film", nargs="?", help="of one person who speaks")
    parser.add_argument("speech", nargs="?", help="what is to be said: any sound")
    parser.add_argument("--preset", default="tiny", help="tiny, fast, sharp or paper (tiny)")
    parser.add_argument("--out", type=Path, default=Path("runs/own"), help="folder (runs/own)")
    parser.add_argument("--tiny", action="store_true", help="a drawn person, a few small steps")
    args = parser.parse_args(argv)
    if not (args.tiny or args.speech):
        parser.error("name a film and a speech, or --tiny")
    args.out.mkdir(parents=True, exist_ok=True)
    film, speech = drawn_person(args.out) if args.tiny else (args.film, args.speech)

    data_dir, run_dir = args.out / "dataset", args.out / "run"
    if not (data_dir / "meta.json").exists():
        preprocess(film, data_dir, audio_features="mel" if args.tiny else "whisper")
    dataset = egs.Dataset.open(data_dir)
    config = egs.preset(args.preset, data_dir=str(data_dir.resolve()))
    egs.fit(smallest(config) if args.tiny else config, dataset, run_dir=run_dir)

    avatar = egs.Avatar.load(run_dir)
    egs.export(avatar, args.out / "avatar.egs")  # all that speaking needs, in a file
    egs.render_video(args.out / "avatar.egs", speech, args.out / "talk.mp4")
    print(f"{args.out / 'talk.mp4'}: {avatar.num_gaussians:,} Gaussians that speak")


if __name__ == "__main__":
    main()
