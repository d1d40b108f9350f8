"""Condition tokens: against library convolutions and formulas; what the time code does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import fill

from egs_jax.model.kan import Block
from egs_jax.model.tokens import (
    AudioAttNet,
    AudioNet,
    SpeechTokens,
    encode_eye,
    encode_pose,
    period_bias,
    periodic_encoding,
    pose_vector,
)
from egs_jax.speech.lips import KNOTS, LipsReader, read, read_rows

B, W, F = 2, 8, 5


def inputs(frames=B, window=W, features=F):
    rng = np.random.default_rng(0)
    draw = lambda *shape: np.float32(rng.normal(size=shape))
    eyes = np.linspace(0.1, 0.9, frames, dtype=np.float32)
    return draw(frames, window, 16, features), eyes, draw(frames, 12)


def jit(function):
    """The jitted function, whose results NumPy holds."""
    program = jax.jit(function)
    return lambda *arguments: jax.device_get(program(*arguments))


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def library_conv(x, layer, stride):
    out = jax.lax.conv_general_dilated(
        x, layer["kernel"], (stride,), [(1, 1)], dimension_numbers=("NWC", "WIO", "NWC")
    )
    return jax.nn.leaky_relu(out + layer["bias"][None, None, :], 0.02)


def test_audio_net_equals_library_convolutions():
    windows = inputs()[0]
    variables = fill(AudioNet(), windows)
    got = jit(AudioNet().apply)(variables, windows)

    @jit
    def plain(p, x):
        x = x.reshape(-1, 16, F)
        for index in range(4):
            x = library_conv(x, p[f"conv_{index}"], 2)
        assert x.shape == (B * W, 1, 64)
        x = x[:, 0] @ p["hidden"]["kernel"] + p["hidden"]["bias"][None]
        return jax.nn.leaky_relu(x, 0.02) @ p["out"]["kernel"] + p["out"]["bias"][None]

    assert got.shape == (B, W, 32)
    np.testing.assert_allclose(got.reshape(-1, 32), plain(variables["params"], windows), atol=1e-5)


def test_audio_att_net_is_a_weighted_mean():
    encoded = np.float32(np.random.default_rng(0).normal(size=(B, W, 32)))
    variables = fill(AudioAttNet(), encoded)
    apply = jit(AudioAttNet().apply)

    @jit
    def plain(p, x):
        for index in range(5):
            x = library_conv(x, p[f"conv_{index}"], 1)
        logits = x[..., 0] @ p["weights"]["kernel"] + p["weights"]["bias"][None]
        return jnp.sum(jax.nn.softmax(logits, axis=1)[:, :, None] * encoded, axis=1)

    np.testing.assert_allclose(
        apply(variables, encoded), plain(variables["params"], encoded), atol=1e-5
    )
    constant = np.tile(encoded[:, :1], (1, W, 1))
    np.testing.assert_allclose(apply(variables, constant), encoded[:, 0], atol=1e-5)


def test_eye_encodings():
    eye = np.array([0.0, 0.3, 1.0, 0.5, 0.501])
    code = jit(lambda eye: encode_eye(eye, "code"))(np.float32(eye))
    smooth = jit(encode_eye)(np.float32(eye))
    for p in range(0, 8):  # where float32 phases are exact enough
        phase = eye * 10000.0 ** (2 * (p // 2) / 32)
        np.testing.assert_allclose(code[:, p], [np.sin, np.cos][p % 2](phase), atol=1e-5)
    np.testing.assert_allclose(smooth[:, 0], np.sin(eye), atol=1e-6)
    np.testing.assert_allclose(smooth[:, 31], np.cos(4 * np.pi * eye), atol=1e-5)
    assert np.abs(smooth[4] - smooth[3]).max() < 0.02
    assert np.abs(code[4] - code[3]).max() > 0.9


def test_pose_is_scaled_or_raw():
    pose = np.arange(12, dtype=np.float32)[None]
    raw, scaled = (jit(lambda pose, by=by: encode_pose(pose, by))(pose) for by in (None, 4.0))
    np.testing.assert_array_equal(raw, pose)
    np.testing.assert_allclose(scaled[0, 9:], [9 / 4, 10 / 4, 11 / 4])
    np.testing.assert_array_equal(scaled[0, :9], pose[0, :9])
    view = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    np.testing.assert_array_equal(jit(pose_vector)(view)[0], [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11])


def test_periodic_encoding_repeats_and_matches_the_formula():
    code = np.asarray(periodic_encoding(60, 64, 25))
    np.testing.assert_array_equal(code[25:50], code[:25])
    np.testing.assert_array_equal(code[0], [0, 1] * 32)
    np.testing.assert_allclose(code[7, 10], np.sin(7 * 10000 ** (-10 / 64)), atol=1e-6)
    np.testing.assert_allclose(code[7, 11], np.cos(7 * 10000 ** (-10 / 64)), atol=1e-6)
    assert np.abs(code[24] - code[0]).max() > 0.5


def test_period_bias_is_zero_within_a_period_and_steps_beyond():
    """The rule -floor(age / period) is zero for every window that gets no bias."""
    assert [period_bias(window, 25) for window in (1, 8, 24, 25)] == [None] * 4
    np.testing.assert_array_equal(period_bias(5, 2), [-2, -1, -1, 0, 0, 0, 0, 0])
    assert np.asarray(period_bias(26, 25))[0] == -1.0


def make(**fields):
    model = SpeechTokens(**fields)
    args = inputs()
    return model, fill(model, *args), args


def test_temporal_tokens_know_their_order_and_off_does_not():
    for ppe in ("temporal", "off"):
        model, variables, (windows, eye, pose) = make(ppe=ppe)
        assert "audio_att_net" not in variables["params"]
        apply = jit(model.apply)
        tokens = apply(variables, windows, eye, pose)
        assert tokens.shape == (B, W + 4, 64)
        reverse = apply(variables, windows[:, ::-1], eye, pose)
        same_set = np.abs(reverse[:, :W][:, ::-1] - tokens[:, :W]).max() < 1e-5
        assert same_set == (ppe == "off")
        np.testing.assert_array_equal(reverse[:, W : W + 3], tokens[:, W : W + 3])
    code = np.asarray(periodic_encoding(W, 64, 25))
    off = tokens
    on = jit(SpeechTokens(ppe="temporal").apply)(variables, windows, eye, pose)
    np.testing.assert_allclose((on - off)[:, :W], np.tile(code[None], (B, 1, 1)), atol=1e-5)
    np.testing.assert_array_equal(on[:, W:], off[:, W:])


def test_token_mode_adds_one_constant_row_a_type():
    model, variables, args = make(ppe="token")
    tokens = jit(model.apply)(variables, *args)
    assert tokens.shape == (B, 5, 64)
    null = np.asarray(variables["params"]["null"]) + np.asarray(periodic_encoding(4, 64, 25))[3]
    np.testing.assert_allclose(tokens[:, 3], np.tile(null[None], (B, 1)), atol=1e-6)


def test_each_input_moves_its_own_token_only():
    model, variables, (windows, eye, pose) = make()
    apply = jit(model.apply)
    base = apply(variables, windows, eye, pose)
    louder = lambda frame: windows + np.float32(np.arange(W) == frame)[None, :, None, None]
    cases = [
        (apply(variables, louder(2), eye, pose), [2]),
        (apply(variables, louder(W // 2), eye, pose), [W // 2, W + 3]),
        (apply(variables, windows, eye + np.float32(0.05), pose), [W]),
        (apply(variables, windows, eye, pose + np.float32(0.1)), [W + 1]),
    ]
    for moved, places in cases:
        changed = np.abs(moved - base).max(axis=(0, 2)) > 1e-6
        np.testing.assert_array_equal(np.nonzero(changed)[0], places)


def test_lips_are_read_from_the_audio_token_of_the_frame():
    model, variables, (windows, eye, pose) = make(ppe="off")
    tokens = jit(model.apply)(variables, windows, eye, pose)
    read = jit(lambda v, x: model.apply(v, x, method="read_lips"))(variables, windows[1])
    assert read.shape == (W, 2)
    p = jax.device_get(variables["params"])
    by_hand = tokens[1, :W] @ p["lips_read"]["kernel"] + p["lips_read"]["bias"][None]
    np.testing.assert_allclose(read, by_hand, atol=1e-5)
    token = jit(Block(64, 64).apply)({"params": p["lips"]}, by_hand[W // 2])
    token = (token - token.mean()) / np.sqrt(token.var() + 1e-6)
    token = token * p["lips_norm"]["scale"] + p["lips_norm"]["bias"]
    np.testing.assert_allclose(tokens[1, W + 3], token, atol=1e-4)
    plain = jit(SpeechTokens(ppe="off", lips_token=False).apply)
    without = plain(variables, windows, eye, pose)
    np.testing.assert_allclose(without, tokens[:, : W + 3], atol=1e-6)
    with pytest.raises(ValueError, match="needs normalize"):
        jax.eval_shape(SpeechTokens(normalize=False).init, jax.random.key(0), windows, eye, pose)


def test_fitted_lips_are_told_by_the_reader_and_stay_as_they_are():
    model, variables, (windows, eye, pose) = make(fits_lips=True)
    p = variables["params"]
    assert make()[1]["params"].keys() == p.keys() - {"lips_reader"}
    # Quantiles rise.
    knots = jnp.tile(jnp.linspace(-40, 40, KNOTS)[:, None], (1, 2))
    p["lips_reader"] |= {"told": knots, "true": knots / 8, "spread": jnp.float32(0.01)}
    told = read(LipsReader(**jax.device_get(p["lips_reader"])), read_rows(windows))
    assert np.abs(told).max() < 5 and np.ptp(told) > 0.1
    tokens = jit(model.apply)(variables, windows, eye, pose)
    given = jit(model.apply)(variables, windows, eye, pose, told)
    np.testing.assert_allclose(tokens, given, atol=1e-4)
    other = jit(model.apply)(variables, windows, eye, pose, told + np.float32(1))
    changed = np.abs(other - given).max(axis=(0, 2)) > 1e-3
    assert np.nonzero(changed)[0].tolist() == [W + 3]
    total = lambda v, *drive: model.apply(v, *drive)[:, W + 3, 0].sum()
    slopes = jit(jax.grad(total))(variables, windows, eye, pose)["params"]
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(slopes["lips_reader"]))
    assert np.any(slopes["lips"]["hidden"]["base"])


def test_parity_counts():
    model = SpeechTokens(
        ppe="token", eye_encoding="code", pose_distance=None, normalize=False, lips_token=False
    )
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs(features=29))["params"]
    counts = {name: count(tree) for name, tree in shapes.items()}
    assert counts == {
        "audio_net": 30_720,
        "audio_att_net": 2_149,
        "audio": 24_704,
        "eye": 24_704,
        "pose": 19_584,
        "null": 64,
    }


def test_gradients_finite_at_silence_and_dropout_repeats():
    model, variables, args = make(dropout=0.3)
    windows, eye, pose = jax.device_put(args)
    grad = jit(jax.grad(lambda v, w, e: jnp.sum(model.apply(v, w, e, pose) ** 2), (0, 1, 2)))
    for leaf in jax.tree.leaves(grad(variables, 0 * windows, 0 * eye)):
        assert np.isfinite(leaf).all()
    run = jit(
        lambda key: model.apply(
            variables, windows, eye, pose, deterministic=False, rngs={"dropout": key}
        )
    )
    np.testing.assert_array_equal(run(jax.random.key(3)), run(jax.random.key(3)))
    assert 0.2 < float((run(jax.random.key(3)) == 0).mean()) < 0.4
    with pytest.raises(ValueError, match="ppe"):
        SpeechTokens(ppe="always").init(jax.random.key(0), windows, eye, pose)
