"""Read tables of numbers with named columns from text with commas."""

import csv
import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from jaxtyping import Float, Int

from data_tools.errors import InputError


def read_header(path: Path) -> list[str]:
    """Return the names of the columns of a table, compressed or not.

    Raises
    ------
    InputError
        If there is no such file, it is no text, or it is empty.
    """
    with _opened(path) as stream:
        names = next(csv.reader(stream), None)
    if not names:
        raise InputError(f"{path}: is empty; its first line has to name the columns")
    return [name.strip() for name in names]


def read_columns(
    path: Path, columns: Sequence[str], *, may_be_empty: Sequence[str] = ()
) -> dict[str, Float[np.ndarray, " row"]]:
    """Read some columns of a table, at least one row.

    Parameters
    ----------
    path
        The file.
    columns
        Their names; other columns are passed over.
    may_be_empty
        Those in which a field may be empty; it becomes not a number.

    Returns
    -------
    dict
        float64 numbers of each column by name.

    Raises
    ------
    InputError
        If a column is not there or there twice, a field is no number, or a line has too few fields.
    """
    header = read_header(path)
    for name in columns:
        if header.count(name) != 1:
            problem = "there is no column" if name not in header else "there are several columns"
            raise InputError(f"{path}: {problem} {name!r}; its columns are {', '.join(header)}")
    places = [header.index(name) for name in columns]
    empty: dict[int | str, Callable[[str], Any]] = {header.index(name): _number_or_nothing for name in may_be_empty}
    with _opened(path) as stream:
        next(csv.reader(stream))
        if not (rest := stream.readline()).strip():
            raise InputError(f"{path}: holds no rows below its header")
        try:
            values = np.loadtxt(
                _chained(rest, stream), delimiter=",", usecols=places, ndmin=2, comments=None, converters=empty or None
            )
        except (ValueError, IndexError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{path}: a row below the header cannot be read ({reason}); mend or drop it") from error
    return {name: values[:, place] for place, name in enumerate(columns)}


def whole_numbers(values: Float[np.ndarray, " row"], path: Path, column: str) -> Int[np.ndarray, " row"]:
    """Convert a column that must hold whole numbers.

    Raises
    ------
    InputError
        Naming the first row that holds something else.
    """
    wrong = np.flatnonzero(~(np.isfinite(values) & (np.trunc(values) == values) & (np.abs(values) < 2**53)))
    if wrong.size:
        raise InputError(
            f"{path}: column {column!r} holds {values[wrong[0]]:g} in line {wrong[0] + 2}, expected a whole number"
        )
    return values.astype(np.int64)


def numbered_columns(path: Path, prefix: str) -> list[str]:
    """Return the columns ``prefix0``, ``prefix1``, … in the order of their numbers, at least two.

    Raises
    ------
    InputError
        If there are fewer, or a number is left out.
    """
    header = read_header(path)
    found = [name for name in header if name.startswith(prefix) and name[len(prefix) :].isdecimal()]
    expected = [f"{prefix}{number}" for number in range(len(found))]
    if len(found) < 2 or set(found) != set(expected):
        raise InputError(
            f"{path}: its columns of logits are {', '.join(found) or 'none'}, expected {prefix}0, {prefix}1, … without "
            "gaps, one for each class"
        )
    return expected


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the name")
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rt", encoding="utf-8-sig", newline="") as stream:
                yield stream
        else:
            with path.open(encoding="utf-8-sig", newline="") as stream:
                yield stream
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        raise InputError(f"{path}: not a readable table ({' '.join(str(error).split())})") from error


def _chained(first: str, rest: TextIO) -> Iterator[str]:
    yield first
    yield from rest


def _number_or_nothing(field: str) -> float:
    return float(field) if field.strip() else float("nan")
