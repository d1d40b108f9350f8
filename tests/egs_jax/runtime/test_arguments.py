"""Values on the command line: what each kind takes, and that all else is refused."""

import argparse

import pytest

from egs_jax.runtime import arguments


@pytest.mark.parametrize(
    ("kind", "taken", "refused"),
    [
        (arguments.side, {"32": 32, "4096": 4096}, ["31", "4097", "64.0", "", "all"]),
        (arguments.time, {"0": 0, "1.5": 1.5}, ["-0.1", "inf", "nan", "soon"]),
        (arguments.seconds, {"0.1": 0.1, "1e3": 1000}, ["0", "-1", "inf", "nan", "soon"]),
        (arguments.number, {"1": 1, "12": 12}, ["0", "-1", "1.0", "first"]),
        (arguments.face, {"left": "left", "right": "right", "2": 2}, ["0", "up"]),
    ],
)
def test_kinds(kind, taken, refused):
    assert {text: kind(text) for text in taken} == taken
    for text in refused:
        with pytest.raises(argparse.ArgumentTypeError, match=f"got {text}, expected"):
            kind(text)
