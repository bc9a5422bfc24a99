"""Datasets of a recording that grow together, and which of their entries are whole."""

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from data_tools.errors import InputError
from data_tools.record_array import checked_dataset

_BLOCK = 16 * 2**20  # bytes read at once
_READ_ERRORS = (OSError, RuntimeError)


class RecordSeries:
    """Datasets with one entry per record, or per measurement of elasticity.

    Parameters
    ----------
    file, path
        The open `h5py.File`, whose contents have been checked, and its path for messages.
    arrays
        The datasets by their absolute names.
    steps
        Names of those that hold the steps.
    counter
        Name of the dataset that counts complete entries.
    what
        What an entry is called in messages, in the plural.
    advance
        Called with the number of bytes read each time.

    Attributes
    ----------
    kept : (n,) int64
        Indices of the entries that are whole: complete by the counter, present in every dataset, readable, and later
        than the one before.
    n_lost : int
        Entries of the longest dataset, or by the counter if that is more, that are not.
    reasons : list of str
        Why they are not, a phrase for each cause.
    """

    def __init__(
        self,
        file: Any,
        path: Path,
        arrays: Mapping[str, Any],
        steps: list[str],
        counter: str,
        what: str,
        advance: Callable[[int], None],
    ) -> None:
        self.arrays = arrays
        self.kept: Int[np.ndarray, " kept"] = np.zeros(0, dtype=np.int64)
        self.n_lost, self.reasons = 0, list[str]()
        lengths = [int(array.shape[0]) for array in arrays.values()]
        if not lengths:
            return
        shortest, longest = min(lengths), max(lengths)
        committed = shortest
        if counter in file:
            committed = int(checked_dataset(file, path, f"/{counter}", (), "iu")[()])
        if committed < 0:
            raise InputError(f"{path}: /{counter} is {committed}; the file is damaged, copy it again")
        complete = min(committed, shortest)
        self._note(max(0, committed - shortest), what, "were counted, but are not in all datasets")
        self._note(max(0, longest - committed), what, "were not complete when writing ended")
        readable = np.ones(complete, dtype=bool)
        for array in arrays.values():
            readable &= _readable(array, complete, advance)
        self._note(complete - int(np.count_nonzero(readable)), what, "cannot be read")
        later = _later_than_all_before([arrays[name] for name in steps], np.flatnonzero(readable))
        self._note(int(np.count_nonzero(readable)) - later.size, what, "have steps that do not increase")
        self.kept, self.n_lost = later, max(longest, committed) - later.size

    def _note(self, count: int, what: str, cause: str) -> None:
        if count:
            self.reasons.append(f"{count} {what} {cause}")


def blocks(array: Any, n_entries: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of entries of a size that is worth reading at once."""
    length = max(1, _BLOCK // max(1, entry_bytes(array)))
    for start in range(0, n_entries, length):
        yield start, min(start + length, n_entries)


def entry_bytes(array: Any) -> int:
    """Return the size of one entry of a dataset."""
    return math.prod(array.shape[1:]) * array.dtype.itemsize


def _readable(array: Any, n_entries: int, advance: Callable[[int], None]) -> Bool[np.ndarray, " entry"]:
    """Tell which of the first entries of a dataset were stored, and can be read."""
    good = _stored(array, n_entries)
    for start, stop in blocks(array, n_entries):
        try:
            _ = array[start:stop]
        except _READ_ERRORS:
            for entry in range(start, stop):
                try:
                    _ = array[entry]
                except _READ_ERRORS:
                    good[entry] = False
        advance((stop - start) * entry_bytes(array))
    return good


def _stored(array: Any, n_entries: int) -> Bool[np.ndarray, " entry"]:
    """Tell which entries have all their chunks in the file; HDF5 reads zeros where there are none."""
    stored = np.ones(n_entries, dtype=bool)
    if array.chunks is None or not n_entries:
        return stored
    length = array.chunks[0]
    found = np.zeros(-(-n_entries // length), dtype=np.int64)

    def count(chunk: Any) -> None:
        place = chunk.chunk_offset[0] // length
        if place < found.size:
            found[place] += 1

    try:
        array.id.chunk_iter(count)
    except _READ_ERRORS:
        return np.zeros(n_entries, dtype=bool)
    expected = math.prod(-(-size // chunk) for size, chunk in zip(array.shape[1:], array.chunks[1:], strict=True))
    return np.repeat(found >= expected, length)[:n_entries]


def _later_than_all_before(steps: list[Any], entries: Int[np.ndarray, " entry"]) -> Int[np.ndarray, " kept"]:
    """Keep the entries at which all steps are larger than at those kept before."""
    for array in steps:
        if not entries.size:
            break
        values = array[: entries[-1] + 1][entries]
        before = np.concatenate([[-1], np.maximum.accumulate(values)[:-1]])
        entries = entries[values > before]
    return entries
