"""BLAS keeps to one thread while statistics are taken, and has its threads back afterwards."""

import os
import subprocess
import sys

import pytest

N_THREADS = """
import numpy as np
from threading import Barrier, Thread
from threadpoolctl import threadpool_info, threadpool_limits
from lesde_infer.blas_threads import single_threaded_blas

np.ones((2, 2)) @ np.ones((2, 2))

def n_threads():
    return max(found["num_threads"] for found in threadpool_info() if found["user_api"] == "blas")

"""
AFTER_AN_ERROR = """
@single_threaded_blas()
def fail():
    print(n_threads())
    raise ZeroDivisionError

print(n_threads())
for _ in range(2):
    try:
        fail()
    except ZeroDivisionError:
        print(n_threads())
"""
OVERLAPPING = """
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
print(n_threads())
with threadpool_limits(limits=1, user_api="blas"):
    print(n_threads())
print(n_threads())
"""


@pytest.mark.parametrize(("program", "expected"), [(AFTER_AN_ERROR, "2 1 2 1 2"), (OVERLAPPING, "2 1 2")])
def test_one_thread_within_and_all_of_them_afterwards(program, expected):
    """In a process of its own, where BLAS starts with two threads; after an error, and where threads overlap."""
    if os.cpu_count() == 1:
        pytest.skip("BLAS has no second thread here")
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", N_THREADS + program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == expected.split()
