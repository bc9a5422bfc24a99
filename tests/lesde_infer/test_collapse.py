"""Neural collapse: closed forms, an independent pseudo-inverse implementation, invariances, faults, memory."""

import tracemalloc

import numpy as np
import pytest
from scipy.stats import ortho_group

from data_tools.errors import InputError
from lesde_infer.collapse import (
    between_class_spectrum,
    between_norm,
    nc1,
    nc2_equiangular,
    nc2_equinorm,
    nc3,
    nc4,
    within_between_ratio,
)
from lesde_infer.observed import METRICS, observe


def simplex(n_classes, n_features, seed=0):
    """K unit vectors in p ≥ K dimensions with all cosines −1/(K−1), rotated at random."""
    frame = np.eye(n_classes) - 1.0 / n_classes
    frame /= np.linalg.norm(frame, axis=1)[:, None]
    rotation = ortho_group.rvs(n_features, random_state=seed)
    return frame @ rotation[:n_classes]


def star(means, spread):
    """Samples at each mean ± spread along every axis: class covariances are exactly spread² I / p."""
    n_features = means.shape[1]
    offsets = spread * np.concatenate([np.eye(n_features), -np.eye(n_features)])
    features = (means[:, None, :] + offsets).reshape(-1, n_features)
    return features, np.repeat(np.arange(len(means)), 2 * n_features)


def random_classes(seed=0, n_classes=4, n_features=7, sizes=(5, 9, 20, 31)):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(n_classes), sizes[:n_classes]))
    means = rng.normal(size=(n_classes, n_features))
    return means[labels] + rng.normal(size=(len(labels), n_features)) * rng.uniform(0.1, 1.0, n_features), labels


def by_pseudo_inverse(features, labels, weights):
    """NC1 (without /K) and both traces from p × p covariance matrices, written from the definition."""
    names = np.unique(labels)
    shares = [1 / len(names) if weights == "class" else np.mean(labels == name) for name in names]
    means = [features[labels == name].mean(axis=0) for name in names]
    centre = sum(share * mean for share, mean in zip(shares, means, strict=True))
    within = sum(
        s * np.atleast_2d(np.cov(features[labels == name].T, bias=True)) for s, name in zip(shares, names, strict=True)
    )
    between = sum(s * np.outer(m - centre, m - centre) for s, m in zip(shares, means, strict=True))
    inverse = np.linalg.pinv(between, rcond=1e-12, hermitian=True)
    return np.trace(within @ inverse), np.trace(within), np.trace(between), inverse


@pytest.mark.parametrize("n_classes", [2, 3, 10])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_simplex_with_isotropic_classes_in_closed_form(n_classes, scale):
    n_features, spread = 12, 0.3
    features, labels = star(scale * simplex(n_classes, n_features), scale * spread)
    features += 5.0 * scale  # a common offset is no separation
    # Σ_W = spread²/p · I and Σ_B has K−1 eigenvalues 1/(K−1), since tr Σ_B = 1.
    papyan = (n_classes - 1) ** 2 * spread**2 / n_features
    assert nc1(features, labels, "papyan") == pytest.approx(papyan, rel=1e-9)
    assert nc1(features, labels) == pytest.approx(papyan / n_classes, rel=1e-9)
    assert nc1(features, labels, "quotient") == pytest.approx(spread**2, rel=1e-9)
    assert within_between_ratio(features, labels) == pytest.approx(spread, rel=1e-9)
    assert between_norm(features, labels) == pytest.approx(scale, rel=1e-9)
    assert nc2_equinorm(features, labels) == pytest.approx(0.0, abs=1e-8)
    assert nc2_equiangular(features, labels) == pytest.approx((0.0, 0.0), abs=1e-8)
    spectrum = between_class_spectrum(features, labels)
    assert spectrum.values == pytest.approx(scale**2 / (n_classes - 1), rel=1e-8)
    assert spectrum.effective_rank == n_classes - 1
    assert spectrum.condition == pytest.approx(1.0, rel=1e-8)


def test_orthogonal_frame_becomes_a_simplex_once_centred():
    features, labels = star(2.0 * np.eye(5), 0.1)
    assert nc2_equinorm(features, labels) == pytest.approx(0.0, abs=1e-12)
    assert nc2_equiangular(features, labels) == pytest.approx((0.0, 0.0), abs=1e-12)
    assert between_norm(features, labels) == pytest.approx(2.0 * np.sqrt(4 / 5))


def test_known_departures_from_the_simplex():
    # Four means on a cross: cosines −1 (twice) and 0 (four times), expected −1/3.
    cross = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 3.0], [0.0, -3.0]])
    features, labels = star(cross, 0.1)
    mean, sd = nc2_equiangular(features, labels)
    deviations = np.array([2 / 3, 2 / 3, 1 / 3, 1 / 3, 1 / 3, 1 / 3])
    assert (mean, sd) == pytest.approx((deviations.mean(), deviations.std()))
    assert nc2_equinorm(features, labels) == pytest.approx(0.5)  # norms 1, 1, 3, 3: mean 2, population sd 1
    assert between_norm(features, labels) == pytest.approx(np.sqrt(5.0))
    assert np.isnan(nc1(features, labels))  # two dimensions hold no four independent contrasts
    assert nc1(features, labels, "quotient") == pytest.approx(0.01 / 5.0)


def test_two_classes_are_always_equal_and_opposite():
    features, labels = random_classes(n_classes=2)
    assert nc2_equinorm(features, labels) == pytest.approx(0.0, abs=1e-12)
    assert nc2_equiangular(features, labels) == pytest.approx((0.0, 0.0), abs=1e-12)


@pytest.mark.parametrize("weights", ["class", "sample"])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("n_classes", "n_features"), [(2, 1), (3, 2), (4, 7), (4, 60)])
def test_agrees_with_the_pseudo_inverse_on_unbalanced_classes(weights, seed, n_classes, n_features):
    features, labels = random_classes(seed, n_classes, n_features)
    trace, within, between, inverse = by_pseudo_inverse(features, labels, weights)
    assert nc1(features, labels, "papyan", weights=weights) == pytest.approx(trace, rel=1e-10)
    assert nc1(features, labels, weights=weights) == pytest.approx(trace / n_classes, rel=1e-10)
    assert nc1(features, labels, "quotient", weights=weights) == pytest.approx(within / between, rel=1e-10)
    assert between_norm(features, labels, weights=weights) == pytest.approx(np.sqrt(between), rel=1e-10)
    assert within_between_ratio(features, labels, weights=weights) == pytest.approx(np.sqrt(within / between))
    spectrum = between_class_spectrum(features, labels, weights=weights)
    rebuilt = (spectrum.directions / spectrum.values) @ spectrum.directions.T
    assert rebuilt == pytest.approx(inverse, rel=1e-8, abs=1e-8)


def test_weights_matter_for_unbalanced_classes_and_only_there():
    features, labels = random_classes()
    assert nc1(features, labels, weights="sample") != pytest.approx(nc1(features, labels), rel=1e-3)
    balanced, even = random_classes(sizes=(9, 9, 9, 9))
    assert nc1(balanced, even, weights="sample") == pytest.approx(nc1(balanced, even), rel=1e-12)


def test_invariant_to_rotation_scale_shift_order_and_names():
    features, labels = random_classes()
    classifier = np.random.default_rng(9).normal(size=(4, 7))
    predictions = np.random.default_rng(9).integers(0, 4, len(labels))
    rotation = ortho_group.rvs(7, random_state=2)
    order = np.random.default_rng(4).permutation(len(labels))
    renamed = np.array([2, 0, 3, 1])
    moved = (3.0 * features @ rotation + 10.0)[order]
    moved_labels = renamed[labels][order]
    moved_classifier = (classifier @ rotation)[np.argsort(renamed)]
    invariant = (
        nc1,
        nc2_equinorm,
        nc2_equiangular,
        within_between_ratio,
        lambda f, y: nc1(f, y, "quotient"),
        lambda f, y: between_class_spectrum(f, y).condition,
    )
    for measure in invariant:
        assert measure(moved, moved_labels) == pytest.approx(measure(features, labels), rel=1e-10)
    assert between_norm(moved, moved_labels) == pytest.approx(3.0 * between_norm(features, labels), rel=1e-10)
    assert nc3(moved, moved_labels, moved_classifier) == pytest.approx(nc3(features, labels, classifier), rel=1e-10)
    assert nc4(moved, moved_labels, renamed[predictions][order]) == nc4(features, labels, predictions)


def test_complete_collapse_and_no_separation():
    means = simplex(4, 6)
    labels = np.repeat(np.arange(4), 5)
    assert nc1(means[labels], labels) == pytest.approx(0.0, abs=1e-20)
    assert within_between_ratio(means[labels], labels) == pytest.approx(0.0, abs=1e-12)
    features, labels = star(np.full((3, 4), 0.1), 1.0)
    assert between_norm(features, labels) == pytest.approx(0.0, abs=1e-15)
    for value in (
        nc1(features, labels),
        nc1(features, labels, "quotient"),
        within_between_ratio(features, labels),
        nc2_equinorm(features, labels),
        nc2_equiangular(features, labels).mean,
        nc3(features, labels, np.ones((3, 4))),
    ):
        assert np.isnan(value)


def test_two_classes_that_coincide_leave_nc1_undefined_rather_than_huge():
    means = simplex(4, 6)
    means[1] = means[0]
    features, labels = star(means, 0.2)
    spectrum = between_class_spectrum(features, labels)
    assert spectrum.effective_rank == 2
    assert spectrum.condition == np.inf
    assert np.isnan(nc1(features, labels))
    assert nc1(features, labels, "quotient") > 0


def test_nearly_coinciding_classes_are_still_measured():
    # Squared singular ratio 1e-14: a Gram matrix in double precision would have 1 % error or worse here.
    means = np.array([[1.0, 0.0, 0.0], [-0.5, 0.5e-7, 0.0], [-0.5, -0.5e-7, 0.0]])
    features, labels = star(means, 0.3)
    # Eigenvalues of Σ_B: (1 + ¼ + ¼)/3 = ½ along the first axis, 2 (½·10⁻⁷)²/3 along the second.
    small = 0.5e-14 / 3
    assert nc1(features, labels, "papyan") == pytest.approx(0.03 * (2.0 + 1.0 / small), rel=1e-6)


def test_self_duality_in_closed_form():
    means = simplex(3, 5)
    features, labels = star(means, 0.2)
    assert nc3(features, labels, 7.0 * means) == pytest.approx(0.0, abs=1e-12)
    assert nc3(features, labels, -means) == pytest.approx(2.0)
    assert nc3(features, labels, -means, squared=True) == pytest.approx(4.0)
    orthogonal = simplex(3, 5) @ ortho_group.rvs(5, random_state=1)
    cosine = np.sum(orthogonal * means) / 3.0
    assert nc3(features, labels, orthogonal) == pytest.approx(np.sqrt(2.0 - 2.0 * cosine))
    assert np.isnan(nc3(features, labels, np.zeros((3, 5))))


def test_nc4_counts_disagreement_with_the_network_not_with_the_label():
    features = np.array([[0.0], [0.2], [1.0], [0.9], [0.1]])
    labels = np.array([0, 0, 1, 1, 1])  # means 0.1 and 2/3: the last sample is nearest to class 0
    nearest = np.array([0, 0, 1, 1, 0])
    assert nc4(features, labels, nearest) == 0.0
    assert nc4(features, labels, labels) == pytest.approx(1 / 5)
    assert nc4(features, labels, 1 - nearest) == 1.0


def test_memory_stays_far_below_a_matrix_of_features_by_features():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 20_000))
    labels = np.repeat([0, 1], 100)
    tracemalloc.start()
    value = nc1(features, labels)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert value > 0
    assert peak < 6 * features.nbytes  # p × p would be a hundred times the features


def test_observe_gives_every_metric_by_its_contract_name():
    means = simplex(3, 5)
    features, labels = star(means, 0.2)
    logits = features @ means.T
    values = observe(features, labels, metrics=METRICS, logits=logits, classifier=means)
    assert tuple(values) == METRICS
    expected = {
        "linear_separability": 1.0,
        "linear_accuracy": 1.0,
        "ncm_accuracy": 1.0,
        "network_accuracy": 1.0,
        "nc1": 4 * 0.04 / 5 / 3,
        "nc2_equinorm": 0.0,
        "nc2_equiangular": 0.0,
        "nc3": 0.0,
        "nc4": 0.0,
        "between_norm": 1.0,
        "within_between_ratio": 0.2,
    }
    assert values == pytest.approx(expected, abs=1e-12)
    assert tuple(observe(features, labels)) == tuple(
        name for name in METRICS if name not in ("network_accuracy", "nc3", "nc4")
    )


def test_observe_on_a_real_recording_sees_separation_and_collapse(real_recording):
    recording = real_recording("geomnist_p0.0")
    labels = recording["y_true"]
    first, last = (
        observe(recording["logits"][t].astype(float), labels, metrics=METRICS[:7], logits=recording["logits"][t])
        for t in (0, 200)
    )
    assert first["linear_separability"] == 0.0
    assert last["linear_separability"] == last["linear_accuracy"] == last["network_accuracy"] == 1.0
    assert last["nc1"] < 0.1 * first["nc1"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f, y: nc1(f, y, "other"), "unknown variant 'other'"),
        (lambda f, y: nc1(f, y, weights="other"), "unknown weights 'other'"),
        (lambda f, y: nc1(f, np.zeros_like(y)), "at least two"),
        (lambda f, y: nc3(f, y, np.zeros((4, 6))), r"\(4, 7\).*shape \(4, 6\)"),
        (lambda f, y: nc3(f, y + 1, np.zeros((4, 7))), "run from 1 to 4"),
        (lambda f, y: nc4(f, y, y[:-1]), "do not fit"),
        (lambda f, y: observe(f, y, metrics=["nc9"]), "unknown metric 'nc9'.*nc1"),
        (lambda f, y: observe(f, y, metrics=["network_accuracy"]), "network_accuracy needs logits"),
        (lambda f, y: observe(f, y, metrics=["nc4"]), "nc4 needs logits"),
        (lambda f, y: observe(f, y, metrics=["nc3"]), "nc3 needs the weight"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call(*random_classes())
