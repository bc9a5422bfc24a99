"""The stretch of a record that is simulated again, where some of its intervals were dropped from the fit.

A path runs from the start of the first fitted interval to the end of the last, through intervals that were dropped
between them (`lesde_infer.missing`). Nothing was inferred of these: their rates, and their noise per square root of
time, are those of the fitted intervals before and after, linear in time between their midpoints, draw by draw. Where no
time passes between records nothing moves, and they are one point of the path.

tests/lesde_infer/test_replication_path.py checks the interpolation, and paths across a gap against the whole run's.
"""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from lesde_infer.common_growth import GrowthCoupling
from lesde_infer.interval_rates import IntervalRates

if TYPE_CHECKING:
    from lesde_infer.fit_result import Fit


@dataclass(frozen=True)
class ReplicationPath:
    """Points in time that a path passes.

    Attributes
    ----------
    first_record : int
        Record at which paths start.
    places : array, shape (record,)
        Point of the path at each record from the first on.
    lengths : array, shape (interval,)
        Length of each interval between points, in the fit's unit of time; all are positive.
    last_records : array, shape (point,)
        The last record at each point.
    fitted : array, shape (time,)
        Interval of the path that each fitted interval is.
    """

    first_record: int
    places: Int[np.ndarray, " record"]
    lengths: Float[np.ndarray, " interval"]
    last_records: Int[np.ndarray, " point"]
    fitted: Int[np.ndarray, " time"]

    @classmethod
    def of(cls, fit: "Fit") -> "ReplicationPath":
        """Return the path of a fit."""
        starts = fit.interval_starts
        first, last = int(starts[0]), int(starts[-1]) + 1
        times = fit.times[first : last + 1]
        passes = np.diff(times) > 0
        places = np.concatenate([[0], np.cumsum(passes)])
        last_records = first + np.concatenate([np.flatnonzero(passes), [len(passes)]])
        return cls(first, places, np.diff(times)[passes], last_records, places[starts - first])

    def place(self, record: int) -> int:
        """Return the point of the path at a record of the run."""
        return int(self.places[record - self.first_record])

    def coupling(self, fit: "Fit") -> GrowthCoupling | None:
        """Return how contrasts follow deviations in each interval; None where nothing is known of it."""
        growth = fit.common_growth
        found = None if growth is None else growth.replicated(fit.n_steps, self.lengths[self.fitted])
        return None if found is None else found.along(self.fitted, self.lengths)

    def across_gaps(self, rates: IntervalRates) -> IntervalRates:
        """Return what drives each interval of the path, given what drives the fitted ones."""
        if len(self.fitted) == len(self.lengths):
            return rates
        middles = np.cumsum(self.lengths) - self.lengths / 2
        known = middles[self.fitted]
        right = np.clip(np.searchsorted(known, middles), 1, len(known) - 1)  # the path starts and ends with fitted ones
        share = (middles - known[right - 1]) / (known[right] - known[right - 1])

        def between(values: Float[np.ndarray, "draw time *shape"]) -> Float[np.ndarray, "draw interval *shape"]:
            weight = share.reshape(1, -1, *[1] * (values.ndim - 2))
            filled = (1 - weight) * values[:, right - 1] + weight * values[:, right]
            filled[:, self.fitted] = values  # not even rounded
            return filled

        roots = np.sqrt(self.lengths)
        filled: dict[str, Any] = {}
        for field in fields(rates):
            values = getattr(rates, field.name)
            if values is None or field.name.endswith("_dof"):
                filled[field.name] = values
            elif "_sd" in field.name:
                filled[field.name] = between(values / roots[self.fitted]) * roots
                filled[field.name][:, self.fitted] = values
            else:
                filled[field.name] = between(values)
        return IntervalRates(**filled)
