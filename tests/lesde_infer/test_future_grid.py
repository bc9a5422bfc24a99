"""The intervals to come: where a prefix ends, where points lie, what is refused."""

from types import SimpleNamespace

import numpy as np
import pytest

from data_tools.errors import InputError
from lesde_infer.future_grid import future_grid, prefix_end

EVEN = np.arange(0, 1001, 50)
BURSTS = np.sort(np.concatenate([np.arange(0, 1001, 50), np.arange(1, 1002, 50)]))


def recording(steps, time=None):
    return SimpleNamespace(
        path="run.h5", steps=np.asarray(steps), time=np.asarray(steps if time is None else time, float)
    )


@pytest.mark.parametrize(("at", "step"), [(0.3, 300), (0.31, 300), (0.999, 950), (300, 300), (349, 300), (1000, 1000)])
def test_the_prefix_ends_with_the_last_record_up_to_there(at, step):
    found = recording(EVEN)
    assert found.steps[prefix_end(found, at)] == step


def test_a_share_is_of_the_recorded_steps():
    found = recording(EVEN + 5000)
    assert found.steps[prefix_end(found, 0.5)] == 5500


@pytest.mark.parametrize("at", [0, 1, -0.3, np.nan, np.inf])
def test_neither_share_nor_step(at):
    with pytest.raises(InputError, match="give a share of the recorded steps between 0 and 1, or a step"):
        prefix_end(recording(EVEN), at)


@pytest.mark.parametrize("at", [1001, 1e9])
def test_after_the_record(at):
    with pytest.raises(InputError, match=r"run.h5: at step .* lies outside the record, steps 0 to 1000"):
        prefix_end(recording(EVEN), at)


def test_points_are_the_records_that_follow():
    grid = future_grid(recording(EVEN), 6, None, "recorded")
    assert np.array_equal(grid.steps, EVEN[6:])
    assert np.array_equal(grid.records, np.arange(6, 21))
    assert np.array_equal(grid.n_steps, np.full(14, 50))
    assert np.array_equal(grid.midpoints, EVEN[6:-1] + 25.0)


def test_beyond_the_record_points_are_spaced_like_its_last_intervals():
    grid = future_grid(recording(EVEN, 0.1 * EVEN), 18, 1110, "recorded")
    assert grid.steps.tolist() == [900, 950, 1000, 1050, 1110]  # none closer to the horizon than others to each other
    assert grid.records.tolist() == [18, 19, 20, -1, -1]
    assert grid.times == pytest.approx(0.1 * grid.steps)


def test_a_horizon_between_records():
    grid = future_grid(recording(EVEN), 6, 510, "recorded")
    assert grid.steps.tolist() == [300, 350, 400, 450, 510]
    assert grid.records[-1] == -1
    assert grid.times[-1] == 510.0


def test_the_second_record_of_a_burst_is_passed_over():
    grid = future_grid(recording(BURSTS), 13, None, "recorded")
    assert grid.steps[0] == 301
    assert grid.n_steps.min() > 10
    assert grid.steps[-1] == 1001
    assert np.array_equal(recording(BURSTS).steps[grid.records], grid.steps)


def test_bursts_beyond_the_record_are_long_intervals():
    grid = future_grid(recording(BURSTS), len(BURSTS) - 1, 2000, "recorded")
    assert set(grid.n_steps[:-1].tolist()) == {49}


def test_no_point_where_no_time_passes():
    time = np.where(EVEN < 500, EVEN, np.maximum(EVEN - 200, 500))
    grid = future_grid(recording(EVEN, time), 6, None, "recorded")
    assert grid.lengths.min() > 0
    assert grid.times[-1] == 800.0
    with pytest.raises(InputError, match="no time passes between steps 500 and 700"):
        future_grid(recording(EVEN, time), 10, 700, "recorded")


def test_horizons_that_are_refused():
    for horizon in (300, 100, -5):
        with pytest.raises(InputError, match=f"horizon: step {horizon} is not after step 300"):
            future_grid(recording(EVEN), 6, horizon, "recorded")
    with pytest.raises(InputError, match=r"ends at step 1000; say how far to forecast \(--horizon STEP\)"):
        future_grid(recording(EVEN), 20, None, "recorded")


def test_chosen_points_are_even_in_steps_and_end_at_the_horizon():
    grid = future_grid(recording(EVEN), 0, None, "recorded")
    assert grid.steps[grid.chosen(4)].tolist() == [250, 500, 750, 1000]
    assert grid.chosen(1).tolist() == [20]
    assert grid.chosen(500).tolist() == list(range(1, 21))
