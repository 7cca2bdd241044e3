"""The errors of this package, under one base class."""


class SolverError(ValueError):
    """A request that cannot be solved: an unknown solver, a bad option, or a problem that is too large."""


class ProblemError(SolverError):
    """A choice problem that contradicts itself or contains invalid numbers; the message tells where and what to do."""
