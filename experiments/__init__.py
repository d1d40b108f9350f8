"""One script per claim; see each docstring for what it shows and how long it takes."""

from egs_jax.runtime.environment import set_environment

set_environment()  # before any of them computes: all measure what the command line runs
