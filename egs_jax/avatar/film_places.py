"""Where the films of speeches go, and what they are: the one place where a name's end decides.

One speech:
  NAME.mp4, NAME.mov, NAME.webm   a film
  NAME.html                       a page for a browser
  NAME without an end             a folder of PNGs, a frame each, with the sound beside them
Several speeches:
  NAME without an end             a folder of films, each with the name of its speech: mp4, or webm
                                  where they are transparent
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from egs_jax.avatar.page import PAGE_SUFFIX
from egs_jax.media.film_format import check_suffix
from egs_jax.runtime.errors import InputError

Kind = Literal["film", "pictures", "page"]


class Target(NamedTuple):
    """What becomes of one speech."""

    speech: Path
    path: Path
    kind: Kind


def targets(out: str | Path, speeches: Sequence[str | Path], *, transparent: bool) -> list[Target]:
    """Say where each speech's film goes, before any work.

    Args:
      out: What is to be written.
      speeches: Sounds to speak, at least one.
      transparent: Whether there is nothing behind the avatar.

    Raises:
      InputError: if nothing can be written there, or speeches would share a film.
    """
    out, sounds = Path(out), [Path(speech) for speech in speeches]
    suffix = out.suffix.lower()
    if len(sounds) == 1:
        kind: Kind = "page" if suffix == PAGE_SUFFIX else "film" if suffix else "pictures"
        found = [Target(sounds[0], out, kind)]
    elif suffix and not out.is_dir():
        raise InputError(f"{out}: several speeches need a folder; name one, without {out.suffix}")
    else:
        end = ".webm" if transparent else ".mp4"
        found = [Target(sound, out / f"{sound.stem}{end}", "film") for sound in sounds]
    for target in found:
        _check(target, transparent=transparent)
    for k, target in enumerate(found):
        if target.path in [other.path for other in found[:k]]:
            raise InputError(f"{target.path}: two speeches have this name; rename one of them")
    return found


def _check(target: Target, *, transparent: bool) -> None:
    """Refuse a place where what is to be written does not belong."""
    speech, path, _ = target
    if target.kind == "pictures":
        if path.exists() and not path.is_dir():
            raise InputError(f"{path}: is no folder; name one for PNGs, or a film, say talk.mp4")
        if path.exists() and any(path.iterdir()):
            raise InputError(
                f"{path}: is a folder with files in it; name an empty or a new one for PNGs, or "
                "the film to write, say talk.mp4"
            )
        return
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name the film to write, say talk.mp4")
    if path.exists() and speech.exists() and path.samefile(speech):
        raise InputError(f"{path}: is the speech itself; name another file for the film")
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is no ordinary file; name the film to write, say talk.mp4")
    try:
        if target.kind == "film":
            check_suffix(path.suffix.lower(), transparent=transparent)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
