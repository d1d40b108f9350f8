"""Two processes with one device each do what one process with two does; bad input is one line."""

import dataclasses
import shutil
import socket
import subprocess
from typing import NamedTuple

import chex
import jax
import numpy as np
import pytest
from helpers import AUDIO_DIM, micro_config, python, train_arguments

from egs_jax.__main__ import main
from egs_jax.data.dataset import Dataset
from egs_jax.runtime.errors import InputError
from egs_jax.training import hosts, parallel
from egs_jax.training import step as train
from egs_jax.training.checkpoint import Checkpoints, state_sha256

STOPPED_IN = """
import os, signal, sys
from egs_jax import __main__
from egs_jax.training import parallel
original, left = parallel.train_step, [int(sys.argv.pop(1))]
def step(*arguments):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGTERM)
    return original(*arguments)
parallel.train_step = step
__main__.entry()
"""
"""A training that is told to stop in the so-manyth step of its process."""


PLAIN = {"decoder": "mlp", "token_kan": "mlp", "hash_levels": 1}
"""Networks that compile soonest: how hosts share a step does not depend on them."""


def free_port():
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def arguments(painted, run_dir):
    """20 steps of the static stage on two devices."""
    settings = ("devices=2", "size=32", "schedule.deform-steps=0", "schedule.static-batch=2")
    more = ("schedule.checkpoint-every=5", "schedule.keep-checkpoints=9")
    plain = [f"model.{name.replace('_', '-')}={value}" for name, value in PLAIN.items()]
    return train_arguments(painted, run_dir) + [f"--{text}" for text in (*settings, *more, *plain)]


def texts_of(*commands, timeout=400):
    """Run processes side by side; returns status, output and errors of each."""
    processes = []
    for words in commands:
        command, environment = python(*words)
        processes.append(
            subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
    try:
        texts = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *text) for process, text in zip(processes, texts, strict=True)]


@pytest.mark.slow
def test_two_hosts_have_the_bits_of_one_and_stop_together(painted, tmp_path):
    """They go on from its checkpoint at 10; host 1 is told to stop in step 13, 15 is logged."""
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(arguments(painted, one)) == 0  # on two of this process's devices
    shutil.copytree(one, two)
    for step in (15, 20):
        shutil.rmtree(two / "checkpoints" / str(step))

    port = free_port()
    results = texts_of(
        *(
            ("-c", STOPPED_IN, stop, *arguments(painted, two), f"--hosts=localhost:{port},2,{host}")
            for host, stop in enumerate("03")
        )
    )
    for status, _, error in results:
        assert status == 1 and "Traceback" not in error, error
        assert error.splitlines()[-1].startswith("egs-jax: stopped")
    assert "resuming at step 10" in results[0][1] and "resuming" not in results[1][1]
    assert (two / "metrics.jsonl").read_text().count("\n") == 3  # of steps 5, 10 and 15, once each

    states = []
    config = micro_config(painted)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, **PLAIN))
    shapes = train.abstract_state(config, AUDIO_DIM)
    for run_dir in (one, two):
        checkpoints = Checkpoints(run_dir, read_only=True)
        states.append(checkpoints.load(shapes, 15))
        checkpoints.close()
    assert state_sha256(states[0]) == state_sha256(states[1])


def test_the_parts_of_two_hosts_are_the_batch(painted, monkeypatch):
    config, data = micro_config(painted), Dataset.open(painted)
    # Silence whose rows differ, so that it matters which of them a frame hears.
    rows = data.arrays["silence_features"]
    data.arrays["silence_features"] = np.arange(rows.size, dtype=np.float32).reshape(rows.shape)
    whole, parts = data.batch(config, 30), []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for index in (0, 1):
        monkeypatch.setattr(jax, "process_index", lambda i=index: i)
        parts.append(data.batch(config, 30))
        assert parts[-1].targets.shape[0] == 1 and parts[-1].entries.shape[0] == 32
    shared = whole.entry_noise
    for part in parts:
        np.testing.assert_array_equal(part.entry_noise, shared)
    joined = jax.tree.map(
        lambda *leaves: np.concatenate(leaves), *(p.replace(entry_noise=None) for p in parts)
    )
    chex.assert_trees_all_equal(joined, whole.replace(entry_noise=None))


@pytest.mark.parametrize(
    "text", ["", "a:1", "a,2,0", ":1,2,0", "a:b,2,0", "a:1,2,2", "a:1,2,-1", "a:1,0,0", "a:1,x,0"]
)
def test_a_place_that_is_none_is_refused(text):
    with pytest.raises(InputError, match="--hosts: got '.*', expected ADDRESS:PORT of host 0"):
        hosts.place(text)


def test_a_place_is_read():
    assert hosts.place("10.0.0.5:1234,4,3") == ("10.0.0.5", 1234, 4, 3)
    assert hosts.place("[::1]:1234,1,0").address == "[::1]"


MEET = """
import os, sys
from egs_jax.runtime.errors import InputError
from egs_jax.training import hosts
hosts.PATIENCE = float(sys.argv[1])
try:
    with hosts.joined(sys.argv[2], {"command": sys.argv[3], "dataset": "d"}):
        print("all here")
except InputError as error:
    print(error, flush=True)
    os._exit(2)  # as the command line ends
"""


def words_of(*places, told=("same", "same"), patience="60"):
    """Return what every host says when these meet at one port."""
    port = free_port()
    results = texts_of(
        *(
            ("-c", MEET, patience, f"localhost:{port},{place}", command)
            for place, command in zip(places, told, strict=False)
        )
    )
    assert {status for status, _, _ in results} <= {0, 2}, results
    assert not any("Traceback" in error for _, _, error in results), results
    # Gloo says on standard output who is connected, now and then in two lines.
    is_ours = lambda line: not ("[Gloo]" in line or "peer ranks" in line)
    told = [filter(is_ours, text.splitlines()) for _, text, _ in results]
    return ["\n".join(lines).replace(str(port), "PORT") for lines in told]


@pytest.mark.slow
def test_hosts_with_other_commands_say_so_alike():
    first, second = words_of("2,0", "2,1", told=("same", "else"))
    assert first == second == (
        "--hosts: host 1 was started with another command than host 0; start all by the same "
        "command, on the same dataset"
    )  # fmt: skip


def test_a_host_that_waits_in_vain_says_so_in_one_line():
    [alone] = words_of("3,0", patience="1")
    assert alone.startswith("--hosts: not all of the 3 hosts met at localhost:PORT within 1.0 s; ")


@pytest.mark.slow
def test_hosts_meet_or_say_why_they_cannot():
    assert words_of("2,0", "2,1") == ["all here", ""]  # host 0 alone prints
    first, second = words_of("2,0", "3,1")
    assert first == second and "another number of hosts than host 0" in first
    [alone] = words_of("2,1", patience="1")
    assert alone.startswith("--hosts: not all of the 2 hosts met at localhost:PORT")
    with socket.create_server(("", 0)) as server:
        place = f"localhost:{server.getsockname()[1]},2,0"
        [(status, text, _)] = texts_of(("-c", MEET, "5", place, "same"))
    assert status == 2 and text.startswith("--hosts: ") and text.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda all_told: all_told, None),
        (lambda all_told: {**all_told, (2, 1): 7}, "host 2 .* another dataset than host 0"),
        (lambda all_told: {**all_told, (1, 0): 7}, "host 1 .* another command than host 0"),
    ],
)
def test_which_host_differs_in_what_is_named(monkeypatch, change, word):
    """Of three hosts; `change` says whose first byte of which hash is another."""

    def gather(own):
        everywhere = np.stack([own] * 3)
        for (host, name), value in change({}).items():
            everywhere[host, name, 0] ^= value
        return everywhere

    monkeypatch.setattr(hosts.multihost_utils, "process_allgather", gather)
    told = {"command": "train", "dataset": "clip"}
    if word is None:
        hosts.compare(told)
        return
    with pytest.raises(InputError, match=f"--hosts: {word}; start all by the same command"):
        hosts.compare(told)


def test_bad_hosts_on_the_command_line_are_one_line_and_status_2(painted, tmp_path, capsys):
    assert main([*train_arguments(painted, tmp_path / "run"), "--hosts=so"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("egs-jax: --hosts: got 'so', exp") and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


class Device(NamedTuple):
    """A device of a host."""

    process_index: int
    device_kind: str = "made up"


@pytest.mark.parametrize(
    ("devices", "on", "word"),
    [
        (1, (0, 1), "got 1, expected a multiple of 2: --devices counts those of all hosts"),
        (4, (0, 1), "got 4, but JAX finds 2"),
        (2, (0, 0, 1), "the hosts have 2, 1; hide some"),
    ],
)
def test_devices_that_hosts_cannot_share_are_refused(painted, monkeypatch, devices, on, word):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "devices", lambda: [Device(host) for host in on])
    with pytest.raises(InputError, match=f"devices: {word}"):
        parallel.mesh_of.__wrapped__(devices)


def test_pmap_is_refused_on_several_hosts(painted, monkeypatch):
    config = dataclasses.replace(micro_config(painted), parallel="pmap")
    parallel.check(config)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(parallel, "mesh_of", lambda count: None)
    with pytest.raises(InputError, match="parallel: got pmap, which works on one host"):
        parallel.check(config)
