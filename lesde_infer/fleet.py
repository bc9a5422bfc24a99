"""Fit many recordings: what fails is named and the rest goes on, what was fitted is not fitted again.

Fits are kept in a folder as they are made, whole or not at all, so that a fleet that was broken off goes on where it
was. One process fits all recordings one after the other, and compiles a program once for all of a shape; several fit as
many at a time. Of a process that dies the runs that were under way are tried once more, each by itself, so that the one
that kills it is found.

tests/lesde_infer/test_fleet.py breaks files, processes and the fleet itself.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from data_tools.errors import InputError
from lesde_infer.concurrent_sampling import FitProgress
from lesde_infer.fleet_run import FleetRun, Status, fit_one
from lesde_infer.kept_fits import fit_files


@dataclass(frozen=True)
class Fleet:
    """What came of many recordings, in the order in which they were given."""

    runs: tuple[FleetRun, ...]

    @property
    def with_fit(self) -> tuple[FleetRun, ...]:
        """Runs that have a fit."""
        return tuple(run for run in self.runs if run.fit is not None)

    def count(self, *statuses: Status) -> int:
        """Return how many runs have one of these statuses."""
        return sum(run.status in statuses for run in self.runs)

    def to_json(self) -> dict[str, Any]:
        """Return the machine-readable result."""
        counts = {
            "n_runs": len(self.runs),
            "n_fitted": self.count("fitted", "kept"),
            "n_refused": self.count("refused"),
            "n_not_converged": self.count("not converged"),
            "n_failed": self.count("failed"),
        }
        return {**counts, "runs": [run.to_json() for run in self.runs]}


def find_recordings(sources: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Return the recordings named: files as they are, and of folders all ``*.h5`` in them, by name.

    Raises
    ------
    InputError
        If something is not there, a folder holds no recording, or there are none at all.
    """
    found: list[Path] = []
    for source in map(Path, sources):
        if source.is_dir():
            inside = sorted(source.glob("*.h5"))
            if not inside:
                raise InputError(f"{source}: holds no recording (*.h5)")
            found += inside
        elif source.exists():
            found.append(source)
        else:
            raise InputError(f"{source}: no such file; give recordings, or folders of recordings")
    if not found:
        raise InputError("there is no recording to fit; give files, or folders of recordings")
    return list({path.resolve(): path for path in found}.values())


def fit_many(
    recordings: Sequence[str | os.PathLike[str]],
    out_dir: str | os.PathLike[str],
    *,
    workers: int = 1,
    scheduler: str | None = None,
    seed: int = 0,
    force: bool = False,
    progress: FitProgress | None = None,
    each: Callable[[FleetRun], None] | None = None,
    **options: Any,
) -> Fleet:
    """Fit many recordings, and keep the fits in a folder.

    Parameters
    ----------
    recordings : sequence of path
        Recordings, or folders of recordings.
    out_dir : path
        Folder of the fits, made if missing: one file each, called like the recording. Fits that are there are taken, if
        they are of the same recording with the same settings.
    workers : int
        Processes that fit at a time.
    scheduler : str, optional
        Address of a Dask scheduler, whose workers fit instead (`lesde_infer.distributed`).
    seed : int
        Of every fit.
    force : bool
        Fit again what is there, and replace it.
    progress : callable, optional
        Called with stage, done and total.
    each : callable, optional
        Called with each run as it ends.
    **options
        Of `lesde_infer.fit`.

    Returns
    -------
    Fleet
        What came of each recording. No failure of a single run is raised.

    Raises
    ------
    InputError
        If nothing is to be fitted, the folder cannot be made, two recordings would share a file, ``workers`` is below
        1, or the scheduler or its workers cannot be used.
    """
    if workers < 1:
        raise InputError(f"workers is {workers}; give at least 1")
    paths = find_recordings(recordings)
    folder = Path(out_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made: {error.strerror}; name another folder for the fits") from error
    files = fit_files(paths, folder)
    jobs = [(path, files[path.resolve()]) for path in paths]
    settings = {**options, "seed": seed}
    done: dict[Path, FleetRun] = {}

    def take(run: FleetRun) -> None:
        done[run.recording] = run
        if each is not None:
            each(run)
        if progress is not None:
            progress("runs", len(done), len(jobs))

    if scheduler is not None:
        from lesde_infer.distributed import connected, fit_on_cluster

        with connected(scheduler) as client:
            for run in fit_on_cluster(client, jobs, settings, force=force):
                take(run)
    elif workers == 1:
        for path, target in jobs:
            take(fit_one(path, target, settings, force=force, progress=progress))
    else:
        for run in _in_processes(jobs, settings, workers, force=force):
            take(run)
    return Fleet(tuple(done[path] for path, _ in jobs))


def _in_processes(
    jobs: Sequence[tuple[Path, Path]], settings: Mapping[str, Any], workers: int, *, force: bool
) -> Iterator[FleetRun]:
    """Fit in several processes; where one dies, those that were under way are tried again, each by itself."""
    left, suspects = dict(jobs), list[Path]()
    work = partial(fit_one, settings=settings, force=force, progress=None)
    while left:
        alone, chosen = bool(suspects), suspects[:1] or list(left)
        waiting, broken = list(reversed(chosen)), False
        with _one_thread_each(), ProcessPoolExecutor(min(workers, len(chosen)), get_context("spawn")) as pool:
            under_way: dict[Future[FleetRun], Path] = {}
            try:
                while (waiting or under_way) and not broken:
                    while waiting and len(under_way) < workers:
                        path = waiting.pop()
                        under_way[pool.submit(work, path, left[path])] = path
                    for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                        try:
                            run = future.result()
                        except BrokenProcessPool:
                            broken = True
                            break
                        del left[under_way.pop(future)]
                        yield run
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        if alone:
            suspects = suspects[1:]
        if broken and alone:
            del left[chosen[0]]
            yield FleetRun(chosen[0], "failed", None, 0.0, f"{chosen[0]}: the process that fitted it died twice", {})
        elif broken:
            suspects = list(under_way.values())


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let processes that are started meanwhile use one thread for linear algebra, unless the user said otherwise."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("OMP_NUM_THREADS", None)
