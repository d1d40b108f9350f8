"""What a film's file is made of: container, encoders, pixels.

Only encoders of the ffmpeg in PyAV's own wheels are used; whether they are there is looked up.
"""

import functools
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import av

from egs_jax.media.clock import FPS
from egs_jax.runtime.environment import usable_cores
from egs_jax.runtime.errors import InputError

H264 = Literal["libx264", "h264_nvenc"]
SUFFIXES = (".mp4", ".mov", ".webm")
"""How the names of films end."""
# What quality needs besides its number. (x264, a talking head at 450 px on two cores: 343 frames a
# second with "fast", 790 with "veryfast", which needs 17 instead of 18 for the same bytes and has
# 0.9 dB less, 46.8.)
_H264 = {
    "libx264": ("crf", {"preset": "veryfast"}),
    "h264_nvenc": ("cq", {"preset": "p5", "rc": "vbr", "b": "0"}),
}
_CRF = 17
_VP9 = {
    "crf": "20", "b": "0", "deadline": "good", "cpu-used": "5", "row-mt": "1",
}  # fmt: skip
_PRORES = {"profile": "4444", "vendor": "apl0", "alpha_bits": "16"}


@dataclass(frozen=True)
class FilmFormat:
    """What a film's file is made of."""

    container: str
    """Name of ffmpeg's writer."""
    video: str
    """Name of the encoder of pictures; `sound` is that of sound."""
    sound: str
    pixels: str
    """How ffmpeg calls the pixels that are encoded."""
    options: tuple[tuple[str, str], ...]
    """Names and values, for the encoder of pictures."""
    has_alpha: bool = False
    """Whether pictures say how opaque their pixels are."""

    @property
    def channels(self) -> int:
        """Numbers of a pixel: red, green, blue, and opacity where there is one."""
        return 4 if self.has_alpha else 3


def h264(container: str, encoder: H264, crf: int = _CRF) -> FilmFormat:
    """Return H.264 and AAC, which play everywhere.

    Args:
      container: "mp4" or "mov"; "h264" is the bare stream of Annex B.
      encoder: libx264, or NVIDIA's, where the card has it.
      crf: Constant quality, 0 (x264: lossless) to 51.
    """
    quality, options = _H264[encoder]
    return FilmFormat(container, encoder, "aac", "yuv420p", ((quality, str(crf)), *options.items()))


def check_suffix(suffix: str, *, transparent: bool) -> None:
    """Refuse the end of a name that no film has, or no transparent one.

    Raises:
      InputError: says which ends there are.
    """
    if suffix not in SUFFIXES:
        raise InputError(
            f"films are {', '.join(SUFFIXES)}; let the name end in one of these, or in none for a "
            "folder of PNGs"
        )
    if transparent and suffix == ".mp4":
        raise InputError(
            "mp4 films cannot be transparent; let the name end in .webm or .mov, or in none for a "
            "folder of PNGs"
        )


def film_format(suffix: str, width: int, height: int, *, transparent: bool = False) -> FilmFormat:
    """Return what a film is made of whose name ends so: mp4 and mov H.264, webm VP9.

    Transparent ones: mov ProRes 4444, webm VP9 with alpha.

    Raises:
      InputError: if no such film can be made, or be transparent.
    """
    check_suffix(suffix, transparent=transparent)
    if suffix == ".webm":
        alpha = {"auto-alt-ref": "0"} if transparent else {}  # which VP9 needs
        options = _VP9 | alpha | {"threads": str(usable_cores())}
        pixels = "yuva420p" if transparent else "yuv420p"
        made = FilmFormat(
            "webm", "libvpx-vp9", "libopus", pixels, tuple(options.items()), transparent
        )
    elif not transparent:
        made = h264(suffix[1:], best_encoder(width, height))
    else:
        made = FilmFormat("mov", "prores_ks", "aac", "yuva444p10le", tuple(_PRORES.items()), True)
    for encoder in (made.video, made.sound):
        need_encoder(encoder, f"{suffix} films", "name an .mp4")
    return made


def need_encoder(encoder: str, what: str, otherwise: str) -> None:
    """Refuse to do what this machine's ffmpeg has no encoder for.

    Args:
      encoder: Its name.
      what: What is made by it, as many.
      otherwise: What else can be done.

    Raises:
      InputError: if it is not there.
    """
    if encoder not in av.codecs_available:
        raise InputError(
            f"{what} need the encoder {encoder}, which the ffmpeg of this PyAV ({av.__version__}) "
            f"has not; install PyAV by pip, or {otherwise}"
        )


@functools.cache
def best_encoder(width: int, height: int) -> H264:
    """Return NVIDIA's encoder if this machine can open it for pictures of this size, else x264.

    Cards for data centers (A100, H100, H200) have none.
    """
    try:
        context = av.CodecContext.create("h264_nvenc", "w")
        context.width, context.height = width + width % 2, height + height % 2
        context.pix_fmt, context.time_base = "yuv420p", Fraction(1, FPS)
        context.open()
    except (av.error.FFmpegError, av.codec.codec.UnknownCodecError, OSError):
        return "libx264"
    return "h264_nvenc"
