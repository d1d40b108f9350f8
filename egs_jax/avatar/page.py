"""An avatar and a speech -> one HTML file that talks in any browser, and can be turned.

All is in the file: Gaussians, patterns and room (`avatar_writer.write_shown`), the sound, codes and
poses of every frame (`motion`), and the scripts of web/. It needs no server, loads nothing, and its
Content-Security-Policy lets it run nothing but its own script. What makes an avatar speak is not in
it: nobody can let it say something else.

Before: `speech_batches`, `draw`; `film` calls it for names that end in .html.
"""

import base64
import graphlib
import hashlib
import html
import io
import re
import string
import zlib
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path

import numpy as np

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.avatar_writer import write_shown
from egs_jax.avatar.draw import motion_codes, num_video_frames
from egs_jax.avatar.look import Look
from egs_jax.avatar.motion import packed
from egs_jax.avatar.speech_batches import speech_batches
from egs_jax.media.audio_file import stream_audio
from egs_jax.media.clock import FPS, SAMPLE_RATE
from egs_jax.media.sound_encoder import SOUND_TYPE, encoded_sound
from egs_jax.runtime.consent import CONSENT
from egs_jax.runtime.errors import InputError
from egs_jax.runtime.files import atomically
from egs_jax.runtime.progress import progress
from egs_jax.runtime.provenance import commit

PAGE_SUFFIX = ".html"
NOTICE = "This talking picture is synthetic: a computer draws a person to the sound of a speech."
"""What the page says of itself."""
_STANDS_FOR = {0x00: 0xA1, 0x0D: 0xA2, ord("<"): 0xA3}
"""Characters that parsers change or end an element by, and what stands for them."""
_PIECE = 7 * 2**17  # bytes that become text at once: of whole characters
_IMPORT = re.compile(r'^import \{([^}]*)\} from "\./(\w+)\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:async )?(?:class|function|const) (\w+))", re.MULTILINE)


def write_page(avatar: Avatar, audio_path: str | Path, out_path: str | Path) -> None:
    """Write a page that speaks `audio_path`, all of it or nothing; it is named by the speech.

    Raises:
      InputError: if the avatar is a head alone or is to be drawn exactly or with a look that pages
        do not have, the sound is bad, or the file cannot be written.
      OSError: if the disk is full or fails.
    """
    out_path, audio_path = Path(out_path), Path(audio_path)
    if avatar.is_exact:
        raise InputError(
            f"{out_path}: a page draws whole persons, by what was baked of their networks; leave "
            "out --exact, or write a film (.mp4)"
        )
    look = avatar.look
    if look != Look(poses=look.poses, blinks=look.blinks):
        raise InputError(
            f"{out_path}: a page has the clip's room, its own size and rate, and says that it is "
            "synthetic; leave out --background, --size, --fps and --label, or write a film (.mp4)"
        )
    shown = io.BytesIO()
    write_shown(shown, avatar.baked, avatar.scene)
    total = num_video_frames(sum(len(chunk) for chunk in stream_audio(audio_path)))
    with progress(total, "render", "frame") as bar:
        motion = bytearray()
        for records in _frames(avatar, stream_audio(audio_path)):
            motion += records.tobytes()
            bar.advance(0, len(records))
    sound = encoded_sound(stream_audio(audio_path), SAMPLE_RATE)
    text = page(audio_path.stem, avatar, shown.getvalue(), bytes(motion), sound)
    try:
        with atomically(out_path) as part:
            part.write_text(text, encoding="utf-8")
    except OSError as error:
        if not out_path.parent.is_dir():
            raise InputError(
                f"{out_path}: cannot write there ({error}); choose a folder that exists"
            ) from None
        raise
    print(f"{out_path}: {total / FPS:.1f} s, {out_path.stat().st_size / 1e6:.1f} MB. {CONSENT}")


def _frames(avatar: Avatar, chunks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the records of all frames of a speech, a batch at once."""
    ranges = np.asarray(avatar.baked.ranges)
    for batch in speech_batches(avatar, chunks):
        counted = slice(batch.first, batch.first + len(batch.frames))
        codes = np.asarray(motion_codes(avatar, batch.drive))[counted]
        heads, bodies = batch.drive.viewmats[counted], batch.drive.bodies[counted]
        yield packed(ranges, codes, heads, bodies)


def page(title: str, avatar: Avatar, shown: bytes, motion: bytes, sound: bytes) -> str:
    """Put a page together.

    Args:
      title: Any text.
      avatar: Lends its size.
      shown: What `avatar_writer.write_shown` writes.
      motion: Records of all frames.
      sound: A file of type `SOUND_TYPE`.
    """
    script, style = linked("talk"), _asset("talk.css")
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "worker-src blob:; media-src blob:; base-uri 'none'; form-action 'none'"
    )
    # Numbers without repeats: with Huffman codes alone, of short blocks, they are a tenth shorter.
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS, 7, zlib.Z_HUFFMAN_ONLY)
    packed_avatar = packer.compress(shown) + packer.flush()
    return string.Template(_asset("talk.html")).substitute(
        policy=policy, script=script, style=style, sorter=_asset("sorter.js"),
        title=html.escape(title), notice=html.escape(NOTICE),
        generator=f"egs-jax {commit()[0] or ''}".rstrip(),
        width=avatar.scene.width, height=avatar.scene.height, fps=FPS, sound_type=SOUND_TYPE,
        avatar=as_text(packed_avatar), motion=as_text(motion), speech=as_text(sound),
    )  # fmt: skip


def as_text(data: bytes) -> str:
    """Return bytes as text of 7 bits a character, which HTML parsers leave as it is.

    In UTF-8 it is a sixth longer than the bytes, where base 64 is a third longer.
    """
    pieces = (data[at : at + _PIECE] for at in range(0, len(data), _PIECE))
    return "".join(_seven_bits(piece).translate(_STANDS_FOR) for piece in pieces)


def _seven_bits(data: bytes) -> str:
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    bits = np.pad(bits, (0, -len(bits) % 7)).reshape(-1, 7)
    return (np.packbits(bits, axis=1)[:, 0] >> 1).tobytes().decode("latin-1")


def linked(name: str) -> str:
    """Return a module of web/ and all that it imports as one script without imports.

    Each module is a function that returns what it exports, so that its own names stay its own.
    """
    texts: dict[str, str] = {}
    needs: dict[str, set[str]] = {}
    waiting = [name]
    while waiting:
        module = waiting.pop()
        texts[module] = _asset(f"{module}.js")
        needs[module] = {found for _, found in _IMPORT.findall(texts[module])}
        waiting += needs[module] - texts.keys()
    order = graphlib.TopologicalSorter(needs).static_order()
    return "\n".join(_as_function(module, texts[module]) for module in order)


def _as_function(name: str, text: str) -> str:
    exported = ", ".join(found for _, found in _EXPORT.findall(text))
    body = _EXPORT.sub(r"\1", _IMPORT.sub(r"const {\1} = $\2;\n", text))
    return f"const ${name} = (() => {{\n{body}\nreturn {{ {exported} }};\n}})();\n"


def _asset(name: str) -> str:
    return resources.files("egs_jax").joinpath("web", name).read_text("utf-8")


def _hash(text: str) -> str:
    """Return a source of a Content-Security-Policy that is this very text."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
