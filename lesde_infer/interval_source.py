"""One interval of a record, as statistics take it in."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from lesde_infer.interval_products import ClassMeanMovement, IntervalProducts


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
