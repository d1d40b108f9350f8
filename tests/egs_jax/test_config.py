"""Settings: presets, text in and out, one line for every wrong value, no retracing."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import egs_jax as egs
from egs_jax.config import Config, DensifyConfig, LossConfig, ModelConfig, ScheduleConfig
from egs_jax.config_text import from_json, options, override, to_json
from egs_jax.presets import PRESETS, preset
from egs_jax.runtime.errors import InputError
from egs_jax.training.step import seed_of


@pytest.mark.parametrize("name", ["paper", "sharp", "fast", "tiny"])
def test_presets_carry_their_name_and_take_fields(name):
    config = egs.preset(name, data_dir="data/x", seed=3)
    assert (config.preset, config.data_dir, config.seed) == (name, "data/x", 3)
    assert config.model == PRESETS[name].model
    assert preset(name) == PRESETS[name] and preset(name) != preset(name, seed=1)


def test_paper_preset_is_the_papers_schedule():
    config = preset("paper")
    assert (config.schedule.static_steps, config.schedule.deform_steps) == (7_999, 10_000)
    assert (config.schedule.static_batch, config.schedule.batch) == (1, 8)
    assert config.model.architecture == "paper" and config.size is None


def test_presets_differ_in_sizes_and_schedules_only():
    """The architecture is a field of its own, the same in every preset."""
    chosen = ("architecture", "encoder", "decoder", "token_kan", "attention", "agents", "ppe")
    for config in PRESETS.values():
        for name in (*chosen, "lips"):
            assert getattr(config.model, name) == getattr(ModelConfig(), name)


def test_parity_resolves_to_the_original_code():
    parity = ModelConfig(architecture="parity").resolved
    assert (parity.encoder, parity.decoder, parity.agents, parity.ppe) == (
        "dense", "mlp", "first", "token",
    )  # fmt: skip
    assert ModelConfig(architecture="parity", decoder="taylor").resolved.decoder == "taylor"
    assert (parity.body, ModelConfig().resolved.body) == ("head", "person")
    assert ModelConfig(architecture="parity", body="person").resolved.body == "person"
    assert None not in dataclasses.astuple(ModelConfig().resolved)


def test_lips_are_fitted_but_in_parity():
    assert ModelConfig().fits_lips and ModelConfig(lips="fitted").fits_lips
    assert not ModelConfig(lips="learned").fits_lips
    assert not ModelConfig(architecture="parity").fits_lips
    for config in PRESETS.values():
        assert config.model.fits_lips
        assert not override(config, {"model.architecture": "parity"}).model.fits_lips
        assert not override(config, {"model.lips": "learned"}).model.fits_lips


def test_fitted_lips_need_a_window_and_a_token():
    assert ModelConfig(window_frames=5).fits_lips
    for lips in (None, "fitted"):
        with pytest.raises(InputError, match=r"model.window_frames: got 4, expected at least 5"):
            ModelConfig(lips=lips, window_frames=4)
    assert ModelConfig(lips="learned", window_frames=2).window_frames == 2
    assert ModelConfig(architecture="parity", window_frames=2).window_frames == 2
    with pytest.raises(InputError, match=r"model.lips: got fitted, expected learned"):
        ModelConfig(lips="fitted", architecture="parity")


def test_stage_changes_after_the_static_steps():
    config = Config(schedule=ScheduleConfig(static_steps=3, deform_steps=2))
    assert [config.stage(k) for k in range(5)] == ["static"] * 3 + ["deform"] * 2
    assert config.total_steps == 5


def test_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset("tiny").seed = 1


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1])
def test_seed_draws_the_same_as_an_argument_of_a_program(seed):
    draw = lambda seed: jax.random.key_data(jax.random.key(seed))
    np.testing.assert_array_equal(jax.jit(draw)(seed_of(preset("tiny", seed=seed))), draw(seed))


def test_programs_depend_on_nothing_but_what_they_compute():
    config = preset("tiny", seed=1)
    elsewhere = dataclasses.replace(
        config, seed=2, preset="fast", data_dir="a", frames_on="host", parallel="pmap"
    )
    assert elsewhere.program == config.program and hash(elsewhere.program) == hash(config.program)
    assert elsewhere.program.program == config.program
    for change in ({"rasterizer": "xla"}, {"devices": 2}, {"size": 32}, {"loss": LossConfig()}):
        assert dataclasses.replace(config, **change).program != config.program


def test_drawing_depends_on_networks_and_rasterizer_alone():
    config = preset("tiny", seed=1)
    trained_otherwise = override(config, {
        "seed": "2", "size": "64", "devices": "2", "model.dropout": "0.5", "loss.l1": "0.1",
        "model.elongation": "9", "schedule.batch": "3", "optim.sh0": "1", "densify.every": "9",
        "model.body": "person",
    })  # fmt: skip
    assert trained_otherwise.program != config.program
    assert trained_otherwise.drawing == config.drawing == config.drawing.drawing
    assert repr(trained_otherwise.drawing) == repr(config.drawing)
    for change in ({"rasterizer": "xla"}, {"model.body": "head"}, {"model.width": "8"},
                   {"model.sh_degree": "0"}, {"model.window_frames": "7"},
                   {"model.decoder": "mlp"}):  # fmt: skip
        assert override(config, change).drawing != config.drawing


def test_only_parity_grows_by_the_original_threshold():
    config = preset("paper")
    assert config.grad_threshold == 0.0004
    assert override(config, {"model.architecture": "parity"}).grad_threshold == 0.001
    assert override(config, {"densify.grad_threshold": "0.01"}).grad_threshold == 0.01


def test_equal_configs_hash_alike_and_do_not_retrace():
    traces = []

    @functools.partial(jax.jit, static_argnums=0)
    def step(config, x):
        traces.append(config.seed)
        return x * config.loss.l1

    equal = [override(preset("tiny"), {"loss.l1": "0.5"}) for _ in range(3)]
    assert len(set(equal)) == 1
    for config in equal:
        assert float(step(config.program, jnp.float32(2))) == 1.0
    step(override(equal[0], {"seed": "7"}).program, jnp.float32(2))
    assert len(traces) == 1
    step(override(preset("tiny"), {"loss.l1": "0.25"}).program, jnp.float32(2))
    assert len(traces) == 2


def test_every_field_is_an_option_with_a_help_text():
    known = options(preset("tiny"))
    leaves = lambda x: sum(leaves(v) if isinstance(v, dict) else 1 for v in x.values())
    assert len(known) == leaves(dataclasses.asdict(preset("tiny")))
    for name, (_, _, text) in known.items():
        assert text.strip(), f"{name}: no help"


def test_override_reads_every_kind_of_value():
    config = override(
        preset("tiny"),
        {
            "seed": "7",
            "size": "none",
            "rasterizer": "xla",
            "model.decoder": "mlp",
            "model.dropout": "0",
            "optim.means": "1e-3,1e-5",
            "data_dir": "Ordner mit Ümlaut",
        },
    )
    assert (config.seed, config.size, config.rasterizer) == (7, None, "xla")
    assert (config.model.decoder, config.model.dropout) == ("mlp", 0.0)
    assert config.optim.means == (1e-3, 1e-5) and config.data_dir == "Ordner mit Ümlaut"
    assert config.model.width == preset("tiny").model.width
    assert override(config, {"rasterizer": "None"}).rasterizer is None
    assert override(config, {}) == config


@pytest.mark.parametrize("name", list(options(PRESETS["tiny"])))
def test_override_with_a_fields_own_text_changes_nothing(name):
    for config in PRESETS.values():
        value = options(config)[name][1]
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        assert override(config, {name: text}) == config


BAD_VALUES = {
    "seed": ["1.5", "one", "", "-1", "99999999999999999999"],
    "size": ["0", "31", "5000", "big"],
    "rasterizer": ["cuda"],
    "model.architecture": ["original", "none"],
    "model.decoder": ["kan"],
    "model.body": ["torso", ""],
    "model.dropout": ["1", "-0.1", "nan", "inf"],
    "model.sh_degree": ["4", "-1"],
    "model.width": ["0"],
    "model.window_frames": ["1", "4"],
    "model.lips": ["told", ""],
    "model.hash_levels": ["0"],
    "model.hash_base": ["0"],
    "model.hash_top": ["1"],
    "model.bound": ["0", "nan"],
    "schedule.batch": ["0", "1e3"],
    "schedule.static_steps": ["-1"],
    "schedule.deform_steps": ["-5"],
    "schedule.silence_share": ["1", "nan"],
    "schedule.lips_truth": ["-0.1", "1.1", "nan"],
    "schedule.log_every": ["0"],
    "schedule.keep_checkpoints": ["0"],
    "optim.means": ["1e-3", "1,2,3", "a,b", "nan,1", "-1,1"],
    "optim.sh0": ["nan", "-1", "inf"],
    "optim.rate_scale": ["0", "inf"],
    "optim.decay_steps": ["0"],
    "densify.points": ["0", "100000000"],
    "densify.capacity": ["0", "10"],
    "densify.every": ["0"],
    "densify.grad_threshold": ["nan", "-1"],
    "loss.l1": ["nan", "-1"],
    "loss.perceptual_every": ["0"],
    "loss.perceptual_size": ["0"],
    "model.depth": ["3"],
    "model": ["3"],
    "colour": ["red"],
}


@pytest.mark.parametrize(("name", "text"), [(n, t) for n, v in BAD_VALUES.items() for t in v])
def test_bad_value_is_one_line_that_names_it(name, text):
    with pytest.raises(InputError) as caught:
        override(preset("tiny"), {name: text})
    message = str(caught.value)
    assert "\n" not in message and len(message) < 150
    assert name in message or (name == "densify.capacity" and "densify.points" in message)


def test_unknown_preset_is_named():
    choices = "paper, sharp, fast, tiny"
    with pytest.raises(InputError, match=f"preset: no 'huge'; choose one of {choices}"):
        preset("huge")


@pytest.mark.parametrize("name", ["paper", "sharp", "fast", "tiny"])
def test_json_round_trip(name):
    config = override(preset(name, data_dir='a "quoted" 顔'), {"model.ppe": "off", "seed": "4"})
    assert from_json(to_json(config), "here") == config
    assert json.loads(to_json(config))["optim"]["means"] == [1.6e-4, 1.6e-6]


@pytest.mark.parametrize("architecture", ["paper", "parity"])
def test_runs_from_before_there_were_fitted_lips_have_learned_ones(architecture):
    """Their networks have no reader of the sound; a run that names none has the default."""
    config = override(preset("tiny"), {"model.architecture": architecture})
    values = json.loads(to_json(config))
    assert values["model"]["lips"] is None and from_json(json.dumps(values), "here") == config
    del values["model"]["lips"]
    assert from_json(json.dumps(values), "here") == override(config, {"model.lips": "learned"})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        '{"colour": 1}',
        '{"model": 3}',
        '{"model": {}, "colour": 1}',
        '{"model": {"depth": 3}}',
        '{"seed": "x"}',
        '{"size": 5}',
        '{"optim": {"means": 3}}',
        '{"densify": {"points": 99, "capacity": 9}}',
    ],
)
def test_foreign_json_is_refused_in_one_line(text):
    with pytest.raises(InputError) as caught:
        from_json(text, "run/config.json")
    assert str(caught.value).startswith("run/config.json: not a run's config")
    assert "\n" not in str(caught.value)


def test_points_must_fit_their_slots():
    with pytest.raises(InputError, match=r"densify.points: got 6, expected 1 to .*\(5\)"):
        DensifyConfig(capacity=5, points=6)
