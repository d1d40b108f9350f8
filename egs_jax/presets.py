"""The presets: schedules and sizes, whatever the architecture."""

import dataclasses
from typing import Any

from egs_jax.config import (
    Config,
    DensifyConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    ScheduleConfig,
)
from egs_jax.runtime.errors import InputError

PRESETS: dict[str, Config] = {
    "paper": Config(),
    # `paper`'s sizes in two fifths of its steps, which overfit less.
    "sharp": Config(
        preset="sharp",
        schedule=ScheduleConfig(static_steps=3_000, deform_steps=4_000, sh_interval=600),
        optim=OptimConfig(decay_steps=5_000, rate_scale=2.0),
        densify=DensifyConfig(start=500, stop=2_500, prune_from=300, prune_large_from=1_200),
        loss=LossConfig(perceptual=0.1),
    ),
    "fast": Config(
        preset="fast",
        size=256,
        schedule=ScheduleConfig(
            static_steps=1_500, deform_steps=3_000, batch=4, sh_interval=500, checkpoint_every=250
        ),
        optim=OptimConfig(decay_steps=4_000, rate_scale=2.0),
        densify=DensifyConfig(
            capacity=25_000, points=20_000, start=300, stop=1_200, prune_from=200,
            prune_large_from=600, grad_threshold=0.001,
        ),
        loss=LossConfig(perceptual=0.01),
    ),
    "tiny": Config(
        preset="tiny",
        size=160,
        model=ModelConfig(width=64, sh_degree=1, dropout=0.0),
        schedule=ScheduleConfig(
            static_steps=300, deform_steps=1_800, batch=2, sh_interval=150, checkpoint_every=100
        ),
        optim=OptimConfig(decay_steps=1_800, rate_scale=4.0, warmup_steps=300),
        densify=DensifyConfig(
            capacity=6_500, points=5_000, start=100, stop=280, every=50, prune_from=100,
            prune_large_from=200, grad_threshold=0.001,
        ),
        loss=LossConfig(
            perceptual=0.01, lips=1.2, eyes=0.6, perceptual_size=96, perceptual_every=8
        ),
    ),
}  # fmt: skip


def preset(name: str, **fields: Any) -> Config:
    """Return the preset `name` ("paper", "sharp", "fast", "tiny") with top-level `fields` replaced.

    Raises:
      InputError: if there is no such preset.
    """
    if name not in PRESETS:
        raise InputError(f"preset: no {name!r}; choose one of {', '.join(PRESETS)}")
    return dataclasses.replace(PRESETS[name], **fields)
