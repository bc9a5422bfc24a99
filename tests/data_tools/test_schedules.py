"""Schedules record what they say, within their bounds, and what follows from records alone."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools import InputError
from data_tools.schedules import (
    AdaptiveSchedule,
    EverySteps,
    LogarithmicSchedule,
    check_fires,
    count_records,
    is_recorded,
)
from data_tools.time_budget import TimeBudget

few = settings(max_examples=60, deadline=None)


def recorded(schedule, n_steps):
    return [step for step in range(n_steps + 1) if step == 0 or schedule(step)]


def starts_of(steps):
    """Return the first of each run of consecutive steps."""
    return [step for step in steps if step - 1 not in set(steps)]


def run_adaptive(schedule, path, n_steps, room=None, planned_steps=None):
    """Return the steps recorded on a path of class states, a function of the step."""
    course = schedule.begin(room, planned_steps)
    steps = []
    for step in range(n_steps + 1):
        if course.is_due(step):
            course.observe(step, np.asarray(path(step), dtype=float))
            steps.append(step)
    return steps


def sigmoid(step, middle, width):
    return 1 / (1 + np.exp(-(step - middle) / width))


def test_bursts():
    assert [step for step in range(103) if is_recorded(step, 50, 2)] == [0, 1, 50, 51, 100, 101]
    assert recorded(EverySteps(50, 2), 102) == [0, 1, 50, 51, 100, 101]
    assert recorded(EverySteps(10, 2, start=25), 50) == [0, 25, 26, 35, 36, 45, 46]


@few
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 90), st.integers(1, 200))
def test_every_so_many_steps(burst, more, start, n_steps):
    schedule = EverySteps(burst + more, burst, start)
    steps = recorded(schedule, n_steps)
    assert count_records(schedule, n_steps) == len(steps)
    assert all(step == 0 or (step - start) % (burst + more) < burst for step in steps)


def test_logarithmic_steps():
    assert recorded(LogarithmicSchedule(per_decade=1, burst=2), 1500) == [0, 1, 2, 10, 11, 100, 101, 1000, 1001]
    bounded = LogarithmicSchedule(per_decade=2, burst=1, largest_gap=50)
    assert recorded(bounded, 200) == [0, 1, 3, 10, 31, 81, 131, 181]


@few
@given(st.floats(1, 60), st.integers(1, 4), st.one_of(st.none(), st.integers(4, 300)), st.integers(1, 20_000))
def test_logarithmic_gaps_grow_in_proportion_up_to_the_largest(per_decade, burst, largest_gap, n_steps):
    schedule = LogarithmicSchedule(per_decade, burst, largest_gap)
    steps = recorded(schedule, n_steps)
    assert count_records(schedule, n_steps) == len(steps)
    starts = starts_of(steps)[1:]
    growth = 10 ** (1 / per_decade)
    for before, after in pairwise(starts):
        # A burst that touches the next hides its start, but then nothing is missed.
        silent = after - max(step for step in steps if step < after)
        assert silent <= before * (growth - 1) * growth**burst + burst + 1 or silent <= 1 + burst
        if largest_gap is not None:
            assert silent <= largest_gap


def test_a_movement_is_recorded_densely_and_rest_seldom():
    schedule = AdaptiveSchedule(target=0.02, least=2, most=200, burst=2)
    steps = np.array(run_adaptive(schedule, lambda step: [[sigmoid(step, 5000, 150)], [1.0]], 10_000))
    before, moving, after = (
        np.count_nonzero((steps >= lowest) & (steps < lowest + 1000)) for lowest in (3000, 4500, 9000)
    )
    assert before <= 12
    assert after <= 12
    assert moving > 4 * before
    assert moving > 3 * len(steps) * 1000 / 10_000  # as many as that evenly spaced records would have left there
    # Where it moves, it moves by about the target from burst to burst.
    starts = np.array([step for step in starts_of(steps) if 4600 <= step < 5400])
    moved = np.diff([sigmoid(step, 5000, 150) for step in starts]) / np.sqrt(2)
    assert 0.01 < np.median(moved) < 0.03


def test_the_interval_follows_the_formula():
    schedule = AdaptiveSchedule(target=0.1, least=8, most=100, burst=1)
    course = schedule.begin(None, None)
    course.observe(0, np.array([[1.0], [0.0]]))
    assert course.next_burst == 8
    course.observe(8, np.array([[1.0], [0.0]]))  # at rest: twice as long
    assert course.next_burst == 8 + 16
    course.observe(24, np.array([[1.0], [0.125]]))  # moved by 1/8 of √(1 + 1/64)
    assert course.next_burst == 24 + round(16 * 0.1 / (0.125 / np.sqrt(1 + 1 / 64)))
    previous = course.next_burst - 24
    course.observe(course.next_burst, np.array([[-1.0], [0.125]]))  # far more than aimed at: half as long
    assert course.next_burst == 24 + previous + max(8, round(previous / 2))


def test_what_is_not_finite_is_recorded_seldom():
    schedule = AdaptiveSchedule(least=10, most=160, burst=1)
    steps = run_adaptive(schedule, lambda step: [[np.nan if step > 50 else step / 10]], 2000)
    assert np.diff(steps)[-3:].tolist() == [160] * 3


walks = st.lists(st.floats(-10, 10), min_size=40, max_size=40)


@few
@given(
    walks,
    st.floats(1e-3, 1),
    st.integers(1, 4),
    st.integers(0, 20),
    st.integers(0, 60),
    st.one_of(st.none(), st.integers(0, 40)),
    st.booleans(),
)
def test_adaptive_bounds_hold_whatever_happens(walk, target, burst, more, still_more, spare_bursts, planned):
    n_steps = 400
    least, most = burst + more, burst + more + still_more
    needed = max(2, 1 + int(np.ceil(n_steps / most)))
    max_records = None if spare_bursts is None else burst * (needed + spare_bursts)
    schedule = AdaptiveSchedule(target, least, most, burst, max_records=max_records)

    def path(step):
        return [[walk[step // 10 % 40] * (step % 10)], [walk[(step + 7) % 40]]]

    steps = run_adaptive(schedule, path, n_steps, planned_steps=n_steps if planned else None)
    assert steps == run_adaptive(schedule, path, n_steps, planned_steps=n_steps if planned else None)
    assert max_records is None or len(steps) <= max_records
    assert len(steps) <= count_records(schedule, n_steps)
    firsts = steps[::burst]  # bursts may touch
    gaps = np.diff(firsts)
    assert np.all(gaps >= least)
    assert np.all(gaps <= most)
    if planned or max_records is None:
        assert n_steps - firsts[-1] <= most  # the end of the run is not lost


def test_a_file_may_bound_the_records():
    schedule = AdaptiveSchedule(least=2, most=500, burst=2, max_bytes=10**6)
    steps = run_adaptive(schedule, lambda step: [[step % 3]], 1000, room=11)
    assert len(steps) == 10
    with pytest.raises(InputError, match="leave room for 3 records, less than two bursts of 2"):
        schedule.begin(3, None)
    with pytest.raises(InputError, match="room for 5 bursts, but 5000 steps at intervals of at most 500 need 11"):
        schedule.begin(11, 5000)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EverySteps(1, 2), "every=1 and burst=2"),
        (lambda: EverySteps(5, 0), "burst=0"),
        (lambda: EverySteps(5, 1, start=-1), "start=-1"),
        (lambda: LogarithmicSchedule(0.5), "per_decade=0.5"),
        (lambda: LogarithmicSchedule(float("nan")), "per_decade=nan"),
        (lambda: LogarithmicSchedule(burst=0), "burst=0"),
        (lambda: LogarithmicSchedule(burst=3, largest_gap=2), "largest_gap=2 and burst=3"),
        (lambda: AdaptiveSchedule(target=0), "target=0"),
        (lambda: AdaptiveSchedule(target=float("nan")), "target=nan"),
        (lambda: AdaptiveSchedule(least=1), "burst=2, least=1"),
        (lambda: AdaptiveSchedule(least=20, most=10), "least=20 and most=10"),
        (lambda: AdaptiveSchedule(max_records=0), "max_records=0"),
        (lambda: AdaptiveSchedule(max_bytes=-1), "max_bytes=-1"),
    ],
)
def test_bounds_that_cannot_be(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize(
    ("schedule", "planned_steps", "message"),
    [
        (lambda step: False, 100, "none of the planned 100 steps but step 0"),
        (EverySteps(10, 1, start=200), 100, "none of the planned 100 steps"),
        (EverySteps(2_000_000, 1), None, "none of the first 1000000 steps"),
        (AdaptiveSchedule(least=200, most=300, burst=1), 100, "none of the planned 100 steps"),
        ("often", 100, "'often' is neither a function of the step"),
        (EverySteps(), 0, "planned_steps=0"),
    ],
)
def test_schedules_that_never_fire_are_refused(schedule, planned_steps, message):
    with pytest.raises(InputError, match=message):
        check_fires(schedule, planned_steps)


def test_a_schedule_that_fires_late_is_accepted():
    check_fires(EverySteps(10, 1, start=200), 201)
    check_fires(lambda step: step == 100, 100)
    check_fires(AdaptiveSchedule(), None)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def run_budget(share, schedule, n_steps, cost, burst):
    """Return the steps recorded where training takes a second a step, and records what `cost` says.

    At every step, the budget may be exceeded by the burst under way only, and nothing due is left out that fits.
    """
    clock = Clock()
    budget = TimeBudget(share, burst, clock)
    budget.spend(cost(0), within=False)
    budget.start_training()
    steps, spent = [0], 0.0
    for step in range(1, n_steps + 1):
        clock.now += 1.0
        budget.stop_training()
        due = bool(schedule(step))
        if budget.admits(due):
            clock.now += cost(step)
            budget.spend(cost(step))
            spent += cost(step)
            steps.append(step)
        elif due:
            mean = spent / (len(steps) - 1) if len(steps) > 1 else cost(0)
            assert spent + burst * mean > share * step - 1e-9
        assert spent <= share * step + burst * cost(step) + 1e-9
        budget.start_training()
    return steps


@few
@given(st.floats(0.01, 1), st.integers(1, 4), st.integers(1, 20), st.floats(1e-3, 3))
def test_recording_stays_within_its_share_of_time(share, burst, more, cost):
    steps = run_budget(share, EverySteps(burst + more, burst), 600, lambda step: cost, burst)
    assert len(steps) * cost <= share * 600 + (burst + 1) * cost


def test_a_budget_that_suffices_changes_nothing():
    for schedule in (EverySteps(2, 2), EverySteps(7, 3), EverySteps(5, 1)):
        steps = run_budget(1, schedule, 100, lambda step: 1e-6, schedule.burst)
        assert steps == recorded(schedule, 100)


def test_postponed_bursts_are_complete_and_merged():
    steps = run_budget(0.1, EverySteps(10, 2), 400, lambda step: 1.0, 2)
    starts = starts_of(steps)
    assert steps == sorted({step + later for step in starts for later in (0, 1)} - {401})
    assert np.diff(starts).min() >= 20
    assert 18 <= len(starts) <= 21


def test_records_that_grow_dearer_are_noticed():
    steps = run_budget(0.1, EverySteps(5, 1), 1000, lambda step: 0.1 if step < 500 else 5.0, 1)
    late = [step for step in steps if step >= 500]
    assert 8 <= len(late) <= 19


@pytest.mark.parametrize("share", [0, -1, 1.5, float("nan")])
def test_shares_that_cannot_be(share):
    with pytest.raises(InputError, match="time_budget="):
        TimeBudget(share, 2)
