"""When to record: schedules that a `data_tools.FeatureRecorder` takes.

Steps are counted by updates of the optimizer; step 0, before the first update, is always recorded. A schedule is any
function of the step alone that tells whether it is recorded (it may be asked about a step more than once), or one of
the classes here. These record in bursts of consecutive steps, which show how features move before the residuals have
relaxed, as increments over long intervals cannot.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from jaxtyping import Float

from data_tools.errors import InputError

HORIZON = 1_000_000
"""A schedule that has not fired after this many steps is taken to be a mistake, where no number of steps is planned."""


def is_recorded(step: int, every: int, burst: int) -> bool:
    """Tell whether a step is recorded: the first `burst` steps of every `every`.

    With ``every=50, burst=2`` these are 0, 1, 50, 51, 100, …
    """
    return step % every < burst


@dataclass(frozen=True)
class EverySteps:
    """Record the first `burst` steps of every `every`, see `is_recorded`.

    Attributes
    ----------
    every, burst
        Steps from burst to burst, and in a burst.
    start
        The first step to record, apart from step 0; bursts are counted from here.

    Raises
    ------
    InputError
        If a burst has no steps, or does not fit into `every`, or `start` is negative.
    """

    every: int = 50
    burst: int = 2
    start: int = 0

    def __post_init__(self) -> None:
        if self.burst < 1 or self.every < self.burst:
            raise InputError(
                f"every={self.every} and burst={self.burst}: a burst has at least one step and fits into `every`"
            )
        if self.start < 0:
            raise InputError(f"start={self.start}: steps are counted from 0")

    def __call__(self, step: int) -> bool:
        """Tell whether a step is recorded."""
        return step >= self.start and is_recorded(step - self.start, self.every, self.burst)


@dataclass(frozen=True)
class LogarithmicSchedule:
    """Record bursts that are evenly spaced in the logarithm of the step: densely at first, then ever more sparsely.

    Bursts start at steps ⌊10^(j / per_decade)⌋, j = 0, 1, …, as long as these are at most `largest_gap` apart, and
    from there on at intervals of `largest_gap`.

    Attributes
    ----------
    per_decade
        Bursts while the step grows tenfold.
    burst
        Steps in a burst; early bursts overlap, and all steps are recorded there.
    largest_gap
        Most steps from the start of a burst to the start of the next. None: they grow without bound.

    Raises
    ------
    InputError
        If a burst has no steps, or does not fit into `largest_gap`, or `per_decade` is not from 1 to 1000.
    """

    per_decade: float = 20
    burst: int = 2
    largest_gap: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.per_decade <= 1000:
            raise InputError(f"per_decade={self.per_decade}: give the bursts while steps grow tenfold, from 1 to 1000")
        if self.burst < 1:
            raise InputError(f"burst={self.burst}: a burst has at least one step")
        if self.largest_gap is not None and self.largest_gap < self.burst:
            raise InputError(f"largest_gap={self.largest_gap} and burst={self.burst}: a burst must fit into the gap")

    def __call__(self, step: int) -> bool:
        """Tell whether a step is recorded."""
        return step < 1 or step - self._last_start(step) < self.burst

    def _start(self, number: int) -> int:
        return math.floor(10 ** (number / self.per_decade))

    def _last_start(self, step: int) -> int:
        """Return where the last burst up to a step starts."""
        number = math.floor(math.log10(step) * self.per_decade)
        while self._start(number + 1) <= step:  # logarithms are rounded
            number += 1
        while self._start(number) > step:
            number -= 1
        regular = self._first_regular()
        if self.largest_gap is None or regular is None or number < regular:
            return self._start(number)
        return step - (step - self._start(regular)) % self.largest_gap

    def _first_regular(self) -> int | None:
        """Return the number of the first burst after which gaps would be too wide, if that is bounded."""
        if self.largest_gap is None:
            return None
        growth = 10 ** (1 / self.per_decade)
        return max(0, math.ceil(math.log10(self.largest_gap / (growth - 1)) * self.per_decade))

    def count(self, planned_steps: int) -> int:
        """Return how many of the steps from 0 to `planned_steps` are recorded."""
        regular = self._first_regular()
        last = math.ceil(math.log10(planned_steps + 1) * self.per_decade)
        starts = [self._start(number) for number in range(last + 1 if regular is None else min(last, regular) + 1)]
        if self.largest_gap is not None:
            starts += range(starts[-1], planned_steps + 1, self.largest_gap)
        steps = np.unique(np.add.outer(starts, np.arange(self.burst)))
        return 1 + int(np.count_nonzero(steps <= planned_steps))


@dataclass(frozen=True)
class AdaptiveSchedule:
    """Record often while classes move fast, and seldom while they rest.

    Only what records themselves show is used. Let M_b be what the first record of burst b, at step s_b, says of the
    classes: the class means of the residuals onehot(given label) − softmax(logits), with classes by given label; or,
    where no logits are recorded, the class means of the last layer, minus their mean over classes. The movement since
    the last burst, as a fraction of the largest M so far, sets the interval to the next::

        moved_b    = ‖M_b − M_(b−1)‖ / max_(a ≤ b) ‖M_a‖                        (Frobenius norms)
        interval   = (s_b − s_(b−1)) · clip(target / moved_b, 1/2, 2)
        s_(b+1)    = s_b + clip(interval, least, most)

    and s_1 = `least`. A sudden transition is thus noticed one interval late, and a few intervals later recorded
    densely. The schedule is deterministic: the same records give the same schedule.

    The noise of training moves classes as well, however short the interval. Where `target` is below that noise, bursts
    follow each other at `least`; raise it then, or bound the size. (A perceptron on digits, batches of 16: of 3,000
    steps, 136 records were taken at a target of 0.1 and 38 at 0.2; of 4,000 steps, 404 at 0.05.)

    If the size is bounded, no more records than fit are taken, and none after the last complete burst. Where the
    recorder knows how many steps are planned, as many bursts are kept back as the rest of the run needs at intervals of
    `most`, so that the bound is met without losing the end.

    Attributes
    ----------
    target
        Movement from burst to burst to aim at, above 0 and at most 1.
    least, most
        Bounds on the interval, in steps.
    burst
        Steps in a burst.
    max_records
        Most records.
    max_bytes
        Largest file. Measurements of elasticity are taken into account where the number of steps is planned.

    Raises
    ------
    InputError
        If the bounds contradict each other or leave no room for two bursts.
    """

    target: float = 0.1
    least: int = 10
    most: int = 1000
    burst: int = 2
    max_records: int | None = None
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.target <= 1:
            raise InputError(f"target={self.target}: give the fraction to move between bursts, above 0 and at most 1")
        if not 1 <= self.burst <= self.least <= self.most:
            raise InputError(
                f"burst={self.burst}, least={self.least} and most={self.most} must be from 1 on and not decrease"
            )
        for name in ("max_records", "max_bytes"):
            bound = getattr(self, name)
            if bound is not None and bound < 1:
                raise InputError(f"{name}={bound} must be at least 1")

    def begin(self, room: int | None, planned_steps: int | None) -> "AdaptiveCourse":
        """Start on a run.

        Parameters
        ----------
        room
            Records that fit into `max_bytes`; None if that is not given.
        planned_steps
            Steps of the run, where known.

        Raises
        ------
        InputError
            If fewer than two bursts fit, or too few for the planned steps at intervals of `most`.
        """
        bounds = [bound for bound in (self.max_records, room) if bound is not None]
        n_bursts = min(bounds) // self.burst if bounds else None
        if n_bursts is not None and n_bursts < 2:
            raise InputError(
                f"max_records={self.max_records} and max_bytes={self.max_bytes} leave room for {min(bounds)} records, "
                f"less than two bursts of {self.burst}; raise them, or record less"
            )
        needed = 1 + math.ceil((planned_steps or 0) / self.most)
        if n_bursts is not None and n_bursts < needed:
            raise InputError(
                f"max_records={self.max_records} and max_bytes={self.max_bytes} leave room for {n_bursts} bursts, but "
                f"{planned_steps} steps at intervals of at most {self.most} need {needed}; raise `most` or the room"
            )
        return AdaptiveCourse(self, n_bursts, planned_steps)


Schedule: TypeAlias = Callable[[int], bool] | AdaptiveSchedule
"""What a recorder takes as schedule."""


class Course(Protocol):
    """A schedule on a run: asked once at every step, in order, and told what was recorded."""

    @property
    def burst(self) -> int:
        """Records that belong together."""

    def is_due(self, step: int) -> bool:
        """Tell whether a step should be recorded."""

    def observe(self, step: int, classes: Float[np.ndarray, "class_ feature"]) -> None:
        """Take note of a record and of what it says of the classes; also of that of step 0."""


class FixedCourse:
    """A schedule that is a function of the step."""

    def __init__(self, schedule: Callable[[int], bool]) -> None:
        self._schedule = schedule
        self.burst = int(getattr(schedule, "burst", 1))

    def is_due(self, step: int) -> bool:
        """Tell whether a step should be recorded."""
        return bool(self._schedule(step))

    def observe(self, step: int, classes: Float[np.ndarray, "class_ feature"]) -> None:
        """Take no note of what was recorded."""


class AdaptiveCourse:
    """An `AdaptiveSchedule` on a run.

    Attributes
    ----------
    next_burst : int or None
        Step at which the next burst starts; None when there is no room for one.
    """

    def __init__(self, settings: AdaptiveSchedule, n_bursts: int | None, planned_steps: int | None) -> None:
        self._settings, self._bursts_left, self._planned = settings, n_bursts, planned_steps
        self.burst = settings.burst
        self.next_burst: int | None = 0
        self._start: int | None = None
        self._classes: Float[np.ndarray, "class_ feature"] | None = None
        self._largest = 0.0

    def is_due(self, step: int) -> bool:
        """Tell whether a step should be recorded."""
        in_burst = self._start is not None and step < self._start + self.burst
        return in_burst or (self.next_burst is not None and step >= self.next_burst)

    def observe(self, step: int, classes: Float[np.ndarray, "class_ feature"]) -> None:
        """Take note of a record; the first of a burst sets when the next one comes."""
        if self._start is not None and step < self._start + self.burst:
            return
        interval = float(self._settings.least)
        norm = float(np.linalg.norm(classes))
        if math.isfinite(norm):
            self._largest = max(self._largest, norm)
        if self._start is not None and self._classes is not None:
            interval = (step - self._start) * self._change_of_pace(float(np.linalg.norm(classes - self._classes)))
        self._start, self._classes = step, classes
        if self._bursts_left is not None:
            self._bursts_left -= 1
        self.next_burst = self._next(step, round(min(max(interval, self._settings.least), self._settings.most)))

    def _change_of_pace(self, distance: float) -> float:
        # Nothing can be said of features that are not finite, as after training diverged: they are recorded seldom.
        moved = distance / self._largest if self._largest and math.isfinite(distance) else 0.0
        return min(max(self._settings.target / moved, 0.5), 2.0) if moved else 2.0

    def _next(self, step: int, interval: int) -> int | None:
        if self._bursts_left is None:
            return step + interval
        if self._bursts_left == 0:
            return None
        ahead = max((self._planned or 0) - step, 0)
        if self._bursts_left <= math.ceil(ahead / self._settings.most):
            interval = max(interval, math.ceil(ahead / self._bursts_left))
        return step + interval


def check_fires(schedule: Schedule, planned_steps: int | None) -> None:
    """Refuse a schedule that records nothing but step 0 within the planned steps, or within `HORIZON`.

    Raises
    ------
    InputError
        If it does, or is neither a function of the step nor adaptive.
    """
    if planned_steps is not None and planned_steps < 1:
        raise InputError(f"planned_steps={planned_steps} must be at least 1")
    horizon = HORIZON if planned_steps is None else planned_steps
    if isinstance(schedule, AdaptiveSchedule):
        fires = schedule.burst > 1 or schedule.least <= horizon
    elif callable(schedule):
        fires = any(schedule(step) for step in range(1, horizon + 1))
    else:
        raise InputError(f"schedule={schedule!r} is neither a function of the step nor one of data_tools.schedules")
    if not fires:
        planned = "planned" if planned_steps is not None else "first"
        raise InputError(f"the schedule {schedule!r} records none of the {planned} {horizon} steps but step 0")


def count_records(schedule: Schedule, planned_steps: int) -> int:
    """Return how many records a schedule takes of so many steps, step 0 included; of an adaptive one, at most."""
    if isinstance(schedule, AdaptiveSchedule):
        most = (planned_steps // schedule.least + 1) * schedule.burst
        return min(most, schedule.max_records or most, planned_steps + 1)
    if isinstance(schedule, EverySteps):
        before = 1 if schedule.start else 0  # step 0 is recorded in any case
        whole, rest = divmod(max(planned_steps + 1 - schedule.start, 0), schedule.every)
        return before + whole * schedule.burst + min(rest, schedule.burst)
    if isinstance(schedule, LogarithmicSchedule):
        return schedule.count(planned_steps)
    return 1 + sum(bool(schedule(step)) for step in range(1, planned_steps + 1))
