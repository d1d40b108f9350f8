"""What `make lint` does, here beside the other tests: it needs one core, and they need two."""

import pytest
from lint import COMMANDS, run


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_lint(command):
    done = run(command)
    assert done.returncode == 0, done.stdout + done.stderr
