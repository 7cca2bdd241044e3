"""What can go wrong here, in one family."""


class SolverError(ValueError):
    """A request that no solver can answer: an unknown solver, a bad option, a problem too large."""


class ProblemError(SolverError):
    """A choice problem that contradicts itself or holds meaningless numbers; says where and what to do."""
