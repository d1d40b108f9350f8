"""The Triton kernel of `deform` on a GPU: right, repeatable, and every Gaussian for itself.

Claim: for all networks and sizes from one Gaussian to a ragged 5,000 in several frames
it equals the JAX implementation, in float32 up to what operands of bfloat16 leave, and with its
operands rounded alike up to what the hardware's tanh and the order of sums leave; 100 repeats give
the same bits; a Gaussian that is not finite changes no bit of the others. And the kernel of
`frame_tokens` equals the modules in float32 up to operands of TF32, and fitted lips up to float32.
Takes some minutes.

    python -m experiments.check_deform_gpu

prints a line per check, writes `results/check_deform_gpu.json`, and exits with 1 if one fails.
"""

import itertools
import os
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from egs_jax.avatar.token_kernels.frame_tokens import frame_tokens
from egs_jax.avatar.token_kernels.weights import token_weights
from egs_jax.config import ModelConfig
from egs_jax.model import forward as model
from egs_jax.model.attention import dynamic_mix
from egs_jax.types import Drive
from experiments._common import RESULTS, Report, Result, require_triton
from experiments._drawn_scenes import some_reader
from experiments._runs import run_main
from kernels.deform import Deformed
from kernels.deform.cases import make_case, pack
from kernels.deform.triton.deform import TILE, deform_tiles
from kernels.deform.types import NETWORKS
from kernels.deform.xla.deform import deform_xla

PAPER = dict(agents=200, tokens=12, d=64, units=128, ffn=128, k=16)
SIZES = dict(
    one=PAPER | dict(n=1, frames=1),
    paper=PAPER | dict(n=5_000, frames=3),
    tiny=PAPER | dict(n=1_300, frames=2, units=64, k=4, agents=77, tokens=5),
    narrow=PAPER | dict(n=513, frames=2, d=32, ffn=64, k=9, tokens=40),
    constant=PAPER | dict(n=256, frames=16, k=1),
)
# Of the largest change of an attribute. Two to the -8 is the spacing of bfloat16.
MOST = dict(float32=0.03, bfloat16=0.015)
UNDO = dict(scales=np.log, opacities=lambda v: np.log(v) - np.log1p(-v))  # activations
MOST_TOKENS = 0.01  # of the largest number; TF32 has ten bits
MOST_LIPS = 1e-4  # of float32 throughout; to read lips in TF32 is wrong by up to 1e-3
REPEATS = 100
WORKERS = 7


def make(network: str, sizes: dict) -> SimpleNamespace:
    """Make a case whose canonical attributes are zero, so that changes are all there is."""
    case = make_case(network, **sizes)
    canonical, *others = case.arrays
    case.arrays = (jax.tree.map(np.zeros_like, canonical), *others)
    return case


def run(case: SimpleNamespace) -> Deformed:
    """Return the kernel's attributes, in NumPy."""
    call = jax.jit(partial(deform_tiles, TILE))
    return jax.tree.map(np.asarray, call(*case.arrays, pack(case, jnp.bfloat16)))


def error(got: Deformed, want: Deformed) -> float:
    """Return the largest difference before activation, as a share of each largest change."""
    worst = 0.0
    for name, value, expected in zip(got._fields, got, want, strict=True):
        a, b = (UNDO.get(name, np.asarray)(v) for v in (value, expected))
        # A single Gaussian's only change may be close to zero.
        worst = max(worst, float(np.max(np.abs(a - b)) / max(0.5, np.max(np.abs(b)))))
    return worst


def check_case(name: str) -> list[Result]:
    """Check one network and size against the JAX implementation of either type."""
    network, sizes = name.split()
    case = make(network, SIZES[sizes])
    got = run(case)
    results = []
    for kind, most in MOST.items():
        # In float32 means in float32: not in the 10 bits that tensor cores take by default.
        with jax.default_matmul_precision("highest" if kind == "float32" else "default"):
            want = jax.jit(deform_xla)(*case.arrays, pack(case, jnp.dtype(kind)))
        worst = error(got, jax.tree.map(np.asarray, want))
        results.append(Result(f"{kind} {name}", worst < most, f"{worst:.1e}"))
    return results


def check_repeats(report: Report, network: str) -> None:
    """Check that the bits are the same every time."""
    case = make(network, SIZES["paper"])
    weights = pack(case, jnp.bfloat16)
    call = jax.jit(partial(deform_tiles, TILE))
    first = jax.tree.map(np.asarray, call(*case.arrays, weights))
    same = sum(all(map(np.array_equal, first, call(*case.arrays, weights))) for _ in range(REPEATS))
    report.check(f"repeats {network}", same == REPEATS, f"{same} of {REPEATS} bit-identical")


def check_neighbors(report: Report, network: str) -> None:
    """Check that Gaussians that are not finite leave the bits of all others as they are."""
    case = make(network, SIZES["paper"])
    clean = run(case)
    canonical, features, static, *others = jax.tree.map(np.copy, case.arrays)
    features[3, 5], features[700, 0], static[4_998, 2] = np.nan, np.inf, np.nan
    canonical.means[7, 1], canonical.sh[8, 0, 2] = np.nan, -np.inf
    case.arrays = (canonical, features, static, *others)
    got = run(case)
    spared = np.setdiff1d(np.arange(5_000), (3, 7, 8, 700, 4_998))
    same = all(np.array_equal(a[:, spared], b[:, spared]) for a, b in zip(got, clean, strict=True))
    poisoned = not any(np.any(np.isfinite(v[:, [3, 700, 4_998]])) for v in got)
    report.check(f"neighbours {network}", same and poisoned, f"same bits {same}, lost {poisoned}")


def check_tokens(report: Report, frames: int, lips: str) -> None:
    """Check the tokens' kernel against the modules in full float32, untrained."""
    config = ModelConfig(dropout=0.0, lips=lips)
    nets = model.networks(config)
    params = model.init_networks(config, jax.random.key(0), 384)["tokens"]
    keys = iter(jax.random.split(jax.random.key(1), 5))
    draw = lambda *shape: jax.random.normal(next(keys), shape)
    if config.fits_lips:
        params["lips_reader"] = some_reader(384)._asdict()
    windows, agents = draw(frames, config.window_frames, 16, 384), draw(200, config.d_model)
    eyes, viewmats = jax.random.uniform(next(keys), (frames,)), draw(frames, 4, 4)
    drive = Drive(windows, eyes, viewmats, draw(frames, 3, 3), jnp.zeros((frames, 1, 1, 3), "u1"))
    with jax.default_matmul_precision("highest"):
        want, bias = jax.jit(model.condition, static_argnums=0)(config, params, drive)
        mix = dynamic_mix(agents, want, nets.attention.temperature, bias)
    weights = token_weights(config, params)
    call = jax.jit(
        partial(
            frame_tokens, distance=nets.tokens.pose_distance,
            temperature=nets.attention.temperature, fits_lips=config.fits_lips,
        )
    )  # fmt: skip
    first = call(windows, eyes, viewmats, agents, weights)
    worst = max(
        float(jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(b)))
        for a, b in zip(first, (want, mix), strict=True)
    )
    name = f"tokens of {frames} frames, lips {lips}"
    report.check(name, worst < MOST_TOKENS, f"{worst:.1e}")
    if config.fits_lips:
        worst = float(jnp.max(jnp.abs(first[0] - want)[:, -1]))
        report.check(f"{name}, their token", worst < MOST_LIPS, f"{worst:.1e}")
    same = sum(
        all(map(np.array_equal, first, call(windows, eyes, viewmats, agents, weights)))
        for _ in range(REPEATS)
    )
    report.check(f"{name}, repeats", same == REPEATS, f"{same} of {REPEATS} bit-identical")


def main() -> int:
    """Run the checks; returns the exit status."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # several processes
    require_triton()
    report = Report()
    names = [f"{n} {s}" for n in NETWORKS for s in SIZES]
    report.check_all(check_case, names, WORKERS)
    for network in NETWORKS:
        check_repeats(report, network)
        check_neighbors(report, network)
    for frames, lips in itertools.product((1, 5, 16), ("learned", "fitted")):
        check_tokens(report, frames, lips)
    return report.finish("check_deform_gpu", RESULTS)


if __name__ == "__main__":
    run_main(main)
