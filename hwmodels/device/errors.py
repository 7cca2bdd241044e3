"""What a user did wrong with a device description, in one line."""


class DeviceError(ValueError):
    """A device file, a quantity or an operation that this package refuses.

    The message says where (file:line: field), what was found, what is legal and what to do.

    Attributes:
        exit_code: what a program that prints the message should exit with: 4, a bad input file.
    """

    exit_code = 4
