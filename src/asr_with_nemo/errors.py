"""The one kind of error that a user of the course is meant to read."""


class InputError(Exception):
    """Something the user gave is not what was expected.

    The message names the file (and line), says what was expected and what to do next. The scripts print it
    without a traceback and exit with 1; in a notebook it is the last line of the traceback.
    """
