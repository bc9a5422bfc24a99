"""Deviations simulated by parts: along the span of the class means, across it, and pulled by residuals."""

from dataclasses import replace

import numpy as np
import pytest
from dynamics_helpers import case, class_means, constant_rates, run
from scipy import linalg, special

from data_tools.errors import InputError
from lesde_infer._jax import jnp
from lesde_infer.deviations import contrast_axes, split
from lesde_infer.dynamics import simulate_records


def by_parts(rates, kappa_across, sd_across, pull=None):
    shape = rates.kappa.shape
    own = None if pull is None else np.full(shape, pull)
    return replace(
        rates, kappa_across=np.full(shape, kappa_across), individual_sd_across=np.full(shape, sd_across), pull=own
    )


def projection(means):
    basis = linalg.orth((means - means.mean(axis=0)).T, rcond=1e-9)
    return basis @ basis.T


@pytest.mark.parametrize("impact", ["I", "L", "R"])
def test_parts_of_equal_rates_and_noise_are_deviations_alike_in_all_directions(impact):
    features, groups, given = case(3, 3, seed=1)
    rates = constant_rates(0.5, 0.1, 0.2, 3, n_draws=2, n_intervals=4, sd=(0.1, 0.2, 0.3), dof=4.0)
    options = {"seed": 5, "keep": np.arange(5), "n_classes": 3}
    one, other = (
        simulate_records(features, groups, given, np.full(4, 0.5), own, impact, **options)
        for own in (rates, by_parts(rates, 0.2, 0.3))
    )
    np.testing.assert_allclose(other, one, rtol=1e-9, atol=1e-9)
    apart = simulate_records(features, groups, given, np.full(4, 0.5), by_parts(rates, 0.2, 0.1), impact, **options)
    assert np.abs(apart - one).max() > 0.01


@pytest.mark.parametrize(("n_classes", "n_features"), [(2, 3), (3, 5), (4, 3), (3, 2)])
def test_parts_grow_at_rates_of_their_own(n_classes, n_features):
    """Under I contrasts grow alike, their span stays, and each part of the deviations grows e^{κ·time}."""
    features, groups, given = case(n_classes, n_features, seed=n_features)
    rates = by_parts(constant_rates(0.9, 0.2, 0.4, n_classes, n_intervals=3), -0.7, 0.0)
    final = run(features, groups, given, 0.5, rates, "I")
    means, moved = class_means(features, groups), class_means(final, groups)
    project = projection(means)
    deviations, along = features - means[groups], (features - means[groups]) @ project
    expected = np.exp(0.4 * 1.5) * along + np.exp(-0.7 * 1.5) * (deviations - along)
    np.testing.assert_allclose(final - moved[groups], expected, rtol=1e-9, atol=1e-12)


def test_the_span_is_that_of_the_class_means_at_the_start_of_each_interval():
    """Under R the span turns: two intervals by hand, the second along the class means that the first made."""
    features, groups, given = case(3, 3, seed=2, corrupted=True)
    rates = by_parts(constant_rates(2.0, 0.1, 0.5, 3, n_intervals=2), -0.5, 0.0)
    records = simulate_records(
        features, groups, given, np.ones(2), rates, "R", seed=0, keep=np.arange(3), n_classes=3, noise=False
    )[0]
    expected = features - class_means(features, groups)[groups]
    spans = []
    for record in records[:2]:
        project = projection(class_means(record, groups))
        along = expected @ project
        expected = np.exp(0.5) * along + np.exp(-0.5) * (expected - along)
        spans.append(project)
    assert np.abs(spans[1] - spans[0]).max() > 0.01
    np.testing.assert_allclose(records[2] - class_means(records[2], groups)[groups], expected, rtol=1e-8)


def test_noise_has_a_scale_along_the_span_and_another_across_it():
    """Variances of 4,000 draws of one interval, per direction, within five standard errors; class means keep theirs."""
    n_draws = 4000
    features, groups, given = case(3, 5, seed=3)
    rates = by_parts(constant_rates(0.0, 0.0, 0.0, 3, n_draws=n_draws, sd=(0.0, 0.0, 0.7)), 0.0, 0.2)
    final = simulate_records(features, groups, given, np.ones(1), rates, "I", seed=1, keep=np.array([1]), n_classes=3)[
        :, 0
    ]
    noise = final - features
    project = projection(class_means(features, groups))
    along = noise @ project
    degrees = n_draws * (len(groups) - 3)
    for part, sd, dimension in ((along, 0.7, 2), (noise - along, 0.2, 3)):
        variance = (part**2).sum() / degrees / dimension
        assert abs(variance / sd**2 - 1) < 5 * np.sqrt(2 / degrees / dimension)
    np.testing.assert_allclose([noise[:, groups == k].mean(axis=1) for k in range(3)], 0.0, atol=1e-12)


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("parted", [False, True])
def test_samples_are_pulled_by_what_deviations_leave_of_their_residuals(hidden, parted):
    """One interval in plain NumPy; the pull is orthogonal to each part, and adds no growth to first order."""
    features, groups, given = case(3, 4 if hidden else 3, seed=4, corrupted=True)
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(3, 4)) if hidden else np.eye(3)
    bias = rng.normal(size=3) if hidden else np.zeros(3)
    classifier = (np.array([weight] * 2), np.array([bias] * 2)) if hidden else None
    rates = constant_rates(0.3, 0.1, 0.2, 3)
    rates = by_parts(rates, -0.1, 0.0, pull=1.7) if parted else replace(rates, pull=np.full((1, 1), 1.7))
    final = run(features, groups, given, 0.6, rates, "R", classifier=classifier)
    means = class_means(features, groups)
    deviations = features - means[groups]
    residuals = np.eye(3)[given] - special.softmax(features @ weight.T + bias, axis=1)
    push = (residuals - class_means(residuals, groups)[groups]) @ weight
    project = projection(means) if parted else np.eye(features.shape[1])
    expected = np.zeros_like(features)
    for own, kappa in ((project, 0.2), (np.eye(len(project)) - project, -0.1)):
        part, pushed = deviations @ own, push @ own
        if np.vdot(part, part) > 0:
            pushed = pushed - part * np.vdot(part, pushed) / np.vdot(part, part)
            assert abs(np.vdot(pushed, part)) < 1e-12
        expected += np.exp(kappa * 0.6) * part + 1.7 * 0.6 * pushed
    np.testing.assert_allclose(final - class_means(final, groups)[groups], expected, rtol=1e-8, atol=1e-10)


def test_numpy_and_jax_split_alike():
    means = np.random.default_rng(2).normal(size=(4, 6))
    axes, traced = contrast_axes(means, np.ones((6, 7))), contrast_axes(jnp.asarray(means), jnp.ones((6, 7)), jnp)
    np.testing.assert_allclose(axes.T @ axes, np.asarray(traced.T @ traced), atol=1e-12)
    np.testing.assert_allclose(axes.T @ axes, projection(means), atol=1e-12)
    deviations = jnp.asarray(np.random.default_rng(3).normal(size=(6, 7)))
    along, across = np.asarray(split(deviations, traced))
    np.testing.assert_allclose(along + across, deviations, atol=1e-12)
    np.testing.assert_allclose(along, projection(means) @ np.asarray(deviations), atol=1e-12)


def test_rates_that_do_not_fit_together_are_refused():
    features, groups, given = case(3, 3)
    rates = constant_rates(0.3, 0.1, 0.2, 3)
    with pytest.raises(InputError, match="both kappa_across and individual_sd_across"):
        replace(rates, kappa_across=rates.kappa)
    with pytest.raises(InputError, match="individual_sd_across is negative in draw 0, interval 0"):
        by_parts(rates, 0.0, -1.0)
    with pytest.raises(InputError, match="impact L has none"):
        run(features, groups, given, 1.0, replace(rates, pull=np.ones((1, 1))), "L")


@pytest.mark.parametrize("impact", ["I", "R"])
@pytest.mark.parametrize("noise", [False, True])
def test_stretched_deviations_keep_their_size_relative_to_contrasts(impact, noise):
    """Whatever drift, noise and pull do: each part grows by e^{κ·time} beyond the contrasts."""
    features, groups, given = case(3, 3, seed=6, corrupted=True)
    rates = constant_rates(0.9, 0.2, 0.3, 3, n_draws=2, n_intervals=1, sd=(0.1, 0.2, 0.4))
    rates = by_parts(rates, -0.7, 0.8, pull=0.5 if impact == "R" else None)
    options = {"seed": 3, "keep": np.array([1]), "n_classes": 3, "noise": noise, "stretched": True}
    final = simulate_records(features, groups, given, np.array([0.5]), rates, impact, **options)
    along = projection(class_means(features, groups))  # the span at the start of the interval
    before = features - class_means(features, groups)[groups]
    assert not np.allclose(final[0], final[1]) or not noise
    for moved in final[:, 0]:
        means = class_means(moved, groups)
        stretch = np.linalg.norm(means - means.mean(axis=0)) / np.linalg.norm(
            class_means(features, groups) - class_means(features, groups).mean(axis=0)
        )
        after = moved - means[groups]
        assert np.linalg.norm(after @ along) == pytest.approx(
            stretch * np.exp(0.3 * 0.5) * np.linalg.norm(before @ along)
        )
        across = np.linalg.norm(before - before @ along)
        assert np.linalg.norm(after - after @ along) == pytest.approx(stretch * np.exp(-0.7 * 0.5) * across, abs=1e-9)
