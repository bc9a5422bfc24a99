"""Sampling all submodels of a run side by side, in threads, one for each core.

Submodels are independent given the data, and programs run without Python's lock, so threads share the work evenly
where lanes of one program would wait for the slowest among them. The first submodel of each kind starts by itself, so
that every program is compiled once.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Lock

from lesde_infer._jax import jax, make_room
from lesde_infer.assembly import Submodel
from lesde_infer.sampling import SampleRun
from lesde_infer.submodel_sampler import SubmodelSampler

FitProgress = Callable[[str, int, int], None]
"""Called with a stage's name, the units done and their total."""


class ConcurrentSampler:
    """Chains of all submodels of a run.

    Parameters
    ----------
    submodels : sequence of Submodel
        What is sampled.
    seed, n_chains : int
        Seed, and chains of each submodel.
    """

    def __init__(self, submodels: Sequence[Submodel], *, seed: int, n_chains: int) -> None:
        make_room()
        keys = jax.random.split(jax.random.key(seed), len(submodels))
        self._samplers = [
            SubmodelSampler(submodel, key, n_chains) for submodel, key in zip(submodels, keys, strict=True)
        ]

    def run_until(self, n_draws: int, progress: FitProgress | None = None) -> None:
        """Sample until each chain has ``n_draws`` draws after its warm-up."""
        reporter = _Reporter(sum(sampler.iterations_left(n_draws) for sampler in self._samplers), progress)
        leaders = {sampler.program: sampler for sampler in reversed(self._samplers)}.values()
        with ThreadPoolExecutor(n_cores()) as pool:
            try:
                _for_each(pool, leaders, lambda sampler: sampler.begin(reporter.add))
                _for_each(pool, self._samplers, lambda sampler: sampler.run_until(n_draws, reporter.add))
            except BaseException:
                reporter.stop()
                raise

    def draws(self) -> list[SampleRun]:
        """Return all draws so far, submodel by submodel."""
        return [sampler.draws() for sampler in self._samplers]


class _Reporter:
    """Adds up the iterations of all threads, and ends them when it is stopped."""

    def __init__(self, total: int, progress: FitProgress | None) -> None:
        self._total, self._progress = total, progress
        self._done, self._lock, self._stopped = 0, Lock(), Event()

    def add(self, n_iterations: int) -> None:
        """Count iterations done by a thread."""
        if self._stopped.is_set():
            raise _StoppedError
        with self._lock:
            self._done += n_iterations
            self._total = max(self._total, self._done)  # chains that diverged are replaced
            if self._progress is not None:
                self._progress("sampling", self._done, self._total)

    def stop(self) -> None:
        """Make every thread end at its next report."""
        self._stopped.set()


class _StoppedError(Exception):
    """Raised in threads after another failed or the user interrupted; never seen outside."""


def _for_each(
    pool: ThreadPoolExecutor, samplers: Iterable[SubmodelSampler], action: Callable[[SubmodelSampler], object]
) -> None:
    """Run an action for all samplers; raise the first exception of any."""
    for future in [pool.submit(action, sampler) for sampler in samplers]:
        future.result()


def n_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
