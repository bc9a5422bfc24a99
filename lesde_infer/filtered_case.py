"""What is kept of a case whose impacts are filtered by the memory of momentum, record after record.

What drives an interval is known only when it has ended, for it depends on how many steps it takes
(`lesde_infer.momentum`). So at each record the drive of the interval that ends there is made from the impacts at the
record before, and rows are of that interval. Products of what drives two intervals, which tell how long impacts
persist, need that which starts at the record as well. They are kept as they are if the record is the last, where the
length of the interval before stands for that of the next; where it is not, they are products of the impacts in this row
and in the next (`lesde_infer.reduced_intervals`).

tests/lesde_infer/test_filtered_reduction.py holds statistics against those of whole recordings.
"""

import numpy as np
from jaxtyping import Float, Int

from data_tools.reduced_records import Rows
from lesde_infer.interval_products import ClassMeanMovement, IntervalProducts
from lesde_infer.momentum import Velocity
from lesde_infer.probe_sampling import moved_along
from lesde_infer.reduced_intervals import Shape, pack
from lesde_infer.snapshots import Snapshot


class FilteredCase:
    """Reduces records, given what is made of them without a filter.

    Parameters
    ----------
    momentum : float
        m.
    first : Snapshot
        Of any record.
    groups : array, shape (sample,)
        Class of each sample.
    shape : Shape
        Of the products.
    """

    def __init__(self, momentum: float, first: Snapshot, groups: Int[np.ndarray, " sample"], shape: Shape) -> None:
        self.momentum = momentum
        self._velocity, self._groups, self._shape = Velocity(momentum), groups, shape
        self._memory = (2, *first.impacts.values.shape)
        self._step = 0
        self._none = np.zeros_like(first.class_means)
        self._earlier = self._none

    def shapes(self) -> dict[str, tuple[tuple[int, ...], np.dtype[np.floating]]]:
        """Return the shape and type of one record of each array."""
        double = np.dtype(np.float64)
        return {
            "impact": (self._none.shape, double),
            "mean_impact": (self._none.shape[1:], double),
            "moved_along": (self._groups.shape, np.dtype(np.float32)),
            "products": ((sum(self._shape.lengths),), double),
            "memory": (self._memory, double),
        }

    def go_on(self, step: int, rows: dict[str, Rows]) -> None:
        """Go on behind the record of a step, given the last rows up to it."""
        self._velocity.restore(step, *rows["memory"][-1])
        self._step, self._earlier = step, rows["impact"][-1]

    def add(
        self, step: int, before: Snapshot | None, after: Snapshot, products: IntervalProducts | None
    ) -> dict[str, Float[np.ndarray, "*shape"]]:
        """Return the arrays of a record, given the products of the interval since the one before if that is known."""
        velocity, n_steps = self._velocity, step - self._step
        if before is None or products is None:
            velocity.show(step, after.impacts.values)
            impact, mean_impact, moved = self._none, self._none[0], np.zeros(len(self._groups))
            row = np.zeros(sum(self._shape.lengths))
        else:
            directions = before.impacts.driving(*velocity.drive(n_steps))
            velocity.show(step, after.impacts.values)
            end = after.impacts.driving(*velocity.drive(n_steps)).impact
            impact, mean_impact = directions.impact, directions.mean_impact
            movement = ClassMeanMovement.between(before.class_means, after.class_means, impact, mean_impact)
            row = pack(products.along(directions, movement, end), float(np.vdot(self._earlier, end)))
            moved = moved_along(before.features, after.features, impact, self._groups)
        self._step, self._earlier = step, impact
        return {
            "impact": impact,
            "mean_impact": mean_impact,
            "moved_along": moved,
            "products": row,
            "memory": np.stack([velocity.remembered, velocity.impacts]),
        }
