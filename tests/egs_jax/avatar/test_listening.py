"""What Gaussians listen to, against the definition of the attention, frame by frame."""

import dataclasses

import jax
import numpy as np
import pytest
from helpers import fill_shapes, voice
from scipy.special import softmax

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.drive import SpeechDrive
from egs_jax.avatar.listening import in_float32, listen, speech_shares, token_groups, token_names


@pytest.fixture(scope="module")
def avatar(trained_run):
    """One with networks far from their start, where all Gaussians listen alike."""
    found = Avatar.load(trained_run.folder, exact=True)
    networks = fill_shapes(found.params["networks"])
    networks["spatial"] = jax.tree.map(lambda values: 30 * values, networks["spatial"])
    networks["tokens"]["lips_reader"] = found.params["networks"]["tokens"]["lips_reader"]
    return dataclasses.replace(found, params={**found.params, "networks": networks})


def test_shares_are_those_of_the_definition(avatar):
    sound = voice(0.5)
    found = speech_shares(avatar, [sound[:3000], sound[3000:]])
    own = in_float32(avatar)
    window = own.config.model.window_frames
    rows = own.scene.hear(sound)
    drive = SpeechDrive(own.scene, own.path, rows, 13, window, own.config.seed).frames(0, 13)
    tokens, _ = listen(own.config, own.prepared, drive.replace(backgrounds=None))
    features, agents, tokens = jax.device_get((own.prepared.features, own.prepared.agents, tokens))
    heat = 2.0  # sqrt(64 / 16)
    static = softmax(features @ agents.T / heat, axis=-1)
    wanted = np.mean([static @ softmax(agents @ each.T / heat, axis=-1) for each in tokens], axis=0)
    wanted = wanted[np.asarray(own.prepared.alive)]
    assert np.ptp(wanted, axis=0).max() > 0.02  # they do differ
    assert list(found) == ["sound", "eyes", "pose", "null", "lips"]
    for kind, places in token_groups(token_names(own)).items():
        np.testing.assert_allclose(found[kind], wanted[:, places].sum(axis=1), atol=1e-3)
    np.testing.assert_allclose(sum(found.values()), 1, atol=1e-5)
