"""Two processes with one device each do what one process with two does; bad input is one line."""

import dataclasses
import shutil
import socket
import subprocess
import threading
from typing import NamedTuple

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


def test_two_hosts_have_the_bits_of_one_and_stop_together(painted, tmp_path):
    """They go on from its checkpoint at 10; host 1 is told to stop in step 13, 15 is logged."""
    one, two = tmp_path / "one", tmp_path / "two"
    command, environment = python("-m", "egs_jax", *arguments(painted, one))
    done = subprocess.run(
        command, env=environment | {"JAX_NUM_CPU_DEVICES": "2"}, capture_output=True, text=True,
        check=False, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shutil.copytree(one, two)
    for step in (15, 20):
        shutil.rmtree(two / "checkpoints" / str(step))

    port, processes = free_port(), []
    for index, stop in enumerate((0, 3)):
        mine = [*arguments(painted, two), f"--hosts=localhost:{port},2,{index}"]
        command, environment = python("-c", STOPPED_IN, str(stop), *mine)
        processes.append(
            subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
    try:
        texts = [process.communicate(timeout=100) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, error) in zip(processes, texts, strict=True):
        assert process.returncode == 1 and "Traceback" not in error, error
        assert error.splitlines()[-1].startswith("egs-jax: stopped")
    assert "resuming at step 10" in texts[0][0] and "resuming" not in texts[1][0]
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
        assert parts[-1].frames.shape[0] == 1 and parts[-1].entries.shape[0] == 32
    shared = whole.entry_noise
    for part in parts:
        np.testing.assert_array_equal(part.entry_noise, shared)
    joined = jax.tree.map(
        lambda *leaves: np.concatenate(leaves), *(p.replace(entry_noise=None) for p in parts)
    )
    jax.tree.map(np.testing.assert_array_equal, joined, whole.replace(entry_noise=None))


@pytest.mark.parametrize(
    "text", ["", "a:1", "a,2,0", ":1,2,0", "a:b,2,0", "a:1,2,2", "a:1,2,-1", "a:1,0,0", "a:1,x,0"]
)
def test_a_place_that_is_none_is_refused(text):
    with pytest.raises(InputError, match="--hosts: got '.*', expected ADDRESS:PORT of host 0"):
        hosts.place(text)


def test_a_place_is_read():
    assert hosts.place("10.0.0.5:1234,4,3") == ("10.0.0.5", 1234, 4, 3)
    assert hosts.place("[::1]:1234,1,0").address == "[::1]"


def words_of(*places, told=("same", "same")):
    """What every host says when these meet."""
    words = {}

    def host(number, where):
        try:
            hosts.meet(where, told[number])
            words[number] = "all here"
        except InputError as error:
            words[number] = str(error)

    places = [hosts.Place(*place) for place in places]
    threads = [threading.Thread(target=host, args=item) for item in enumerate(places)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [words[number] for number in range(len(places))]


@pytest.fixture
def address(monkeypatch):
    monkeypatch.setattr(hosts, "PATIENCE", 1)
    return "localhost", free_port()


def test_hosts_that_agree_meet(address):
    assert words_of((*address, 2, 0), (*address, 2, 1)) == ["all here"] * 2


@pytest.mark.parametrize(
    ("other", "told", "word"),
    [
        ((3, 2), "same", "host 2 was told of 3 hosts, host 0 of 2"),
        ((2, 1), "else", "host 1 has other settings or another dataset than host 0"),
    ],
)
def test_hosts_that_do_not_fit_say_so_alike(address, other, told, word):
    first, second = words_of((*address, 2, 0), (*address, *other), told=("same", told))
    assert first == second and first.startswith(f"--hosts: {word}")


def test_missing_and_double_hosts_are_named(address):
    [alone] = words_of((*address, 3, 0))
    assert "no call from host 1, 2 within 1 s" in alone
    words = words_of((*address, 3, 0), (*address, 3, 1), (*address, 3, 1), told=("same",) * 3)
    assert words == ["--hosts: two hosts were told that they are host 1"] * 3


def test_a_stranger_is_not_heard(address, monkeypatch):
    monkeypatch.setattr(hosts, "PATIENCE", 20)
    first = threading.Thread(target=words_of, args=((*address, 2, 0),))
    first.start()
    stranger = None
    while stranger is None:
        try:
            stranger = socket.create_connection(address, timeout=5)
        except OSError:
            continue
    stranger.sendall(b"GET / HTTP/1.1\n")
    assert words_of((*address, 2, 1)) == ["all here"]
    first.join()
    stranger.close()


def test_another_service_is_not_host_0(address):
    with socket.create_server(address) as server:

        def serve():
            call = server.accept()[0]
            call.recv(1000)
            call.close()

        thread = threading.Thread(target=serve)
        thread.start()
        [word] = words_of((*address, 2, 1))
        thread.join()
        assert "does not answer as host 0 of a training" in word
        [word] = words_of((*address, 2, 0))
        assert f"cannot listen on port {address[1]}" in word


@pytest.mark.parametrize(
    ("place", "word"), [("localhost:{},2,1", "no answer from localhost"), ("so", "got 'so', exp")]
)
def test_bad_hosts_on_the_command_line_are_one_line_and_status_2(
    painted, tmp_path, monkeypatch, capsys, place, word
):
    monkeypatch.setattr(hosts, "PATIENCE", 0)
    more = [f"--hosts={place.format(free_port())}"]
    assert main(train_arguments(painted, tmp_path / "run") + more) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"egs-jax: --hosts: {word}") and error.count("\n") == 1
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
