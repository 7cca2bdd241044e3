"""`python -m qbert_opt` and `torchrun -m qbert_opt`: the same as `qbert-opt`."""

from .cli.main import run

if __name__ == "__main__":
    run()
