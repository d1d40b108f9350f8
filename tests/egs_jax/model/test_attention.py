"""ESAA: the cheap form equals the direct one; agents are live; frames do not mix."""

import itertools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import fill

from egs_jax.model.attention import (
    DROPOUTS,
    SpatialAudioAttention,
    drop_out,
    dynamic_mix,
    select_agents,
    static_mix,
)
from egs_jax.model.forward import attend
from kernels.deform import Affine, DeformWeights, Norm, product, token_shares

N, A, B, T, D = 40, 7, 2, 5, 8
LAYER = SpatialAudioAttention(d_model=D, agents_count=A, heads=2, ffn_dim=16, gain=3.0)
CROSS = LAYER.clone(mixing="cross")


def arrays(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [np.float32(rng.normal(size=shape)) for shape in shapes]


select = jax.jit(select_agents, static_argnums=(1, 2))


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@jax.jit
def cheap(features, agents, tokens, bias):
    mixed = static_mix(features, agents, 2.0), dynamic_mix(agents, tokens, 2.0, bias)
    return product(token_shares(*mixed), tokens), *mixed


def direct(features, agents, tokens, bias):
    """P (G V), as the original computes it, written out once more."""
    scores = jnp.einsum("ad,btd->bat", agents, tokens) / 2.0 + bias[None, None, :]
    values = jnp.einsum("bat,btd->bad", jax.nn.softmax(scores, axis=-1), tokens)
    return jnp.einsum("na,bad->bnd", jax.nn.softmax(features @ agents.T / 2.0, axis=-1), values)


def test_both_orders_agree_forward_and_backward():
    args = arrays((N, D), (A, D), (B, T, D), (T,))
    (probe,) = arrays((B, N, D), seed=1)
    np.testing.assert_allclose(cheap(*args)[0], jax.jit(direct)(*args), atol=1e-5)
    first = jax.jit(jax.grad(lambda *a: jnp.sum(cheap(*a)[0] * probe), (0, 1, 2, 3)))(*args)
    second = jax.jit(jax.grad(lambda *a: jnp.sum(direct(*a) * probe), (0, 1, 2, 3)))(*args)
    for got, want in zip(first, second, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5 * max(1.0, np.abs(want).max()))


def test_against_float64_numpy_and_rows_sum_to_one():
    args = arrays((N, D), (A, D), (B, T, D), (T,))
    out, static, dynamic = jax.device_get(cheap(*args))
    f, a, s, bias = map(np.float64, args)
    p = softmax(f @ a.T / 2)
    for b in range(B):
        g = softmax(a @ s[b].T / 2 + bias)
        np.testing.assert_allclose(out[b], p @ (g @ s[b]), atol=1e-5)
        assert (out[b] <= s[b].max(axis=0) + 1e-5).all()  # a convex combination of the tokens
    np.testing.assert_allclose(static.sum(axis=-1), 1.0, atol=1e-5)
    np.testing.assert_allclose(dynamic.sum(axis=-1), 1.0, atol=1e-5)


def test_one_agent_one_gaussian_by_hand():
    one = np.ones((1, 1), np.float32)
    tokens = np.float32([[[0.0], [2.0]]])
    got = cheap(one, one, tokens, np.zeros(2, np.float32))[0]
    np.testing.assert_allclose(got, [[[2 * np.e / (1 + np.e)]]], rtol=1e-6)


def test_choices_of_agents():
    rows = np.arange(12, dtype=np.float32)[:, None]
    alive = np.array([False, True] * 6)  # rows 1 3 5 7 9 11

    def pick(count, choice, alive=None):
        return np.asarray(select(rows, count, choice, alive))[:, 0]

    np.testing.assert_array_equal(pick(4, "first"), [0, 1, 2, 3])
    np.testing.assert_array_equal(pick(4, "strided"), [0, 3, 6, 9])
    np.testing.assert_array_equal(pick(3, "first", alive), [1, 3, 5])
    np.testing.assert_array_equal(pick(3, "strided", alive), [1, 5, 9])
    assert pick(200, "strided").shape == (12,)
    two_live = np.arange(12) > 9
    for choice in ("first", "strided"):  # fewer live Gaussians than agents: repeats
        assert set(pick(6, choice, two_live).tolist()) == {10.0, 11.0}
    with pytest.raises(ValueError, match="agents_count"):
        pick(0, "first")


@pytest.mark.parametrize("live", [N, 3])
@pytest.mark.parametrize("choice", ["first", "strided"])
def test_rows_of_agents_are_scattered_once_each_on_the_way_back(choice, live):
    """The gradient of a gather, but no two sums meet: a GPU would add them in any order."""
    features, probe = arrays((N, D), (A, D))
    alive = np.arange(N) >= N - live
    numbered = np.arange(N, dtype=np.float32)[:, None]
    indices = np.asarray(select(numbered, A, choice, alive))[:, 0].astype(int)
    assert len(set(indices.tolist())) == min(A, live)

    def both_ways(features, alive, probe):
        got, pullback = jax.vjp(lambda f: select_agents(f, A, choice, alive), features)
        return got, pullback(probe)[0]

    got, gradient = jax.jit(both_ways)(features, alive, probe)
    np.testing.assert_array_equal(got, features[indices])
    want = np.zeros((N, D))
    np.add.at(want, indices, probe)
    np.testing.assert_allclose(gradient, want, atol=1e-6)
    program = str(jax.make_jaxpr(both_ways)(features, alive, probe))
    scattered = re.findall(r"scatter-add\[.*?unique_indices=(\w+)", program, re.DOTALL)
    assert scattered == ["True"]


def layer_and_inputs():
    features, tokens = arrays((N, D), (B, T, D))
    alive = np.arange(N) % 3 > 0
    params = fill(LAYER, features)
    return params, features, tokens, alive


def weights_of(layer, params):
    """The layer's parameters as `forward` lays them out; without heads."""
    params = params["params"]
    affine = lambda name: Affine(params[name]["kernel"], params[name]["bias"])
    norm = lambda name: Norm(params[name]["scale"], params[name]["bias"])
    return DeformWeights(
        layer.gain, layer.norm_epsilon, norm("norm1"), affine("ffn_in"), affine("ffn_out"),
        norm("norm2"), heads=None,
    )  # fmt: skip


def apply(layer, params, features, tokens, bias=None, alive=None, key=None):
    """x2 as `forward` computes it."""
    agents, static = layer.apply(params, features, alive, method="prepare")
    dynamic = dynamic_mix(agents, tokens, layer.temperature, bias)
    args = features, static, dynamic, tokens, weights_of(layer, params)
    if key is None:
        return attend(*args)
    return attend(*args, layer.apply(params, rngs={"dropout": key}, method="dropouts"))


apply = jax.jit(apply, static_argnums=0)


def test_layer_equals_numpy():
    params, features, tokens, alive = layer_and_inputs()
    got = apply(LAYER, params, features, tokens, alive=alive)
    p = jax.tree.map(lambda v: np.asarray(v, np.float64), params["params"])
    f, s = np.asarray(features, np.float64), np.asarray(tokens, np.float64)
    linear = lambda x, q: x @ q["kernel"] + q["bias"]
    norm = lambda x, q: (
        (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * q["scale"]
        + q["bias"]
    )
    chosen = np.asarray(select(features, A, "strided", alive), np.float64)
    agents = linear(np.maximum(linear(chosen, p["agent"]["hidden"]), 0), p["agent"]["out"])
    tau = LAYER.temperature
    for b in range(B):
        out = softmax(f @ agents.T / tau) @ softmax(agents @ s[b].T / tau) @ s[b]
        x1 = norm(f + LAYER.gain * out, p["norm1"])
        x2 = norm(x1 + linear(np.maximum(linear(x1, p["ffn_in"]), 0), p["ffn_out"]), p["norm2"])
        np.testing.assert_allclose(got[b], x2, atol=2e-5)


def test_cross_attention_is_a_softmax_over_the_tokens_of_every_gaussian():
    params, features, tokens, alive = layer_and_inputs()
    bias = np.linspace(-1, 0, T, dtype=np.float32)
    got = np.asarray(apply(CROSS, params, features, tokens, bias, alive))
    rows = np.flatnonzero(alive)  # an avatar keeps live rows alone

    @jax.jit
    def parts(params, features, tokens, bias, alive):
        queries, static = CROSS.apply(params, features, alive, method="prepare")
        assert static is None and queries.shape == features.shape
        dynamic = dynamic_mix(queries, tokens, CROSS.temperature, bias)
        few = dynamic_mix(queries[rows], tokens, CROSS.temperature, bias)
        kept = attend(features[rows], None, few, tokens, weights_of(CROSS, params))
        return kept, token_shares(None, dynamic)

    kept, shares = parts(params, features, tokens, bias, alive)
    np.testing.assert_allclose(kept, got[:, rows], atol=1e-6)
    p = jax.tree.map(lambda v: np.asarray(v, np.float64), params["params"])
    f, s = np.asarray(features, np.float64), np.asarray(tokens, np.float64)
    linear = lambda x, q: x @ q["kernel"] + q["bias"]
    q = linear(np.maximum(linear(f, p["agent"]["hidden"]), 0), p["agent"]["out"])
    for b in range(B):
        weights = softmax(q @ s[b].T / CROSS.temperature + bias)
        np.testing.assert_allclose(shares[b], weights, atol=1e-5)
    esaa = jax.tree.map(jnp.shape, fill(LAYER, features))
    assert jax.tree.map(jnp.shape, fill(CROSS, features)) == esaa  # nothing to excuse


@pytest.mark.parametrize("layer", [LAYER, CROSS], ids=["esaa", "cross"])
def test_dead_gaussians_do_not_touch_live_ones(layer):
    params, features, tokens, alive = layer_and_inputs()
    spoiled = np.where(alive[:, None], features, np.float32(1e3))
    run = lambda *arguments: np.asarray(apply(layer, params, *arguments, alive=alive))
    before, after = (run(f, tokens) for f in (features, spoiled))
    np.testing.assert_array_equal(after[:, alive], before[:, alive])
    repeated = run(features, np.concatenate([tokens, tokens]))
    np.testing.assert_allclose(repeated[B:], before, atol=1e-6)  # frames do not mix


@pytest.mark.parametrize("epsilon", [1e-6, 1e-12])
def test_gradients_finite_and_equal_to_differences(epsilon):
    params, features, tokens, _ = layer_and_inputs()
    layer = LAYER.clone(norm_epsilon=epsilon)
    (probe,) = arrays((B, N, D), seed=3)
    loss = jax.jit(lambda *a: jnp.sum(apply(layer, *a) * probe))
    args = (params, features, tokens)
    gradient = jax.jit(jax.grad(loss, (0, 1, 2)))
    args, grads = jax.device_get((args, gradient(*args)))
    rng = np.random.default_rng(1)
    way = jax.tree.map(lambda v: np.float32(rng.normal(size=v.shape)), args)
    move = lambda e: loss(*jax.tree.map(lambda v, d: v + np.float32(e) * d, args, way))
    inner = sum(jax.tree.leaves(jax.tree.map(np.vdot, grads, way)))
    np.testing.assert_allclose(inner, (move(1e-3) - move(-1e-3)) / 2e-3, rtol=2e-2)
    flat = jax.device_get(gradient(params, 0 * features, 0 * tokens))
    chex.assert_tree_all_finite(flat)


def test_parity_counts_and_temperature():
    layer = SpatialAudioAttention(agents="first", agent_network="linear", norm_epsilon=1e-12)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((300, 64)))
    count = lambda *names: sum(
        leaf.size for n in names for leaf in jax.tree.leaves(shapes["params"][n])
    )
    assert layer.temperature == 2.0
    assert count("agent") == 4_160
    assert count("ffn_in", "ffn_out") == 16_576
    assert count("norm1", "norm2") == 256


def test_dropout_needs_its_key_and_repeats():
    params, features, tokens, _ = layer_and_inputs()
    layer = LAYER.clone(dropout=0.5)
    run = lambda key=None: np.asarray(apply(layer, params, features, tokens, key=key))
    np.testing.assert_array_equal(run(jax.random.key(1)), run(jax.random.key(1)))
    assert (run(jax.random.key(1)) != run(jax.random.key(2))).any()
    assert (run(jax.random.key(1)) != run()).any()
    drop = layer.apply(params, rngs={"dropout": jax.random.key(1)}, method="dropouts")
    dropped = [np.asarray(drop(jnp.ones(1000)) == 0) for _ in range(DROPOUTS)]
    assert all((a != b).any() for a, b in itertools.combinations(dropped, 2))
    none = layer.clone(dropout=0.0).apply(params, method="dropouts")
    assert none(features) is features


@pytest.mark.parametrize("share", [0.1, 0.25, 0.999])
def test_dropout_drops_its_share_everywhere_and_keeps_the_mean(share):
    values = 1 + np.random.default_rng(0).random((3, 1001, 67), np.float32)
    got = np.asarray(jax.jit(drop_out, static_argnums=2)(jax.random.key(1), values, share))
    kept = got != 0
    actual = round(256 * share) / 256 if share < 0.99 else 255 / 256
    np.testing.assert_allclose(got[kept], (values / (1 - actual))[kept], rtol=1e-6)
    deviation = (actual * (1 - actual)) ** 0.5
    for axes in ((0, 1, 2), (1, 2), (0, 1), (0, 2)):  # no frame, row or column is special
        count = values.size / kept.mean(axis=axes).size
        assert np.max(np.abs(1 - kept.mean(axis=axes) - actual)) < 5 * deviation / count**0.5
    pairs = np.corrcoef([kept[..., i].ravel() for i in range(8)])  # bytes of one word
    assert np.max(np.abs(pairs - np.eye(8))) < 5 / kept[..., 0].size ** 0.5
