"""Time in steps or in cumulative learning rate, and records between which none passes."""

from itertools import pairwise

import numpy as np
import pytest
from core_helpers import CASES, make_case, make_run

from data_tools.errors import InputError
from data_tools.recording import Recording
from data_tools.recording_writer import write_recording
from lesde_infer.class_means import read_class_means
from lesde_infer.moments import estimate_moments
from lesde_infer.simulation import simulate
from lesde_infer.statistics import compute_statistics
from lesde_infer.time_axis import time_axis


def write(path, steps, **options):
    """Write a recording whose features do not matter."""
    labels = np.repeat([0, 1], 2)
    features = {"out": np.random.default_rng(0).normal(size=(len(steps), 4, 2))}
    return Recording(write_recording(path, steps, labels, features, **options))


def per_record(schedule, steps):
    """The learning rate of the update just made at each record; there is none before the first update."""
    return np.array([np.nan if step == 0 else schedule[step - 1] for step in steps])


@pytest.mark.parametrize(
    ("schedule", "steps"),
    [
        (np.full(60, 0.05), [0, 1, 20, 21, 60]),
        (np.linspace(0.1, 0.7, 60), [1, 2, 20, 21, 60]),  # warming up: linear throughout
        (0.1 * 0.5 * (1 + np.cos(np.arange(60) / 19)), np.arange(61)),  # recorded at every step: whatever it is
        (np.r_[np.full(19, 0.1), np.full(41, 0.01)], [0, 1, 19, 20, 40, 60]),  # drops where a burst sees it
        (np.r_[np.full(20, 0.1), np.zeros(40)], [0, 10, 20, 21, 40, 60]),  # switched off
    ],
)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_learning_rates_are_added_up_step_by_step(schedule, steps, momentum, tmp_path):
    schedule = np.asarray(schedule)
    options = {"scalars": {"lr": per_record(schedule, steps)}, "provenance": {"momentum": momentum}}
    with write(tmp_path / "run.h5", steps, **options) as recording:
        axis = time_axis(recording, "learning_rate")
    total = np.concatenate([[0.0], np.cumsum(schedule)])[np.asarray(steps)] / (1 - momentum)
    np.testing.assert_allclose(axis.times, total - total[0], rtol=1e-12, atol=1e-14)
    assert axis.unit == "learning_rate"
    standing = [np.all(schedule[a:b] == 0) for a, b in pairwise(steps)]
    np.testing.assert_array_equal(np.diff(axis.times) == 0, standing)


def test_a_smooth_schedule_between_sparse_records_is_nearly_right(tmp_path):
    schedule = 0.05 * (1 + np.cos(np.pi * np.arange(1000) / 1000))
    steps = np.arange(0, 1001, 50)
    with write(tmp_path / "run.h5", steps, scalars={"lr": per_record(schedule, steps)}) as recording:
        times = time_axis(recording, "learning_rate").times
    assert times[-1] == pytest.approx(schedule.sum(), rel=2e-3)


def test_a_constant_rate_of_the_provenance_stands_for_a_scalar(tmp_path):
    with write(tmp_path / "run.h5", [3, 4, 10], provenance={"lr": 0.1, "momentum": 0.5}) as recording:
        times = time_axis(recording, "learning_rate").times
    np.testing.assert_allclose(times, [0.0, 0.2, 1.4])


def test_units_are_told_apart(tmp_path):
    with write(tmp_path / "steps.h5", [0, 1, 5]) as recording:
        for choice in ("recorded", "steps"):
            axis = time_axis(recording, choice)
            np.testing.assert_array_equal(axis.times, [0.0, 1.0, 5.0])
            assert axis.unit == "steps"
    with write(tmp_path / "time.h5", [0, 1, 5], time=[0.0, 0.1, 0.2]) as recording:
        recorded, steps = time_axis(recording), time_axis(recording, "steps")
    np.testing.assert_array_equal(recorded.times, [0.0, 0.1, 0.2])
    np.testing.assert_array_equal(steps.times, [0.0, 1.0, 5.0])
    assert (recorded.unit, steps.unit) == ("recorded", "steps")


@pytest.mark.parametrize(
    ("options", "choice", "message"),
    [
        ({}, "learning_rate", r"no learning rate is recorded.*recorder\.step\(lr=…\).*--time steps"),
        ({"provenance": {"lr": "cosine"}}, "learning_rate", "no learning rate is recorded"),
        ({"scalars": {"lr": [np.nan, 0.1, np.nan]}}, "learning_rate", "learning rate is nan at step 5"),
        ({"scalars": {"lr": [0.1, -0.1, 0.1]}}, "learning_rate", "learning rate is -0.1 at step 1"),
        ({"provenance": {"lr": 0.1, "momentum": 1.0}}, "learning_rate", "momentum is recorded as 1.0"),
        ({"provenance": {"lr": 0.1, "momentum": "nesterov"}}, "learning_rate", "momentum is recorded as 'nesterov'"),
        ({"time": [0.0, 2.0, 1.0]}, "recorded", r"/time is 1\.0 at step 5: it must be finite and never decrease"),
        ({"time": [0.0, np.inf, 1.0]}, "recorded", "/time is inf at step 1"),
    ],
)
def test_times_that_cannot_be_are_refused(options, choice, message, tmp_path):
    with (
        write(tmp_path / "run.h5", [0, 1, 5], **options) as recording,
        pytest.raises(InputError, match=message) as caught,
    ):
        compute_statistics(recording, "out", "I", time=choice)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", CASES)
def test_intervals_in_which_no_time_passes_are_dropped(case, tmp_path):
    run, layer, impact = make_case(case, 3, seed=3, n_records=7)
    standing = np.array([0.0, 1.0, 1.0, 1.0, 2.0, 2.5, 2.5])
    with run.write(tmp_path / "run.h5", time=standing) as recording:
        found = compute_statistics(recording, layer, impact)
        full = compute_statistics(recording, layer, impact, time="steps")
    kept = [0, 3, 4]
    np.testing.assert_array_equal(found.starts, kept)
    np.testing.assert_array_equal(found.lengths, [1.0, 1.0, 0.5])
    np.testing.assert_array_equal(found.contrast.direction_increment, full.contrast.direction_increment[kept])
    np.testing.assert_array_equal(found.n_steps, full.n_steps[kept])
    assert (found.time_unit, full.time_unit) == ("recorded", "steps")
    missing = found.missing
    assert (missing.n_standing_intervals, missing.n_dropped_intervals, missing.n_missing_samples) == (3, 0, 0)
    assert (missing.start_step, missing.stop_step) == (run.steps[1], run.steps[6])
    assert "3 intervals were dropped, in which no time passes" in missing.sentence
    assert full.missing.is_complete


def test_time_that_never_passes_is_refused(tmp_path):
    run = make_run(3, 3)
    with run.write(tmp_path / "run.h5", time=np.zeros(4)) as recording:
        for read in (lambda r: compute_statistics(r, "hidden", "I"), lambda r: read_class_means(r, "hidden")):
            with pytest.raises(InputError, match="no time passes between any two records"):
                read(recording)


def test_point_estimates_pass_over_records_without_time(tmp_path):
    """The paper's estimators are those of the run without the records at which time stood still."""
    steps, rates = np.arange(0, 400, 10), {"alpha": 5e-3, "beta": 1e-3, "kappa": 0.0}
    scales = dict.fromkeys(("global_scale", "class_scale", "individual_scale"), 0.0)
    with simulate(
        tmp_path / "run.h5", n_classes=3, samples_per_class=5, steps=steps, impact="I", noise=False, **rates, **scales
    ) as whole:
        features, labels = np.asarray(whole.features("logits")[:]), whole.labels
        expected = estimate_moments(read_class_means(whole), impact="I", window=101)
    repeated = np.sort(np.r_[np.arange(40), 10, 10, 25])
    at = np.arange(len(repeated)) * 10
    path = write_recording(
        tmp_path / "standing.h5", at, labels, {"logits": features[repeated]}, logits="logits",
        time=steps[repeated].astype(float),
    )  # fmt: skip
    means = read_class_means(path)
    np.testing.assert_array_equal(means.times, steps)
    found = estimate_moments(means, impact="I", window=101)
    np.testing.assert_allclose(found.A, expected.A, rtol=1e-12)


def test_rates_per_learning_rate_do_not_change_with_the_schedule(tmp_path):
    """A run at constant rates per cumulative learning rate, which falls tenfold: so γ comes out, and not per step."""
    schedule = 0.05 * np.logspace(0, -1, 400)
    steps = np.arange(0, 401, 10)
    cumulative = np.concatenate([[0.0], np.cumsum(schedule)])[steps]
    labels = np.repeat([0, 1, 2], 6)
    first = np.random.default_rng(1).normal(size=(18, 3))
    # The LE-ODE under impact I: contrasts grow by e^{γ t/K}, the mean by e^{g t}.
    means = np.array([first[labels == k].mean(axis=0) for k in range(3)])
    centre, contrast = means.mean(axis=0), means - means.mean(axis=0)
    moved = [np.exp(t * (0.5 - 2 * 0.2) / 3) * centre + np.exp(t * 0.7 / 3) * contrast for t in cumulative]
    features = np.array([m[labels] + (first - means[labels]) for m in moved])
    path = write_recording(
        tmp_path / "run.h5", steps, labels, {"logits": features}, logits="logits",
        scalars={"lr": per_record(schedule, steps)},
    )  # fmt: skip
    with Recording(path) as recording:
        by_rate, by_step = (compute_statistics(recording, "logits", "I", time=t) for t in ("learning_rate", "steps"))

    def gamma(statistics):
        growth = statistics.contrast.direction_increment[:, 0] / statistics.contrast.direction_square[:, 0]
        return 3 * np.log1p(growth) / statistics.lengths

    np.testing.assert_allclose(gamma(by_rate)[1:], 0.7, rtol=1e-3)
    assert gamma(by_rate)[0] == pytest.approx(0.7, rel=0.03)  # before the first update no learning rate is known
    assert gamma(by_step)[0] / gamma(by_step)[-1] > 8
