"""Rows of a large recording, taken range by range of its records: by other processes, on other machines.

A row is of a record and the interval that ends there, and of the impact one record further back
(`lesde_infer.interval_rows`). So a range reads the two records before it as well, and its rows are those which one
pass over the file gives, to the last bit, however the file is cut. Impacts that are filtered by the memory of momentum
depend on all records before; these are taken in one pass.

How far single samples move along the impact is sent along of those intervals only of which statistics ask for it.

tests/lesde_infer/test_row_ranges.py holds ranges against one pass.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from data_tools.errors import InputError
from data_tools.record_series import entry_bytes
from data_tools.recording import Recording
from lesde_infer.blas_threads import single_threaded_blas
from lesde_infer.impacts import Impact
from lesde_infer.interval_rows import IntervalRow, MeasureRows, measured_rows, nothing
from lesde_infer.read_ahead import ReadAhead
from lesde_infer.recording_identity import fixed_digest
from lesde_infer.snapshots import Grouping, SnapshotReader

BYTES = 2**26  # of the features that a range reads
FEWEST = 32  # records of a range, of which it reads two more


@dataclass(frozen=True)
class RowRange:
    """Records of a recording, and the choices on which their rows depend.

    Attributes
    ----------
    path : Path
    layer, impact, group : str
    weights : tuple of float, or None
        w_l of each class (`lesde_infer.impacts`).
    start, stop : int
        Records from ``start`` to before ``stop``.
    wanted : tuple of int
        Those whose movement of samples is wanted.
    n_records : int
        Records of the recording that are used, by any range.
    digest : str
        Of the steps of these, and of the classes of all samples.
    """

    path: Path
    layer: str
    impact: Impact
    group: Grouping
    weights: tuple[float, ...] | None
    start: int
    stop: int
    wanted: tuple[int, ...]
    n_records: int
    digest: str


def cut(
    recording: Recording,
    reader: SnapshotReader,
    group: Grouping,
    start: int,
    n_records: int,
    wanted: Sequence[int] = (),
) -> list[RowRange]:
    """Cut the records from ``start`` on, of the first ``n_records`` of a recording, into ranges."""
    length = max(FEWEST, BYTES // max(1, entry_bytes(recording.features(reader.layer))))
    weights = None if reader.weights is None else tuple(np.asarray(reader.weights).tolist())
    whole = partial(
        RowRange,
        path=recording.path.resolve(),
        layer=reader.layer,
        impact=reader.impact,
        group=group,
        weights=weights,
        n_records=n_records,
        digest=fixed_digest(recording, n_records),
    )
    return [
        whole(
            start=first,
            stop=min(first + length, n_records),
            wanted=tuple(record for record in wanted if first <= record < first + length),
        )
        for first in range(start, n_records, length)
    ]


@single_threaded_blas()
def measure_range(chosen: RowRange) -> list[IntervalRow]:
    """Return the rows of a range.

    Raises
    ------
    InputError
        If the recording is not there, is another than that which was cut, or cannot be used.
    """
    with Recording(chosen.path) as recording:
        if recording.n_records < chosen.n_records or fixed_digest(recording, chosen.n_records) != chosen.digest:
            raise InputError(
                f"{chosen.path}: is another recording where its statistics are taken than where it was named"
            )
        with ReadAhead(recording, chosen.stop) as records:
            weights = None if chosen.weights is None else np.array(chosen.weights)
            reader = SnapshotReader(records, chosen.layer, chosen.impact, chosen.group, weights, as_stored=True)
            known, earlier = None if chosen.start == 0 else chosen.start - 1, None
            if chosen.start > 1:
                before = reader.read(chosen.start - 2)[1]
                earlier = None if before is None else before.contrast
            rows = measured_rows(reader, chosen.stop, known, earlier)
            return [_without_features(row, row.record in chosen.wanted) for row in rows]


def _without_features(row: IntervalRow, wanted: bool) -> IntervalRow:
    """Return a row that can be sent, with how far samples move if that is wanted, and not the features to tell."""
    return row._replace(moved_along=partial(_given, row.moved_along()) if wanted else nothing)


def _given(values: Float[np.ndarray, " sample"]) -> Float[np.ndarray, " sample"]:
    return values


Elsewhere: TypeAlias = Callable[[Sequence[RowRange]], Iterator[list[IntervalRow]]]
"""Measures ranges, by `measure_range`, wherever it likes, and yields their rows in order."""


def measured_elsewhere(
    elsewhere: Elsewhere, recording: Recording, group: Grouping, wanted: Sequence[int] = ()
) -> MeasureRows:
    """Return what gives rows of a recording as `measured_rows` does, and has ranges of them measured elsewhere."""

    def measure(
        reader: SnapshotReader, n_records: int, known: int | None, earlier: Float[np.ndarray, "class_ feature"] | None
    ) -> Iterator[IntervalRow]:
        start = 0 if known is None else known + 1
        for rows in elsewhere(cut(recording, reader, group, start, n_records, wanted)):
            yield from rows

    return measure
