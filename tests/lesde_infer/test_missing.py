"""Gaps in recordings: what is missing is left out and counted, and what is there counts as it would without it."""

from dataclasses import replace

import numpy as np
import pytest
from core_helpers import CASES, class_means, make_case, make_run

from data_tools.errors import InputError
from lesde_infer.class_means import read_class_means
from lesde_infer.missing import MissingData
from lesde_infer.simulation import simulate
from lesde_infer.statistics import compute_statistics

ARRAYS = {
    "contrast": ("direction_square", "direction_increment", "increment_square", "feedback"),
    "shared": ("direction_square", "direction_increment", "increment_square", "feedback"),
    "pattern": ("coordinates", "increments", "feedback"),
    "within": ("log_growth", "log_variance", "log_growth_error", "log_variance_error", "dimension"),
}


def flattened(statistics, intervals=slice(None)):
    """All that the likelihood depends on, interval by interval."""
    found = {
        f"{part}.{name}": getattr(getattr(statistics, part), name)[intervals]
        for part, names in ARRAYS.items()
        for name in names
    }
    return found | {name: getattr(statistics, name)[intervals] for name in ("impact_f", "lengths", "n_steps")}


def assert_equal(one, other, **options):
    for name, values in one.items():
        np.testing.assert_allclose(other[name], values, err_msg=name, **{"rtol": 1e-12, "atol": 1e-14, **options})


def lacking(run, where, layers=("hidden", "out")):
    """Return layers of a run with NaN for all features at (record, sample) of ``where``."""
    found = {"hidden": run.features.copy(), "out": run.logits.copy()}
    for layer in layers:
        found[layer][where] = np.nan
    return found


def without(run, samples):
    """Return a run from which samples were taken out by hand."""
    kept = np.setdiff1d(np.arange(len(run.labels)), samples)
    return replace(
        run,
        labels=run.labels[kept],
        given=run.given[kept],
        features=run.features[:, kept],
        logits=run.logits[:, kept],
    )


def spare_samples(run, count=2):
    """Return samples of classes that have others besides: their class keeps two."""
    largest = np.argmax(np.bincount(run.labels))
    return np.flatnonzero(run.labels == largest)[:count]


@pytest.mark.parametrize("layers", [("hidden", "out"), ("hidden",), ("out",)])
@pytest.mark.parametrize("case", CASES)
def test_samples_missing_throughout_are_as_if_never_recorded(case, layers, tmp_path):
    """Bit by bit the same statistics; a layer that the impact does not need may lack what it will."""
    run, layer, impact = make_case(case, 3, seed=1)
    gone = spare_samples(run)
    needed = {layer, "out"} if impact == "R" else {layer}
    expected = without(run, gone if needed & set(layers) else [])
    where = (slice(None), gone)
    with (
        run.write(tmp_path / "gaps.h5", features=lacking(run, where, layers)) as recording,
        expected.write(tmp_path / "expected.h5") as other,
    ):
        found, reference = compute_statistics(recording, layer, impact), compute_statistics(other, layer, impact)
    assert_equal(flattened(found), flattened(reference), rtol=0, atol=0)
    np.testing.assert_array_equal(found.impact_persistence, reference.impact_persistence)
    assert found.missing.n_missing_samples == (len(run.steps) * len(gone) if needed & set(layers) else 0)
    assert found.missing.n_dropped_intervals == 0


@pytest.mark.parametrize("case", CASES)
def test_increments_are_of_the_samples_at_both_ends_and_impacts_of_those_at_the_start(case, tmp_path):
    run, layer, impact = make_case(case, 3, seed=2, n_records=6)
    gone = spare_samples(run, 1)
    with (
        run.write(tmp_path / "gaps.h5", features=lacking(run, (3, gone))) as recording,
        run.write(tmp_path / "full.h5") as whole,
        without(run, gone).write(tmp_path / "without.h5") as reduced,
    ):
        found, full, less = (compute_statistics(r, layer, impact) for r in (recording, whole, reduced))
    untouched = [0, 1, 4]
    assert_equal(flattened(found, untouched), flattened(full, untouched), rtol=0, atol=0)
    assert_equal(flattened(found, [3]), flattened(less, [3]))  # record 3 lacks the sample, at the interval's start
    # Interval 2 starts with all samples and ends without one: directions of the full, increments of the reduced run.
    for stratum in ("contrast", "shared"):
        own, with_all, with_less = (getattr(s, stratum) for s in (found, full, less))
        np.testing.assert_array_equal(own.direction_square[2], with_all.direction_square[2])
        np.testing.assert_array_equal(own.increment_square[2], with_less.increment_square[2])
    for name in ("log_growth", "log_variance"):
        assert getattr(found.within, name)[2] == getattr(less.within, name)[2]
    assert found.impact_f[2] == full.impact_f[2]
    n, p = len(run.labels), run.features.shape[2] if layer == "hidden" else 3
    np.testing.assert_array_equal(found.within.dimension, [(n - 3 - (t in (2, 3))) * p for t in range(5)])
    np.testing.assert_array_equal(found.start_samples, [n, n, n, n - 1, n])
    assert found.missing == MissingData(
        n_missing_samples=1,
        n_records_with_missing=1,
        missing_by_class=tuple(int(run.labels[gone[0]] == k) for k in range(3)),
        n_dropped_intervals=0,
        dropped_by_class=(0, 0, 0),
        n_standing_intervals=0,
        start_step=int(run.steps[3]),
        stop_step=int(run.steps[3]),
    )


def test_membership_that_changes_is_no_increment(tmp_path):
    """Features stand still while an outlier comes and goes: its class mean would jump, the increments do not."""
    run = make_run(3, 3, n_records=5, seed=3)
    features = np.repeat(run.features[:1], 5, axis=0) + 1e-9 * np.arange(5)[:, None, None]
    gone = spare_samples(run, 1)
    features[:, gone] += 100.0
    features[[1, 3], gone] = np.nan
    with run.write(tmp_path / "run.h5", features={"hidden": features}, logits=None, classifier=None) as recording:
        statistics = compute_statistics(recording, "hidden", "I")
    assert np.all(statistics.shared.increment_square < 1e-15)
    assert np.all(statistics.contrast.increment_square < 1e-15)
    means = class_means(np.delete(features[0], gone, axis=0), np.delete(run.labels, gone))
    assert np.abs(means - class_means(features[0], run.labels)).max() > 10  # else nothing was tested


@pytest.mark.parametrize("case", CASES)
def test_a_missing_record_drops_the_two_intervals_around_it(case, tmp_path):
    run, layer, impact = make_case(case, 3, seed=4, n_records=8)
    with (
        run.write(tmp_path / "gaps.h5", features=lacking(run, 3)) as recording,
        run.write(tmp_path / "full.h5") as whole,
    ):
        found, full = compute_statistics(recording, layer, impact), compute_statistics(whole, layer, impact)
    kept = [0, 1, 4, 5, 6]
    assert_equal(flattened(found), flattened(full, kept), rtol=0, atol=0)
    np.testing.assert_array_equal(found.starts, kept)
    np.testing.assert_array_equal(found.stops, np.array(kept) + 1)
    np.testing.assert_array_equal(found.midpoints, full.midpoints[kept])
    np.testing.assert_array_equal(found.steps, run.steps)
    missing = found.missing
    assert (missing.n_dropped_intervals, missing.n_missing_samples) == (2, len(run.labels))
    assert (missing.start_step, missing.stop_step) == (run.steps[2], run.steps[4])
    assert "2 intervals were dropped" in missing.sentence
    assert MissingData.from_json(missing.to_json()) == missing


def test_a_class_that_comes_late_drops_the_intervals_before(tmp_path):
    run, layer, impact = make_case("R", 3, seed=5, n_records=8)
    own = np.flatnonzero(run.labels == 1)
    late = lacking(run, (slice(0, 3), own[:-1]))  # one sample alone is no class
    with run.write(tmp_path / "gaps.h5", features=late) as recording, run.write(tmp_path / "full.h5") as whole:
        found, full = compute_statistics(recording, layer, impact), compute_statistics(whole, layer, impact)
    np.testing.assert_array_equal(found.starts, [3, 4, 5, 6])
    assert_equal(flattened(found), flattened(full, slice(3, None)), rtol=0, atol=0)
    assert found.missing.dropped_by_class == (0, 3, 0)
    assert "class 1" in found.missing.sentence


def test_complete_recordings_say_that_nothing_is_missing(tmp_path):
    run, layer, impact = make_case("I", 3, seed=1)
    with run.write(tmp_path / "run.h5") as recording:
        statistics = compute_statistics(recording, layer, impact)
    assert statistics.missing.is_complete
    assert statistics.missing.sentence == "nothing is missing"
    np.testing.assert_array_equal(statistics.starts, np.arange(len(run.steps) - 1))
    np.testing.assert_array_equal(statistics.lengths, np.diff(run.time))
    np.testing.assert_array_equal(statistics.midpoints, (run.time[1:] + run.time[:-1]) / 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_are_not_finite_in_part_are_refused(bad, tmp_path):
    run = make_run(3, 4)
    features = lacking(run, (1, [0]))
    features["hidden"][2, 5, 1] = bad
    with (
        run.write(tmp_path / "run.h5", features=features) as recording,
        pytest.raises(InputError, match=rf"layer hidden .*at step {run.steps[2]}; .*--until {run.steps[1]}"),
    ):
        compute_statistics(recording, "hidden", "R")


def test_where_no_two_records_hold_enough_is_refused(tmp_path):
    run = make_run(3, 4, n_records=5)
    own = np.flatnonzero(run.labels == 2)
    features = lacking(run, (slice(1, None, 2), own))
    with (
        run.write(tmp_path / "run.h5", features=features) as recording,
        pytest.raises(InputError, match="class 2 lacks them in 4 of 4 intervals") as caught,
    ):
        compute_statistics(recording, "hidden", "I")
    assert "\n" not in str(caught.value)


def test_gaps_leave_least_squares_where_it_was(tmp_path):
    """A third of all samples missing at random: γ of the contrasts, by least squares, moves within its error."""
    steps, alpha, beta = np.arange(0, 600, 10), 0.02, -0.01
    first = np.random.default_rng(1).normal(size=(120, 3))
    settings = {"global_scale": 2e-3, "class_scale": 2e-3, "individual_scale": 2e-3}
    path = tmp_path / "run.h5"
    with simulate(
        path, n_classes=3, samples_per_class=40, steps=steps, alpha=alpha, beta=beta, kappa=1e-3, impact="I",
        first_features=first, **settings,
    ) as whole:  # fmt: skip
        features, labels = np.asarray(whole.features("logits")[:]), whole.labels
        full = compute_statistics(whole, "logits", "I")
    features[np.random.default_rng(0).random(features.shape[:2]) < 1 / 3] = np.nan
    run = make_run(3, 3)
    options = {"logits": "out", "classifier": None, "given_labels": None, "time": None}
    with run.write(
        tmp_path / "gaps.h5", steps=steps, labels=labels, features={"out": features}, **options
    ) as recording:
        gaps = compute_statistics(recording, "out", "I")
    assert gaps.missing.n_missing_samples > 0.3 * features.shape[0] * 120

    def gamma(statistics):
        """Growth of contrasts along themselves, e^{γΔ/K} − 1, weighted alike in every interval."""
        growth = statistics.contrast.direction_increment / statistics.contrast.direction_square
        return 3 * np.log1p(growth[:, 0]) / statistics.lengths

    for statistics in (full, gaps):
        rates = gamma(statistics)
        error = rates.std(ddof=1) / np.sqrt(len(rates))
        assert abs(rates.mean() - (alpha - beta)) < 4 * error
        assert error < 0.1 * (alpha - beta)
    # Within classes nothing hinges on the missing ones either: κ and its error from fewer dimensions.
    growth = gaps.within.log_growth / gaps.lengths
    assert abs(growth.mean() - 1e-3) < 4 * growth.std(ddof=1) / np.sqrt(len(growth))


def test_class_means_are_over_the_samples_that_all_records_hold(tmp_path):
    run = make_run(3, 3, n_records=6, seed=6)
    gone = spare_samples(run, 1)
    features = lacking(run, (2, gone))
    features["hidden"][4] = np.nan  # a record that holds nothing is left out
    expected = without(run, gone)
    kept = [0, 1, 2, 3, 5]
    with (
        run.write(tmp_path / "gaps.h5", features=features) as recording,
        expected.write(tmp_path / "expected.h5") as other,
    ):
        means, reference = read_class_means(recording, "hidden"), read_class_means(other, "hidden")
    np.testing.assert_array_equal(means.runs[0], reference.runs[0][kept])
    np.testing.assert_array_equal(means.steps, run.steps[kept])
    late = lacking(run, (0, np.flatnonzero(run.labels == 1)))
    with (
        run.write(tmp_path / "late.h5", features=late) as recording,
        pytest.raises(InputError, match="no sample of some class is held by every record"),
    ):
        read_class_means(recording, "hidden")
