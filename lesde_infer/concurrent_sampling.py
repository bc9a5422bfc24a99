"""Sampling all submodels of a run side by side, in threads, one for each core.

Submodels are independent given the data, and programs run without Python's lock, so threads share the work evenly
where lanes of one program would wait for the slowest among them. The first submodel of each kind starts by itself, so
that every program is compiled once.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from threading import Event, Lock

from lesde_infer._jax import jax
from lesde_infer.assembly import Submodel
from lesde_infer.mode import find_mode
from lesde_infer.sampling import Chains, SampleRun, iterations
from lesde_infer.variant import Points, Position, Variant

FitProgress = Callable[[str, int, int], None]
"""Called with a stage's name, the units done and their total."""

WARMUP, ACCEPTANCE = 300, 0.9
CAREFUL_WARMUP, CAREFUL_ACCEPTANCE = 600, 0.99  # of new chains with smaller steps, where transitions diverged


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
        keys = jax.random.split(jax.random.key(seed), len(submodels))
        self._samplers = [_Sampler(submodel, key, n_chains) for submodel, key in zip(submodels, keys, strict=True)]

    def run_until(self, n_draws: int, progress: FitProgress | None = None) -> None:
        """Sample until each chain has ``n_draws`` draws after its warm-up."""
        reporter = _Reporter(sum(sampler.iterations_left(n_draws) for sampler in self._samplers), progress)
        leaders = {sampler.program: sampler for sampler in reversed(self._samplers)}.values()
        with ThreadPoolExecutor(n_cores()) as pool:
            try:
                _for_each(pool, leaders, lambda sampler: sampler.begin(reporter))
                _for_each(pool, self._samplers, lambda sampler: sampler.run_until(n_draws, reporter))
            except BaseException:
                reporter.stop()
                raise

    def replace_diverged(self) -> None:
        """Forget the chains of submodels in which any diverged; new ones will take smaller steps."""
        for sampler in self._samplers:
            if sampler.has_diverged:
                sampler.restart_carefully()

    def draws(self) -> list[SampleRun]:
        """Return all draws so far, submodel by submodel."""
        return [sampler.draws() for sampler in self._samplers]


class _Sampler:
    """Chains of one submodel, begun when they are first run."""

    def __init__(self, submodel: Submodel, key: jax.Array, n_chains: int) -> None:
        self._data, self._variant, self._key, self._n_chains = submodel.data, submodel.variant, key, n_chains
        self._n_warmup, self._acceptance = WARMUP, ACCEPTANCE
        self._chains: Chains | None = None

    @property
    def program(self) -> tuple[Variant, float]:
        """What tells compiled programs apart."""
        return self._variant, self._acceptance

    @property
    def has_diverged(self) -> bool:
        """Whether any transition after warm-up diverged."""
        return self._chains is not None and self._chains.has_diverged

    @cached_property
    def _mode(self) -> tuple[Position, Points]:
        """Where chains start and the whitening there, for careful chains the same."""
        return find_mode(self._variant, self._data)

    def iterations_left(self, n_draws: int) -> int:
        """Return how many iterations `run_until` will take."""
        done = 0 if self._chains is None else self._chains.n_done
        return max(iterations(self._n_warmup) + iterations(n_draws) - done, 0)

    def begin(self, reporter: "_Reporter") -> Chains:
        """Find the mode and run for a moment, unless that was done; it compiles all that is needed."""
        if self._chains is None:
            chains = Chains(
                self._variant,
                self._data,
                *self._mode,
                key=self._key,
                n_chains=self._n_chains,
                n_warmup=self._n_warmup,
                target_acceptance=self._acceptance,
            )
            reporter.add(chains.advance())
            self._chains = chains
        return self._chains

    def run_until(self, n_draws: int, reporter: "_Reporter") -> None:
        """Sample until each chain has that many draws."""
        chains = self.begin(reporter)
        while self.iterations_left(n_draws):
            reporter.add(chains.advance())

    def restart_carefully(self) -> None:
        """Forget the chains; new ones will take smaller steps."""
        self._n_warmup, self._acceptance, self._chains = CAREFUL_WARMUP, CAREFUL_ACCEPTANCE, None

    def draws(self) -> SampleRun:
        """Return all draws so far."""
        if self._chains is None:
            raise RuntimeError("nothing was sampled yet")
        return self._chains.draws()


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
            if self._progress is not None:
                self._progress("sampling", self._done, self._total)

    def stop(self) -> None:
        """Make every thread end at its next report."""
        self._stopped.set()


class _StoppedError(Exception):
    """Raised in threads after another failed or the user interrupted; never seen outside."""


def _for_each(pool: ThreadPoolExecutor, samplers: Iterable[_Sampler], action: Callable[[_Sampler], object]) -> None:
    """Run an action for all samplers; raise the first exception of any."""
    for future in [pool.submit(action, sampler) for sampler in samplers]:
        future.result()


def n_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
