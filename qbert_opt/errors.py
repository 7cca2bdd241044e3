"""What a user did wrong, in one line, with the exit code that says which kind of wrong it was.

A message says where, what was found, what is legal and what to do. Anything else that escapes is our bug.
"""

import hwmodels


class QbertOptError(Exception):
    """Base of every mistake that is the user's, not ours."""

    exit_code = 2


class UsageError(QbertOptError):
    """An option or argument that means nothing here."""

    exit_code = 2


class InfeasibleError(QbertOptError):
    """No plan keeps every limit; the message holds the nearest feasible value and the limit that binds."""

    exit_code = 3


class InputFileError(QbertOptError):
    """A file or folder that cannot be read, or does not belong to the others."""

    exit_code = 4


class DeviceError(InputFileError, hwmodels.DeviceError):
    """A device description that cannot be used, or a model that the device cannot run."""

    exit_code = 4


class QbertOptWarning(UserWarning):
    """Base of what a user should know although the work goes on; the command line prints it as one line."""
