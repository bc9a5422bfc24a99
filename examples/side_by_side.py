"""Many runs of a study, side by side, each on one core."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any


def carry_out_all(carry_out: Callable[[Any, Path], Any], runs: Sequence[Any], work: Path, jobs: int) -> list[Any]:
    """Carry out runs, say how far it is, and return what came of each.

    Parameters
    ----------
    carry_out : callable
        Carries out a run, as far as that was not done, in the work folder.
    runs : sequence
        Runs, which have a ``name`` and a ``seed``.
    work : Path
        Work folder.
    jobs : int
        Runs at a time.
    """
    os.environ |= {
        "OMP_NUM_THREADS": "1",
        "MALLOC_MMAP_THRESHOLD_": "1000000000",
        "MALLOC_TRIM_THRESHOLD_": "1000000000",
    }
    outcomes: dict[str, Any] = {}
    started = time.monotonic()
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        # One seed of everything first, so that what is there is complete whenever this is cut off.
        pending = {pool.submit(carry_out, run, work): run for run in sorted(runs, key=lambda run: run.seed)}
        for future in as_completed(pending):
            outcomes[pending[future].name] = future.result()
            minutes = (time.monotonic() - started) / 60
            print(f"{len(outcomes)} of {len(runs)} runs, {minutes:.0f} min: {pending[future].name}", flush=True)
    return [outcomes[run.name] for run in runs]
