"""The simulator against dense integration, a plain re-implementation, and the laws that it must obey."""

import numpy as np
import pytest
from dynamics_helpers import case, class_means, constant_rates, run
from scipy import linalg, optimize, special, stats

from data_tools.errors import InputError
from lesde_infer import dynamics
from lesde_infer.dynamics import simulate_records
from lesde_infer.integrators import SMALLEST_PULL
from lesde_infer.interval_rates import IntervalRates


def linear_drift(features, groups, alpha, beta, kappa, impact):
    """Drift of every sample, as the model is written: (1/K) sum_l E_kl h_l + kappa (x - class mean)."""
    n_classes = groups.max() + 1
    means = class_means(features, groups)
    impacts = []
    for k in range(n_classes):
        if impact == "I":
            impacts.append(means[k])
        else:
            d = np.eye(n_classes)[k] - 1 / n_classes
            impacts.append(d * (d @ means[k]) / (d @ d))
    elasticity = np.where(np.eye(n_classes, dtype=bool), alpha, beta)
    return (elasticity @ np.array(impacts) / n_classes)[groups] + kappa * (features - means[groups])


@pytest.mark.parametrize("n_classes", [2, 3, 5])
@pytest.mark.parametrize("impact", ["I", "L"])
@pytest.mark.parametrize(
    ("alpha", "beta", "kappa"),
    [(0.9, 0.2, 0.1), (-0.5, 0.7, -0.3), (0.4, 0.4, 0.0), (0.6, -0.6, 0.2), (0.6, -1.2, 0.2), (0.0, 0.0, 0.0)],
)
def test_linear_impacts_equal_the_exponential_of_the_sample_level_operator(n_classes, impact, alpha, beta, kappa):
    features, groups, given = case(n_classes, n_classes)
    basis = np.eye(features.size).reshape(-1, *features.shape)
    operator = np.array([linear_drift(unit, groups, alpha, beta, kappa, impact).ravel() for unit in basis]).T
    expected = (linalg.expm(1.7 * operator) @ features.ravel()).reshape(features.shape)
    rates = constant_rates(alpha, beta, kappa, n_classes)
    np.testing.assert_allclose(run(features, groups, given, 1.7, rates, impact), expected, rtol=1e-8, atol=1e-9)


def phi1(matrix):
    """(e^M - 1) M^-1 by the exponential of a block matrix, which needs no inverse."""
    size = len(matrix)
    block = np.block([[matrix, np.eye(size)], [np.zeros((size, size)), np.zeros((size, size))]])
    return linalg.expm(block)[:size, size:]


def reference_interval(features, groups, given, length, alpha, beta, kappa, weight, bias):
    """One step of the documented scheme for impact R, by loops over samples and general-purpose solvers."""
    n_classes = groups.max() + 1
    gamma, global_rate = alpha - beta, (alpha + (n_classes - 1) * beta) / n_classes

    def residuals_and_curvature(x):
        residuals, curvature = np.zeros((n_classes, n_classes)), np.zeros((n_classes, n_classes))
        for i, k in enumerate(groups):
            share = 1 / np.sum(groups == k)
            s = special.softmax(weight @ x[i] + bias)
            residuals[k] += share * (np.eye(n_classes)[given[i]] - s)
            curvature += share / n_classes * (np.diag(s) - np.outer(s, s))
        return residuals, curvature

    residuals, curvature = residuals_and_curvature(features)
    relaxing = phi1(-gamma / n_classes * length * curvature @ weight @ weight.T)
    moved = np.zeros_like(features)
    means = class_means(features, groups)
    for i, k in enumerate(groups):
        contrast = residuals[k] - residuals.mean(axis=0)
        shift = gamma / n_classes * length * weight.T @ relaxing @ contrast
        moved[i] = means[k] + shift + np.exp(kappa * length) * (features[i] - means[k])

    frame = linalg.orth(weight.T)
    mixing = weight @ frame
    hessian = mixing.T @ curvature @ mixing
    if global_rate <= 0:
        start = mixing.T @ residuals_and_curvature(moved)[0].mean(axis=0)
        return moved + frame @ (global_rate * length * phi1(-global_rate * length * hessian) @ start)
    pull = np.linalg.inv(global_rate * length * phi1(global_rate * length * hessian))

    def slope(shift):
        return mixing.T @ residuals_and_curvature(moved + frame @ shift)[0].mean(axis=0) - pull @ shift

    solution = optimize.root(slope, np.zeros(frame.shape[1]), method="hybr", tol=1e-14)
    return moved + frame @ solution.x


@pytest.mark.parametrize(("n_classes", "n_features"), [(3, 3), (4, 7), (4, 2)])
@pytest.mark.parametrize(("alpha", "beta", "kappa"), [(3.0, 0.5, 0.2), (0.5, 2.5, -0.2), (0.2, -1.0, 0.1)])
def test_one_interval_of_residual_impact_equals_a_plain_loop(n_classes, n_features, alpha, beta, kappa):
    features, groups, given = case(n_classes, n_features, corrupted=True)
    rng = np.random.default_rng(2)
    weight, bias = np.eye(n_classes), np.zeros(n_classes)
    classifier = None
    if n_features != n_classes:
        weight, bias = rng.normal(size=(n_classes, n_features)), rng.normal(size=n_classes)
        classifier = (np.stack([weight, 9 * weight]), np.stack([bias, -bias]))  # the end's must not be used
    expected = reference_interval(features, groups, given, 1.3, alpha, beta, kappa, weight, bias)
    rates = constant_rates(alpha, beta, kappa, n_classes)
    simulated = run(features, groups, given, 1.3, rates, "R", classifier=classifier)
    np.testing.assert_allclose(simulated, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("impact", ["I", "L", "R"])
def test_relabelling_classes_only_renames_them(impact):
    features, groups, given = case(4, 4, corrupted=True)
    names = np.array([2, 0, 3, 1])  # the new name of each class
    rates = constant_rates(1.1, 0.3, 0.2, 4)
    plain = run(features, groups, given, 0.8, rates, impact)
    renamed = run(features[:, np.argsort(names)], names[groups], names[given], 0.8, rates, impact)
    np.testing.assert_allclose(renamed, plain[:, np.argsort(names)], rtol=0, atol=1e-11)


def test_isotropic_impact_commutes_with_rotations():
    features, groups, given = case(3, 6)
    rotation = stats.ortho_group.rvs(6, random_state=3)
    rates = constant_rates(1.1, 0.3, 0.2, 3, n_intervals=3)
    plain = run(features, groups, given, 0.8, rates, "I")
    np.testing.assert_allclose(run(features @ rotation, groups, given, 0.8, rates, "I"), plain @ rotation, atol=1e-12)


@pytest.mark.parametrize("impact", ["I", "L", "R"])
def test_only_rate_times_time_matters(impact):
    features, groups, given = case(3, 3, corrupted=True)
    sd = (0.3, 0.2, 0.1)
    slow = constant_rates(0.11, 0.03, 0.02, 3, n_intervals=3, sd=sd, dof=3)
    fast = constant_rates(1.1, 0.3, 0.2, 3, n_intervals=3, sd=sd, dof=3)
    noisy = {"noise": True, "seed": 4}
    expected = run(features, groups, given, 0.5, fast, impact, **noisy)
    np.testing.assert_allclose(run(features, groups, given, 5.0, slow, impact, **noisy), expected, rtol=1e-7)


def test_a_square_orthogonal_classifier_gives_the_dynamics_of_its_logits():
    logits, groups, given = case(4, 4, corrupted=True)
    weight = stats.ortho_group.rvs(4, random_state=5)
    bias = np.random.default_rng(5).normal(size=4)
    rates = constant_rates(2.0, 0.7, 0.1, 4)
    classifier = (np.stack([weight] * 2), np.stack([bias] * 2))
    hidden = run((logits - bias) @ weight, groups, given, 0.9, rates, "R", classifier=classifier)
    expected = run(logits, groups, given, 0.9, rates, "R")
    np.testing.assert_allclose(hidden @ weight.T + bias, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("spread", [0.1, 3.0, 60.0])
@pytest.mark.parametrize("n_features", [4, 2, 7])
def test_a_very_fast_global_mode_arrives_without_overshooting(spread, n_features):
    features, groups, given = case(4, n_features, corrupted=True)
    features = spread * features + 20.0 * np.arange(n_features)
    weight, bias = np.eye(4), np.zeros(4)
    classifier = None
    if n_features != 4:
        weight, bias = np.random.default_rng(6).normal(size=(4, n_features)), np.arange(4.0)
        classifier = (np.stack([weight] * 2), np.stack([bias] * 2))
    rates = constant_rates(1e6, 1e6, 0.0, 4)  # no separation, the mean alone moves
    final = run(features, groups, given, 50.0, rates, "R", classifier=classifier)
    probabilities = special.softmax(final @ weight.T + bias, axis=1)
    residual = class_means(np.eye(4)[given] - probabilities, groups).mean(axis=0)
    assert np.isfinite(final).all()
    moved = final - features
    pull = max(1 / (1e6 * 50.0), SMALLEST_PULL * np.mean(np.sum(weight**2, axis=1)))
    assert np.linalg.norm(weight.T @ residual) <= 1.01 * pull * np.linalg.norm(moved[0]) + 1e-9
    np.testing.assert_allclose(moved, np.broadcast_to(moved[0], moved.shape), atol=1e-8)


def test_repelling_and_extreme_rates_stay_finite():
    features, groups, given = case(3, 3)
    for alpha, beta in [(-5.0, -5.0), (1e4, -1e4), (-1e4, 1e4)]:
        assert np.isfinite(run(features, groups, given, 10.0, constant_rates(alpha, beta, 0.0, 3), "R")).all()
    # Deviations grow by no more than e^50, class means in proportion to the rate beyond a hundredfold.
    before, exponent = class_means(features, groups), 1e4 * 10.0 / 3
    for kappa, stretch in ((1e4, np.exp(50.0)), (0.0, 1.0)):
        exploding = run(features, groups, given, 10.0, constant_rates(1e4, 0.0, kappa, 3), "I")
        after = class_means(exploding, groups)
        np.testing.assert_allclose((exploding - after[groups]) / (features - before[groups]), stretch, rtol=1e-6)
    np.testing.assert_allclose(after, (1.0 + 99.0 * exponent / np.log(100.0)) * before, rtol=1e-9)


def test_a_path_that_leaves_double_precision_is_not_a_number_from_there_on():
    features, groups, given = case(3, 3)
    rates = constant_rates(1e4, 0.0, 1e4, 3, n_intervals=20)
    keep = np.array([0, 10, 20])
    records = simulate_records(features, groups, given, np.ones(20), rates, "I", seed=0, keep=keep, n_classes=3)[0]
    assert np.isfinite(records[:2]).all()
    assert np.isnan(records[2]).all()


def test_draws_depend_neither_on_batches_nor_on_kept_records(monkeypatch):
    features, groups, given = case(3, 3, corrupted=True)
    rates = constant_rates(1.0, 0.2, 0.1, 3, n_draws=7, n_intervals=6, sd=(0.2, 0.2, 0.2), dof=3)

    def simulate(keep):
        keep = np.array(keep)
        return simulate_records(features, groups, given, np.ones(6), rates, "I", seed=9, keep=keep, n_classes=3)

    every = simulate(range(7))
    np.testing.assert_allclose(every[:, 0], np.broadcast_to(features, (7, *features.shape)), rtol=0, atol=1e-15)
    np.testing.assert_allclose(simulate([5, 2, 5, 0]), every[:, [5, 2, 5, 0]], rtol=1e-12, atol=1e-13)
    monkeypatch.setattr(dynamics, "WORKING_BYTES", 25_000)
    np.testing.assert_allclose(simulate(range(7)), every, rtol=1e-12, atol=1e-13)


def test_each_draw_and_interval_uses_its_own_rates_and_length():
    features, groups, given = case(3, 3)
    rng = np.random.default_rng(10)
    lengths = rng.uniform(0.5, 2.0, size=3)
    zeros, gaussian = np.zeros((2, 3)), np.full(2, np.inf)
    gamma, global_rate, kappa = rng.normal(size=(3, 2, 3))
    rates = IntervalRates(gamma, global_rate, kappa, *[zeros] * 4, *[gaussian] * 4)
    keep = np.array([3])
    final = simulate_records(features, groups, given, lengths, rates, "I", seed=0, keep=keep, n_classes=3)[:, 0]
    means = class_means(features, groups)
    for draw in range(2):
        grown = [np.exp(lengths @ rate[draw]) for rate in (global_rate, gamma / 3, kappa)]
        centre = means.mean(axis=0)
        expected = grown[0] * centre + (grown[1] * (means - centre))[groups] + grown[2] * (features - means[groups])
        np.testing.assert_allclose(final[draw], expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"impact": "L", "n_classes": 4, "groups": "four"}, "impact L is for 4 logits"),
        ({"impact": "X"}, "give one of I, L, R"),
        ({"n_classes": 4}, "class 3 has no sample"),
        ({"groups": np.zeros(3, dtype=int)}, "groups: give one integer per sample"),
        ({"given_labels": np.full(11, 7)}, "labels run from 7 to 7"),
        ({"interval_lengths": np.array([1.0, -1.0])}, "interval 1 is -1.0"),
        ({"interval_lengths": np.ones(3)}, "the rates have 2 intervals"),
        ({"keep": np.array([3])}, "records run from 0 to 2, not 3 to 3"),
        ({"keep": np.array([], dtype=int)}, "at least one"),
        ({"substeps": 0}, "substeps is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"first_features": np.ones((11, 5)), "impact": "R"}, "give the classifier of this layer"),
        ({"impact": "R", "classifier": (np.ones((2, 3, 3)), np.ones((2, 3)))}, "do not fit 3 records"),
        ({"impact": "R", "classifier": (np.full((3, 3, 3), np.nan), np.ones((3, 3)))}, "classifier: weight or bias"),
        ({"first_features": np.full((11, 3), np.nan)}, "sample 0 is not finite"),
    ],
)
def test_bad_input_is_refused_in_one_line(change, message):
    features, groups, given = case(3, 3)
    if change.get("groups") is not None and isinstance(change["groups"], str):
        change = {**change, "groups": np.arange(len(groups)) % 4}
    valid = {
        "first_features": features,
        "groups": groups,
        "given_labels": given,
        "interval_lengths": np.ones(2),
        "rates": constant_rates(1.0, 0.0, 0.0, 3, n_intervals=2),
        "impact": "I",
        "seed": 0,
        "keep": np.array([0, 2]),
        "n_classes": 3,
    }
    with pytest.raises(InputError, match=message) as caught:
        simulate_records(**{**valid, **change})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gamma": np.zeros(3)}, "one row per draw"),
        ({"kappa": np.zeros((2, 4))}, r"kappa has shape \(2, 4\)"),
        ({"global_sd": -np.ones((2, 3))}, "global_sd is negative in draw 0, interval 0"),
        ({"class_sd": np.full((2, 3), np.nan)}, "class_sd is not finite"),
        ({"impact_sd": -np.ones((2, 3))}, "impact_sd is negative"),
        ({"impact_dof": np.ones(3)}, r"impact_dof has shape \(3,\)"),
        ({"class_dof": np.array([1.0, 0.0])}, "class_dof must be positive"),
        ({"individual_dof": np.array([1.0, np.nan])}, "individual_dof must be positive"),
    ],
)
def test_bad_rates_are_refused(change, message):
    matrix, vector = np.zeros((2, 3)), np.ones(2)
    names = ("gamma", "global_rate", "kappa", "global_sd", "class_sd", "impact_sd", "individual_sd")
    valid = dict.fromkeys(names, matrix)
    valid |= dict.fromkeys(("global_dof", "class_dof", "impact_dof", "individual_dof"), vector)
    with pytest.raises(InputError, match=message):
        IntervalRates(**{**valid, **change})
