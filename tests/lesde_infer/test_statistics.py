"""The collapsed statistics against all samples: densities, least squares, invariances and refusals."""

from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from core_helpers import class_means, elasticity, expected_increment, linear_drift, make_run
from scipy import stats
from scipy.linalg import block_diag, helmert

from data_tools.errors import InputError
from lesde_infer._jax import jax, jnp
from lesde_infer.assembly import assemble, locate
from lesde_infer.impacts import residual_directions
from lesde_infer.model import Parameters, increment_density, predict_intervals
from lesde_infer.snapshots import ClassAverage, softmax
from lesde_infer.statistics import compute_statistics

CASES = ["I", "L", "R", "R hidden"]
DEGREES = np.array([1.3, 4.0])
EXPONENT = np.array([-0.4, 0.2])
RELAXATION = np.array([0.03, 0.4])


def make_case(case, n_classes, seed, **options):
    """Return a run, and the layer and impact to fit; hidden features are wider or narrower than the logits by seed."""
    width = n_classes if case == "L" else (n_classes + 2 if seed % 2 else max(n_classes - 1, 2))
    run = make_run(n_classes, width, seed=seed, **options)
    return run, "out" if case == "R" else "hidden", case[0]


def random_rates(run, seed):
    """Rates of both signs, of order one over an interval: array (contrast and shared) by interval."""
    rng = np.random.default_rng([seed, 1])
    lengths = np.diff(run.time)
    return rng.uniform(-0.6, 0.8, size=(2, len(lengths))) * np.array([[run.n_classes], [1.0]]) / lengths


def collapsed_log_density(statistics, rates, log_scales):
    """Log density of contrasts and mean, interval by interval, by the package: array (contrast and shared, time)."""
    densities = []
    for submodel in assemble(statistics):
        index = [("contrast", "shared").index(name) for name in submodel.strata if name in ("contrast", "shared")]
        if not index:
            continue
        values = (rates, log_scales, DEGREES, EXPONENT, RELAXATION)
        parameters = Parameters(*(jnp.asarray(value[index]) for value in values))
        densities.append(np.asarray(interval_log_density(parameters, submodel.data, coupled=submodel.coupled)))
    return np.concatenate(densities)


@partial(jax.jit, static_argnames="coupled")
def interval_log_density(parameters, data, *, coupled):
    return increment_density(parameters, data, coupled=coupled).log_prob(data.increment_square)


def sample_by_sample_log_density(run, layer, impact, rates, log_scales):
    """Write the same as `collapsed_log_density` plainly: expm of the drift of all classes, explicit coordinates."""
    features = run.logits if layer == "out" else run.features
    n_classes = run.n_classes
    n_steps, lengths = np.diff(run.steps), np.diff(run.time)
    contrasts = helmert(n_classes)
    result = np.zeros((2, len(lengths)))
    for t, length in enumerate(lengths):
        weight = run.weight[t] if layer == "hidden" else None
        matrix = elasticity(*rates[:, t], n_classes)
        drift = linear_drift(impact, matrix, features[t], run.labels, run.given, run.logits[t], weight)
        means = class_means(features[t], run.labels)
        expected = expected_increment(means, *drift, length)
        seen = class_means(features[t + 1] - features[t], run.labels)
        for stratum, basis in enumerate((contrasts, np.full((1, n_classes), 1 / n_classes))):
            surviving = np.mean([np.exp(-RELAXATION[stratum] * j) for j in range(n_steps[t])])
            scale = np.exp(log_scales[stratum, t]) * np.sqrt(length) * (n_steps[t] / n_steps.max()) ** EXPONENT[stratum]
            coordinates, location = (basis @ seen).ravel(), surviving * (basis @ expected).ravel()
            shape = scale**2 * np.eye(len(coordinates))
            result[stratum, t] = stats.multivariate_t(location, shape, DEGREES[stratum]).logpdf(coordinates)
    return result


@pytest.mark.parametrize("n_classes", [2, 3, 5])
@pytest.mark.parametrize("case", CASES)
def test_collapsed_likelihood_is_that_of_all_samples(case, n_classes, tmp_path):
    for seed in range(4):
        run, layer, impact = make_case(case, n_classes, seed)
        with run.write(tmp_path / f"{seed}.h5") as recording:
            statistics = compute_statistics(recording, layer, impact)
        rates = random_rates(run, seed)
        log_scales = np.random.default_rng([seed, 2]).normal(-1.0, 1.0, size=rates.shape)
        collapsed = collapsed_log_density(statistics, rates, log_scales)
        plain = sample_by_sample_log_density(run, layer, impact, rates, log_scales)
        np.testing.assert_allclose(collapsed, plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_gaussian_limit_is_one_dense_normal_over_all_samples(case, tmp_path):
    """With ν → ∞ all strata together are one normal over all coordinates of all samples, up to the Jacobian."""
    run, layer, impact = make_case(case, 3, seed=3)
    with run.write(tmp_path / "run.h5") as recording:
        statistics = compute_statistics(recording, layer, impact)
    features = run.logits if layer == "out" else run.features
    n_classes, labels, lengths = run.n_classes, run.labels, np.diff(run.time)
    n_samples, n_features = features.shape[1:]
    rates, kappa = random_rates(run, seed=3), 0.04
    sigma_class, sigma_global, sigma_individual = 0.7, 0.3, 0.5

    indicator = np.eye(n_classes)[labels]
    centring = np.eye(n_samples) - indicator @ np.diag(1 / np.bincount(labels)) @ indicator.T
    class_noise = indicator @ (np.eye(n_classes) - 1 / n_classes) @ indicator.T
    covariance = sigma_global**2 + sigma_class**2 * class_noise + sigma_individual**2 * centring
    # Coordinates of the strata: mean of class means, contrasts of class means, orthonormal contrasts within classes.
    averages = indicator.T / np.bincount(labels)[:, None]
    order = np.argsort(labels, kind="stable")
    within = block_diag(*(helmert(size) for size in np.bincount(labels)))[:, np.argsort(order)]
    coordinates = np.vstack([averages.mean(axis=0), helmert(n_classes) @ averages, within])
    log_jacobian = n_features * np.linalg.slogdet(coordinates)[1]

    prediction = gaussian_predictions(statistics, rates)
    for t, length in enumerate(lengths):
        weight = run.weight[t] if layer == "hidden" else None
        matrix = elasticity(*rates[:, t], n_classes)
        drift = linear_drift(impact, matrix, features[t], labels, run.given, run.logits[t], weight)
        means = class_means(features[t], labels)
        expected = expected_increment(means, *drift, length)[labels]
        expected = expected + np.expm1(kappa * length) * (features[t] - means[labels])
        seen = features[t + 1] - features[t]
        dense = sum(
            stats.multivariate_normal(expected[:, f], length * covariance).logpdf(seen[:, f]) for f in range(n_features)
        )
        strata = 0.0
        for stratum, sigma, residual in zip(
            (statistics.contrast, statistics.shared), (sigma_class, sigma_global), prediction[t], strict=True
        ):
            strata += isotropic_normal(residual, stratum.dimension, sigma**2 * length)
        measured = statistics.within
        variance, growth = np.exp(measured.log_variance[t]), np.exp(measured.log_growth[t])
        spread = ((features[t] - means[labels]) ** 2).sum()
        residual = measured.dimension * variance + (growth - np.exp(kappa * length)) ** 2 * spread
        strata += isotropic_normal(residual, measured.dimension, sigma_individual**2 * length)
        np.testing.assert_allclose(strata + log_jacobian, dense, rtol=1e-9)


def gaussian_predictions(statistics, rates):
    """Squared residuals of contrasts and mean of every interval: array (time, contrast and shared)."""
    submodels = assemble(statistics)
    coupled = submodels[0].coupled
    residuals = []
    for stratum, name in enumerate(("contrast", "shared")):
        one, row = locate(submodels, name)
        location = jnp.asarray(rates if coupled else rates[stratum : stratum + 1])
        zeros = jnp.zeros(len(location))
        parameters = Parameters(location, jnp.zeros(location.shape), zeros + 1.0, zeros, zeros)
        # Without relaxation nothing is attenuated; the tolerance of the attenuation's own floor is tested elsewhere.
        data_at_one_step = one._replace(n_steps=jnp.ones_like(one.n_steps))
        c = np.asarray(predict_intervals(parameters, data_at_one_step, coupled=coupled).coefficients)[row]
        square, product = np.asarray(one.direction_square)[row], np.asarray(one.direction_increment)[row]
        explained = (c**2 * square - 2 * c * product).sum(axis=-1)
        residuals.append(np.asarray(one.increment_square)[row] + explained)
    return np.array(residuals).T


def isotropic_normal(residual_square, dimension, variance):
    return -0.5 * dimension * np.log(2 * np.pi * variance) - 0.5 * residual_square / variance


def test_within_stratum_is_plain_least_squares(tmp_path):
    run = make_run(3, 4, n_records=6, seed=8)
    with run.write(tmp_path / "run.h5") as recording:
        within = compute_statistics(recording, "hidden", "I").within
    n_samples, n_features = run.features.shape[1:]
    assert within.dimension == (n_samples - 3) * n_features
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
    assert abs(within.log_variance[0] - 2 * np.log(sigma)) < 4 * within.log_variance_error
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
