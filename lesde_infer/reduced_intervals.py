"""The intervals of a reduced recording: inner products that were taken when there were features.

What is kept of each record and of the interval that ends there (`data_tools.reduced_records`) is all that
`lesde_infer.statistics` takes in, so that a reduced recording gives the statistics of the whole one: the same numbers,
but for how far single samples move, which is kept in single precision. The choices that these products depend on are
made when a recording is reduced: layer, impact and grouping, sampling frequencies and momentum as recorded. Time and
its unit, which records are used, and whether impacts are filtered by the memory of momentum, are free.

What is kept of filtered impacts is of the interval that ends at a record (`lesde_infer.filtered_case`). Of two
intervals in a row that end at records r and r + 1, and are driven by u and u', the products of impacts at the start and
at the end of the first are ⟨u, u'⟩, |u|² and |u'|². At the last record that is used there is no second, and neither is
there one after a restart that is unknown: there they are as kept at r.

`products` of a record holds, one after the other and each flattened: of contrasts |uⱼ|², ⟨uⱼ, Δ⟩, λⱼ and ⟨C, uⱼ⟩; of
the mean |uⱼ|², ⟨uⱼ, Δ⟩ and λⱼ; coordinates, increments and feedback of the axes of impacts; the products of deviations,
as one, along and across; and single numbers (`NUMBERS`).

tests/lesde_infer/test_reduction.py and test_filtered_reduction.py hold statistics and posteriors against those of whole
recordings.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from data_tools.errors import InputError
from data_tools.recording import Recording
from lesde_infer.common_growth import GrowthProducts
from lesde_infer.frequencies import class_frequencies
from lesde_infer.interval_products import ClassMeanMovement, IntervalProducts, StratumProducts
from lesde_infer.interval_source import Interval
from lesde_infer.missing import MissingCounter, MissingData
from lesde_infer.momentum import MomentumFilter
from lesde_infer.snapshots import Grouping
from lesde_infer.within_statistics import DeviationProducts, PartProducts

REDUCED_AGAIN = "reduce the whole recording again"


class Shape(NamedTuple):
    """Directions of contrasts, directions of the mean, axes of impacts, and classes."""

    n_contrast: int
    n_shared: int
    n_axes: int
    n_classes: int

    @classmethod
    def of(cls, products: IntervalProducts) -> "Shape":
        """Return the shape of products."""
        n_axes, n_classes = products.coordinates.shape
        return cls(len(products.contrast.direction_square), len(products.shared.direction_square), n_axes, n_classes)

    @property
    def lengths(self) -> list[int]:
        """Length of each part of packed products."""
        matrix, deviations = self.n_axes * self.n_classes, 3 * len(PartProducts._fields)
        return [self.n_contrast] * 4 + [self.n_shared] * 3 + [matrix, matrix, self.n_axes, deviations, len(NUMBERS)]


NUMBERS = (
    "contrast_increment",
    "shared_increment",
    "contrast_size",
    "contrast_product",
    "deviation_growth",
    "impact_f",
    "impact_product",
    "impact_start",
    "impact_end",
    "n_samples",
    "moved",
    "two_apart",
)
"""Single numbers at the end of packed products."""


def pack(products: IntervalProducts, two_apart: float) -> Float[np.ndarray, " number"]:
    """Return the products of an interval as one row of numbers."""
    contrast, shared, growth = products.contrast, products.shared, products.growth
    numbers = (
        contrast.increment_square,
        shared.increment_square,
        growth.square,
        growth.product,
        np.nan if growth.deviations is None else growth.deviations,
        products.impact_f,
        *products.impact_products,
        products.n_samples,
        products.moved,
        two_apart,
    )
    parts = (
        contrast.direction_square,
        contrast.direction_increment,
        contrast.feedback,
        growth.impact,
        shared.direction_square,
        shared.direction_increment,
        shared.feedback,
        products.coordinates,
        products.increments,
        products.axis_feedback,
        np.array([tuple(part) for part in products.deviations], dtype=np.float64),
        np.array(numbers, dtype=np.float64),
    )
    return np.concatenate([np.asarray(part, dtype=np.float64).ravel() for part in parts])


def unpack(row: Float[np.ndarray, " number"], shape: Shape) -> tuple[IntervalProducts, float]:
    """Undo `pack`."""
    parts = np.split(row, np.cumsum(shape.lengths)[:-1])
    square, increment, feedback, growth, shared, shared_increment, shared_feedback = parts[:7]
    numbers = dict(zip(NUMBERS, parts[11].tolist(), strict=True))
    of_parts = parts[10].reshape(3, len(PartProducts._fields)).tolist()
    deviations = (PartProducts._make([*values[:-1], int(values[-1])]) for values in of_parts)
    grown = numbers["deviation_growth"]
    products = IntervalProducts(
        contrast=StratumProducts(square, increment, numbers["contrast_increment"], feedback),
        shared=StratumProducts(shared, shared_increment, numbers["shared_increment"], shared_feedback),
        coordinates=parts[7].reshape(shape.n_axes, shape.n_classes),
        increments=parts[8].reshape(shape.n_axes, shape.n_classes),
        axis_feedback=parts[9],
        deviations=DeviationProducts(*deviations),
        growth=GrowthProducts(
            numbers["contrast_size"], numbers["contrast_product"], growth, None if np.isnan(grown) else grown
        ),
        impact_f=numbers["impact_f"],
        impact_products=(numbers["impact_product"], numbers["impact_start"], numbers["impact_end"]),
        n_samples=int(numbers["n_samples"]),
        moved=bool(numbers["moved"]),
    )
    return products, numbers["two_apart"]


class ReducedIntervals:
    """Intervals of a reduced recording; attributes and methods are those of `RecordedIntervals`.

    Raises
    ------
    InputError
        If it does not hold the case, was reduced with other frequencies or another momentum, or is damaged.
    """

    def __init__(
        self,
        recording: Recording,
        layer: str,
        impact: str,
        group: Grouping,
        steps: Int[np.ndarray, " record"],
        times: Float[np.ndarray, " record"],
        frequencies: Sequence[float] | Float[np.ndarray, " class_"] | None,
        momentum: MomentumFilter | None,
    ) -> None:
        self._case = recording.reduced(layer, impact, group, momentum is not None)
        self.classes, self.groups, self.sizes = np.unique(
            recording.probe_labels(group), return_inverse=True, return_counts=True
        )
        self.layers = [layer]
        self._steps, self._times, self._where = steps, times, f"{recording.path}: a reduced recording"
        self._missing = MissingCounter(self.groups, len(self.classes), steps)
        self.mean_square: list[float] = []
        recorded = class_frequencies(recording, group)
        same = recorded is frequencies is None or (
            recorded is not None and frequencies is not None and np.allclose(recorded, frequencies)
        )
        if not same:
            raise InputError(
                f"{self._where} holds impacts weighted by the frequencies recorded in it; leave out "
                f"--class-frequencies, or {REDUCED_AGAIN}"
            )
        if momentum is not None and momentum.momentum != self._case.momentum:
            raise InputError(
                f"{self._where} holds impacts filtered by a momentum of {self._case.momentum}, but {momentum.momentum} "
                f"is recorded; use --drive instantaneous, or {REDUCED_AGAIN}"
            )
        case, n_classes = self._case, len(self.classes)
        self._shape = Shape(case.n_contrast, case.n_shared, case.n_axes, n_classes)
        if case.class_means.shape[1] != n_classes or case.products.shape[1] != sum(self._shape.lengths):
            raise InputError(f"{self._where} whose statistics have another shape than its classes; {REDUCED_AGAIN}")

    def __iter__(self) -> Iterator[Interval]:
        """Read all records in order, and yield the intervals between them that can be used."""
        case, times = self._case, self._times
        self.mean_square.append(float(case.mean_square[0]))
        before = self._finite(case.class_means[0])
        for record in range(1, len(times)):
            self.mean_square.append(float(case.mean_square[record]))
            after = self._finite(case.class_means[record])
            if times[record] <= times[record - 1]:
                self._missing.add_standing(record - 1)
            elif self._follows_restart(record):
                self._missing.add_restart(record - 1)
            else:
                products, two_apart = self._products(record)
                driven = record - 1 if case.momentum is None else record
                impact, mean_impact = (self._finite(part[driven]) for part in (case.impact, case.mean_impact))
                yield Interval(
                    record - 1,
                    products,
                    ClassMeanMovement.between(before, after, impact, mean_impact),
                    len(self.groups),
                    two_apart,
                    partial(self._moved_along, record),
                )
            before = after

    def _products(self, record: int) -> tuple[IntervalProducts, float]:
        """Return the products of the interval that ends at a record, and ``two_apart``."""
        products, two_apart = unpack(self._case.products[record], self._shape)
        following = record + 1
        if self._case.momentum is None or following == len(self._times) or self._follows_restart(following):
            return products, two_apart
        earlier, drive, later = (self._finite(impact) for impact in self._case.impact[record - 1 : record + 2])
        squares = float(np.vdot(drive, drive)), float(np.vdot(later, later))
        return replace(products, impact_products=(float(np.vdot(drive, later)), *squares)), float(
            np.vdot(earlier, later)
        )

    def _follows_restart(self, record: int) -> bool:
        """Whether the interval that ends at a record is unknown: it is over no samples."""
        n_samples = self._case.products[record, NUMBERS.index("n_samples") - len(NUMBERS)]
        if n_samples not in (0, len(self.groups)):
            raise InputError(
                f"{self._where} whose statistics are of {n_samples} of {len(self.groups)} samples at step "
                f"{self._steps[record]}; {REDUCED_AGAIN}"
            )
        return bool(n_samples == 0)

    def _moved_along(self, record: int) -> Float[np.ndarray, " sample"]:
        return self._case.moved_along[record].astype(np.float64)

    def missing(self) -> MissingData:
        """Return what was missing from the records read: no samples, since none may be when a recording is reduced."""
        return self._missing.result()

    @property
    def ends_empty(self) -> bool:
        """Whether the last record read holds no sample at all."""
        return False

    def _finite(self, values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        if not np.isfinite(values).all():
            raise InputError(f"{self._where} whose class means are not finite; {REDUCED_AGAIN}")
        return values
