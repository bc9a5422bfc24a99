"""The collapsed statistics of a recording: least squares, invariances and refusals."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from core_helpers import CASES, class_means, make_case, make_run
from scipy import stats

from data_tools.errors import InputError
from lesde_infer.class_average import ClassAverage
from lesde_infer.impacts import residual_directions
from lesde_infer.residuals import softmax
from lesde_infer.statistics import compute_statistics


def test_within_stratum_is_plain_least_squares(tmp_path):
    run = make_run(3, 4, n_records=6, seed=8)
    with run.write(tmp_path / "run.h5") as recording:
        within = compute_statistics(recording, "hidden", "I").within
    n_samples, n_features = run.features.shape[1:]
    assert (within.dimension == (n_samples - 3) * n_features).all()
    assert within.log_variance_error == pytest.approx(np.sqrt(2 / within.dimension), rel=1e-12)
    for t, (before, after) in enumerate(pairwise(run.features)):
        x = (before - class_means(before, run.labels)[run.labels]).reshape(-1, 1)
        y = (after - class_means(after, run.labels)[run.labels]).ravel()
        (factor,), (residual,), *_ = np.linalg.lstsq(x, y)
        assert within.log_growth[t] == pytest.approx(np.log(factor), rel=1e-10)
        assert within.log_variance[t] == pytest.approx(np.log(residual / within.dimension), rel=1e-10)


def test_known_growth_and_noise_of_deviations_are_recovered(tmp_path):
    """A class of 20,000 samples: κΔ and σᵢ²Δ come back within four of their own standard errors."""
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 1], 10_000)
    growth, sigma = 0.3, 0.2
    first = rng.normal(size=(20_000, 2))
    deviations = first - class_means(first, labels)[labels]
    second = first + np.expm1(growth) * deviations + rng.normal(0.0, sigma, size=first.shape)
    run = make_run(2, 2, n_records=2)
    features = {"hidden": np.array([first, second])}
    with run.write(
        tmp_path / "run.h5", labels=labels, given_labels=None, features=features, logits=None, classifier=None
    ) as recording:
        within = compute_statistics(recording, "hidden", "I").within
    assert abs(within.log_growth[0] - growth) < 4 * within.log_growth_error[0]
    assert abs(within.log_variance[0] - 2 * np.log(sigma)) < 4 * within.log_variance_error[0]
    assert within.log_growth_error[0] < 0.01


def test_within_stratum_survives_deviations_that_flip_or_stand_still(tmp_path):
    run = make_run(2, 2, n_records=2)
    first = run.features[0]
    for name, second in {"flip": -first, "still": first, "collapsed": np.repeat(first[:1], len(first), axis=0)}.items():
        features = {"hidden": np.array([first, second])}
        options = {"features": features, "logits": None, "classifier": None}
        with run.write(tmp_path / f"{name}.h5", **options) as recording:
            within = compute_statistics(recording, "hidden", "I").within
        assert np.isfinite([within.log_growth, within.log_variance, within.log_growth_error]).all(), name
    assert within.log_growth[0] < np.log(0.01)


@pytest.mark.parametrize("case", CASES)
def test_until_reads_no_further(case, tmp_path):
    run, layer, impact = make_case(case, 3, seed=1)
    broken = {"hidden": run.features.copy(), "out": run.logits.copy()}
    for values in broken.values():
        values[3] = np.nan
    with run.write(tmp_path / "whole.h5") as whole, run.write(tmp_path / "broken.h5", features=broken) as recording:
        full = compute_statistics(whole, layer, impact)
        part = compute_statistics(recording, layer, impact, until=int(run.steps[3]) - 1)
        with pytest.raises(InputError, match=f"step {run.steps[3]}.*--until {run.steps[2]}"):
            compute_statistics(recording, layer, impact)
    np.testing.assert_array_equal(part.steps, run.steps[:3])
    np.testing.assert_array_equal(part.times, run.time[:3])
    np.testing.assert_array_equal(part.contrast.direction_increment, full.contrast.direction_increment[:2])
    np.testing.assert_array_equal(part.within.log_variance, full.within.log_variance[:2])


def assert_same_statistics(one, other, rtol=1e-9, increments=1.0):
    """Compare all that the likelihood depends on; squared norms and products scale by ``increments``."""
    for name in ("contrast", "shared"):
        first, second = getattr(one, name), getattr(other, name)
        assert first.dimension == second.dimension
        scale = first.increment_square.max()
        np.testing.assert_allclose(second.increment_square, increments * first.increment_square, rtol=rtol)
        # Components with equal feedback may mix, which changes no sum weighted by a function of the feedback.
        for function in (np.ones_like, np.exp):
            for field in ("direction_square", "direction_increment"):
                plain = (function(first.feedback) * getattr(first, field)).sum(axis=1)
                changed = (function(second.feedback) * getattr(second, field)).sum(axis=1)
                np.testing.assert_allclose(changed, increments * plain, rtol=rtol, atol=rtol * scale)
    np.testing.assert_allclose(other.within.log_growth, one.within.log_growth, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(other.within.log_variance, one.within.log_variance + np.log(increments), atol=1e-9)
    np.testing.assert_allclose(other.impact_f, one.impact_f, rtol=rtol)
    np.testing.assert_allclose(other.impact_persistence, one.impact_persistence, rtol=rtol)


@pytest.mark.parametrize("case", CASES)
def test_relabelling_classes_changes_nothing(case, tmp_path):
    run, layer, impact = make_case(case, 5, seed=5)
    order = np.array([3, 0, 4, 1, 2])  # class k of the run is called order[k] in the other
    back = np.argsort(order)
    features = run.features[:, :, back] if impact == "L" else run.features
    renamed = replace(
        run,
        labels=order[run.labels],
        given=order[run.given],
        features=features,
        logits=run.logits[:, :, back],
        weight=run.weight[:, back],
        bias=run.bias[:, back],
    )
    with run.write(tmp_path / "one.h5") as first, renamed.write(tmp_path / "other.h5") as second:
        one, other = compute_statistics(first, layer, impact), compute_statistics(second, layer, impact)
    assert_same_statistics(one, other)
    np.testing.assert_array_equal(other.class_sizes[order], one.class_sizes)


@pytest.mark.parametrize("case", ["I", "R hidden"])
def test_rotating_features_changes_nothing(case, tmp_path):
    run, layer, impact = make_case(case, 3, seed=7)
    rotation = stats.ortho_group.rvs(run.features.shape[2], random_state=0)
    rotated = replace(run, features=run.features @ rotation, weight=run.weight @ rotation)
    with run.write(tmp_path / "one.h5") as first, rotated.write(tmp_path / "other.h5") as second:
        one, other = compute_statistics(first, layer, impact), compute_statistics(second, layer, impact)
    assert_same_statistics(one, other)


@pytest.mark.parametrize("case", CASES)
def test_unit_of_time_touches_times_only(case, tmp_path):
    run, layer, impact = make_case(case, 3, seed=2)
    slower = replace(run, time=1000.0 * run.time)
    with run.write(tmp_path / "one.h5") as first, slower.write(tmp_path / "other.h5") as second:
        one, other = compute_statistics(first, layer, impact), compute_statistics(second, layer, impact)
    np.testing.assert_allclose(other.lengths, 1000.0 * one.lengths, rtol=1e-12)
    np.testing.assert_allclose(other.midpoints, 1000.0 * one.midpoints, rtol=1e-12)
    np.testing.assert_array_equal(other.n_steps, np.diff(run.steps))
    assert_same_statistics(one, other, rtol=1e-14)


@pytest.mark.parametrize("case", ["I", "L"])
def test_unit_of_features_scales_squares(case, tmp_path):
    run, layer, impact = make_case(case, 3, seed=2)
    larger = replace(run, features=10.0 * run.features)
    with run.write(tmp_path / "one.h5") as first, larger.write(tmp_path / "other.h5") as second:
        one, other = compute_statistics(first, layer, impact), compute_statistics(second, layer, impact)
    assert_same_statistics(one, other, increments=100.0)


def test_order_and_number_of_samples_change_nothing_for_class_means(tmp_path):
    """Every sample twice, shuffled: the strata of class means stay, for class means do."""
    run = make_run(3, 4, seed=9)
    doubled = np.random.default_rng(0).permutation(np.tile(np.arange(len(run.labels)), 2))
    more = replace(
        run,
        labels=run.labels[doubled],
        given=run.given[doubled],
        features=run.features[:, doubled],
        logits=run.logits[:, doubled],
    )
    with run.write(tmp_path / "one.h5") as first, more.write(tmp_path / "other.h5") as second:
        one, other = compute_statistics(first, "hidden", "R"), compute_statistics(second, "hidden", "R")
    for name in ("contrast", "shared"):
        for field in ("direction_square", "direction_increment", "increment_square", "feedback"):
            plain, changed = getattr(getattr(one, name), field), getattr(getattr(other, name), field)
            np.testing.assert_allclose(changed, plain, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(other.class_sizes, 2 * one.class_sizes)


def test_grouping_by_given_labels_regroups_means_but_not_residuals(tmp_path):
    run = make_run(3, 3)
    run = replace(run, given=np.random.default_rng(0).permutation(run.labels))
    by_given = replace(run, labels=run.given)
    with run.write(tmp_path / "one.h5") as first, by_given.write(tmp_path / "other.h5") as second:
        grouped = compute_statistics(first, "out", "R", group="given_labels")
        plain = compute_statistics(first, "out", "R")
        expected = compute_statistics(second, "out", "R")
    assert_same_statistics(grouped, expected)
    assert not np.allclose(grouped.contrast.direction_square, plain.contrast.direction_square)


def test_f_statistic_is_analysis_of_variance(tmp_path):
    run = make_run(5, 1, n_records=3, seed=6)
    with run.write(tmp_path / "run.h5") as recording:
        impact_f = compute_statistics(recording, "hidden", "I").impact_f
    for t in range(2):
        by_class = [run.features[t, run.labels == k, 0] for k in range(5)]
        assert impact_f[t] == pytest.approx(stats.f_oneway(*by_class).statistic, rel=1e-10)


def test_f_statistic_of_constants():
    average = ClassAverage(np.array([0, 0, 1, 1]), 2)
    assert average.f_statistic(np.ones((4, 2))) == 0.0
    assert average.f_statistic(np.array([[0.0], [0.0], [1.0], [1.0]])) == np.inf


def test_residuals_use_given_labels_and_average_by_label(tmp_path):
    """The directions of R span what the class-mean residuals span: their squares sum to those of the residuals."""
    run = make_run(3, 3, seed=4)
    with run.write(tmp_path / "run.h5") as recording:
        statistics = compute_statistics(recording, "out", "R")
    for t in range(len(run.steps) - 1):
        residuals = class_means(np.eye(3)[run.given] - softmax(run.logits[t]), run.labels)
        mean = residuals.mean(axis=0)
        assert statistics.shared.direction_square[t].sum() == pytest.approx(mean @ mean, rel=1e-10)
        expected = ((residuals - mean) ** 2).sum()
        assert statistics.contrast.direction_square[t].sum() == pytest.approx(expected, rel=1e-10)


def test_softmax_survives_large_logits():
    np.testing.assert_allclose(softmax(np.array([[1e4, 0.0], [-1e4, -1e4]])), [[1.0, 0.0], [0.5, 0.5]])


def test_hidden_directions_of_an_identity_classifier_are_those_of_the_logits():
    rng = np.random.default_rng(3)
    residuals, probabilities = rng.normal(size=(4, 3)), rng.dirichlet(np.ones(3))
    curvature = np.diag(probabilities) - np.outer(probabilities, probabilities)
    plain, hidden = (residual_directions(residuals, curvature, weight) for weight in (None, np.eye(3)))
    np.testing.assert_allclose(hidden.contrast_feedback, plain.contrast_feedback, atol=1e-12)
    np.testing.assert_allclose(hidden.contrast.sum(axis=0), plain.contrast.sum(axis=0), atol=1e-12)


@pytest.mark.parametrize(
    ("layer", "impact", "options", "message"),
    [
        ("hidden", "L", {}, r"layer 'hidden' has 4 features but labels has 3 classes.*--impact R or I"),
        ("out", "R", {"logits": None}, r"impact R needs the logits.*--impact I"),
        ("hidden", "R", {"classifier": None}, r"needs the weights of the linear classifier.*layer 'out'"),
        ("nowhere", "I", {}, r"'nowhere' was not recorded.*hidden, out"),
    ],
)
def test_what_the_impact_lacks_is_one_clear_line(layer, impact, options, message, tmp_path):
    run = make_run(3, 4)
    with run.write(tmp_path / "run.h5", **options) as recording, pytest.raises(InputError, match=message) as caught:
        compute_statistics(recording, layer, impact)
    assert "\n" not in str(caught.value)
    assert str(recording.path) in str(caught.value)


def test_hidden_layer_that_does_not_feed_the_classifier_is_refused(tmp_path):
    run = make_run(3, 4)
    features = {"early": run.features[:, :, :2], "hidden": run.features, "out": run.logits}
    with (
        run.write(tmp_path / "run.h5", features=features) as recording,
        pytest.raises(InputError, match=r"layer 'early'.*weights of the linear classifier"),
    ):
        compute_statistics(recording, "early", "R")


def test_too_few_records_are_refused(tmp_path):
    run = make_run(3, 3)
    before_second = int(run.steps[1]) - 1
    with run.write(tmp_path / "run.h5") as recording:
        for until, count in ((0, 0), (before_second, 1)):
            with pytest.raises(InputError, match=rf"{count} record\(s\) up to step {until}: a fit needs at least two"):
                compute_statistics(recording, "hidden", "I", until=until)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("spoilt", ["hidden", "out"])
def test_values_that_are_not_numbers_are_refused_where_they_are(spoilt, bad, tmp_path):
    run = make_run(3, 4)
    features = {"hidden": run.features.copy(), "out": run.logits.copy()}
    features[spoilt][2, 5, 1] = bad
    with (
        run.write(tmp_path / "run.h5", features=features) as recording,
        pytest.raises(InputError, match=f"layer {spoilt} .*at step {run.steps[2]}"),
    ):
        compute_statistics(recording, "hidden", "R")


def test_layer_that_does_not_feed_the_classifier_is_refused_whatever_its_width(tmp_path):
    run = make_run(3, 4)
    features = {"early": run.features[:, :, ::-1], "hidden": run.features, "out": run.logits}
    with run.write(tmp_path / "run.h5", features=features) as recording, pytest.raises(InputError, match="'hidden'"):
        compute_statistics(recording, "early", "R")


def test_classifier_that_is_not_finite_is_refused(tmp_path):
    run = make_run(3, 4)
    weight = run.weight.copy()
    weight[2, 0, 0] = np.nan
    classifier = (weight, run.bias, "hidden")
    with (
        run.write(tmp_path / "run.h5", classifier=classifier) as recording,
        pytest.raises(InputError, match=rf"/classifier/weight.*step {run.steps[2]}"),
    ):
        compute_statistics(recording, "hidden", "R")


def test_one_given_class_is_refused(tmp_path):
    run = replace(make_run(3, 3), given=np.zeros(11, dtype=np.int64))
    with run.write(tmp_path / "run.h5") as recording, pytest.raises(InputError, match="one class"):
        compute_statistics(recording, "out", "R", group="given_labels")


def test_error_of_log_growth_is_that_of_the_logarithm(tmp_path):
    """Delta method: the standard error of log b is that of b divided by b; here b is about three."""
    run = make_run(3, 4, n_records=2, seed=8)
    grown = run.features[0] * 3.0 + 0.1 * np.random.default_rng(0).normal(size=run.features[0].shape)
    options = {"features": {"hidden": np.array([run.features[0], grown])}, "logits": None, "classifier": None}
    with run.write(tmp_path / "run.h5", **options) as recording:
        within = compute_statistics(recording, "hidden", "I").within
    deviations = run.features[0] - class_means(run.features[0], run.labels)[run.labels]
    expected = np.exp(within.log_variance[0] / 2 - within.log_growth[0]) / np.linalg.norm(deviations)
    assert within.log_growth_error[0] == pytest.approx(expected, rel=1e-10)
