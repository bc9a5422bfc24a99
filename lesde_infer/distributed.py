"""Statistics and fits on a cluster, by Dask.

A scheduler and workers that run already (docs/cluster.md) fit one recording each at a time. Workers read recordings
themselves, from storage that they share with whoever asks, and send back finished fits, which are written here. The
statistics of a large recording are taken by all workers, a range of its records each (`lesde_infer.row_ranges`), for
the worker that fits it, which meanwhile does other work, or for a fit on this machine. What a recording, its settings
and the seed give is what they give on one machine. A worker that dies loses what it was at, which Dask gives to
another; a fit that Dask gives up, since workers died of it again and again, is tried once more by itself. TLS and
whatever else concerns connections are settings of Dask.

tests/lesde_infer/test_distributed.py fits on workers, kills one, and takes files and schedulers away.
"""

import re
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from time import monotonic
from typing import TYPE_CHECKING, Any

from data_tools.errors import InputError
from data_tools.new_file import written_whole
from lesde_infer.fleet_run import FleetRun, fit_one
from lesde_infer.interval_rows import IntervalRow
from lesde_infer.row_ranges import Elsewhere, RowRange, measure_range

if TYPE_CHECKING:
    from distributed import Client, Future

ADDRESS = r"inproc://\S+|(tcp|tls|ws|wss|ucx)://\S+:\d+"  # others leave Dask waiting for a port to be named
ANSWER_WITHIN = 10.0  # seconds
ALONE_FOR = 60.0  # seconds that workers may take to come back
DIED = "the workers that fitted it died, each in turn: out of memory?"
DESERTED = f"the scheduler had no worker for {ALONE_FOR:.0f} s"
AHEAD = 2  # ranges a thread of the cluster that are under way, whose rows wait for those before
DECISIVE = ("lesde-infer", "jax", "numpyro", "numpy")  # packages whose versions decide which numbers come out


@contextmanager
def connected(address: str, timeout: float = ANSWER_WITHIN) -> Iterator["Client"]:
    """Connect to a scheduler, and see that it has workers that compute as this process would.

    Parameters
    ----------
    address : str
        Address of the scheduler, such as ``tcp://host:8786`` or ``tls://host:8786``.
    timeout : float
        Seconds to wait for the scheduler, and for a first worker.

    Raises
    ------
    InputError
        If Dask is not installed, the address is none, no scheduler answers, or it has no worker or one of other
        versions.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise InputError(
            "a cluster takes Dask, which is not installed: pip install 'lesde-infer[distributed]'"
        ) from error
    if not re.fullmatch(ADDRESS, address):
        raise InputError(f"'{address}': not an address of a scheduler, which is like tcp://HOST:8786")
    try:
        client = Client(address, timeout=timeout, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise InputError(
            f"{address}: no Dask scheduler answers within {timeout:.0f} s; start one (dask scheduler), or fit on this "
            "machine with --workers"
        ) from error
    try:
        _check_workers(client, address, timeout)
        yield client
    finally:
        client.close(timeout=timeout)


def _check_workers(client: "Client", address: str, timeout: float) -> None:
    try:
        client.wait_for_workers(1, timeout=timeout)
    except TimeoutError as error:
        raise InputError(f"{address}: the scheduler has no workers; start some (dask worker {address})") from error
    own = versions()
    for worker, found in client.run(versions, on_error="return").items():
        if isinstance(found, Exception):
            raise InputError(f"{address}: lesde cannot be used on worker {worker}: {found}; install lesde-infer there")
        for name, number in own.items():
            if found[name] != number:
                raise InputError(
                    f"{address}: worker {worker} has {name} {found[name]}, but here is {number}; install the same there"
                )


def versions() -> dict[str, str]:
    """Return versions on which numbers depend."""
    return {"Python": ".".join(python_version().split(".")[:2]), **{name: version(name) for name in DECISIVE}}


def fit_on_cluster(
    client: "Client", jobs: Sequence[tuple[Path, Path]], settings: Mapping[str, Any], *, force: bool
) -> Iterator[FleetRun]:
    """Fit recordings on a cluster, and yield what came of each as it ends.

    Parameters
    ----------
    client : Client
        Connected to a scheduler.
    jobs : sequence of pairs
        A recording, and the file of its fit, which is written here.
    settings : mapping
        Of `lesde_infer.fit`.
    force : bool
        Replace fits that exist; else these are taken, without asking a worker.
    """
    missing = []
    for path, target in jobs:
        if target.exists() and not force:
            yield fit_one(path, target, settings, force=False, progress=None)
        else:
            missing.append((path, target))
    given_up = list[tuple[Path, Path]]()
    for job, run in _as_they_end(client, missing, settings):
        if run is None:
            given_up.append(job)
        else:
            yield run
    # Dask blames all runs that a worker had when it died. Each by itself, the one that does it again is found.
    for job in given_up:
        for _, run in _as_they_end(client, [job], settings):
            yield run or FleetRun(job[0], "failed", None, 0.0, f"{job[0]}: {DIED}", {})


def _as_they_end(
    client: "Client", jobs: Sequence[tuple[Path, Path]], settings: Mapping[str, Any]
) -> Iterator[tuple[tuple[Path, Path], FleetRun | None]]:
    """Fit recordings; None is of a run whose workers died, each in turn."""
    from distributed import KilledWorker

    # Paths as they are here: a worker may have another working directory.
    futures = {client.submit(fit_remotely, job[0].resolve(), dict(settings), pure=False): job for job in jobs}
    left = set(futures)
    try:
        while left:
            ended = _ended(client, left)
            if not ended:
                for future in left:
                    path, _ = futures[future]
                    yield futures[future], FleetRun(path, "failed", None, 0.0, f"{path}: {DESERTED}", {})
                return
            for future in ended:
                left.remove(future)
                path, target = job = futures[future]
                error = future.exception()
                if error is not None:
                    said = f"{path}: {type(error).__name__}: {' '.join(str(error).split())}"
                    killed = isinstance(error, KilledWorker)
                    yield job, None if killed else FleetRun(path, "failed", None, 0.0, said, {})
                    continue
                run, content = future.result()
                future.release()
                if content is not None:
                    with written_whole(target, force=True) as temporary:
                        temporary.write_bytes(content)
                yield job, run.moved(path, None if content is None else target)
    finally:
        client.cancel(list(left))


def _ended(client: "Client", futures: "set[Future]") -> "set[Future]":
    """Wait for some to end; return none where the scheduler has had no worker for `ALONE_FOR` seconds."""
    from distributed import wait

    alone_since: float | None = None
    while True:
        try:
            with client.as_current():
                return set(wait(list(futures), timeout=ALONE_FOR / 10, return_when="FIRST_COMPLETED").done)
        except TimeoutError:
            if client.scheduler_info(n_workers=-1)["workers"]:
                alone_since = None
            elif alone_since is None:
                alone_since = monotonic()
            elif monotonic() - alone_since > ALONE_FOR:
                return set()


def on_cluster(client: "Client") -> Elsewhere:
    """Return what measures ranges of a large recording on a cluster, for `lesde_infer.fit`.

    Parameters
    ----------
    client : Client
        Connected to a scheduler whose workers see the recording under the same path.
    """
    return partial(_measure_on, client)


def _measure_on(client: "Client", ranges: Sequence[RowRange]) -> Iterator[list[IntervalRow]]:
    """Measure ranges before anything else that the cluster has to do, and yield their rows in order."""
    left, under_way = deque(ranges), deque["Future"]()
    try:
        while left or under_way:
            n_threads = sum(client.nthreads().values())
            while left and len(under_way) < AHEAD * max(1, n_threads):
                under_way.append(client.submit(measure_remotely, left.popleft(), pure=False, priority=1))
            yield _rows_of(client, under_way.popleft(), ranges[0].path)
    finally:
        client.cancel(list(under_way))


def _rows_of(client: "Client", future: "Future", path: Path) -> list[IntervalRow]:
    """Wait for the rows of a range.

    Raises
    ------
    InputError
        If they cannot be had.
    """
    from distributed import KilledWorker

    try:
        if not _ended(client, {future}):
            raise InputError(f"{path}: {DESERTED}; start workers, or fit without --scheduler")
        rows: list[IntervalRow] = future.result()
        return rows
    except KilledWorker as error:
        raise InputError(f"{path}: {DIED.replace('fitted', 'read')}") from error
    finally:
        future.release()


def measure_remotely(chosen: RowRange) -> list[IntervalRow]:
    """Measure a range on a worker, which is named where that cannot be done."""
    from distributed import get_worker

    try:
        return measure_range(chosen)
    except InputError as error:
        raise InputError(f"{error} (on worker {get_worker().address})") from error


def _from_worker(ranges: Sequence[RowRange]) -> Iterator[list[IntervalRow]]:
    """Measure ranges on the cluster of which this is a worker, whose thread is free for other work meanwhile."""
    from distributed import worker_client

    with worker_client() as client:
        yield from _measure_on(client, ranges)


def fit_remotely(path: Path, settings: Mapping[str, Any]) -> tuple[FleetRun, bytes | None]:
    """Fit a recording on a worker; return what came of it, and the file of the fit."""
    with tempfile.TemporaryDirectory(prefix="lesde-") as folder:
        target = Path(folder) / "fit.nc"
        run = fit_one(path, target, {**settings, "elsewhere": _from_worker}, force=True, progress=None)
        return run, target.read_bytes() if run.fit is not None else None
