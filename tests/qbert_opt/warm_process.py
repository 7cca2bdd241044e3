"""The command line in processes of their own, forked from one that has imported torch and transformers already.

A fresh interpreter spends about five seconds of processor time on these imports. Where a test is about a process that
dies or about what its parent keeps, and not about what is imported, a forked process proves the same.
"""

import os
import sys
from functools import partial
from multiprocessing import get_context
from pathlib import Path

IMPORTED = [
    "qbert_opt.cli.main", "qbert_opt.cli.app", "qbert_opt.workflows.quantize", "qbert_opt.workflows.recover",
    "qbert_opt.workflows.score", "qbert_opt.workflows.solve", "transformers.models.bert.modeling_bert", "pytest",
]  # fmt: skip


def start(log: Path, arguments, prepare=None):
    """Start `qbert-opt ARGUMENTS` in a forked process, with its stdout and stderr in one file.

    Args:
        log: the file for what it prints.
        arguments: words of the command line.
        prepare: a function of a module, called in the process before the command runs.

    Returns:
        The process; join it for its `exitcode`, which is minus the signal that ended it.
    """
    return call(log, _run, [str(word) for word in arguments], prepare)


def call(log: Path, function, *arguments):
    """Start a function of a module in a forked process, with its stdout and stderr in one file.

    Args:
        log: the file for what it prints.
        function: called in the process.
        *arguments: its arguments.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    process = context.Process(target=_logged, args=(str(log), function, *arguments))
    process.start()
    return process


def _logged(log, function, *arguments):
    with Path(log).open("wb", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    function(*arguments)


def _run(arguments, prepare=None):
    from qbert_opt.cli import main

    if prepare is not None:
        prepare()
    sys.argv = ["qbert-opt", *arguments]
    main.run()


def in_two(folder: Path, arguments) -> str:
    """Run `qbert-opt ARGUMENTS` in two forked processes that find each other as those that torchrun starts do.

    As under torchrun, the store by which they meet is their parent's.

    Args:
        folder: where their output is kept while they run.
        arguments: words of the command line.

    Returns:
        What both printed; fails if one of them did.
    """
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    logs = [folder / f"rank-{rank}" for rank in range(2)]
    started = [start(log, arguments, partial(_join, rank, store.port)) for rank, log in enumerate(logs)]
    for process in started:
        process.join()
    said = "".join(log.read_text() for log in logs)
    for log in logs:
        log.unlink()
    assert [process.exitcode for process in started] == [0, 0], said
    return said


def in_two_by_torchrun(folder: Path, arguments) -> None:
    """Run `qbert-opt ARGUMENTS` in two processes of torchrun's own agent, with its own store and environment.

    Only the processes are not new interpreters, but forked ones.

    Args:
        folder: where their output is kept while they run.
        arguments: words of the command line.
    """
    log = folder / "torchrun"
    process = call(log, _launch, [str(word) for word in arguments])
    process.join()
    said = log.read_text()
    log.unlink()
    assert process.exitcode == 0, said


def _launch(arguments):
    """Do what `torchrun --standalone --nproc-per-node 2` does."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=2, run_id="two", rdzv_backend="c10d", rdzv_endpoint="localhost:0",
        max_restarts=0, start_method="forkserver",
    )  # fmt: skip
    elastic_launch(config, _run)(arguments)


def _join(rank, port):
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True",
    }  # fmt: skip
