"""Sums over the samples of a record, taken a block of them at a time, in double precision.

A record is read as stored, and only a block of it at a time is turned into double precision: blocks stay in the
processor's cache, where the record as a whole would go to memory and back once for each operation. Blocks belong to
parts, which threads share; parts have a size of their own, so that sums, taken in the order of parts, do not depend on
how many cores there are. Memory of blocks is each thread's own, and used again: to ask the system for pages of zeros
for each part took as long as all sums together.

Blocks are also small enough for NumPy's BLAS to do a product in the thread that asks for it: see
`lesde_infer.blas_threads`.
"""

import math
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import numpy as np
from jaxtyping import Float

from lesde_infer.cores import n_cores

Found = TypeVar("Found")

BLOCK = 2**18  # numbers of a block: 2 MB in double precision; threads that ask for Python's lock more often wait for it
PART = 2**19  # numbers of a part
SINGLE_THREADED = 2**18  # multiplications of a matrix product that OpenBLAS does not spread over threads
FEWEST_ROWS = 64  # of a product that sums over rows: fewer take longer to add up than to multiply
ROW = 4096  # numbers of a scalar product, of which OpenBLAS spreads those of more than 10,000 over threads


def n_threads() -> int:
    """Return how many threads share parts: one a core, and no more than ``OMP_NUM_THREADS``, if that is set."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(n_cores(), int(asked)) if asked.isdecimal() and int(asked) else n_cores()


def over_parts(shape: tuple[int, ...], work: Callable[[slice], Found], part: int = PART) -> list[Found]:
    """Return what ``work`` returns for each part of samples × features, in order; threads share parts."""
    n_samples, width = shape
    rows = max(1, part // width)
    if n_samples <= rows:
        return [work(slice(0, n_samples))]
    parts = [slice(start, min(start + rows, n_samples)) for start in range(0, n_samples, rows)]
    if n_threads() == 1:
        return [work(own) for own in parts]
    return list(_threads(os.getpid()).map(work, parts))


@lru_cache(maxsize=1)
def _threads(process: int) -> ThreadPoolExecutor:
    """Return the threads of a process: one that was forked has none of those of its parent."""
    return ThreadPoolExecutor(n_threads(), thread_name_prefix="lesde-sums")


def blocks(part: slice, width: int) -> Iterator[slice]:
    """Cut a part into blocks."""
    rows = max(1, BLOCK // width)
    for start in range(part.start, part.stop, rows):
        yield slice(start, min(start + rows, part.stop))


class DoubleBlock:
    """Turns blocks of rows into double precision, in memory that is used again."""

    def __init__(self) -> None:
        self._buffer = np.empty(0)

    def of(self, values: Float[np.ndarray, "row value"]) -> Float[np.ndarray, "row value"]:
        """Return rows in double precision: themselves where they are, else valid until the next call."""
        if values.dtype == np.float64 and values.flags.c_contiguous:
            return values
        found = self.empty(values.shape)
        np.copyto(found, values)
        return found

    def less(
        self, after: Float[np.ndarray, "row value"], before: Float[np.ndarray, "row value"]
    ) -> Float[np.ndarray, "row value"]:
        """Return ``after``, which is in double precision, less ``before``; valid until the next call."""
        found = self.empty(after.shape)
        if before.dtype == np.float64:
            return np.subtract(after, before, out=found)
        np.copyto(found, before)
        return np.subtract(after, found, out=found)

    def empty(self, shape: tuple[int, ...]) -> Float[np.ndarray, "*shape"]:
        """Return memory of a shape, valid until the next call."""
        size = math.prod(shape)
        if self._buffer.size < size:
            self._buffer = np.empty(size)
        return self._buffer[:size].reshape(shape)


class _Memory(threading.local):
    """Memory of a thread, by what it is for."""

    def __init__(self) -> None:
        self.blocks: dict[str, DoubleBlock] = {}


_memory = _Memory()


def own_block(purpose: str) -> DoubleBlock:
    """Return the memory that this thread has for a purpose: valid until it asks again, and never given back."""
    return _memory.blocks.setdefault(purpose, DoubleBlock())


def dot(first: Float[np.ndarray, "*shape"], second: Float[np.ndarray, "*shape"]) -> float:
    """Return the sum of the products of all entries."""
    one, other = first.reshape(-1), second.reshape(-1)
    if len(one) <= ROW:
        return float(one @ other)
    whole = len(one) // ROW * ROW
    rows = np.vecdot(one[:whole].reshape(-1, ROW), other[:whole].reshape(-1, ROW))
    return float(rows.sum()) + float(one[whole:] @ other[whole:])


def times(
    values: Float[np.ndarray, "row inner"],
    matrix: Float[np.ndarray, "inner column"],
    out: Float[np.ndarray, "row column"] | None = None,
) -> Float[np.ndarray, "row column"]:
    """Return values @ matrix, some rows at a time."""
    inner, columns = matrix.shape
    rows = max(1, SINGLE_THREADED // max(1, inner * columns))
    if len(values) <= rows:
        return np.matmul(values, matrix, out=out)
    found = np.empty((len(values), columns)) if out is None else out
    n_stacks = len(values) // rows
    whole = n_stacks * rows
    np.matmul(values[:whole].reshape(n_stacks, rows, inner), matrix, out=found[:whole].reshape(n_stacks, rows, columns))
    np.matmul(values[whole:], matrix, out=found[whole:])
    return found


def inner_product(
    weights: Float[np.ndarray, "weight row"], values: Float[np.ndarray, "row column"]
) -> Float[np.ndarray, "weight column"]:
    """Return weights @ values, some rows at a time."""
    n_weights, columns = len(weights), values.shape[1]
    rows = max(FEWEST_ROWS, SINGLE_THREADED // max(1, n_weights * columns))
    if len(values) <= rows:
        return weights @ values
    n_stacks = len(values) // rows
    whole = n_stacks * rows
    stacked = weights[:, :whole].reshape(n_weights, n_stacks, rows).transpose(1, 0, 2)
    products = own_block("stacks").empty((n_stacks, n_weights, columns))
    np.matmul(stacked, values[:whole].reshape(n_stacks, rows, columns), out=products)
    return products.sum(axis=0) + weights[:, whole:] @ values[whole:]
