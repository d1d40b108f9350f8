"""Errors with a message for users: the command line prints them as one line."""

MAY_NOT_READ = "may not be read (permission denied); give yourself the right to read it"
"""Words for a file that belongs to somebody else, and what to do."""


class InputError(ValueError):
    """Bad input from outside: says what is wrong, where, and what to do, in one line (exit 2)."""


class TrainingError(RuntimeError):
    """Training cannot go on: says why and what to try, in one line (exit 1)."""
