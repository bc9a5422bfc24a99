"""What a recording lacks: samples without features at some records, and the intervals that cannot be used for it.

A sample is missing at a record if all its features are NaN there. It is left out, never imputed:

- a sample enters an interval only if both of its ends hold it, so that class means at both ends are over the same
  samples, and their increment is that of samples, not of who was there;
- the impacts at an interval's start are class means over all samples that the record holds;
- an interval with fewer than two such samples of some class is dropped: nothing is said of the time it spans. A class
  that appears late drops all intervals before, and a record that is missing as a whole the two around it, which are
  not joined to one longer interval, since what relaxes within it would be lost.

Intervals in which time stands still (a learning rate of zero) are dropped too: no rate per unit of time is defined.
So are those of reduced recordings in which training was broken off, and resumed elsewhere than at a record: the
features of all samples at their start are lost (`data_tools.resumed_reduction`).

tests/lesde_infer/test_missing.py compares with recordings from which the missing samples were taken out by hand.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Int


@dataclass(frozen=True)
class MissingData:
    """How much of a recording is missing, up to the last record that was used.

    Attributes
    ----------
    n_missing_samples : int
        Features of a sample at a record that are missing, counted once for each sample and record.
    n_records_with_missing : int
        Records at which a sample is missing.
    missing_by_class : tuple of int
        `n_missing_samples` by class.
    n_dropped_intervals : int
        Intervals left out because some class has fewer than two samples that both ends hold.
    dropped_by_class : tuple of int
        Of these, those in which the class has fewer than two.
    n_standing_intervals : int
        Intervals left out because no time passes in them.
    start_step, stop_step : int
        First and last step of a record with missing samples or an end of a dropped interval; −1 if there is none.
    n_restarted_intervals : int
        Intervals left out because training was resumed in them.
    """

    n_missing_samples: int
    n_records_with_missing: int
    missing_by_class: tuple[int, ...]
    n_dropped_intervals: int
    dropped_by_class: tuple[int, ...]
    n_standing_intervals: int
    start_step: int
    stop_step: int
    n_restarted_intervals: int = 0

    @property
    def n_left_out(self) -> int:
        """Number of intervals that were left out, for whatever reason."""
        return self.n_dropped_intervals + self.n_standing_intervals + self.n_restarted_intervals

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing and no interval was left out."""
        return self.start_step < 0

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers and lists."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "MissingData":
        """Undo `to_json`."""
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in found.items()}
        return cls(**values)

    @property
    def sentence(self) -> str:
        """Say in a line what is missing, and what was left out for it."""
        parts = []
        if self.n_missing_samples:
            classes = ", ".join(f"class {k}: {n}" for k, n in enumerate(self.missing_by_class) if n)
            parts.append(
                f"features of samples are missing {self.n_missing_samples} times, at {self.n_records_with_missing} "
                f"records ({classes}), and were left out"
            )
        if self.n_dropped_intervals:
            classes = ", ".join(f"{k}" for k, n in enumerate(self.dropped_by_class) if n)
            parts.append(
                f"{_dropped(self.n_dropped_intervals)}, both ends of which hold fewer than two samples in common of "
                f"class {classes}"
            )
        if self.n_standing_intervals:
            parts.append(f"{_dropped(self.n_standing_intervals)}, in which no time passes (learning rate 0)")
        if self.n_restarted_intervals:
            parts.append(
                f"{_dropped(self.n_restarted_intervals)}, in which training was resumed: the reduced recording does "
                "not hold the features of all samples that it starts from"
            )
        return "; ".join(parts) or "nothing is missing"


def _dropped(count: int) -> str:
    return "1 interval was dropped" if count == 1 else f"{count} intervals were dropped"


class MissingCounter:
    """Counts what is missing while records and intervals are read in order."""

    def __init__(self, groups: Int[np.ndarray, " sample"], n_classes: int, steps: Int[np.ndarray, " record"]) -> None:
        self._sizes, self._steps = np.bincount(groups, minlength=n_classes), steps
        self._missing = np.zeros((len(steps), n_classes), dtype=np.int64)
        self._lacking = np.zeros((len(steps) - 1, n_classes), dtype=bool)
        self._standing, self._restarted = np.zeros((2, len(steps) - 1), dtype=bool)

    def add_record(self, record: int, held: Int[np.ndarray, " class_"]) -> None:
        """Count the samples that a record lacks, given those of each class that it holds."""
        self._missing[record] = self._sizes - held

    def add_dropped(self, interval: int, common: Int[np.ndarray, " class_"], minimum: int) -> None:
        """Note an interval that is dropped for want of samples that both ends hold, given those of each class."""
        self._lacking[interval] = common < minimum

    def add_standing(self, interval: int) -> None:
        """Note an interval in which no time passes."""
        self._standing[interval] = True

    def add_restart(self, interval: int) -> None:
        """Note an interval in which training was resumed, and that is unknown for it."""
        self._restarted[interval] = True

    def result(self) -> MissingData:
        """Return the counts."""
        dropped = self._lacking.any(axis=1)
        gone = np.flatnonzero(dropped | self._standing | self._restarted)
        records = np.unique(np.concatenate([np.flatnonzero(self._missing.any(axis=1)), gone, gone + 1]))
        return MissingData(
            n_missing_samples=int(self._missing.sum()),
            n_records_with_missing=int(np.count_nonzero(self._missing.any(axis=1))),
            missing_by_class=tuple(self._missing.sum(axis=0).tolist()),
            n_dropped_intervals=int(np.count_nonzero(dropped)),
            dropped_by_class=tuple(self._lacking.sum(axis=0).tolist()),
            n_standing_intervals=int(np.count_nonzero(self._standing)),
            start_step=int(self._steps[records[0]]) if records.size else -1,
            stop_step=int(self._steps[records[-1]]) if records.size else -1,
            n_restarted_intervals=int(np.count_nonzero(self._restarted)),
        )
