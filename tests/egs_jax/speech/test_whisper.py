"""The encoder against an independent float64 NumPy one and against CTranslate2; its file reader."""

import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from egs_jax.runtime.assets import asset_path
from egs_jax.runtime.errors import InputError
from egs_jax.speech.whisper import _shapes, encode, load_encoder, read_ctranslate2

# CTranslate2 4.8.5, compute_type="float32", on `wave_mel(3000)`:
# position to features 0, 100, 200, 300, 383.
CTRANSLATE2 = {
    0: [-1.12723, -1.55263, 0.17595, -0.61747, -1.20755],
    1: [0.15976, -0.15201, 0.29771, -0.13428, -1.26536],
    499: [-0.74384, -0.42171, 0.4776, 0.49286, 0.81311],
    1499: [-0.05345, 0.19729, 0.57177, -0.89295, 0.57367],
}


def wave_mel(frames):
    """A smooth mel-like input [T, 80] that needs no random numbers."""
    t, f = np.arange(frames)[:, None], np.arange(80)[None, :]
    slow = np.sin(0.013 * t + 0.21 * f) * np.cos(0.17 * t - 0.05 * f)
    return (0.2 + 0.6 * slow + 0.2 * np.sin(1.1 * t * (1 + f / 80))).astype(np.float32)


def write_model(path, variables, aliases=(), spec="WhisperSpec", version=6):
    """Write variables in CTranslate2's layout."""

    def string(text):
        return struct.pack("<H", len(text.encode()) + 1) + text.encode() + b"\0"

    codes = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}
    data = struct.pack("<I", version) + string(spec) + struct.pack("<II", 3, len(variables))
    for name, value in variables.items():
        data += string(name) + struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
        data += struct.pack("<BI", codes[value.dtype.name], value.nbytes) + value.tobytes()
    data += struct.pack("<I", len(aliases))
    path.write_bytes(data + b"".join(string(a) + string(b) for a, b in aliases))
    return path


def random_variables(seed=0):
    """Random encoder weights under their names, with activations of ordinary size."""
    rng = np.random.default_rng(seed)
    variables = {}
    for key, shape in _shapes().items():
        for name in [key.replace("#", str(n)) for n in range(4)] if "#" in key else [key]:
            scale = 0.3 if len(shape) == 1 or "position" in name else np.prod(shape[1:]) ** -0.5
            value = rng.standard_normal(shape) * scale + (1.0 if name.endswith("gamma") else 0.0)
            variables[f"encoder/{name}"] = value.astype(np.float16)
    return variables


@pytest.fixture(scope="module")
def random_model(tmp_path_factory):
    variables = random_variables()
    path = write_model(tmp_path_factory.mktemp("model") / "model.bin", variables)
    return variables, load_encoder(path)


@pytest.fixture(scope="module")
def real_path():
    try:
        return asset_path("whisper_tiny_en")
    except InputError as error:
        pytest.skip(f"needs the network once: {error}")


def oracle(variables, mel):
    """Whisper's encoder in float64, written from the paper, channels first, head by head."""
    get = lambda name: variables["encoder/" + name].astype(np.float64)
    gelu = lambda x: 0.5 * x * (1 + scipy.special.erf(x / np.sqrt(2)))

    def norm(x, name):
        x = (x - x.mean(1)[:, None]) / np.sqrt(x.var(1) + 1e-5)[:, None]
        return x * get(name + "/gamma")[None] + get(name + "/beta")[None]

    def linear(x, name):
        return x @ get(name + "/weight").T + get(name + "/bias")[None]

    def convolve(x, name, stride):  # x [C, T]
        weight, count = get(name + "/weight"), x.shape[1]
        padded = np.concatenate([0 * x[:, :1], x, 0 * x[:, :1]], axis=1)
        columns = [np.tensordot(weight, padded[:, t : t + 3], 2) for t in range(0, count, stride)]
        return np.stack(columns, axis=1) + get(name + "/bias")[:, None]

    x = gelu(convolve(mel.astype(np.float64).T, "conv1", 1))
    x = gelu(convolve(x, "conv2", 2)).T
    x = x + get("position_encodings/encodings")[: len(x)]
    for n in range(4):
        name = f"layer_{n}/self_attention"
        joint = linear(norm(x, name + "/layer_norm"), name + "/linear_0")
        heads = []
        for h in range(6):
            q, k, v = (joint[:, 384 * j + 64 * h : 384 * j + 64 * (h + 1)] for j in range(3))
            heads.append(scipy.special.softmax(q @ k.T / 8, axis=1) @ v)
        x = x + linear(np.concatenate(heads, axis=1), name + "/linear_1")
        name = f"layer_{n}/ffn"
        hidden = gelu(linear(norm(x, name + "/layer_norm"), name + "/linear_0"))
        x = x + linear(hidden, name + "/linear_1")
    return norm(x, "layer_norm")


@pytest.mark.parametrize("frames", [2, 160])
def test_random_weights_match_float64(random_model, frames):
    variables, encoder = random_model
    mel = wave_mel(frames)
    np.testing.assert_allclose(jax.jit(encode)(encoder, mel), oracle(variables, mel), atol=1e-4)


@pytest.mark.parametrize("frames", [160, 400])
def test_real_weights_match_float64(real_path, frames):
    mel = wave_mel(frames)
    found = np.asarray(jax.jit(encode)(load_encoder(real_path), mel))
    np.testing.assert_allclose(found, oracle(read_ctranslate2(real_path)[1], mel), atol=1e-3)
    assert found.std() > 0.5


def test_real_weights_match_ctranslate2(real_path):
    found = np.asarray(jax.jit(encode)(load_encoder(real_path), wave_mel(3000)))
    for position, expected in CTRANSLATE2.items():
        np.testing.assert_allclose(found[position, [0, 100, 200, 300, 383]], expected, atol=1e-3)


def test_positions_of_the_file_are_whispers_sinusoids(real_path):
    found = np.asarray(load_encoder(real_path).positions)
    angles = np.arange(1500)[:, None] * np.exp(-np.log(1e4) / 191 * np.arange(192))[None]
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-3)  # the file holds float16


@pytest.mark.parametrize("frames", [0, 3, 3002])
def test_wrong_lengths_are_refused(random_model, frames):
    with pytest.raises(ValueError, match="even number of mel frames"):
        encode(random_model[1], jnp.zeros((frames, 80)))


def test_reader_round_trip(tmp_path):
    variables = {
        "a/é": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array(-3, np.int16),
        "c": np.array([], np.float16),
        "d": np.array([1, 2], np.int32),
        "e": np.array([[7]], np.int8),
    }
    path = write_model(tmp_path / "m.bin", variables, aliases=[("twin", "d")])
    name, found = read_ctranslate2(path)
    assert name == "WhisperSpec"
    assert found.pop("twin").tolist() == [1, 2]
    assert list(found) == list(variables)
    for key, value in variables.items():
        assert found[key].dtype == value.dtype
        np.testing.assert_array_equal(found[key], value)


def test_reader_refuses_every_truncation(tmp_path):
    path = write_model(tmp_path / "m.bin", {"x": np.ones((2, 2), np.float32)}, [("y", "x")])
    data = path.read_bytes()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(
            InputError, match=r"m\.bin: not a usable .* \(the file ends too early\)"
        ):
            read_ctranslate2(path)


def test_bad_models_are_refused_in_one_line(tmp_path):
    path = tmp_path / "m.bin"
    good = random_variables()
    small = {"x": np.ones(2, np.float32)}
    wrong_shape = {**good, "encoder/conv1/bias": np.ones(3, np.float16)}
    missing = {k: v for k, v in good.items() if k != "encoder/layer_2/ffn/linear_1/bias"}
    for match, write in [
        ("binary version", lambda: write_model(path, small, version=5)),
        ("not there", lambda: write_model(path, small, [("y", "z")])),
        ("holds a Other", lambda: write_model(path, good, spec="Other")),
        ("conv1/bias", lambda: write_model(path, wrong_shape)),
        ("ffn/linear_1/bias", lambda: write_model(path, missing)),
    ]:
        write()
        load_encoder.cache_clear()
        with pytest.raises(InputError, match=match) as caught:
            load_encoder(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="cannot be read"):
        read_ctranslate2(tmp_path / "nothing.bin")
