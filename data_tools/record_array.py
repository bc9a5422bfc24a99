"""Arrays in a recording that grow by one entry per record, and how they are checked before they are read."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.errors import InputError


class RecordArray:
    """An array in a file, read record by record as it is indexed.

    Supports ``array[i]``, ``array[i:j]``, ``array[[i, j]]`` and further indices after the first, all of which read only
    what they name and return a NumPy array. What a killed writer left half done is cut off.

    Attributes
    ----------
    shape : tuple of int
        Records first.
    dtype : numpy.dtype
        As stored.
    """

    def __init__(self, dataset: Any, n_records: int, path: Path) -> None:
        self._dataset = dataset
        self._path = path
        self.shape: tuple[int, ...] = (n_records, *dataset.shape[1:])
        self.dtype: np.dtype[Any] = dataset.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        first, *rest = key if isinstance(key, tuple) else (key,)
        if first is Ellipsis:
            first, rest = slice(None), [Ellipsis, *rest]
        # Negative, boolean and out-of-bounds indices are NumPy's to resolve.
        records = np.arange(len(self))[first if isinstance(first, slice) else np.asarray(first)]
        with self._damage_reported():
            if records.ndim == 0:
                return self._dataset[(int(records), *rest)]
            if isinstance(first, slice) and (first.step is None or first.step > 0):
                return self._dataset[(slice(*first.indices(len(self))), *rest)]
            # HDF5 reads each record once, in rising order.
            unique, inverse = np.unique(records, return_inverse=True)
            return self._dataset[(unique, *rest)][inverse]

    def read_into(self, record: int, memory: np.ndarray) -> np.ndarray:
        """Read a record into memory of its shape and type, and return it."""
        with self._damage_reported():
            self._dataset.read_direct(memory, np.s_[record])
        return memory

    @contextmanager
    def _damage_reported(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"{self._path}: {self._dataset.name} is damaged and cannot be read; copy the file again, or save what "
                "is whole with `lesde recover`"
            ) from error

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype=dtype, copy=copy)


def checked_dataset(file: Any, path: Path, where: str, expected: tuple[int | None, ...], kind: str) -> Any:
    """Return a dataset of numbers of the expected shape.

    Parameters
    ----------
    file
        The open `h5py.File`.
    path
        Its path, for messages.
    where
        Absolute name of the dataset.
    expected
        Its shape; None stands for any length.
    kind
        Kinds of NumPy types that are accepted: ``iu`` or ``f``.

    Raises
    ------
    InputError
        If it is missing, or has another shape or type.
    """
    node = file.get(where)
    if node is None:
        raise InputError(f"{path}: {where} is missing; the file was not written by this program or is damaged")
    if file.swmr_mode and hasattr(node, "refresh"):
        node.refresh()  # a live writer may have added records since the file was opened
    shape = getattr(node, "shape", None)
    if shape is None:
        raise InputError(f"{path}: {where} is a group, expected a dataset")
    fits = len(shape) == len(expected) and all(
        want is None or want == have for want, have in zip(expected, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if length is None else str(length) for length in expected)
        raise InputError(f"{path}: {where} has shape {shape}, expected ({wanted})")
    if node.dtype.kind not in kind:
        wanted = "whole numbers" if kind == "iu" else "floating-point numbers"
        raise InputError(f"{path}: {where} has type {node.dtype}, expected {wanted}")
    return node
