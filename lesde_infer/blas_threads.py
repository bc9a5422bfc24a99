"""Linear algebra in the thread that asks for it.

Threads of NumPy's BLAS wait for one another in a loop. Where another process has a core, that takes several times as
long as the work itself, and blocks of records are small enough for one thread (`lesde_infer.sample_blocks`), which
share cores by themselves.

tests/lesde_infer/test_blas_threads.py counts threads; benchmarks/statistics_speed.py shows what it comes to.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from threadpoolctl import threadpool_limits

_lock = Lock()
_limits: list[threadpool_limits] = []  # the limit, once for each that asked


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Let BLAS use one thread meanwhile, in all of the process; when the last to ask is done, as many as before."""
    with _lock:
        _limits.append(_limits[0] if _limits else threadpool_limits(limits=1, user_api="blas"))
    try:
        yield
    finally:
        with _lock:
            limit = _limits.pop()
            if not _limits:
                limit.restore_original_limits()
