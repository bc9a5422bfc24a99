"""What is made of each record, and of the interval that ends there: all that does not depend on a choice of time."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int

from lesde_infer.interval_products import ClassMeanMovement, IntervalProducts
from lesde_infer.probe_sampling import moved_along
from lesde_infer.snapshots import Snapshot, SnapshotReader


def nothing() -> Float[np.ndarray, " sample"]:
    """Return how far samples move where there is no interval."""
    return np.zeros(0)


class IntervalRow(NamedTuple):
    """One record, and the interval that ends there.

    Attributes
    ----------
    record : int
    mean_square : float
        Mean of all squared features of the record; NaN where some class has fewer than two samples.
    held : array, shape (class,)
        Samples of each class that the record holds.
    common : array, shape (class,)
        Samples of each class that it and the record before hold.
    products : IntervalProducts or None
        None for the first record, and where some class has fewer than two samples in common.
    movement : ClassMeanMovement or None
        None where ``products`` are.
    impact : array, shape (class, feature), or None
        Contrasts of the impact at the record before; None where nothing could be made of that.
    two_apart : float
        Product of the contrasts of the impact here and two records before; 0 without one.
    moved_along : function
        Returns how far each sample moves along the impact of its class (`lesde_infer.probe_sampling`); to be called
        before the next row is asked for.
    """

    record: int
    mean_square: float
    held: Int[np.ndarray, " class_"]
    common: Int[np.ndarray, " class_"]
    products: IntervalProducts | None = None
    movement: ClassMeanMovement | None = None
    impact: Float[np.ndarray, "class_ feature"] | None = None
    two_apart: float = 0.0
    moved_along: Callable[[], Float[np.ndarray, " sample"]] = nothing


MeasureRows: TypeAlias = Callable[
    [SnapshotReader, int, int | None, Float[np.ndarray, "class_ feature"] | None], Iterator[IntervalRow]
]
"""`measured_rows`, or what gives the same rows."""


def measured_rows(
    reader: SnapshotReader,
    n_records: int,
    known: int | None = None,
    earlier: Float[np.ndarray, "class_ feature"] | None = None,
) -> Iterator[IntervalRow]:
    """Read records in order and yield what is made of them: of all, or of those after the last that is ``known``.

    ``earlier`` are the contrasts of the impact at the record before that.
    """

    def count(samples: Bool[np.ndarray, " sample"]) -> Int[np.ndarray, " class_"]:
        return np.bincount(reader.groups[samples], minlength=reader.n_classes)

    start = 0 if known is None else known
    held, before = reader.read(start)
    if known is None:
        yield IntervalRow(0, _mean_square(before), count(held), count(held))
    for record in range(start + 1, n_records):
        held_before, (held, after) = held, reader.read(record)
        common = held_before & held
        average = reader.average_over(common)
        impact = None if before is None else before.contrast
        row = IntervalRow(record, _mean_square(after), count(held), count(common), impact=impact)
        if average is not None and before is not None and after is not None:
            products, movement = IntervalProducts.between(before, after, average, common)
            row = row._replace(
                products=products,
                movement=movement,
                two_apart=float(np.vdot(earlier, after.contrast)) if earlier is not None else 0.0,
                moved_along=partial(moved_along, before.features, after.features, before.contrast, reader.groups),
            )
        yield row
        earlier, before = impact, after


def _mean_square(found: Snapshot | None) -> float:
    return np.nan if found is None else found.mean_square
