"""The intervals of a recording, one after the other, from its features or from what was kept of them."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int

from data_tools.recording import Recording
from lesde_infer.frequencies import class_weights
from lesde_infer.impacts import Impact
from lesde_infer.interval_rows import IntervalRow, MeasureRows, measured_rows
from lesde_infer.interval_source import Interval
from lesde_infer.kept_rows import is_large, keeping_is_on, kept_rows
from lesde_infer.missing import MissingCounter, MissingData
from lesde_infer.momentum import MomentumFilter
from lesde_infer.read_ahead import ReadAhead
from lesde_infer.row_ranges import Elsewhere, measured_elsewhere
from lesde_infer.snapshots import MINIMAL_SAMPLES, Grouping, SnapshotReader


class RecordedIntervals:
    """Intervals of a recording, from its features, or what was kept of them (`lesde_infer.kept_rows`).

    Of a large recording ranges of records may be measured ``elsewhere`` (`lesde_infer.row_ranges`); how far samples
    move is then known of those intervals alone that end at the records that are ``wanted``.

    Attributes
    ----------
    classes, groups, sizes : array
        Names of the classes, the class of each sample, and samples of each class.
    layers : list of str
        Layers that are read.
    mean_square : list of float
        Mean of all squared features of each record read so far; NaN where nothing could be made of it.
    """

    def __init__(
        self,
        recording: Recording,
        layer: str,
        impact: Impact,
        group: Grouping,
        steps: Int[np.ndarray, " record"],
        times: Float[np.ndarray, " record"],
        frequencies: Float[np.ndarray, " class_"] | None,
        momentum: MomentumFilter | None,
        *,
        cache: bool = True,
        elsewhere: Elsewhere | None = None,
        wanted: Sequence[int] = (),
    ) -> None:
        self._recording, self._records = recording, ReadAhead(recording, len(times))
        weights = class_weights(frequencies)
        self._reader = reader = SnapshotReader(self._records, layer, impact, group, weights, momentum, as_stored=True)
        # Filtered impacts depend on all records before, and the last on its being the last: they are not kept.
        by_rows = momentum is None and is_large(recording, layer)
        self._is_kept = cache and by_rows and keeping_is_on()
        self._measure: MeasureRows = measured_rows
        if by_rows and elsewhere is not None:
            self._measure = measured_elsewhere(elsewhere, recording, group, wanted)
        self._times = times
        self.classes, self.groups, self.sizes = reader.classes, reader.groups, reader.average.sizes
        self.layers = reader.layers
        self._missing = MissingCounter(reader.groups, reader.n_classes, steps)
        self._ends_empty = False
        self.mean_square: list[float] = []

    def __iter__(self) -> Iterator[Interval]:
        """Read all records in order, and yield the intervals between them that can be used, each until the next."""
        with self._records:
            n_records = len(self._times)
            if self._is_kept:
                yield from self._intervals(kept_rows(self._recording, self._reader, n_records, self._measure))
            else:
                yield from self._intervals(self._measure(self._reader, n_records, None, None))

    def _intervals(self, rows: Iterable[IntervalRow]) -> Iterator[Interval]:
        times, start_samples = self._times, 0
        for row in rows:
            self.mean_square.append(row.mean_square)
            self._missing.add_record(row.record, row.held)
            start, start_samples, held_at_start = row.record - 1, int(row.held.sum()), start_samples
            self._ends_empty = row.record > 0 and start_samples == 0
            if row.record == 0:
                continue
            if times[row.record] <= times[start]:
                self._missing.add_standing(start)
            elif row.products is None or row.movement is None:
                self._missing.add_dropped(start, row.common, MINIMAL_SAMPLES)
            else:
                yield Interval(start, row.products, row.movement, held_at_start, row.two_apart, row.moved_along)

    def missing(self) -> MissingData:
        """Return what was missing from the records read."""
        return self._missing.result()

    @property
    def ends_empty(self) -> bool:
        """Whether the last record read holds no sample at all."""
        return self._ends_empty
