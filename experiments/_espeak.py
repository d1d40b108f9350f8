"""Speech that espeak-ng makes, with the times of its phonemes: how far each opens a mouth.

The library is not shipped: `pip install --target FOLDER espeakng-loader` brings it, with all its
languages, into a folder of its own, and `Espeak` is told that folder. It is a robot's voice, built
of formants: enough to tell which way something goes, no measure of how well it does.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soxr

from egs_jax.media.clock import FPS, SAMPLE_RATE
from egs_jax.runtime.errors import InputError

WORDS_A_MINUTE = 150
_SYNCHRONOUS, _PHONEME_EVENTS, _IPA, _UTF8, _RATE = 2, 1, 2, 1, 1
_END, _PHONEME = 0, 7

# Articles 1 and 3 of the Universal Declaration of Human Rights, by espeak-ng's name of the voice.
TEXTS = {
    "en-us": "All human beings are born free and equal in dignity and rights. They are endowed "
    "with reason and conscience and should act towards one another in a spirit of brotherhood. "
    "Everyone has the right to life, liberty and security of person.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft "
    "und Gewissen begabt und sollen einander im Geiste der Brüderlichkeit begegnen. Jeder hat das "
    "Recht auf Leben, Freiheit und Sicherheit der Person.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont "
    "doués de raison et de conscience et doivent agir les uns envers les autres dans un esprit de "
    "fraternité. Tout individu a droit à la vie, à la liberté et à la sûreté de sa personne.",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos y, dotados como "
    "están de razón y conciencia, deben comportarse fraternalmente los unos con los otros. Todo "
    "individuo tiene derecho a la vida, a la libertad y a la seguridad de su persona.",
    "ru": "Все люди рождаются свободными и равными в своём достоинстве и правах. Они наделены "
    "разумом и совестью и должны поступать в отношении друг друга в духе братства. Каждый человек "
    "имеет право на жизнь, на свободу и на личную неприкосновенность.",
    "tr": "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar. Akıl ve vicdana "
    "sahiptirler ve birbirlerine karşı kardeşlik zihniyeti ile hareket etmelidirler. Yaşamak, "
    "hürriyet ve kişi emniyeti her ferdin hakkıdır.",
    "hi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है। उन्हें बुद्धि और "
    "अन्तरात्मा की देन प्राप्त है और परस्पर उन्हें भाईचारे के भाव से बर्ताव करना चाहिए।",
    "cmn": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，"
    "并应以兄弟关系的精神互相对待。人人有权享有生命、自由和人身安全。",
}

# How far a sound opens the mouth: the height of the vowel in the IPA's chart, consonants between.
_OPENING = {
    "aɑæɐɒäʌ": 1.0,
    "ɛɔœɜə": 0.7,
    "eoøɤɘɵ": 0.55,
    "iuyɪʊɯɨʉʏ": 0.35,
    "mbp": 0.0,
    "fvwɥ": 0.15,
}
_CONSONANT, _REST = 0.25, 0.1
LIPS_SHUT = "mbp"
VOWELS = "aɑæɐɒäʌɛɔœɜəeoøɤɘɵiuyɪʊɯɨʉʏ"


class Spoken(NamedTuple):
    """A speech and what is said in it."""

    samples: np.ndarray
    """16 kHz mono, float32 [S]."""
    phonemes: list[tuple[float, str]]
    """Start [s] and the letter of the IPA that each begins with; "" for a pause."""


class _Event(ctypes.Structure):
    """What espeak-ng says of a moment of its speech."""

    _fields_ = (
        ("type", ctypes.c_int), ("number", ctypes.c_uint), ("text_position", ctypes.c_int),
        ("length", ctypes.c_int), ("milliseconds", ctypes.c_int), ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p), ("name", ctypes.c_char * 8),
    )  # fmt: skip


_HEARD = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


class Espeak:
    """The library in a folder; a process can have one."""

    def __init__(self, folder: Path):
        """Load it.

        Raises:
          InputError: if it is not there.
        """
        place = folder / "espeakng_loader"
        try:
            self._library = ctypes.CDLL(str(place / "libespeak-ng.so"))
        except OSError as error:
            raise InputError(
                f"{folder}: no espeak-ng ({error}); pip install --target {folder} espeakng-loader"
            ) from None
        events = _PHONEME_EVENTS | _IPA
        self._rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, str(place).encode(), events)

    def speak(self, voice: str, text: str) -> Spoken:
        """Say a text.

        Raises:
          InputError: if there is no such voice.
        """
        parts: list[np.ndarray] = []
        phonemes: list[tuple[float, str]] = []

        def heard(samples: Any, count: int, events: Any) -> int:
            if samples and count > 0:
                parts.append(np.ctypeslib.as_array(samples, (count,)).copy())
            place = 0
            while events[place].type != _END:
                if events[place].type == _PHONEME:
                    name = events[place].name.decode("utf-8", errors="ignore").lstrip("ˈˌ")
                    if not name.startswith("("):  # the name of a language that it changes to
                        phonemes.append((events[place].milliseconds / 1e3, name[:1]))
                place += 1
            return 0

        callback = _HEARD(heard)
        self._library.espeak_SetSynthCallback(callback)
        if self._library.espeak_SetVoiceByName(voice.encode()):
            raise InputError(f"espeak-ng: no voice {voice!r}")
        self._library.espeak_SetParameter(_RATE, WORDS_A_MINUTE, 0)
        said = text.encode("utf-8")
        self._library.espeak_Synth(said, len(said) + 1, 0, 1, 0, _UTF8, None, None)
        sound = np.concatenate(parts).astype(np.float32) / 2**15
        return Spoken(soxr.resample(sound, self._rate, SAMPLE_RATE), phonemes)


def letters(phonemes: Sequence[tuple[float, str]], num_frames: int) -> list[str]:
    """Return what is said at the time of each video frame, i / 25 s; "" where nothing is."""
    starts = np.array([start for start, _ in phonemes])
    places = np.searchsorted(starts, np.arange(num_frames) / FPS, side="right") - 1
    return [phonemes[place][1] if place >= 0 else "" for place in places]


def openings(said: Sequence[str]) -> np.ndarray:
    """Return how far a mouth would open at each frame, 0 ... 1, as slow as lips are (0.12 s)."""

    def opening(letter: str) -> float:
        told = [value for group, value in _OPENING.items() if letter and letter in group]
        return told[0] if told else _CONSONANT if letter else _REST

    return np.convolve([opening(letter) for letter in said], np.full(3, 1 / 3), mode="same")
