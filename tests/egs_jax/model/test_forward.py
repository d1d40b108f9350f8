"""The whole forward pass: parity's parameter counts, and every choice of architecture trains."""

import dataclasses

import chex
import jax
import numpy as np
import pytest
from helpers import AUDIO_DIM, micro_config

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.draw import infer_step
from egs_jax.config import DensifyConfig, ModelConfig, ScheduleConfig
from egs_jax.data.dataset import Dataset
from egs_jax.model import forward as model
from egs_jax.training import step as train

FAST = {"xla_backend_optimization_level": 0}  # these programs run once
SMALL = {"width": 16, "agents_count": 20, "sh_degree": 1, "hash_levels": 4}
CHOICES = [
    pytest.param({"architecture": "parity"}, marks=pytest.mark.slow),
    {"decoder": "mlp", "ppe": "token", "agents": "first", "token_kan": "mlp"},
    pytest.param(
        {"d_model": 32, "heads": 4, "ppe_period": 3, "attention": "cross"}, marks=pytest.mark.slow
    ),
    pytest.param({"ppe": "off"}, marks=pytest.mark.slow),
    pytest.param({"body": "person", "decoder": "mlp"}, marks=pytest.mark.slow),
    pytest.param(
        {"architecture": "parity", "decoder": "taylor", "encoder": "hash"}, marks=pytest.mark.slow
    ),
    pytest.param(
        {"encoder": "dense", "agents": "strided", "window_frames": 5}, marks=pytest.mark.slow
    ),
]


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_parity_has_the_live_parameters_of_the_original():
    config = ModelConfig(architecture="parity")
    nets = jax.eval_shape(
        lambda key: model.init_networks(config, key, audio_dim=29), jax.random.key(0)
    )
    static, tokens, attention = nets["static"], nets["tokens"], nets["attention"]
    assert count(nets["spatial"]) == 1_966_080
    assert count([static["trunk_in"], static["trunk_out"]]) == 24_832
    assert count(static["heads"]) == 16_899 + 17_028 + 16_641 + 22_704
    assert count(tokens["audio_net"]) == 30_720 and count(tokens["audio_att_net"]) == 2_149
    kans = {name: count(tokens[name]) for name in ("audio", "eye", "pose")}
    assert kans == {"audio": 24_704, "eye": 24_704, "pose": 19_584}
    assert count(tokens["null"]) == 64
    assert count(attention["agent"]) == 4_160
    assert count([attention["ffn_in"], attention["ffn_out"]]) == 16_576
    assert count([attention["norm1"], attention["norm2"]]) == 256
    assert count(nets["deform"]) == 8_707 + 8_707 + 8_836 + 8_449 + 14_512
    dead = 17_024 + 43_313
    assert count(nets) == 2_296_649 - dead


def one_frame(painted, **fields):
    """Config of one static and one deformation step on one frame of 32 px."""
    base = micro_config(painted)
    return dataclasses.replace(
        base,
        size=32,
        model=ModelConfig(**(SMALL | fields)),
        schedule=ScheduleConfig(static_steps=1, deform_steps=1, batch=1),
        densify=DensifyConfig(capacity=64, points=50),
    )


@pytest.mark.parametrize("fields", CHOICES, ids=lambda f: "-".join(map(str, f.values())))
@pytest.mark.slow
def test_every_choice_has_both_steps_on_every_platform(painted, fields):
    """Traced with all shape checks, differentiated, and lowered for the TPU too."""
    config, data = one_frame(painted, **fields), Dataset.open(painted)
    state = train.abstract_state(config, AUDIO_DIM)
    for step in (0, 1):
        arguments = train.step_arguments(config, state, data.batch(config, step))
        traced = train.jitted_step.trace(*arguments)
        chex.assert_trees_all_equal_shapes_and_dtypes(traced.out_info[0], state)
        assert "stablehlo" in traced.lower(lowering_platforms=("cpu", "tpu")).as_text()[:100_000]


@pytest.mark.slow  # what a step of it computes is compared by `test_precomputed`
def test_parity_learns_to_deform(painted):
    config, data = one_frame(painted, architecture="parity"), Dataset.open(painted)
    config = dataclasses.replace(config, schedule=ScheduleConfig(static_steps=0, batch=1))
    state = train.init_state(config, data)
    batch = data.batch(config, 0)
    arguments = train.step_arguments(config, state, batch)
    compiled = train.jitted_step.lower(*arguments).compile(compiler_options=FAST)
    before, losses = jax.tree.map(np.array, state.params["networks"]), []
    for _ in range(6):
        state, metrics = compiled(train.seed_of(config), state, batch, None)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0] and int(state.bad_streak) == 0
    change = jax.tree.map(np.subtract, state.params["networks"], before)
    moved = {name for name, tree in change.items() if any(map(np.any, jax.tree.leaves(tree)))}
    assert moved == {"spatial", "tokens", "attention", "deform"}


@pytest.mark.slow
def test_sound_moves_the_head_only_after_training(painted, trained_run):
    config, data = micro_config(painted), Dataset.open(painted)
    drive = data.drive(np.arange(4), config.model.window_frames)
    hush = drive.replace(audio_windows=data.silence(4, config.model.window_frames))
    fresh = train.hand_over(config, train.init_state(config, data))
    for state, moves in ((trained_run.state, True), (fresh, False)):
        avatar = Avatar.of_state(config, state, data)
        heard, unheard = (infer_step(avatar, d).rgb for d in (drive, hush))
        assert np.any(heard != unheard) == moves
