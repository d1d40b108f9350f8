"""Encoder and decoders: counts, starts, merged heads equal to separate ones, lowering for TPU."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import fill

from egs_jax.model import forward as model
from egs_jax.model.attention import SpatialAudioAttention, dynamic_mix
from egs_jax.model.decoders import (
    DEFORM_HEADS,
    DeformationDecoder,
    HeadBank,
    SpatialEncoder,
    StaticDecoder,
)
from egs_jax.model.kan import KANLayer, Linear
from egs_jax.model.tokens import SpeechTokens
from kernels.deform import decode_heads

SIZES = dict(DEFORM_HEADS)


def draw(*shape, seed=0):
    return jax.device_put(np.float32(np.random.default_rng(seed).normal(size=shape)))


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@functools.cache
def start(module, width):
    """Fresh parameters for inputs of that width, which compile for a second."""
    return jax.device_get(jax.jit(module.init)(jax.random.key(0), draw(7, width)))


def head_counts(bank):
    """Parameters of each head with its share of the wide first layer."""
    heads = [name for name in bank if name != "hidden"]
    assert count(bank["hidden"]) % len(heads) == 0
    return {name: count(bank["hidden"]) // len(heads) + count(bank[name]) for name in heads}


def test_parity_counts_of_both_decoders():
    shapes = jax.eval_shape(
        StaticDecoder("mlp", as_original=True).init, jax.random.key(0), draw(1, 64)
    )["params"]
    assert count(shapes["trunk_in"]) + count(shapes["trunk_out"]) == 24_832
    assert head_counts(shapes["heads"]) == {
        "log_scales": 16_899,
        "quats": 17_028,
        "logit_opacities": 16_641,
        "sh_coeffs": 22_704,
    }
    shapes = jax.eval_shape(
        DeformationDecoder("mlp", as_original=True).init, jax.random.key(0), draw(1, 64)
    )
    assert head_counts(shapes["params"]["heads"]) == {
        "means": 8_707,
        "log_scales": 8_707,
        "quats": 8_836,
        "logit_opacities": 8_449,
        "sh_coeffs": 14_512,
    }


@pytest.mark.parametrize("network", ["kan", "mlp"])
def test_merged_heads_equal_separate_ones(network):
    heads = DEFORM_HEADS[-2:]
    bank = HeadBank(heads, 6, network, "random", relu_input=network == "mlp")
    x = 0.3 * draw(2, 5, 4)
    params = fill(bank, x)["params"]
    layer = Linear if network == "mlp" else KANLayer

    bend = jax.nn.relu if network == "mlp" else lambda hidden: hidden  # KANs bend by themselves

    @jax.jit
    def separate(params, x):
        x, out = bend(x), {}
        for index, (name, size) in enumerate(heads):
            mine = {
                key: value[..., index * 6 : (index + 1) * 6]
                for key, value in params["hidden"].items()
            }
            hidden = bend(layer(6).apply({"params": mine}, x))
            out[name] = layer(size).apply({"params": params[name]}, hidden)
        return out

    got, want = jax.jit(bank.apply)({"params": params}, x), separate(params, x)
    assert set(got) == set(want) == dict(heads).keys()
    for name in got:
        np.testing.assert_allclose(got[name], want[name], atol=1e-5)


def test_paper_decoders_start_at_nothing_and_learn():
    features = draw(7, 16)
    static = StaticDecoder("kan", width=8)
    faint = static.clone(initial_opacity=0.1)
    out = jax.jit(faint.apply)(start(static, 16), features)
    np.testing.assert_allclose(1 / (1 + np.exp(-out.logit_opacities)), 0.1, rtol=1e-5)
    for value in (out.sh_coeffs, out.d_log_scales, out.d_quats):
        np.testing.assert_array_equal(value, 0.0)
    assert out.sh_coeffs.shape == (7, 16, 3)
    deform = DeformationDecoder("kan", width=8)
    x = draw(2, 7, 16)
    variables = start(deform, 16)
    deltas = jax.device_get(jax.jit(deform.apply)(variables, x))
    assert {name: leaf.shape for name, leaf in deltas.items()} == {
        name: (2, 7, size) for name, size in SIZES.items()
    }
    assert not any(leaf.any() for leaf in jax.tree.leaves(deltas))
    total = lambda v: sum(jnp.sum(leaf) for leaf in jax.tree.leaves(deform.apply(v, x)))
    grads = jax.device_get(jax.jit(jax.grad(total))(variables))["params"]["heads"]
    assert all(grads[name]["base"].any() and grads[name]["bias"].any() for name in SIZES)
    with pytest.raises(ValueError, match="initial_opacity"):
        StaticDecoder(initial_opacity=1.0).init(jax.random.key(0), features)


def test_parity_decoders_start_small_and_offsets_can_be_off():
    features = draw(50, 64)
    static = StaticDecoder("mlp", offsets=False, as_original=True)
    variables = start(static, 64)
    out = jax.device_get(jax.jit(static.apply)(variables, features))
    assert not out.d_log_scales.any() and not out.d_quats.any()
    assert 0 < np.abs(out.sh_coeffs).max() < 0.5
    offset = jax.jit(static.clone(offsets=True).apply)(variables, features).d_quats
    assert 0 < np.abs(offset).max() < 0.5
    deform = DeformationDecoder("mlp", as_original=True)
    deltas = jax.jit(deform.apply)(start(deform, 64), features)
    sizes = [np.abs(leaf).max() for leaf in jax.tree.leaves(deltas)]
    assert 0 < min(sizes) and max(sizes) < 0.5


@pytest.mark.parametrize("make", [StaticDecoder, DeformationDecoder])
def test_a_plain_mlp_differs_from_the_kan_in_its_layers_alone(make):
    x = draw(7, 16)
    kan, mlp = (start(make(network, width=8), 16)["params"]["heads"] for network in ("kan", "mlp"))
    assert set(kan) == set(mlp)  # no trunk
    for name, layer in kan.items():
        assert layer["base"].shape == mlp[name]["kernel"].shape
        parts = layer["base"], mlp[name]["kernel"], layer["bias"], mlp[name]["bias"]
        assert [not part.any() for part in parts] == [name != "hidden"] * 4
    module = make("mlp", width=8)
    total = lambda p, x: sum(
        jnp.sum(leaf) for leaf in jax.tree.leaves(module.apply({"params": {"heads": p}}, x))
    )
    program = jax.jit(jax.grad(total, argnums=(0, 1)))
    gradient = lambda *arguments: jax.device_get(program(*arguments))
    grads, _ = gradient(mlp, x)
    for name in set(mlp) - {"hidden"}:
        units = np.abs(grads[name]["kernel"]).sum(axis=1)
        assert grads[name]["bias"].all() and np.mean(units > 0) > 0.7  # few units are dead
    moved = jax.tree.map(lambda p, g: p + np.float32(0.01) * g, mlp, grads)
    grads, at_inputs = gradient(moved, x)
    assert (
        grads["hidden"]["kernel"].any() and at_inputs[np.asarray(x) < 0].any()
    )  # no ReLU before the first


def test_encoder_of_each_architecture():
    means = 0.3 * draw(9, 3)
    dense = SpatialEncoder(bound=1.0, planes="dense", network="none")
    assert count(jax.eval_shape(dense.init, jax.random.key(0), means)) == 1_966_080
    hashed = SpatialEncoder(bound=1.0, plane_fields=(("levels", 2), ("table_size", 2**10)))
    variables = fill(hashed, means)
    assert set(variables["params"]) == {"triplane", "project"}
    assert jax.jit(hashed.apply)(variables, means).shape == (9, 64)
    grad = jax.jit(jax.grad(lambda m: jnp.sum(hashed.apply(variables, m))))(means)
    grad = np.asarray(grad)
    assert np.isfinite(grad).all() and (grad != 0).any(axis=1).all()
    with pytest.raises(ValueError, match="d_model"):
        SpatialEncoder(bound=1.0, network="none").init(jax.random.key(0), means)


def chain(architecture):
    """All networks in a row, as a frame uses them."""
    paper = architecture == "paper"
    network = "kan" if paper else "mlp"
    small = (("levels", 2), ("table_size", 2**8)) if paper else (("resolutions", (4, 8)),)
    encoder = SpatialEncoder(
        1.0, "hash" if paper else "dense", 64, "kan" if paper else "none", plane_fields=small
    )
    tokens = SpeechTokens(ppe="temporal" if paper else "token")
    attention = SpatialAudioAttention(
        agents_count=6,
        agents="strided" if paper else "first",
        agent_network="mlp" if paper else "linear",
    )
    decoder = DeformationDecoder(network, width=8, as_original=not paper)
    nets = model.Networks(encoder, None, tokens, attention, decoder, None)

    def apply(params, means, windows, eye, pose):
        features = encoder.apply(params["encoder"], means)
        spoken = tokens.apply(params["tokens"], windows, eye, pose)
        agents, static = attention.apply(params["attention"], features, method="prepare")
        mix = dynamic_mix(agents, spoken, attention.temperature)
        weights = {name: params[name]["params"] for name in ("attention", "deform")}
        layers = model.deform_weights(nets, weights, 16)
        attended = model.attend(features, static, mix, spoken, layers)
        return decode_heads(attended, layers.heads, implementation="xla")

    args = 0.3 * draw(10, 3), draw(2, 8, 16, 5), np.float32([0.2, 0.8]), draw(2, 12)
    params = {
        "encoder": fill(encoder, args[0]),
        "tokens": fill(tokens, *args[1:]),
        "attention": fill(attention, draw(10, 64)),
        "deform": fill(decoder, draw(10, 64)),
    }
    return apply, params, args


def chain_step(architecture):
    apply, params, args = chain(architecture)
    loss = lambda p, m, *rest: sum(
        jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(apply(p, m, *rest))
    )
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1))), params, args


@pytest.mark.parametrize("architecture", ["paper", "parity"])
def test_whole_chain_lowers_for_tpu(architecture):
    step, params, args = chain_step(architecture)
    text = step.trace(params, *args).lower(lowering_platforms=("tpu",)).as_text()
    assert "stablehlo.dot_general" in text and "stablehlo.custom_call" not in text


@pytest.mark.slow
def test_whole_chain_gradient_equals_differences():
    step, params, args = chain_step("paper")
    _, grads = step(params, *args)
    chex.assert_tree_all_finite(grads)
    rng = np.random.default_rng(4)
    way = jax.tree.map(lambda v: jnp.asarray(rng.normal(size=v.shape), v.dtype), params)
    move = lambda e: step(jax.tree.map(lambda v, d: v + e * d, params, way), *args)[0]
    inner = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, grads[0], way)))
    difference = (move(3e-4) - move(-3e-4)) / 6e-4
    np.testing.assert_allclose(inner, difference, rtol=5e-2, atol=0.5)
