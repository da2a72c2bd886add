"""The exception for errors that a user can correct."""


class InputError(Exception):
    """Raised where an input (a file, an option, a config) is not as expected.

    The message names the file (and line), the cause and the next step. The scripts print it without a traceback and
    exit with status 1; in a notebook it is the last line of the traceback.
    """


class DownloadFailed(InputError):
    """A model is known by its name, but it isn't on this machine yet and couldn't be downloaded now."""


class Diverged(InputError):
    """The loss of a training is no number any more: a trial of a sweep with too high a learning rate, say."""
