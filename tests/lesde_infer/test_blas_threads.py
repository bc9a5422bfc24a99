"""BLAS keeps to one thread while statistics are taken, and has its threads back afterwards."""

from threading import Barrier, Thread

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from lesde_infer.blas_threads import single_threaded_blas


def n_threads():
    return {found["num_threads"] for found in threadpool_info() if found["user_api"] == "blas"}


@pytest.fixture
def before():
    np.ones((2, 2)) @ np.ones((2, 2))
    found = n_threads()
    if found == {1}:
        pytest.skip("BLAS has no second thread here")
    return found


def test_one_thread_within_and_all_of_them_after_an_error(before):
    @single_threaded_blas()
    def fail():
        assert n_threads() == {1}
        raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            fail()
        assert n_threads() == before


def test_threads_that_overlap_leave_it_as_it_was(before):
    both_in, first_out = Barrier(2), Barrier(2)

    def first():
        with single_threaded_blas():
            both_in.wait(60)
        first_out.wait(60)

    def second():
        with single_threaded_blas():
            both_in.wait(60)
            first_out.wait(60)

    threads = [Thread(target=one) for one in (first, second)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(60)
    assert n_threads() == before
