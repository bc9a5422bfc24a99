"""Keep the time that recording takes below a share of the time that training takes."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from data_tools.errors import InputError


class TimeBudget:
    """Postpone bursts so that recording never takes more than a share of the time of training.

    A burst starts when the recording so far and the burst itself, at the mean time its records took until now, stay
    within the share of the training time so far. One that is due earlier waits until then; a burst that falls due
    meanwhile is merged with it. Time that is not used is saved for later. Which steps are recorded thus depends on the
    machine, and differs from run to run.

    Parameters
    ----------
    share
        Time of recording over time of training, above 0 and at most 1.
    burst
        Records that belong together; a burst that has started is completed.
    clock
        Returns the time now, in seconds.

    Raises
    ------
    InputError
        If the share is out of range.
    """

    def __init__(self, share: float, burst: int, clock: Callable[[], float] = time.perf_counter) -> None:
        if not 0 < share <= 1:
            raise InputError(f"time_budget={share}: give the share of training time, above 0 and at most 1")
        self._share, self._burst, self._clock = share, burst, clock
        self._cost = 0.0  # of a record: an estimate
        self._recording, self._n_records = 0.0, 0
        self._training = 0.0
        self._since: float | None = None
        self._waiting = self._is_late = False
        self._left = burst - 1  # of the burst that starts at step 0

    def start_training(self) -> None:
        """Take note that training goes on from now."""
        self._since = self._clock()

    def stop_training(self) -> None:
        """Take note that training has stopped for the recorder."""
        if self._since is not None:
            self._training += self._clock() - self._since
            self._since = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do something else than training inside."""
        self.stop_training()
        try:
            yield
        finally:
            self.start_training()

    @contextmanager
    def resumed(self) -> Iterator[None]:
        """Within `paused`, do what belongs to training inside."""
        self.start_training()
        try:
            yield
        finally:
            self.stop_training()

    def spend(self, seconds: float, *, within: bool = True) -> None:
        """Take note of the time of a record; outside the budget it serves as an estimate only, as at step 0."""
        if within:
            self._recording += seconds
            self._n_records += 1
            self._cost = self._recording / self._n_records
        else:
            self._cost = seconds

    def admits(self, due: bool) -> bool:
        """Tell, while training has stopped, whether to record now; to be asked once at every step.

        Parameters
        ----------
        due
            Whether the schedule wants it.
        """
        if self._left and (due or self._is_late):
            self._left -= 1
            return True
        self._left = 0
        self._is_late = self._waiting
        self._waiting = self._waiting or due
        if not self._waiting or self._recording + self._burst * self._cost > self._share * self._training:
            return False
        self._waiting, self._left = False, self._burst - 1
        return True
