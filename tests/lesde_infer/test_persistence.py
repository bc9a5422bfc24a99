"""Persistence of impacts from record to record: closed forms, and where along the record it is taken."""

import numpy as np
import pytest
from core_helpers import make_run

from lesde_infer.persistence import PERSISTENCE_SHARE, interval_loss
from lesde_infer.statistics import compute_statistics


def persistence_of(class_means_at_records, path):
    """Persistence of I, whose impacts are the class means: array (record, class, feature) of them, two samples each."""
    n_records, n_classes, _ = class_means_at_records.shape
    labels = np.repeat(np.arange(n_classes), 2)
    spread = np.array([1.0, -1.0] * n_classes)[:, None]
    run = make_run(2, 2, n_records=n_records)
    options = {"labels": labels, "given_labels": None, "logits": None, "classifier": None}
    with run.write(path, features={"hidden": class_means_at_records[:, labels] + spread}, **options) as recording:
        return compute_statistics(recording, "hidden", "I").impact_persistence


def contrasts(rng, n_classes=3, n_features=4):
    values = rng.normal(size=(n_classes, n_features))
    return values - values.mean(axis=0)


def test_an_impact_that_stays_or_grows_persists_and_one_that_alternates_does_not(tmp_path):
    rng = np.random.default_rng(0)
    fixed, common = contrasts(rng), rng.normal(size=(30, 1, 4))
    growth = np.linspace(1.0, 3.0, 30)[:, None, None]
    signs = (-1.0) ** np.arange(30)[:, None, None]
    # What all classes share is no contrast.
    np.testing.assert_allclose(persistence_of(np.tile(fixed, (30, 1, 1)) + common, tmp_path / "a.h5"), 1.0, rtol=1e-6)
    np.testing.assert_allclose(persistence_of(signs * fixed + common, tmp_path / "b.h5"), -1.0, rtol=1e-6)
    # Growing, each start is a little smaller than its end, which the cosine of sums leaves within its second order.
    np.testing.assert_allclose(persistence_of(growth * fixed, tmp_path / "c.h5"), 1.0, atol=1e-3)


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_fluctuations_lower_persistence_by_their_share_of_the_square(share, tmp_path):
    """Impacts a + (−1)ᵗ b with b across a: ⟨start, end⟩ = |a|² − |b|², over |a|² + |b|² of either."""
    rng = np.random.default_rng(1)
    a, b = contrasts(rng), contrasts(rng)
    b -= np.vdot(a, b) / np.vdot(a, a) * a
    b *= np.sqrt(share * np.vdot(a, a) / np.vdot(b, b))
    signs = (-1.0) ** np.arange(20)[:, None, None]
    found = persistence_of(a + signs * b, tmp_path / "run.h5")
    np.testing.assert_allclose(found, (1 - share) / (1 + share), rtol=1e-6)


def test_persistence_is_the_cosine_of_sums_over_the_neighbourhood(tmp_path):
    """Written out by loops, over the two percent of the record before and after."""
    rng = np.random.default_rng(2)
    means = (rng.normal(size=(200, 3, 4)) + 1.0) * np.geomspace(1.0, 0.01, 200)[:, None, None]
    found = persistence_of(means, tmp_path / "run.h5")
    centred = means - means.mean(axis=1, keepdims=True)
    reach = round(PERSISTENCE_SHARE * 199)
    assert reach == 4
    for t in range(199):
        near = [i for i in range(199) if abs(i - t) <= reach]
        product = sum(np.vdot(centred[i], centred[i + 1]) for i in near)
        squares = [sum(np.vdot(centred[i + end], centred[i + end]) for i in near) for end in (0, 1)]
        assert found[t] == pytest.approx(product / np.sqrt(squares[0] * squares[1]), abs=1e-5)


def test_a_short_record_is_averaged_over_two_intervals_on_either_side(tmp_path):
    fixed = contrasts(np.random.default_rng(3))
    signs = np.where(np.arange(13) < 7, 1.0, (-1.0) ** np.arange(13))[:, None, None]
    found = persistence_of(signs * fixed, tmp_path / "run.h5")
    products = np.where(np.arange(12) < 6, 1.0, -1.0)
    expected = [products[max(t - 2, 0) : t + 3].mean() for t in range(12)]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_impacts_that_have_all_but_vanished_have_a_persistence_of_their_own(tmp_path):
    """Residuals of a network that has learned its data: late squares are lost in the rounding of earlier ones."""
    fixed = contrasts(np.random.default_rng(4))
    sizes = np.where(np.arange(60) < 30, 1.0, 1e-9 * (-1.0) ** np.arange(60))[:, None, None]
    weak = np.zeros((60, 1, 1)) + sizes * fixed
    labels = np.repeat(np.arange(3), 2)
    run = make_run(2, 2, n_records=60)
    options = {"labels": labels, "given_labels": None, "logits": None, "classifier": None}
    with run.write(tmp_path / "run.h5", features={"hidden": weak[:, labels]}, **options) as recording:
        found = compute_statistics(recording, "hidden", "I").impact_persistence
    np.testing.assert_allclose(found[:25], 1.0, atol=1e-6)
    np.testing.assert_allclose(found[-25:], -1.0, atol=1e-6)


def test_impacts_that_vanish_exactly_are_not_said_to_fluctuate(tmp_path):
    np.testing.assert_array_equal(persistence_of(np.ones((8, 3, 4)), tmp_path / "run.h5"), 1.0)


def relaxing_impacts(rng, share, time, n_steps=400_000):
    """Impacts of features that relax to rest: one part slowly, and one that noise keeps up, of relaxation ``time``.

    Each impact is minus a feature, and moves it at a rate of its own: so γ of one step is known, and so is the path.
    """
    steady, rate = 0.002, 1.0 / time
    slow = np.exp(-steady * np.arange(400))
    kept = np.exp(-rate)
    runs = n_steps // 400
    fast = np.empty((runs, 400))
    fast[:, 0] = rng.normal(size=runs)
    for t in range(1, 400):
        fast[:, t] = kept * fast[:, t - 1] + np.sqrt(1 - kept**2) * rng.normal(size=runs)
    return np.stack([np.tile(slow, (runs, 1)), np.sqrt(share) * fast * slow], axis=2), np.array([steady, rate])


@pytest.mark.parametrize(("share", "time"), [(0.003, 12.0), (0.02, 6.0), (0.1, 30.0), (0.0, 5.0)])
def test_what_increments_miss_of_gamma_is_told_by_the_impacts_alone(share, time):
    """Least squares over 1 to 10 steps against the γ of one moment, for features whose rates are known."""
    impacts, rates = relaxing_impacts(np.random.default_rng(5), share, time)
    square = (impacts**2).mean(axis=(0, 1))
    at_once = rates @ square / square.sum()
    for n in (1, 3, 10):
        start, middle, end = impacts[:, : -2 * n], impacts[:, n:-n], impacts[:, 2 * n :]
        seen = (start * (start - middle)).sum() / (n * (start**2).sum())
        products = np.array([[(a * b).sum(), (a**2).sum(), (b**2).sum()] for a, b in ((start, middle), (start, end))])
        found = interval_loss(*(np.tile(row, (9, 1)) for row in products))
        np.testing.assert_allclose(found, 1.0 - seen / at_once, atol=0.06)


def test_what_is_missed_needs_two_intervals_of_like_length(tmp_path):
    """Noise that is forgotten from record to record is missed nearly whole; where lengths differ it is not told."""
    rng, n = np.random.default_rng(6), 200
    fixed, noise = contrasts(rng), 0.3 * rng.normal(size=(n, 3, 4))
    labels = np.repeat(np.arange(3), 2)
    spread = np.array([1.0, -1.0] * 3)[:, None]
    features = {"hidden": (fixed + noise)[:, labels] + spread}
    found = {}
    for name, times in (("even", np.arange(float(n))), ("uneven", np.cumsum(np.where(np.arange(n) % 2, 1.0, 9.0)))):
        run = make_run(2, 2, n_records=n)
        options = {"labels": labels, "given_labels": None, "logits": None, "classifier": None, "time": times}
        with run.write(tmp_path / f"{name}.h5", features=features, **options) as recording:
            found[name] = compute_statistics(recording, "hidden", "I").interval_loss
    assert np.median(found["even"]) > 0.6
    np.testing.assert_array_equal(found["uneven"], 0.0)


def test_impacts_that_only_grow_or_stand_still_miss_nothing():
    growing = np.array([[2.0, 1.0, 4.0]] * 9)
    for products in (growing, np.zeros((9, 3)), np.array([[1.0, 1.0, 1.0]] * 9)):
        np.testing.assert_array_equal(interval_loss(products, products), 0.0)
