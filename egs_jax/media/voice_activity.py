"""Where in sound somebody speaks: a probability every 32 ms, causal, by the Silero network.

The network (MIT license; trained on thousands of languages' speech against music and noise) is a
short Fourier transform, four convolutions, an LSTM and a logit. It runs here in NumPy, chunk by
chunk in the same shapes, so that the same sound gives the same bits however it arrives. Sound is
first brought to one level by its own recent peak: quiet speech is speech as well.
"""

import functools

import numpy as np
from jaxtyping import Float
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
_LEVEL = 0.1  # root mean square to which the recent peak is brought
_FALL = 0.5 ** (CHUNK / (3.0 * SAMPLE_RATE))  # a chunk: half in 3 s
_FAINTEST = 1e-5  # -100 dB of full scale: nothing fainter is raised


@functools.cache
def _weights() -> dict[str, np.ndarray]:
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
        self._network = _weights()
        self._rest = np.zeros(0, np.float32)
        self._before = np.zeros(_CONTEXT, np.float32)
        self._hidden = self._cell = np.zeros(_WIDTH, np.float32)
        self._peak = np.float32(_FAINTEST)

    def push(self, samples: Float[np.ndarray, " S"]) -> Float[np.ndarray, " C"]:
        """Take the next samples; return the probabilities of the chunks that they complete."""
        samples = np.concatenate([self._rest, samples.astype(np.float32)])
        count = len(samples) // CHUNK
        self._rest = samples[count * CHUNK :]
        chunks = samples[: count * CHUNK].reshape(count, CHUNK)
        return np.array([self._judge(chunk) for chunk in chunks], np.float32)

    def _judge(self, chunk: np.ndarray) -> np.float32:
        loudness = np.sqrt(np.square(chunk).mean())
        self._peak = max(loudness, self._peak * np.float32(_FALL), np.float32(_FAINTEST))
        sound = np.concatenate([self._before, chunk]) * np.float32(_LEVEL / self._peak)
        self._before = chunk[-_CONTEXT:]
        return self._speaks(np.concatenate([sound, sound[-2 : -2 - _CONTEXT : -1]]))

    def _speaks(self, sound: np.ndarray) -> np.float32:
        """Run the network on one chunk with its surroundings, [640]."""
        network = self._network
        spectra = sound[_FRAMES] @ network["basis"]
        x = np.hypot(spectra[:, :_BINS], spectra[:, _BINS:]).ravel()
        for k in range(1, len(_STRIDES) + 1):
            x = np.maximum(x @ network[f"matrix{k}"] + network[f"bias{k}"], 0)
        gates = np.concatenate([x, self._hidden]) @ network["gates"] + network["gate_bias"]
        enters, stays, new, shown = gates.reshape(4, _WIDTH)
        self._cell = _sigmoid(stays) * self._cell + _sigmoid(enters) * np.tanh(new)
        self._hidden = _sigmoid(shown) * np.tanh(self._cell)
        return _sigmoid(np.maximum(self._hidden, 0) @ network["logit"] + network["logit_bias"])[0]


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))
