"""Dask: a local cluster of processes, or a scheduler elsewhere. Tasks and results are exchanged as JSON."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import FullDiskError, UsageError
from ..runtime.progress import Progress
from .task import Task
from .work import Result, code, perform

INSTALL = 'pip install "qbert-opt[sweep]"'
CONNECT_S = 10
WORKERS_S = 60
PRIVATE = "127.0.0.1:0"  # Dask serves its state over HTTP even without a dashboard: only this machine may see it
DEATHS = 2  # how many workers may die of a task before it is given up
SETTINGS = {
    "distributed.scheduler.allowed-failures": DEATHS,
    # a worker that is paused because it holds much memory would wait forever; one above its share is killed instead
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    "distributed.comm.timeouts.connect": f"{CONNECT_S}s",
    # tasks take seconds to hours: Dask's frequent housekeeping would cost more than it is worth
    "distributed.worker.profile.enabled": False,
    "distributed.worker.memory.monitor-interval": "1s",
    "distributed.admin.tick.interval": "10s",
    "distributed.admin.tick.limit": "10m",
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.admin.system-monitor.gil.enabled": False,
    "distributed.scheduler.active-memory-manager.start": False,
}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
QUIET = {"DASK_LOGGING__DISTRIBUTED": "critical"}  # our own messages say what happens to workers


@dataclass(frozen=True, slots=True)
class Workers:
    """The processes that do the work.

    Attributes:
        count: number of local processes; None: as many as the cores allow with `threads` each.
        threads: threads of torch in each process.
        memory_bytes: memory of a local process, above which it is killed; None divides the machine's memory equally.
        scheduler: address of a running scheduler that is used instead of local processes.
        tls: files for the connection to it: `tls_ca`, `tls_cert`, `tls_key`; None uses Dask's own settings.
        dashboard: address at which a local cluster shows Dask's dashboard; None shows none.

    Raises:
        UsageError: a number is below 1, or an option belongs to the other kind of cluster.
    """

    count: int | None = None
    threads: int = 1
    memory_bytes: int | None = None
    scheduler: str | None = None
    tls: Mapping[str, str | None] | None = None
    dashboard: str | None = None

    def __post_init__(self) -> None:
        for name, value in (("workers", self.count), ("threads", self.threads), ("worker_memory", self.memory_bytes)):
            if value is not None and value < 1:
                raise UsageError(f"`{name}` {value}: must be at least 1.")

    @property
    def local_count(self) -> int:
        """Number of local processes."""
        from dask.system import CPU_COUNT  # counts only cores that this process may use

        return self.count or max(1, CPU_COUNT // self.threads)


def check_installed() -> None:
    """Check that Dask is installed.

    Raises:
        UsageError: it is not; says how to install it.
    """
    try:
        import distributed  # noqa: F401
    except ImportError as error:
        raise UsageError(f"sweep: needs Dask, which is not installed ({error}). Install it: {INSTALL}.") from None


@contextmanager
def connected(workers: Workers) -> Iterator[Any]:
    """Connect a Dask client to a local cluster, which ends with the context, or to the scheduler that was named.

    Args:
        workers: the processes that do the work.

    Raises:
        UsageError: Dask is not installed, or the scheduler cannot be reached, is remote without TLS, or has no workers.
    """
    check_installed()
    import logging

    import dask
    from distributed import Client, LocalCluster

    for name in list(logging.root.manager.loggerDict):
        if name.split(".")[0] == "distributed":
            logging.getLogger(name).setLevel(logging.CRITICAL)  # each logger has its own level
    if workers.dashboard is not None and find_spec("bokeh") is None:
        raise UsageError("`dashboard`: needs bokeh, which is not installed. Install it: pip install bokeh.")
    if workers.scheduler is not None:
        with _client(workers) as client:
            yield client
        return
    count, threads = workers.local_count, workers.threads
    environment = {**dict.fromkeys(THREADS, str(threads)), **QUIET}  # read by libraries when they are loaded
    with (
        dask.config.set(SETTINGS | {"distributed.nanny.pre-spawn-environ": environment}),
        LocalCluster(
            n_workers=count, threads_per_worker=1, processes=True, host="127.0.0.1",
            memory_limit=workers.memory_bytes or _machine_bytes() // count,
            dashboard_address=workers.dashboard or PRIVATE, worker_dashboard_address=PRIVATE,
        ) as cluster,
        Client(cluster) as client,
    ):  # fmt: skip
        yield client


def check_address(address: str) -> None:
    """Refuse a remote scheduler without TLS: whoever can talk to it can run code as its user.

    Args:
        address: `tls://HOST:PORT`, or `tcp://` on this machine.

    Raises:
        UsageError: the address is of another kind, or remote without TLS.
    """
    parts = urlsplit(address)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if parts.scheme not in ("tls", "tcp") or not host or not port:
        raise UsageError(f"`scheduler` {address}: legal: tls://HOST:PORT, or tcp://127.0.0.1:PORT on this machine.")
    if parts.scheme == "tcp" and not _is_local(host):
        raise UsageError(
            f"`scheduler` {address}: a remote scheduler needs TLS, since its messages can run code. "
            f"Give tls://{host}:{port}, with `tls_ca`, `tls_cert` and `tls_key`."
        )


def check_workers(client: Any, cache: Path) -> None:
    """Check that all workers run the same version and share the cache.

    Args:
        client: a Dask client.
        cache: existing folder of results.

    Raises:
        UsageError: a worker does not answer, runs another version or does not see the cache; names the worker.
    """
    mark, text = cache / f".shared-{secrets.token_hex(8)}", secrets.token_hex(8)
    mark.write_text(text, encoding="utf-8")
    try:
        found: Mapping[str, Sequence[str]] = client.run(_introduce, str(mark), on_error="return")
    finally:
        mark.unlink(missing_ok=True)
    for worker, answer in found.items():
        if isinstance(answer, BaseException):
            raise UsageError(f"worker {worker}: qbert-opt does not answer there ({answer}). Install {code()} there.")
        theirs, seen = answer
        if theirs != code():
            raise UsageError(f"worker {worker}: runs qbert-opt {theirs}; here is {code()}. Install the same there.")
        if seen != text:
            raise UsageError(f"worker {worker}: does not see {cache}. Give a `cache` on a disk that all workers share.")


def _introduce(mark: str) -> tuple[str, str]:
    """Return which code a worker runs, and what it reads from a file in the cache."""
    path = Path(mark)
    return code(), path.read_text(encoding="utf-8") if path.is_file() else ""


def run_tasks(
    client: Any, tasks: Sequence[Task], known: Mapping[str, Result], cache: Path, threads: int, progress: Progress
) -> dict[str, Result]:
    """Do every task that is not finished yet; tasks that do not depend on each other run in parallel.

    Args:
        client: a Dask client.
        tasks: each after the tasks that it depends on.
        known: how finished tasks ended, by key.
        cache: folder of results.
        threads: threads of torch.
        progress: called when a task ends.

    Returns:
        How every task ended, by key.

    Raises:
        FullDiskError: the disk of the cache is full; running tasks are cancelled, finished ones are kept.
        UsageError: the connection to the scheduler was lost.
    """
    from distributed import as_completed

    futures: dict[str, Any] = {}
    by_future: dict[str, Task] = {}
    results = dict(known)
    for task in tasks:
        if task.key in results:
            continue
        before = [futures[key] for key in task.inputs.values() if key in futures]
        before += [results[key].model_dump_json() for key in task.inputs.values() if key in results]
        future = client.submit(
            perform, task.model_dump_json(), str(cache), threads, *before, key=f"{task.step}-{task.key}", pure=False
        )
        futures[task.key] = future
        by_future[future.key] = task
    progress(len(results), len(tasks), "begun")
    try:
        for future in as_completed(list(futures.values())):
            task = by_future[future.key]
            results[task.key] = result = _result(future, task)
            if result.status == "stopped":
                raise FullDiskError(result.reason)
            progress(len(results), len(tasks), task.title)
    finally:
        client.cancel([future for future in futures.values() if not future.done()])
    return results


def _result(future: Any, task: Task) -> Result:
    if future.status == "finished":
        return Result.model_validate_json(future.result())
    if future.status == "cancelled":
        raise UsageError("`scheduler`: connection lost. Finished steps are kept: run the same command again.")
    error = future.exception()
    if type(error).__name__ == "KilledWorker":
        reason = (
            f"its worker process died {DEATHS + 1} times; most often it needs more memory than a worker may have. "
            "Give more `worker_memory` or fewer `workers`."
        )
        return Result(key=task.key, step=task.step, status="failed", reason=reason)
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
    return Result(key=task.key, step=task.step, status="failed", reason=reason, bug=True)


@contextmanager
def _client(workers: Workers) -> Iterator[Any]:
    from distributed import Client
    from distributed.security import Security

    address = str(workers.scheduler)
    check_address(address)
    tls = {name: value for name, value in (workers.tls or {}).items() if value is not None}
    for name, value in tls.items():
        if not Path(value).is_file():
            raise UsageError(f"`{name}` {value}: no such file.")
    files = {"tls_ca": "tls_ca_file", "tls_cert": "tls_client_cert", "tls_key": "tls_client_key"}
    try:
        security = Security(
            require_encryption=address.startswith("tls:"), **{files[name]: value for name, value in tls.items()}
        )
        if address.startswith("tls:") and security.get_connection_args("client").get("ssl_context") is None:
            raise UsageError(
                f"`scheduler` {address}: TLS needs `tls_ca`, `tls_cert` and `tls_key`, or Dask's settings."
            )
        client = Client(address, timeout=CONNECT_S, security=security)
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise UsageError(
            f"`scheduler` {address}: cannot be reached within {CONNECT_S} s ({said}). "
            "Start one with 'dask scheduler', or leave it out for processes on this machine."
        ) from None
    with client:
        try:
            client.wait_for_workers(1, timeout=WORKERS_S)
        except TimeoutError:
            raise UsageError(
                f"`scheduler` {address}: has had no worker for {WORKERS_S} s. Start one: dask worker {address}."
            ) from None
        yield client


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _machine_bytes() -> int:
    from distributed.system import MEMORY_LIMIT

    return int(MEMORY_LIMIT)
