"""The one error that means "your input is at fault": the command line prints it as one line and exits with 2."""


class InputError(ValueError):
    """Bad input from outside: says what is wrong, where, and what to do, in one line."""
