"""Ask how much faster statistics of a large recording are taken by two workers of a cluster than by one.

A recording of random features is made (float32, ten classes, n = 2,000, p = 512; in the page cache throughout). Dask
clusters of one and of two workers, each a process with one thread and kept to a core, stand ready; in turns, their
order changing, each takes the statistics (impact I, no cache), and so does this process by itself. ``speedup`` is the
ratio of the medians of one worker and two. Where there are two cores, this process and the schedulers take their time
from the workers. Statistics of all are compared number by number.

From the same run: seconds that a range takes (``range_seconds``), bytes of its rows (``row_bytes``), and seconds that
whoever asked spends on taking them in (``serial_seconds_per_range``). With these ``plan`` says how long a shelf of
recordings would take with w workers, if (i) ranges take what they took here, (ii) storage delivers so many gigabytes a
second to all workers together, (iii) a fit takes so many seconds of one worker, which takes its rows in as well, and
(iv) the scheduler hands out so many tasks a second, as Dask's documentation has it (a millisecond a task). It is the
largest of these bounds, which a schedule comes near to; it was not measured.

    python benchmarks/cluster_speed.py [--megabytes 2400] [--turns 5] [--json FILE]

Prints JSON.
"""

import argparse
import os
import pickle
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from distributed import Client, LocalCluster
from json_result import give
from statistics_speed import LAYER, make

from data_tools.recording import Recording
from lesde_infer.cores import n_cores
from lesde_infer.distributed import on_cluster
from lesde_infer.row_ranges import Elsewhere, RowRange, measure_range
from lesde_infer.statistics import Statistics, compute_statistics

N, P = 2_000, 512
RUNS, RUN_GIGABYTES, FIT_SECONDS = 1_000, 20.0, 60.0
STORAGE, TASKS = 20.0, 1_000.0  # gigabytes and tasks a second
WORKERS = (1, 2, 10, 100, 1_000)


def collapse(path: Path, elsewhere: Elsewhere | None = None) -> Statistics:
    """Take the statistics."""
    with Recording(path) as recording:
        return compute_statistics(recording, LAYER, "I", cache=False, elsewhere=elsewhere)


def numbers(value: Any) -> Iterator[np.ndarray]:
    """Yield all that statistics hold."""
    if is_dataclass(value):
        for field in fields(value):
            yield from numbers(getattr(value, field.name))
    elif isinstance(value, tuple | list):
        for one in value:
            yield from numbers(one)
    else:
        yield np.asarray(value)


def equal(first: Statistics, second: Statistics) -> bool:
    """Tell whether all numbers are equal, to the last bit."""
    pairs = zip(numbers(first), numbers(second), strict=True)
    return all(np.array_equal(one, other, equal_nan=one.dtype.kind == "f") for one, other in pairs)


def keep_to(core: int) -> None:
    """Keep all threads of this process to a core."""
    for thread in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})


def timed(path: Path, elsewhere: Elsewhere | None) -> tuple[float, Statistics]:
    """Return seconds, and the statistics."""
    start = time.perf_counter()
    found = collapse(path, elsewhere)
    return time.perf_counter() - start, found


def range_costs(path: Path) -> dict[str, float]:
    """Return what a range costs in this process, and what it costs to take its rows in."""
    seconds, sizes = [], []

    def here(ranges: list[RowRange]) -> Iterator[Any]:
        for one in ranges:
            start = time.perf_counter()
            rows = measure_range(one)
            seconds.append(time.perf_counter() - start)
            sizes.append(len(pickle.dumps(rows)))
            yield rows

    start = time.perf_counter()
    collapse(path, here)
    serial = time.perf_counter() - start - sum(seconds)
    return {
        "n_ranges": len(seconds),
        "range_seconds": statistics.median(seconds),
        "row_bytes": statistics.median(sizes),
        "serial_seconds_per_range": serial / len(seconds),
    }


def plan(costs: dict[str, float], range_gigabytes: float) -> dict[str, Any]:
    """Return hours of a shelf of recordings, by number of workers, and what bounds them."""
    n_ranges = RUNS * RUN_GIGABYTES / range_gigabytes
    hours = {}
    for n_workers in WORKERS:
        bounds = {
            "workers": (n_ranges * (costs["range_seconds"] + costs["serial_seconds_per_range"]) + RUNS * FIT_SECONDS)
            / n_workers,
            "storage": RUNS * RUN_GIGABYTES / STORAGE,
            "scheduler": n_ranges / TASKS,
        }
        binding = max(bounds, key=bounds.__getitem__)
        hours[str(n_workers)] = {"hours": bounds[binding] / 3600, "bound_by": binding}
    return {
        "runs": RUNS,
        "gigabytes_each": RUN_GIGABYTES,
        "fit_seconds": FIT_SECONDS,
        "storage_gigabytes_per_second": STORAGE,
        "tasks_per_second": TASKS,
        "by_workers": hours,
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=2400)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lesde-") as folder:
        path = Path(folder) / "run.h5"
        n_records = max(64, chosen.megabytes * 2**20 // (4 * N * P))
        make(path, N, P, n_records)
        found, seconds = {}, dict[str, list[float]]()
        options = {"threads_per_worker": 1, "processes": True, "dashboard_address": None}
        with (
            LocalCluster(n_workers=1, **options) as one,
            LocalCluster(n_workers=2, **options) as two,
            Client(one, set_as_default=False) as first,
            Client(two, set_as_default=False) as second,
        ):
            for client in (first, second):
                for core, worker in zip(sorted(os.sched_getaffinity(0)), client.nthreads(), strict=False):
                    client.run(keep_to, core, workers=[worker])
            ways: dict[str, Elsewhere | None] = {"1": on_cluster(first), "2": on_cluster(second), "here": None}
            for turn in range(chosen.turns + 1):  # the first starts workers up, and is left out
                for name in list(ways) if turn % 2 else reversed(list(ways)):
                    taken, found[name] = timed(path, ways[name])
                    if turn:
                        seconds.setdefault(name, []).append(taken)
        costs = range_costs(path)
        size = n_records * 4 * N * P / 1e9
        medians = {name: statistics.median(taken) for name, taken in seconds.items()}
        give(
            {
                "gigabytes": size,
                "n_records": n_records,
                "cores": n_cores(),
                "seconds": seconds,
                "speedup": medians["1"] / medians["2"],
                "speedup_of_best": min(seconds["1"]) / min(seconds["2"]),
                "identical": equal(found["1"], found["here"]) and equal(found["2"], found["here"]),
                **costs,
                "plan": plan(costs, size / costs["n_ranges"]),
            },
            chosen.json,
        )


if __name__ == "__main__":
    main()
