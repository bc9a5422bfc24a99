"""The intervals of a record, one after the other, as statistics take them in."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from data_tools.recording import Recording
from lesde_infer.frequencies import class_weights
from lesde_infer.impacts import Impact
from lesde_infer.interval_products import ClassMeanMovement, IntervalProducts
from lesde_infer.missing import MissingCounter, MissingData
from lesde_infer.momentum import MomentumFilter
from lesde_infer.probe_sampling import moved_between
from lesde_infer.read_ahead import ReadAhead
from lesde_infer.snapshots import MINIMAL_SAMPLES, Grouping, Snapshot, SnapshotReader


class Interval(NamedTuple):
    """One interval.

    Attributes
    ----------
    start : int
        Record at which it starts; it stops at the next.
    products : IntervalProducts
    movement : ClassMeanMovement
    start_samples : int
        Samples that the record at its start holds.
    two_apart : float
        Product of the contrasts of the impacts at its end and at the record before its start; 0 without one.
    moved_along : function
        Returns how far each sample moves along the impact of its class (`lesde_infer.probe_sampling`); to be called
        before the next interval is asked for.
    """

    start: int
    products: IntervalProducts
    movement: ClassMeanMovement
    start_samples: int
    two_apart: float
    moved_along: Callable[[], Float[np.ndarray, " sample"]]


class RecordedIntervals:
    """Intervals of a recording, from its features.

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
    ) -> None:
        self._records = ReadAhead(recording, len(times))
        self._reader = reader = SnapshotReader(
            self._records, layer, impact, group, class_weights(frequencies), momentum, as_stored=True
        )
        self._times = times
        self.classes, self.groups, self.sizes = reader.classes, reader.groups, reader.average.sizes
        self.layers = reader.layers
        self._missing = MissingCounter(reader.groups, reader.n_classes, steps)
        self._ends_empty = False
        self.mean_square: list[float] = []

    def __iter__(self) -> Iterator[Interval]:
        """Read all records in order, and yield the intervals between them that can be used, each until the next."""
        with self._records:
            yield from self._intervals()

    def _intervals(self) -> Iterator[Interval]:
        reader, times = self._reader, self._times
        held, before = reader.read(0)
        self.mean_square.append(np.nan if before is None else before.mean_square)
        self._missing.add_record(0, held)
        earlier: Float[np.ndarray, "class_ feature"] | None = None  # impact at the record before the interval's start
        for record in range(1, len(times)):
            held_before, (held, after) = held, reader.read(record)
            self._missing.add_record(record, held)
            self._ends_empty = not held.any()
            self.mean_square.append(np.nan if after is None else after.mean_square)
            common = held_before & held
            average = reader.average_over(common)
            if times[record] <= times[record - 1]:
                self._missing.add_standing(record - 1)
            elif average is None:
                self._missing.add_dropped(record - 1, common, MINIMAL_SAMPLES)
            else:
                assert before is not None  # noqa: S101  (it holds all samples that both hold)
                assert after is not None  # noqa: S101
                yield Interval(
                    record - 1,
                    *IntervalProducts.between(before, after, average, common),
                    int(np.count_nonzero(held_before)),
                    float(np.vdot(earlier, after.contrast)) if earlier is not None else 0.0,
                    partial(_moved_along, before, after, reader.groups),
                )
            earlier, before = None if before is None else before.contrast, after

    def missing(self) -> MissingData:
        """Return what was missing from the records read."""
        return self._missing.result()

    @property
    def ends_empty(self) -> bool:
        """Whether the last record read holds no sample at all."""
        return self._ends_empty


def _moved_along(before: Snapshot, after: Snapshot, groups: Int[np.ndarray, " sample"]) -> Float[np.ndarray, " sample"]:
    return moved_between(before.features, after.features, before.contrast, groups)
