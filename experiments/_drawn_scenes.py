"""Avatars that benchmarks draw, exactly and baked, and what drives them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from egs_jax.avatar import precomputed as prepared
from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.baked import Baked
from egs_jax.avatar.precomputed import Prepared
from egs_jax.config import Body, Config, DensifyConfig, ModelConfig
from egs_jax.model.gaussians import Gaussians
from egs_jax.model.limits import Limits
from egs_jax.speech.lips import READ_ROWS, LipsReader, fit_lips
from egs_jax.training import step as train
from egs_jax.types import Drive, Params
from experiments._baked_scene import random_baked
from kernels.rasterize.cases import head_case

AUDIO_DIM = 384
SYNTHETIC = "synthetic"


class Scene(NamedTuple):
    """An avatar that is drawn, and what drives it."""

    name: str
    gaussians: int
    size: int
    config: Config
    params: Params
    alive: jax.Array
    kept: Prepared
    baked: Baked  # the same; of a synthetic one with random small patterns
    drive: Callable[[int], Drive]  # of so many frames, on the host


def synthetic(n: int, size: int, architecture: str, body: Body = "head", **more: Any) -> Scene:
    """Make the benchmark's head, moved by random networks with `more` settings.

    As a person, the same Gaussians stand between two frames that differ, at poses with limits.
    """
    case = head_case(n, size)
    sh = case["colors"]
    logits = np.log(case["opacities"]) - np.log1p(-case["opacities"])
    free = Gaussians(
        means=case["means"], log_scales=np.log(case["scales"]), quats=case["quats"],
        logit_opacities=logits, sh0=sh[:, :1], shN=sh[:, 1:],
    )  # fmt: skip
    config = Config(
        size=size,
        model=ModelConfig(architecture=architecture, body=body, dropout=0.0, **more),
        densify=DensifyConfig(capacity=n, points=min(n, 30_000)),
    )  # fmt: skip
    nets = train.fresh_networks(config.model, 0, AUDIO_DIM)
    if config.model.fits_lips:
        nets["tokens"]["lips_reader"] = some_reader(AUDIO_DIM)._asdict()
    heads = nets["deform"]["heads"]
    keys = iter(jax.random.split(jax.random.key(1), 100))
    nets["deform"]["heads"] = jax.tree.map(
        lambda leaf: leaf + 0.02 * jax.random.normal(next(keys), leaf.shape), heads
    )
    params = jax.device_put({"gaussians": free, "networks": nets})
    alive = jnp.ones(n, bool)

    viewmat = np.asarray(case["viewmats"])
    aside = viewmat.copy()
    aside[0, 3] += 0.05

    def drive(batch: int) -> Drive:
        rng = np.random.default_rng(0)
        return Drive(
            audio_windows=rng.standard_normal((batch, 8, 16, AUDIO_DIM), np.float32),
            eyes=rng.random(batch, np.float32),
            viewmats=np.stack([viewmat] * batch),
            Ks=np.stack([case["Ks"]] * batch),
            backgrounds=rng.integers(0, 256, (batch, size, size, 3), np.uint8),
            bodies=np.stack([aside] * batch) if body == "person" else None,
        )

    limits = Limits.of(viewmat[None]) if body == "person" else None
    nets = params["networks"]
    spatial = prepared.spatial_part(config, params, alive, config.model.sh_degree)
    kept = prepared.assemble(config, nets, spatial, config.model.sh_degree, limits)
    baked = random_baked(config, nets, spatial, limits, drive(1))
    name = f"{SYNTHETIC} {body}, {architecture}{', fitted lips' * config.model.fits_lips}"
    return Scene(name, n, size, config, params, alive, kept, baked, drive)


def some_reader(features: int) -> LipsReader:
    """Fit a reader on noise, which tells lips as moved as any."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape, np.float32)
    silence, rest = np.zeros((1, features), np.float32), np.zeros(2, np.float32)
    return fit_lips(draw(200, READ_ROWS, features), draw(200, 2), silence, rest).reader


def trained(run_dir: Path) -> Scene:
    """Load a trained avatar with the first frames of its clip."""
    avatar = Avatar.load(run_dir, exact=True)
    window = avatar.config.model.window_frames
    drive = lambda batch: avatar.dataset.drive(np.arange(batch), window)
    name = f"trained on {avatar.dataset.meta['source']['name']}"
    gaussians, size = int(np.sum(avatar.alive)), avatar.dataset.width
    parts = (avatar.config, avatar.params, avatar.alive, avatar.prepared, avatar.baked, drive)
    return Scene(name, gaussians, size, *parts)
