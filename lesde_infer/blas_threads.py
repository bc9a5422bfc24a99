"""Linear algebra in the thread that asks for it.

Threads of NumPy's BLAS wait for one another in a loop. Where another process has a core, that takes several times as
long as the work itself, and blocks of records are small enough for one thread (`lesde_infer.sample_blocks`), which
share cores by themselves.

Limits of threadpoolctl belong to the thread that sets them, for as long as it lives: others can neither lift them nor
set their own. So they are set and lifted by threads that end at once.

tests/lesde_infer/test_blas_threads.py counts threads; benchmarks/statistics_speed.py shows what it comes to.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock
from typing import TypeVar

from threadpoolctl import threadpool_limits

Returned = TypeVar("Returned")
_lock = Lock()
_limits: list[threadpool_limits] = []  # the limit, once for each that asked


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Let BLAS use one thread meanwhile, in all of the process; when the last to ask is done, as many as before."""
    with _lock:
        _limits.append(_limits[0] if _limits else _briefly(_limit))
    try:
        yield
    finally:
        with _lock:
            limit = _limits.pop()
            if not _limits:
                _briefly(limit.restore_original_limits)


def _limit() -> threadpool_limits:
    return threadpool_limits(limits=1, user_api="blas")


def _briefly(action: Callable[[], Returned]) -> Returned:
    """Return what an action returns in a thread that ends with it."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(action).result()
