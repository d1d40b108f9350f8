"""Random inputs and weights of `deform`, and what it computes, row by row in NumPy."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from scipy.interpolate import BSpline

from kernels.deform import HEADS, Affine, DeformInputs, DeformWeights, Knots, Norm, pack_heads

SIZES = dict(means=3, log_scales=3, quats=4, logit_opacities=1)
ORDER = 3


def make_case(
    network, n=5, frames=2, agents=7, tokens=4, d=8, units=4, ffn=6, k=4, order=ORDER, splines=8,
    seed=0,
):  # fmt: skip
    """Random inputs, and the weights both as they are and as `pack` takes them."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape, scale=1.0: (scale * rng.normal(size=shape)).astype(np.float32)
    columns = dict(taylor=3, mlp=1, bspline=1 + splines)[network]
    layer = lambda *shape, gain=1.0: Affine(
        draw(*shape, scale=gain * (columns * shape[-2]) ** -0.5), draw(shape[-1], scale=0.3)
    )
    norm = lambda: Norm(1 + draw(d, scale=0.2), draw(d, scale=0.2))
    shares = lambda *shape: rng.dirichlet(0.3 * np.ones(shape[-1]), shape[:-1]).astype(np.float32)
    knots = None
    if network == "bspline":
        rows = lambda count: (
            np.cumsum(rng.uniform(0.2, 0.6, (count, columns + order)), axis=1) - 2.4
        )
        knots = Knots(*(rows(count).astype(np.float32) for count in (d, 5 * units)))
    weights = dict(
        gain=1.5, epsilon=1e-6, norm1=norm(), ffn_in=layer(d, ffn), ffn_out=layer(ffn, d),
        norm2=norm(), hidden=layer(columns, d, 5 * units), knots=knots,
        heads={name: layer(columns, units, SIZES.get(name, 48), gain=0.2) for name in HEADS},
    )  # fmt: skip
    canonical = DeformInputs(
        draw(n, 3), draw(n, 3, scale=0.5), draw(n, 4), draw(n), draw(n, k, 3)
    )  # fmt: skip
    arrays = (
        canonical, draw(n, d), shares(n, agents), shares(frames, agents, tokens),
        draw(frames, tokens, d),
    )  # fmt: skip
    return SimpleNamespace(network=network, arrays=arrays, weights=weights, k=k, order=order)


def pack(case, dtype=jnp.float32):
    weights = dict(case.weights)
    parts = {name: weights.pop(name) for name in ("hidden", "heads", "knots")}
    heads = pack_heads(case.network, **parts, n_harmonics=case.k)
    return DeformWeights(**weights, heads=heads).astype(dtype)


def by_hand(case):
    """The same in float64, one row and one head at a time."""
    canonical, features, static, dynamic, tokens = (
        jax.tree.map(lambda v: np.asarray(v, np.float64), part) for part in case.arrays
    )
    w = SimpleNamespace(**case.weights)

    def expand(x, kernel, knots):
        if case.network == "mlp":
            return np.maximum(x, 0) @ kernel[0]
        silu = x / (1 + np.exp(-x))
        if case.network == "taylor":
            return silu @ kernel[0] + x @ kernel[1] + x**2 @ kernel[2]
        out = silu @ kernel[0]
        for i, t in enumerate(np.asarray(knots, np.float64)):
            for j in range(len(kernel) - 1):
                spline = BSpline.basis_element(t[j : j + case.order + 2], extrapolate=False)
                out = out + np.nan_to_num(spline(x[i])) * kernel[1 + j, i]
        return out

    def normalise(x, norm):
        x = x - x.mean()
        return x / np.sqrt((x**2).mean() + w.epsilon) * norm.scale + norm.bias

    def one(frame, row):
        attended = static[row] @ dynamic[frame] @ tokens[frame]
        x = normalise(features[row] + w.gain * attended, w.norm1)
        hidden = np.maximum(x @ w.ffn_in.kernel + w.ffn_in.bias, 0)
        x = normalise(x + hidden @ w.ffn_out.kernel + w.ffn_out.bias, w.norm2)
        units = expand(x, w.hidden.kernel, w.knots and w.knots.hidden) + w.hidden.bias
        size = len(units) // 5
        said = {}
        for i, name in enumerate(HEADS):
            part = slice(i * size, (i + 1) * size)
            knots = w.knots and w.knots.heads[part]
            said[name] = expand(units[part], w.heads[name].kernel, knots) + w.heads[name].bias
        logit = canonical.logit_opacities[row] + said["logit_opacities"][0]
        return (
            canonical.means[row] + said["means"],
            canonical.quats[row] + said["quats"],
            np.exp(canonical.log_scales[row] + said["log_scales"]),
            1 / (1 + np.exp(-logit)),
            canonical.sh[row] + said["sh"][: 3 * case.k].reshape(case.k, 3),
        )

    rows = [[one(b, n) for n in range(len(features))] for b in range(len(tokens))]
    return [np.array([[row[i] for row in frame] for frame in rows]) for i in range(5)]
