"""The whole way in one command: video -> dataset -> avatar -> evaluation -> a new speech -> mp4.

Without files of the user's own, the synthetic performer of `performer` is filmed and a voice
that it never heard speaks the new text.
"""

import dataclasses
from pathlib import Path

import jax

from egs_jax.avatar.export import keep
from egs_jax.avatar.film import render_video
from egs_jax.config import Config
from egs_jax.data.dataset import Dataset
from egs_jax.evaluation.evaluate import evaluate
from egs_jax.media.audio_file import stream_audio, write_wav
from egs_jax.media.clock import SAMPLE_RATE
from egs_jax.preprocess.pipeline import preprocess
from egs_jax.presets import preset
from egs_jax.runtime.assets import file_sha256
from egs_jax.runtime.device import check_memory, say_device
from egs_jax.runtime.environment import find_devices
from egs_jax.runtime.errors import InputError
from egs_jax.training.loop import fit

SECONDS, SIZE = 14.0, 192
FILM_SEED, SPEECH_SEED = 0, 1
SPEECH_SECONDS = 6.0
FILM_STEPS, FILM_WARMUP, FILM_GAUSSIANS = 350, 100, 4_500
"""The performer's deformation steps, those of slow beginning, and the size of her cloud: under ten
minutes on two cores, everything included."""


def demo(
    out: str | Path = "runs/demo",
    *,
    video: str | Path | None = None,
    audio: str | Path | None = None,
) -> Path:
    """Make an avatar and let it speak.

    The performer's film, the dataset and the training of an earlier call are kept; speech, talk and
    report are made anew.

    Args:
      out: Folder for everything made.
      video: A video of one person; None: the synthetic performer.
      audio: What the avatar shall say; None: the synthetic voice.

    Returns:
      The video `out/talk.mp4`.

    Raises:
      InputError: if a file cannot be used, or another process has the GPU's memory.
    """
    for _ in stream_audio(audio) if audio else ():
        pass  # it is spoken last: what is wrong with it is said before all the work
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot make this folder ({error}); name another") from None
    find_devices()
    check_memory(jax.local_devices()[0])  # before the film is made and looked at
    if audio is None:
        audio = _speech(out / "speech.wav")
    dataset_dir, run_dir = out / "dataset", out / "run"
    config = preset("tiny", data_dir=str(dataset_dir.resolve()))
    if video is None:
        video = _film(out / "performer.mp4")
        config = _short(config)
    if not (dataset_dir / "meta.json").exists():
        preprocess(video, dataset_dir)
    dataset = Dataset.open(dataset_dir)
    _check_source(dataset, Path(video))
    if dataset.plate_fault[0] == "bad":
        print("an avatar of the head alone, over the film's own body and room")
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, body="head"))
    fit(config, dataset, run_dir=run_dir)
    keep(run_dir)
    talk = out / "talk.mp4"
    render_video(run_dir, audio, talk)
    evaluate(run_dir)
    (run_dir / "report.html").replace(out / "report.html")
    print(f"done: {talk} and {out / 'report.html'}")
    return talk


def _short(config: Config) -> Config:
    """Return the settings of a short training."""
    change = dataclasses.replace
    return change(
        config,
        schedule=change(config.schedule, deform_steps=FILM_STEPS),
        optim=change(config.optim, warmup_steps=FILM_WARMUP),
        densify=change(config.densify, capacity=FILM_GAUSSIANS, points=FILM_GAUSSIANS - 500),
        # Two programs less to compile.
        loss=change(config.loss, perceptual=0.0),
    )


def _check_source(dataset: Dataset, video: Path) -> None:
    """Refuse to go on with the avatar of another video."""
    if dataset.meta["source"]["sha256"] != file_sha256(video):
        raise InputError(
            f"{dataset.folder}: was made from {dataset.meta['source']['name']}, not from this "
            f"{video.name}; name another folder (make demo OUT=runs/NAME)"
        )


def _film(path: Path) -> Path:
    """Make the synthetic performer's film, once."""
    if not path.exists():
        from egs_jax.performer.film import write_performer_video

        say_device("filming the synthetic performer")
        write_performer_video(path, seconds=SECONDS, seed=FILM_SEED, size=SIZE)
    return path


def _speech(path: Path) -> Path:
    """Make a speech that the performer never gave."""
    from egs_jax.performer.voice import synthesize

    write_wav(path, synthesize(SPEECH_SECONDS, SPEECH_SEED).samples, SAMPLE_RATE)
    return path
