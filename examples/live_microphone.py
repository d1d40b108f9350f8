"""Speak, and an avatar speaks along: microphone -> `egs.Stream` -> window, or a folder of PNGs.

    python examples/live_microphone.py me.egs      # the space bar silences it, and ends that
    python examples/live_microphone.py me.egs --file speech.wav --frames talk --interrupt 2

Needs an avatar and, for the microphone, `pip install sounddevice`. Compiles for half a minute on
two cores; frames then come a second after their sound, a file's as soon as they are drawn.
"""

import argparse
import queue
import sys
from pathlib import Path

import imageio.v3 as imageio

import egs_jax as egs
from egs_jax.media.audio_file import stream_audio
from egs_jax.media.clock import SAMPLE_RATE


def microphone():
    """Yield what the microphone hears."""
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: there is no PortAudio
        sys.exit(f"microphone: {error}; `pip install sounddevice` and PortAudio, or name a --file")
    heard = queue.Queue(20)  # two seconds: where drawing lags further behind, sound is left out
    hear = lambda samples, *_: heard.full() or heard.put(samples[:, 0].copy())
    with sounddevice.InputStream(SAMPLE_RATE, SAMPLE_RATE // 10, channels=1, callback=hear):
        while True:
            yield heard.get()


def window():
    """Open a window; return what shows a frame in it, and what tells if it is to be silent."""
    import tkinter

    root, image, silence = tkinter.Tk(), tkinter.PhotoImage(), tkinter.BooleanVar()
    tkinter.Label(root, image=image).pack()
    root.bind("<space>", lambda _: silence.set(not silence.get()))
    root.protocol("WM_DELETE_WINDOW", sys.exit)
    ppm = lambda frame: b"P6 %d %d 255 " % frame.alpha.shape[::-1] + frame.rgb.tobytes()
    show = lambda frame: image.configure(data=ppm(frame)) or root.update()
    return show, lambda _: silence.get()


def main(argv=None):
    """Show frames as sound comes in."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("avatar", help="an .egs file, or a run folder")
    parser.add_argument("--file", help="a sound in the microphone's place")
    parser.add_argument("--frames", type=Path, help="a folder in the window's place, with")
    parser.add_argument("--interrupt", type=float, default=9e9, help="silence from then on [s]")
    parser.add_argument("--tiny", action="store_true", help="end after two seconds")
    args = parser.parse_args(argv)
    stream = egs.Stream(egs.Avatar.load(args.avatar), sample_rate=SAMPLE_RATE)
    stream.warm_up()
    if args.frames:
        args.frames.mkdir(exist_ok=True)
        show = lambda frame: imageio.imwrite(args.frames / f"{frame.number:06}.png", frame.rgb)
        is_silent = lambda seconds: seconds >= args.interrupt
    else:
        show, is_silent = window()
    seconds, silent = 0.0, False
    for chunk in stream_audio(args.file) if args.file else microphone():
        if is_silent(seconds) and not silent:
            stream.interrupt()  # drops what waits; silence, pushed from now on, shuts the mouth
        silent = is_silent(seconds)
        for frame in stream.push(0 * chunk if silent else chunk):
            show(frame)
        seconds += len(chunk) / SAMPLE_RATE
        if args.tiny and seconds >= 2:
            break
    for frame in stream.finish():
        show(frame)


if __name__ == "__main__":
    main()
