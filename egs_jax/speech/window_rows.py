"""Windows of sound -> the rows of features that are kept of them, by one compiled program.

Before: `layout`, which says what a window is; after: `features`. A live speech has one window at a
time, and so it is encoded, wherever its sound comes from; several speeches' may go together on a
GPU, up to rounding.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from egs_jax.media.clock import SAMPLE_RATE
from egs_jax.runtime.one_copy import locked
from egs_jax.runtime.programs import Kept, padded_count
from egs_jax.speech.layout import ROW_SAMPLES, Layout
from egs_jax.speech.whisper import NETWORKS, NUM_MELS, WhisperEncoder, encode, load_encoder
from kernels.checks import require

_WHISPER_FFT = 400  # 25 ms, as the encoder was trained
_WHISPER_HOP = 160
_MEL_FFT = 640  # 40 ms: Hann windows every 20 ms then weigh every sample alike
_WHISPER_REFERENCE = 1.5  # log10 power of the loudest band of ordinary speech
_MEL_FLOOR = 1e-6  # about 80 dB under loud speech

WindowProgram = Callable[[np.ndarray], np.ndarray]
"""Windows of samples [B, S] -> the rows that are kept of each, [B, R, F]."""


class Window(NamedTuple):
    """Sound that becomes rows of features, as it is heard."""

    samples: Float[np.ndarray, " S"]
    """Brought to the wanted level."""
    openness: Float[np.ndarray, " R"]
    """How far the gate is open at each of the rows that it finishes: 0 shut, 1 open."""


@functools.cache
def _mel_filters(n_fft: int) -> np.ndarray:
    """Return librosa's mel filters (Slaney's scale and norm), float32 [n_fft // 2 + 1, 80]."""
    from librosa.filters import mel  # noqa: PLC0415 (imports numba: 2-6 s)

    return mel(sr=SAMPLE_RATE, n_fft=n_fft, n_mels=NUM_MELS).T.copy()


def _mel_power(samples: Array, filters: Array, hop: int) -> Array:
    """Return mel band powers [T, 80] of Hann-windowed frames every `hop` samples, unpadded.

    Not librosa's transform: that one pads at a clip's ends, and compiles for up to half a minute.
    """
    n_fft = 2 * (filters.shape[0] - 1)
    starts = np.arange(0, samples.shape[0] - n_fft + 1, hop)
    frames = samples[starts[:, None] + np.arange(n_fft)[None, :]]
    hann = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)).astype(np.float32)
    spectra = jnp.fft.rfft(frames * hann[None, :], axis=-1)
    power = jnp.square(spectra.real) + jnp.square(spectra.imag)
    return jnp.matmul(power, filters, precision=jax.lax.Precision.HIGHEST)


def _whisper_rows(kept: tuple[int, int], encoder: WhisperEncoder, samples: Array) -> Array:
    """Encode windows [B, 25840]; return the rows that are `kept` of each, [B, 20, D].

    One alone is exact; several are live ones, among which a GPU has no time for that.
    """
    filters = _mel_filters(_WHISPER_FFT)

    def rows(window: Array) -> Array:
        log_power = jnp.log10(jnp.maximum(_mel_power(window, filters, _WHISPER_HOP), 1e-10))
        # Differs from the original: it takes the clip's maximum alone. The floor under a pause
        # would then depend on the whole clip, and that of a silent clip would sink to the noise of
        # rounding.
        floor = jnp.maximum(log_power.max(), _WHISPER_REFERENCE) - 8.0
        log_mel = (jnp.maximum(log_power, floor) + 4.0) / 4.0
        return encode(encoder, log_mel, slice(*kept), is_exact=len(samples) == 1)

    return locked(jax.vmap(rows)(samples))


def _mel_rows(kept: tuple[int, int], samples: Array) -> Array:
    """Return the log-mel rows [B, 10, 80] of windows [B, 3520]: -1 in silence, 1 when loud."""
    filters = _mel_filters(_MEL_FFT)

    def rows(window: Array) -> Array:
        power = _mel_power(window, filters, ROW_SAMPLES)[slice(*kept)]
        return (jnp.log10(jnp.maximum(power, _MEL_FLOOR)) + 2.0) / 4.0

    return locked(jax.vmap(rows)(samples))


# The filters are constants of the programs: where these are kept nobody waits for librosa.
_whisper_windows = Kept(_whisper_rows, lambda rows: rows)
_mel_windows = Kept(_mel_rows, lambda rows: rows)


def window_program(kind: str, encoder: WhisperEncoder | None, layout: Layout) -> WindowProgram:
    """Return what makes rows of windows.

    Args:
      kind: Of the features.
      encoder: Weights of its network; None loads the asset.
      layout: Which windows there are.

    Raises:
      ValueError: if the encoder is another network's.
      InputError: if a network's file cannot be had.
    """
    kept = layout.kept_rows
    if kind not in NETWORKS:
        return lambda samples: np.asarray(_mel_windows(kept, samples))
    encoder = load_encoder(size=NETWORKS[kind]) if encoder is None else encoder
    require(
        encoder.norm_scale.shape == (NETWORKS[kind].width,),
        f"encoder: its width is {encoder.norm_scale.shape[0]}, for {kind!r} give one of "
        f"{NETWORKS[kind].width}",
    )
    return lambda samples: np.asarray(_whisper_windows(kept, encoder, samples))


def encode_windows(
    program: WindowProgram, windows: Sequence[Window], at_once: int = 1
) -> list[np.ndarray]:
    """Compute what is kept of windows, those of several streams as well.

    Args:
      program: Of the streams' features.
      windows: Those to encode, possibly none.
      at_once: Most windows that go through the program at once, some of them zeros.

    Returns:
      The rows of each window.
    """
    found: list[np.ndarray] = []
    while left := windows[len(found) : len(found) + at_once]:
        size = padded_count(len(left)), len(left[0].samples)
        batch = np.zeros(size, np.float32)
        for place, window in zip(batch, left, strict=False):
            place[:] = window.samples
        found += [rows.copy() for rows in program(batch)[: len(left)]]
    return found
