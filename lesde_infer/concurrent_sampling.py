"""Sampling all submodels of a run side by side, in threads, one for each core.

Submodels are independent given the data, and programs run without Python's lock, so threads share the work evenly
where lanes of one program would wait for the slowest among them. The first submodel of each kind starts by itself, so
that every program is compiled once.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event, Lock
from zlib import crc32

from lesde_infer._jax import jax, make_room
from lesde_infer.assembly import Submodel
from lesde_infer.cores import n_cores
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
        # By name, so that the draws of a submodel do not depend on which others there are.
        names = ["+".join(submodel.strata) for submodel in submodels]
        keys = [jax.random.fold_in(jax.random.key(seed), crc32(name.encode())) for name in names]
        self._samplers = [
            SubmodelSampler(submodel, jax.random.fold_in(key, names[:place].count(names[place])), n_chains)
            for place, (submodel, key) in enumerate(zip(submodels, keys, strict=True))
        ]

    def run_until(self, n_draws: int | Sequence[int], progress: FitProgress | None = None) -> None:
        """Sample until each chain has so many draws after its warm-up: of all submodels, or of each."""
        wanted = [n_draws] * len(self._samplers) if isinstance(n_draws, int) else n_draws
        planned = list(zip(self._samplers, wanted, strict=True))
        reporter = _Reporter(sum(sampler.iterations_left(own) for sampler, own in planned), progress)
        leaders = {sampler.program: sampler for sampler in reversed(self._samplers)}.values()
        with ThreadPoolExecutor(n_cores()) as pool:
            try:
                _wait_for_all([pool.submit(sampler.begin, reporter.add) for sampler in leaders])
                _wait_for_all([pool.submit(sampler.run_until, own, reporter.add) for sampler, own in planned])
            except BaseException:
                reporter.stop()
                raise

    def draws(self) -> list[SampleRun]:
        """Return the draws so far, submodel by submodel; as many of each as the shortest chains have."""
        return equally_many(self._samplers)


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


def _wait_for_all(futures: Iterable[Future[object]]) -> None:
    """Wait; raise the first exception of any."""
    for future in futures:
        future.result()


def equally_many(samplers: Sequence[SubmodelSampler]) -> list[SampleRun]:
    """Return as many draws of each submodel as the shortest chains have: one of each is one of the joint posterior."""
    shortest = min(sampler.n_draws for sampler in samplers)
    return [sampler.draws(shortest) for sampler in samplers]
