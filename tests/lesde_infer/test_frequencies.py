"""Sampling frequencies π: where they come from, what they do to impacts and paths, and that γ needs them."""

import numpy as np
import pytest
from core_helpers import CASES, class_means, elasticity, make_case, make_run
from dynamics_helpers import case, constant_rates, run
from scipy import integrate, linalg, special

from data_tools.elasticity_records import DriftMeasurement, ElasticitySettings, ElasticitySnapshot
from data_tools.errors import InputError
from data_tools.recording import Recording
from data_tools.recording_writer import write_recording
from lesde_infer.cli.options import numbers
from lesde_infer.frequencies import class_frequencies, class_weights
from lesde_infer.impacts import feedback_coefficients, isotropic_directions, simplex_directions
from lesde_infer.inference import fit
from lesde_infer.simulation import simulate
from lesde_infer.statistics import compute_statistics

SHARES = {2: (0.7, 0.3), 3: (0.6, 0.3, 0.1), 4: (0.4, 0.3, 0.2, 0.1)}


def drift(features, groups, given, alpha, beta, kappa, impact, shares):
    """Drift of every sample as it is written: sum_l pi_l E_kl h_l + kappa (x - class mean)."""
    n_classes = len(shares)
    means = class_means(features, groups)
    result = kappa * (features - means[groups])
    for k in range(n_classes):
        for j, share in enumerate(shares):
            if impact == "I":
                h = means[j]
            elif impact == "L":
                d = np.eye(n_classes)[j] - 1 / n_classes
                h = d * (d @ means[j]) / (d @ d)
            else:
                own = groups == j
                h = (np.eye(n_classes)[given[own]] - special.softmax(features[own], axis=1)).mean(axis=0)
            result[groups == k] += share * (alpha if k == j else beta) * h
    return result


@pytest.mark.parametrize("n_classes", [2, 3, 4])
@pytest.mark.parametrize("impact", ["I", "L"])
def test_linear_impacts_are_integrated_exactly(impact, n_classes):
    features, groups, given = case(n_classes, n_classes)
    shares, (alpha, beta, kappa) = SHARES[n_classes], (0.9, -0.4, 0.1)
    basis = np.eye(features.size).reshape(-1, *features.shape)
    operator = np.array([drift(e, groups, given, alpha, beta, kappa, impact, shares).ravel() for e in basis]).T
    expected = (linalg.expm(1.7 * operator) @ features.ravel()).reshape(features.shape)
    rates = constant_rates(alpha, beta, kappa, n_classes)
    found = run(features, groups, given, 1.7, rates, impact, class_frequencies=shares)
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-9)


def test_residual_impact_converges_to_the_flow():
    features, groups, given = case(3, 3, corrupted=True)
    arguments = (groups, given, 3.0, 0.5, 0.2, "R", SHARES[3])
    expected = integrate.solve_ivp(
        lambda _, flat: drift(flat.reshape(features.shape), *arguments).ravel(),
        (0, 1), features.ravel(), "DOP853", rtol=1e-11, atol=1e-12,
    ).y[:, -1].reshape(features.shape)  # fmt: skip
    rates = constant_rates(3.0, 0.5, 0.2, 3)
    errors = [
        np.abs(run(features, groups, given, 1.0, rates, "R", substeps=m, class_frequencies=SHARES[3]) - expected).max()
        for m in (16, 64)
    ]
    assert errors[0] / errors[1] > 3, errors  # first order: 4
    assert errors[1] < 0.02


@pytest.mark.parametrize("impact", ["I", "L"])
def test_a_matrix_of_elasticity_starts_with_the_drift(impact):
    """The explicit step of a pattern, over a short interval, is the drift times its length."""
    features, groups, given = case(3, 3)
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(3, 3))
    centred = matrix - matrix.mean(axis=0)
    matrix = centred + 0.4  # every column has the mean g = 0.4
    rates = constant_rates(0.0, 0.0, 0.0, 3)
    rates = type(rates)(
        **{**vars(rates), "gamma": np.full((1, 1), np.trace(centred) / 2), "global_rate": np.full((1, 1), 0.4),
           "pattern": centred[None, None]}
    )  # fmt: skip
    means = class_means(features, groups)
    d = simplex_directions(3)
    impacts = means if impact == "I" else (d * means).sum(axis=1, keepdims=True) * d
    expected = matrix @ (np.array(SHARES[3])[:, None] * impacts)
    length = 1e-6
    after = run(features, groups, given, length, rates, impact, class_frequencies=SHARES[3])
    np.testing.assert_allclose((class_means(after, groups) - means) / length, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("case_name", CASES)
def test_directions_sum_to_the_impacts_as_sampled(case_name, tmp_path):
    run_, layer, impact = make_case(case_name, 3, seed=1)
    weights = 3 * np.array(SHARES[3])
    with run_.write(tmp_path / "run.h5", class_frequencies=SHARES[3]) as recording:
        statistics = compute_statistics(recording, layer, impact)
    np.testing.assert_allclose(statistics.frequencies, SHARES[3], rtol=1e-12)
    for t in range(len(run_.steps) - 1):
        features = run_.features[t] if layer == "hidden" else run_.logits[t]
        means = class_means(features, run_.labels)
        if impact == "I":
            impacts = means
        elif impact == "L":
            d = simplex_directions(3)
            impacts = (d * means).sum(axis=1, keepdims=True) * d
        else:
            impacts = class_means(np.eye(3)[run_.given] - special.softmax(run_.logits[t], axis=1), run_.labels)
            impacts = impacts if layer == "out" else impacts @ run_.weight[t]
        impacts = weights[:, None] * impacts
        mean = impacts.mean(axis=0)
        after = class_means(run_.features[t + 1] if layer == "hidden" else run_.logits[t + 1], run_.labels)
        # Directions are orthogonal: squares add up; and so do products with the increments.
        for stratum, part, moved in (
            (statistics.contrast, impacts - mean, after - means - (after - means).mean(axis=0)),
            (statistics.shared, mean, (after - means).mean(axis=0)),
        ):
            assert stratum.direction_square[t].sum() == pytest.approx((part**2).sum(), rel=1e-9)
            assert stratum.direction_increment[t].sum() == pytest.approx((part * moved).sum(), rel=1e-9, abs=1e-12)
        gram = statistics.pattern.coordinates[t].T @ statistics.pattern.coordinates[t]
        np.testing.assert_allclose(gram, impacts @ impacts.T, rtol=1e-9, atol=1e-9)


def test_feedback_of_the_isotropic_model_is_right_to_second_order():
    """With g = 0 contrasts alone move; along their direction only terms of third order are missing."""
    means = np.random.default_rng(0).normal(size=(3, 4))
    weights, gamma = 3 * np.array(SHARES[3]), 1.3
    directions = isotropic_directions(means, weights)
    contrast = directions.contrast[0]
    operator = elasticity(gamma, 0.0, 3) * weights / 3

    def error(length, feedback):
        moved = (linalg.expm(length * operator) - np.eye(3)) @ means
        exact = (contrast * moved).sum() / (contrast**2).sum()
        push = np.array([gamma * length / 3])
        return abs(float(feedback_coefficients(push, np.array([[feedback]]))[0, 0]) - exact)

    own = float(directions.contrast_feedback[0])
    assert error(0.1, own) / error(0.05, own) == pytest.approx(8, rel=0.15)
    assert error(0.1, -1.0) / error(0.05, -1.0) == pytest.approx(4, rel=0.15)
    assert isotropic_directions(means, np.ones(3)).contrast_feedback[0] == -1.0


@pytest.mark.parametrize("case_name", CASES)
def test_equal_frequencies_change_no_bit(case_name, tmp_path):
    run_, layer, impact = make_case(case_name, 3, seed=2)
    with run_.write(tmp_path / "run.h5") as recording:
        plain = compute_statistics(recording, layer, impact)
        equal = compute_statistics(recording, layer, impact, frequencies=[1 / 3] * 3)
        rounded = compute_statistics(recording, layer, impact, frequencies=[0.3333, 0.3333, 0.3333])
    assert plain.frequencies is equal.frequencies is rounded.frequencies is None
    for other in (equal, rounded):
        np.testing.assert_array_equal(other.contrast.direction_increment, plain.contrast.direction_increment)
        np.testing.assert_array_equal(other.shared.feedback, plain.shared.feedback)


def test_frequencies_by_given_label_follow_from_those_by_label(tmp_path):
    """Draw from a training set as recorded: the share of each given label is what is computed."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [40, 60, 50])
    given = np.where(rng.random(150) < 0.4, rng.integers(0, 3, size=150), labels)
    shares = np.array([0.5, 0.3, 0.2])
    features = {"out": rng.normal(size=(2, 150, 3))}
    path = write_recording(tmp_path / "run.h5", [0, 1], labels, features, given_labels=given, class_frequencies=shares)
    with Recording(path) as recording:
        np.testing.assert_array_equal(recording.class_frequencies, shares)
        np.testing.assert_array_equal(class_frequencies(recording, "labels"), shares)
        by_given = class_frequencies(recording, "given_labels")
        chosen = class_frequencies(recording, "given_labels", [0.2, 0.2, 0.6])
    drawn = rng.choice(150, size=200_000, p=(shares / [40, 60, 50])[labels])
    observed = np.bincount(given[drawn], minlength=3) / drawn.size
    np.testing.assert_allclose(by_given, observed, atol=4 * 0.5 / np.sqrt(drawn.size))
    assert np.abs(by_given - shares).max() > 0.02  # else nothing was tested
    np.testing.assert_allclose(chosen, [0.2, 0.2, 0.6])


def test_frequencies_are_those_of_the_grouping_where_labels_agree(tmp_path):
    run_ = make_run(3, 3, corrupted=False)
    with run_.write(tmp_path / "run.h5", class_frequencies=SHARES[3]) as recording:
        by_label, by_given = (class_frequencies(recording, group) for group in ("labels", "given_labels"))
    np.testing.assert_allclose(by_given, by_label, rtol=1e-12)


def test_gamma_comes_back_with_the_frequencies_and_not_without(tmp_path):
    """Short intervals without noise: least squares along the impacts as sampled is γ up to their feedback."""
    alpha, beta = 0.08, -0.02
    with simulate(
        tmp_path / "run.h5", n_classes=3, samples_per_class=20, steps=np.arange(41), alpha=alpha, beta=beta,
        kappa=1e-3, global_scale=0.0, class_scale=0.0, individual_scale=0.0, impact="R", noise=False,
        class_frequencies=[0.7, 0.2, 0.1],
    ) as recording:  # fmt: skip
        weighted = compute_statistics(recording, "logits", "R")
        balanced = compute_statistics(recording, "logits", "R", frequencies=[1 / 3] * 3)

    def gamma(statistics):
        stratum = statistics.contrast
        push = statistics.lengths.sum() / len(statistics.lengths) / 3
        return stratum.direction_increment.sum() / stratum.direction_square.sum() / push

    def share_explained(statistics):
        stratum = statistics.contrast
        along = stratum.direction_increment.sum(axis=1) ** 2 / stratum.direction_square.sum(axis=1)
        return along.sum() / stratum.increment_square.sum()

    assert gamma(weighted) == pytest.approx(alpha - beta, rel=0.02)
    assert abs(gamma(balanced) / (alpha - beta) - 1) > 0.1
    assert share_explained(weighted) > 0.999
    assert share_explained(balanced) < 0.95


def test_measured_rates_are_along_the_impacts_as_sampled(tmp_path):
    rng = np.random.default_rng(0)
    shares, gamma = np.array(SHARES[3]), 0.37
    impact = rng.normal(size=(2, 3, 3))
    sampled = 3 * shares[:, None] * impact
    onestep = gamma / 3 * (sampled - sampled.mean(axis=1, keepdims=True)) + 0.2
    snapshots = [
        ElasticitySnapshot(s, 0.1, {"out": {"labels": DriftMeasurement(onestep[s][None, None], onestep[s], impact[s])}})
        for s in range(2)
    ]
    labels = np.repeat([0, 1, 2], 3)
    path = write_recording(
        tmp_path / "run.h5", [0, 1], labels, {"out": rng.normal(size=(2, 9, 3))},
        elasticity=(ElasticitySettings(np.ones(1), 1), snapshots),
    )  # fmt: skip
    with Recording(path) as recording:
        measured = recording.elasticity("out")
        weights = class_weights(shares)
        np.testing.assert_allclose(measured.onestep_rates(weights).rate, gamma, rtol=1e-10)
        np.testing.assert_allclose(measured.tangent_rates(weights), gamma, rtol=1e-10)
        assert not np.allclose(measured.onestep_rates().rate, gamma, rtol=0.05)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([0.5, 0.5], "2 numbers for 3 classes"),
        ([0.5, 0.6, -0.1], "must be positive"),
        ([0.5, 0.5, 0.0], "must be positive"),
        ([0.5, 0.3, np.nan], "must be positive"),
        ([5, 3, 2], "must sum to 1"),
    ],
)
def test_frequencies_that_cannot_be_are_refused(given, message, tmp_path):
    run_ = make_run(3, 3)
    with run_.write(tmp_path / "run.h5"):
        pass
    with pytest.raises(InputError, match=message) as caught:
        fit(tmp_path / "run.h5", class_frequencies=given)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=message):
        run_.write(tmp_path / "other.h5", class_frequencies=given)
    assert not (tmp_path / "other.h5").exists()


def test_frequencies_on_the_command_line():
    assert numbers("--class-frequencies", "0.5, 0.3,0.2") == [0.5, 0.3, 0.2]
    with pytest.raises(InputError, match=r"--class-frequencies: '0\.5;0\.5' is no list"):
        numbers("--class-frequencies", "0.5;0.5")
