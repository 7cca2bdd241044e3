"""What a user did wrong, in one line, with the exit code that says which kind of wrong it was.

A message says where, what was found, what is legal and what to do. Anything else that escapes is our bug.
"""

import hwmodels

MAX_MESSAGE = 1500  # characters; names from files can be of any length
_KEPT_END = 300  # of a longer message: the end says what to do


class QbertOptError(Exception):
    """Base of every mistake that is the user's, not ours.

    Args:
        message: what to tell the user; line ends and other characters that do not print are escaped, and the middle of
            a very long message is left out, so that it is one readable line whatever a file holds.
    """

    exit_code = 2

    def __init__(self, message: str) -> None:
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in message)
        if len(line) > MAX_MESSAGE:
            line = f"{line[: MAX_MESSAGE - _KEPT_END]} … {line[-_KEPT_END:]}"
        super().__init__(line)


class UsageError(QbertOptError):
    """An option or argument that means nothing here."""

    exit_code = 2


class NoPlanFoundError(UsageError):
    """The search ended without a plan and without a proof that there is none: the time or the effort was too small."""

    exit_code = 2


class BusyError(UsageError):
    """An output that another run is writing."""

    exit_code = 2


class FullDiskError(UsageError):
    """An output that the disk has no room for."""

    exit_code = 2


class InfeasibleError(QbertOptError):
    """No plan meets every limit; the message holds the nearest feasible value and the limit that binds."""

    exit_code = 3


class InputFileError(QbertOptError):
    """A file or folder that cannot be read, or does not belong to the others."""

    exit_code = 4


class DeviceError(InputFileError, hwmodels.DeviceError):
    """A device description that cannot be used, or a model that the device cannot run."""

    exit_code = 4


class QbertOptWarning(UserWarning):
    """Base of what a user should know although the work goes on; the command line prints it as one line."""
