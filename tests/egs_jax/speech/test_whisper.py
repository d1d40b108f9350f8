"""The encoder against an independent float64 NumPy one and against CTranslate2; its file reader."""

import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from egs_jax.runtime.assets import asset_path
from egs_jax.runtime.errors import InputError
from egs_jax.speech.whisper import NETWORKS, _shapes, encode, load_encoder, read_ctranslate2

# CTranslate2 4.8.5, compute_type="float32", on `wave_mel(3000)`:
# position to features 0, 100, 200, 300, 383.
CTRANSLATE2 = {
    "whisper": {
        0: [-1.12723, -1.55263, 0.17595, -0.61747, -1.20755],
        1: [0.15976, -0.15201, 0.29771, -0.13428, -1.26536],
        499: [-0.74384, -0.42171, 0.4776, 0.49286, 0.81311],
        1499: [-0.05345, 0.19729, 0.57177, -0.89295, 0.57367],
    },
    "whisper-base": {
        0: [-0.51293, -0.22181, -0.35812, -1.13664, -0.03479],
        1: [0.24305, -0.26373, 0.18468, -0.41782, 0.08925],
        499: [-0.49743, -0.29383, -0.29441, -0.22581, 0.6836],
        1499: [-0.91977, 0.3794, 0.70174, 0.99558, -0.13289],
    },
}
REAL = ["whisper", pytest.param("whisper-base", marks=pytest.mark.slow)]  # 133 MB to fetch


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


def random_variables(kind="whisper"):
    """Random encoder weights under their names, with activations of ordinary size."""
    rng, size = np.random.default_rng(0), NETWORKS[kind]
    variables = {}
    for key, shape in _shapes(size.width).items():
        numbers = range(size.num_layers) if "#" in key else [0]
        for name in [key.replace("#", str(n)) for n in numbers]:
            scale = 0.3 if len(shape) == 1 or "position" in name else np.prod(shape[1:]) ** -0.5
            value = rng.standard_normal(shape) * scale + (1.0 if name.endswith("gamma") else 0.0)
            variables[f"encoder/{name}"] = value.astype(np.float16)
    return variables


@pytest.fixture(scope="module")
def random_model(request, tmp_path_factory):
    kind = getattr(request, "param", "whisper")
    variables = random_variables(kind)
    path = write_model(tmp_path_factory.mktemp("model") / "model.bin", variables)
    return variables, load_encoder(path, NETWORKS[kind])


@pytest.fixture(scope="module", params=REAL)
def real(request):
    """A kind, and the path of its network."""
    try:
        return request.param, asset_path(NETWORKS[request.param].asset)
    except InputError as error:
        pytest.skip(f"needs the network once: {error}")


def oracle(variables, mel):
    """Whisper's encoder in float64, written from the paper, channels first, head by head."""
    layers = sum(key.endswith("ffn/linear_0/bias") for key in variables if "encoder" in key)
    width = len(variables["encoder/layer_norm/beta"])
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
    for n in range(layers):
        name = f"layer_{n}/self_attention"
        joint = linear(norm(x, name + "/layer_norm"), name + "/linear_0")
        heads = []
        for h in range(width // 64):
            q, k, v = (joint[:, width * j + 64 * h : width * j + 64 * (h + 1)] for j in range(3))
            heads.append(scipy.special.softmax(q @ k.T / 8, axis=1) @ v)
        x = x + linear(np.concatenate(heads, axis=1), name + "/linear_1")
        name = f"layer_{n}/ffn"
        hidden = gelu(linear(norm(x, name + "/layer_norm"), name + "/linear_0"))
        x = x + linear(hidden, name + "/linear_1")
    return norm(x, "layer_norm")


@pytest.mark.parametrize(
    ("random_model", "frames"),
    [("whisper", 2), ("whisper", 160), ("whisper-base", 160)],
    indirect=["random_model"],
)
def test_random_weights_match_float64(random_model, frames):
    variables, encoder = random_model
    mel = wave_mel(frames)
    wanted = oracle(variables, mel)
    np.testing.assert_allclose(jax.jit(encode)(encoder, mel), wanted, atol=1e-4)
    some = slice(frames // 4, frames // 2)
    found = jax.jit(lambda encoder, mel: encode(encoder, mel, some))(encoder, mel)
    np.testing.assert_allclose(found, wanted[some], atol=1e-4)


@pytest.mark.parametrize("frames", [160, 400])
def test_real_weights_match_float64(real, frames):
    (kind, path), mel = real, wave_mel(frames)
    found = np.asarray(jax.jit(encode)(load_encoder(path, NETWORKS[kind]), mel))
    np.testing.assert_allclose(found, oracle(read_ctranslate2(path)[1], mel), atol=1e-3)
    assert found.std() > 0.5


def test_real_weights_match_ctranslate2(real):
    kind, path = real
    found = np.asarray(jax.jit(encode)(load_encoder(path, NETWORKS[kind]), wave_mel(3000)))
    for position, expected in CTRANSLATE2[kind].items():
        np.testing.assert_allclose(found[position, [0, 100, 200, 300, 383]], expected, atol=1e-3)


def test_positions_of_the_file_are_whispers_sinusoids(real):
    kind, path = real
    found, half = np.asarray(load_encoder(path, NETWORKS[kind]).positions), NETWORKS[kind].width / 2
    angles = np.arange(1500)[:, None] * np.exp(-np.log(1e4) / (half - 1) * np.arange(half))[None]
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
