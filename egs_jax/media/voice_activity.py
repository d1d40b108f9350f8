"""Where in sound somebody speaks: a probability every 32 ms, causal, by the Silero network.

The network (MIT license; trained on thousands of languages' speech against music and noise) is a
short Fourier transform, four convolutions, an LSTM and a logit. It runs here in NumPy, chunk by
chunk in the same shapes, so that the same sound gives the same bits however it arrives and
whatever else is heard at once. Sound is first brought to one level by its own recent peak: quiet
speech is speech as well.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from safetensors.numpy import load_file

from egs_jax.media.clock import SAMPLE_RATE
from egs_jax.runtime.assets import asset_path

CHUNK = 512
"""Samples (32 ms) that one probability is about."""
SPOKEN = 0.5
"""Probability from which on somebody speaks; noise and music stay under 0.1, speech above 0.9."""

_CONTEXT = 64  # samples of the chunk before, and mirrored ones after
_FFT, _BINS = 256, 129
_FRAMES = 128 * np.arange(4)[:, None] + np.arange(_FFT)[None]  # [4, 256]
_STRIDES = (1, 2, 2, 1)
_WIDTH = 128  # of the LSTM
_AT_ONCE = 32  # chunks (a second)
_LEVEL = 0.1  # root mean square to which the recent peak is brought
_FALL = 0.5 ** (CHUNK / (3.0 * SAMPLE_RATE))  # a chunk: half in 3 s
_FAINTEST = 1e-5  # -100 dB of full scale: nothing fainter is raised


@functools.cache
def network() -> dict[str, np.ndarray]:
    """Return the network's matrices and biases in the order in which they are multiplied.

    A chunk has few frames, so that each convolution is one matrix over all of them.
    """
    found = load_file(asset_path("silero_vad"))
    weights = {"basis": found["stft_conv.weight"][:, 0].T}  # [256, 258]
    frames = len(_FRAMES)
    for k, stride in enumerate(_STRIDES, 1):
        taps, bias = found[f"conv{k}.weight"], found[f"conv{k}.bias"]  # [out, in, 3]
        outs = -(-frames // stride)
        matrix = np.zeros((frames + 2, taps.shape[1], outs, len(taps)), np.float32)
        for out in range(outs):  # a frame of zeros before and after
            matrix[out * stride : out * stride + 3, :, out] = taps.transpose(2, 1, 0)
        weights[f"matrix{k}"] = matrix[1:-1].reshape(-1, outs * len(taps))
        weights[f"bias{k}"] = np.tile(bias, outs)
        frames = outs
    parts = [found["lstm_cell.weight_ih"], found["lstm_cell.weight_hh"]]
    weights["gates"] = np.concatenate(parts, axis=1).T
    weights["gate_bias"] = found["lstm_cell.bias_ih"] + found["lstm_cell.bias_hh"]
    weights["logit"] = found["final_conv.weight"][0, :, 0]
    weights["logit_bias"] = found["final_conv.bias"]
    return {name: np.ascontiguousarray(array) for name, array in weights.items()}


class VoiceActivity:
    """A stream from 16 kHz sound to probabilities that somebody speaks, in constant memory."""

    def __init__(self) -> None:
        """Start at sample 0.

        Raises:
          InputError: if the network's file cannot be had.
        """
        network()
        self._rest = np.zeros(0, np.float32)
        self._heard = Memory(
            before=np.zeros(_CONTEXT, np.float32), hidden=np.zeros(_WIDTH, np.float32),
            cell=np.zeros(_WIDTH, np.float32), peak=np.array(_FAINTEST, np.float32),
        )  # fmt: skip

    def push(self, samples: Float[np.ndarray, " S"]) -> Float[np.ndarray, " C"]:
        """Take the next samples; return the probabilities of the chunks that they complete."""
        return judge([self], [samples])[0]

    def cut(self, samples: np.ndarray) -> np.ndarray:
        """Take the next samples; return the chunks that they complete, [C, 512], for `judge`."""
        samples = np.concatenate([self._rest, samples.astype(np.float32)])
        count = len(samples) // CHUNK
        self._rest = samples[count * CHUNK :]
        return samples[: count * CHUNK].reshape(count, CHUNK)


class Memory(NamedTuple):
    """What is remembered of the sound so far; of several sounds with one more axis in front."""

    before: Float[np.ndarray, " 64"]
    hidden: Float[np.ndarray, " 128"]
    cell: Float[np.ndarray, " 128"]
    peak: Float[np.ndarray, ""]


Judged = tuple[Float[np.ndarray, "T S"], Memory]
"""Probabilities of T chunks of S sounds, and what is remembered after them."""
Run = Callable[[Memory, Float[np.ndarray, "T S 512"], Int[np.ndarray, " S"]], Judged]
"""What judges chunks of sounds, of each as many as the last argument says."""


def judge(
    listeners: Sequence[VoiceActivity], sounds: Sequence[np.ndarray], run: Run | None = None
) -> list[Float[np.ndarray, " C"]]:
    """Push the next samples of several sounds at once; the same bits as one by one.

    Args:
      listeners: Of one sound each.
      sounds: Their next samples.
      run: Runs the network; None: here, in NumPy.

    Returns:
      The probabilities of each sound's chunks.
    """
    cut = [listener.cut(sound) for listener, sound in zip(listeners, sounds, strict=True)]
    counts = np.array([len(own) for own in cut])
    memory = Memory(*map(np.stack, zip(*(one._heard for one in listeners), strict=True)))
    chunks = np.zeros((counts.max(), len(cut), CHUNK), np.float32)
    for k, own in enumerate(cut):
        chunks[: len(own), k] = own
    found, memory = (run or _run)(memory, chunks, counts)
    for k, listener in enumerate(listeners):
        listener._heard = Memory(*(whole[k].copy() for whole in memory))
    return [found[:count, k] for k, count in enumerate(counts)]


def _run(memory: Memory, chunks: np.ndarray, counts: np.ndarray) -> Judged:
    """Judge some chunks after the other, so that those of a long sound need no more memory."""
    found = [np.zeros((0, len(counts)), np.float32)]
    for first in range(0, len(chunks), _AT_ONCE):
        some = chunks[first : first + _AT_ONCE]
        own = np.clip(counts - first, 0, len(some))
        speaks, memory = judged(np, network(), memory, some, own)
        found.append(speaks)
    return np.concatenate(found), memory


def judged(
    xp: Any, network: Mapping[str, Any], memory: Memory, chunks: Float[Any, "T S 512"],
    counts: Int[Any, " S"],
) -> Judged:  # fmt: skip
    """Judge some chunks of each sound, of some sounds less than of others.

    Every sound is multiplied by itself, so that in NumPy its bits do not depend on the others. Only
    the LSTM waits for the chunk before.

    Args:
      xp: `numpy`, or `jax.numpy`.
      network: That of `network`, there.
      memory: Of the sounds.
      chunks: Their next ones.
      counts: How many each has; what is judged of others means nothing.

    Returns:
      The probabilities, and what is remembered after each sound's own chunks.
    """
    loudness = xp.sqrt(xp.square(chunks).mean(axis=2))
    louder = lambda peak, own: xp.maximum(
        xp.maximum(own, peak * np.float32(_FALL)), np.float32(_FAINTEST)
    )
    peaks = xp.stack([*itertools.accumulate(loudness, louder, initial=memory.peak)])
    before = xp.concatenate([memory.before[None], chunks[..., -_CONTEXT:]])
    sound = xp.concatenate([before[:-1], chunks], axis=2)
    sound = sound * (np.float32(_LEVEL) / peaks[1:])[..., None]
    sound = xp.concatenate([sound, sound[..., -2 : -2 - _CONTEXT : -1]], axis=2)
    spectra = sound[..., _FRAMES] @ network["basis"]  # [T, S, 4, 258]
    x = xp.hypot(spectra[..., :_BINS], spectra[..., _BINS:]).reshape(*chunks.shape[:2], 1, -1)
    for k in range(1, len(_STRIDES) + 1):
        x = xp.maximum(x @ network[f"matrix{k}"] + network[f"bias{k}"][None, None, None], 0)

    def step(before: tuple[Any, Any], x: Any) -> tuple[Any, Any]:
        hidden, cell = before
        gates = xp.concatenate([x, hidden[:, None]], axis=2) @ network["gates"]
        gates = (gates + network["gate_bias"][None, None]).reshape(-1, 4, _WIDTH)
        enters, stays, new, shown = gates.swapaxes(0, 1)
        cell = _sigmoid(xp, stays) * cell + _sigmoid(xp, enters) * xp.tanh(new)
        return _sigmoid(xp, shown) * xp.tanh(cell), cell

    states = itertools.accumulate(x, step, initial=(memory.hidden, memory.cell))
    hidden, cell = (xp.stack(parts) for parts in zip(*states, strict=True))
    logits = xp.maximum(hidden[1:], 0)[:, :, None] @ network["logit"][:, None]
    speaks = _sigmoid(xp, logits[..., 0, 0] + network["logit_bias"][None])
    last = counts, xp.arange(len(counts))
    return speaks, Memory(before[last], hidden[last], cell[last], peaks[last])


def _sigmoid(xp: Any, x: Any) -> Any:
    return 0.5 * (1 + xp.tanh(0.5 * x))
