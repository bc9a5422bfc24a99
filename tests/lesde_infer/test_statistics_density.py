"""The collapsed densities of assembled statistics against those of all samples, written out."""

from functools import partial

import numpy as np
import pytest
from core_helpers import (
    CASES,
    class_means,
    elasticity,
    expected_increment,
    in_all_dimensions,
    linear_drift,
    make_case,
    neighbouring_median,
    relative_log_length,
)
from scipy import linalg, stats
from scipy.linalg import block_diag, helmert

from lesde_infer._jax import jax, jnp
from lesde_infer.assembly import assemble, locate
from lesde_infer.model import Parameters, increment_density
from lesde_infer.statistics import compute_statistics

# One row for each stratum of class means; see `STRATA_OF_MEANS`.
DEGREES = np.array([[1.3, 4.0], [7.0, 2.5], [3.0, 3.0]])
EXPONENT = np.array([-0.4, 0.1, 0.2])
SIZE_SLOPE = np.array([[1.2, 0.3], [0.0, 0.0], [0.0, 0.0]])
STRATA_OF_MEANS = ("contrast", "class_noise", "shared")


def random_rates(run, seed):
    """Rates of both signs, of order one over an interval: array (contrast and shared) by interval."""
    rng = np.random.default_rng([seed, 1])
    lengths = np.diff(run.time)
    return rng.uniform(-0.6, 0.8, size=(2, len(lengths))) * np.array([[run.n_classes], [1.0]]) / lengths


def random_parameters(run, seed):
    """Rates, log noise scales and ψ of all strata of class means: arrays (stratum, time)."""
    rng = np.random.default_rng([seed, 2])
    gamma, global_rate = random_rates(run, seed)
    locations = np.array([gamma, np.zeros_like(gamma), global_rate])
    return locations, rng.normal(-1.0, 1.0, size=locations.shape), rng.normal(-0.3, 0.5, size=locations.shape)


def collapsed_log_density(statistics, locations, log_scales, attenuation):
    """Log density of contrasts and mean, interval by interval, by the package, by stratum."""
    densities = {}
    for submodel in assemble(statistics, "gp"):
        rows = [STRATA_OF_MEANS.index(name) for name in submodel.strata if name in STRATA_OF_MEANS]
        if not rows:
            continue
        values = (locations, log_scales, attenuation, DEGREES, EXPONENT, SIZE_SLOPE)
        parameters = Parameters(*(jnp.asarray(value[rows]) for value in values))
        found = interval_log_density(parameters, submodel.data, coupled=submodel.variant.coupled)
        densities |= dict(zip(submodel.strata, np.asarray(found), strict=True))
    return densities


@partial(jax.jit, static_argnames="coupled")
def interval_log_density(parameters, data, *, coupled):
    return increment_density(parameters, data, coupled=coupled).log_prob(data.increment_square)


def sample_by_sample_log_density(run, case, locations, log_scales, attenuation):
    """Write the same as `collapsed_log_density` plainly: expm of the drift of all classes, explicit coordinates."""
    features = run.logits if case == "R" else run.features
    n_classes, n_steps, lengths = run.n_classes, np.diff(run.steps), np.diff(run.time)
    contrasts, average = helmert(n_classes), np.full((1, n_classes), 1 / n_classes)
    mixed = np.quantile(n_steps, 0.9) >= 3 * np.quantile(n_steps, 0.1)
    x = relative_log_length(n_steps) if mixed else np.ones(len(lengths))
    surviving = np.exp(attenuation * x)
    degrees = DEGREES[:, :1] ** (1 - x) * DEGREES[:, 1:] ** x
    scales = np.exp(log_scales) * (n_steps / n_steps.max()) ** EXPONENT[:, None]
    expected, seen, units = [], [], []
    for t, length in enumerate(lengths):
        weight = run.weight[t] if case == "R hidden" else None
        matrix = elasticity(*locations[[0, 2], t], n_classes)
        drift = linear_drift(case[0], matrix, features[t], run.labels, run.given, run.logits[t], weight)
        means = class_means(features[t], run.labels)
        expected.append(expected_increment(means, *drift, length))
        seen.append(class_means(features[t + 1] - features[t], run.labels))
        velocity = contrasts @ (drift[0] @ means.ravel() + drift[1]).reshape(means.shape)
        units.append(velocity.ravel() / np.linalg.norm(velocity))

    def student(t, row, residual, scale):
        shape = scale**2 * np.eye(len(residual))
        return stats.multivariate_t(np.zeros(len(residual)), shape, degrees[row, t]).logpdf(residual)

    rests = [
        u_seen - (u_seen @ u) * u for u, u_seen in zip(units, [(contrasts @ s).ravel() for s in seen], strict=True)
    ]
    size = np.array([np.linalg.norm(rest) for rest in rests]) / np.sqrt(max(len(rests[0]) - 1, 1))
    if case == "L" or len(rests[0]) <= 4:  # sizes are not told
        across, relative = np.exp(neighbouring_median(np.log(size), n_steps)), np.zeros(len(lengths))
    else:
        nearby = neighbouring_median(size, n_steps, reach=10, summary=np.mean)
        across, relative = np.maximum(size, 0.01 * nearby), size / nearby - 1.0
    surviving[0] *= 1.0 + (SIZE_SLOPE[0, 0] * (1 - x) + SIZE_SLOPE[0, 1] * x) * relative
    result = {name: np.zeros(len(lengths)) for name in STRATA_OF_MEANS}
    for t, length in enumerate(lengths):
        roots = scales[:, t] * np.sqrt(length)
        contrast = (contrasts @ seen[t]).ravel() - surviving[0, t] * (contrasts @ expected[t]).ravel()
        shared = (average @ seen[t]).ravel() - surviving[2, t] * (average @ expected[t]).ravel()
        result["shared"][t] = student(t, 2, shared, roots[2])
        if case == "L":
            result["contrast"][t] = student(t, 0, contrast, roots[0])
        else:
            axes = linalg.null_space(units[t][None]).T  # orthonormal coordinates across the impact
            result["contrast"][t] = student(t, 0, np.array([contrast @ units[t]]), scales[0, t] * across[t])
            result["class_noise"][t] = student(t, 1, axes @ rests[t], roots[1])
    return result


@pytest.mark.parametrize("n_classes", [2, 3, 5])
@pytest.mark.parametrize("case", CASES)
def test_collapsed_likelihood_is_that_of_all_samples(case, n_classes, tmp_path):
    for seed in range(4):
        run, layer, impact = make_case(case, n_classes, seed)
        with run.write(tmp_path / f"{seed}.h5") as recording:
            statistics = in_all_dimensions(compute_statistics(recording, layer, impact))
        parameters = random_parameters(run, seed)
        collapsed = collapsed_log_density(statistics, *parameters)
        plain = sample_by_sample_log_density(run, case, *parameters)
        assert set(collapsed) == set(STRATA_OF_MEANS) - ({"class_noise"} if case == "L" else set())
        for name, values in collapsed.items():
            np.testing.assert_allclose(values, plain[name], rtol=1e-8, atol=1e-8, err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_gaussian_limit_is_one_dense_normal_over_all_samples(case, tmp_path):
    """With ν → ∞ all strata together are one normal over all coordinates of all samples, up to the Jacobian.

    Contrasts are expected to move along the impact; what feedback would turn across it is noise (I, R).
    """
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

    residuals = gaussian_residuals(statistics, rates)
    dimensions = (statistics.contrast.dimension, statistics.shared.dimension)
    for t, length in enumerate(lengths):
        weight = run.weight[t] if layer == "hidden" else None
        matrix = elasticity(*rates[:, t], n_classes)
        drift = linear_drift(impact, matrix, features[t], labels, run.given, run.logits[t], weight)
        means = class_means(features[t], labels)
        expected = expected_increment(means, *drift, length)
        if impact != "L":
            velocity = (drift[0] @ means.ravel() + drift[1]).reshape(means.shape)
            unit = (velocity - velocity.mean(axis=0)) / np.linalg.norm(velocity - velocity.mean(axis=0))
            expected = expected.mean(axis=0) + np.vdot(expected, unit) * unit
        expected = expected[labels] + np.expm1(kappa * length) * (features[t] - means[labels])
        seen = features[t + 1] - features[t]
        dense = sum(
            stats.multivariate_normal(expected[:, f], length * covariance).logpdf(seen[:, f]) for f in range(n_features)
        )
        strata = sum(
            isotropic_normal(residual[t], dimension, sigma**2 * length)
            for dimension, sigma, residual in zip(dimensions, (sigma_class, sigma_global), residuals, strict=True)
        )
        measured = statistics.within
        variance, growth = np.exp(measured.log_variance[t]), np.exp(measured.log_growth[t])
        spread = ((features[t] - means[labels]) ** 2).sum()
        residual = measured.dimension[t] * variance + (growth - np.exp(kappa * length)) ** 2 * spread
        strata += isotropic_normal(residual, measured.dimension[t], sigma_individual**2 * length)
        np.testing.assert_allclose(strata + log_jacobian, dense, rtol=1e-9)


def gaussian_residuals(statistics, rates):
    """Squared residuals of contrasts and mean of every interval, nothing attenuated: two arrays (time,)."""
    submodels = assemble(statistics, "gp")
    squares = []
    for stratum, name in enumerate(("contrast", "shared")):
        data, row = locate(submodels, name)
        coupled = submodels[0].variant.coupled
        location = jnp.asarray(rates if coupled else rates[stratum : stratum + 1])
        nothing = jnp.zeros(location.shape)
        parameters = Parameters(location, nothing, nothing, jnp.ones((len(location), 2)), nothing[:, 0])
        density = increment_density(parameters, data, coupled=coupled)
        squares.append(np.asarray(data.increment_square - density.explained)[row])
    if statistics.impact != "L":
        data, row = locate(submodels, "class_noise")
        squares[0] = squares[0] + np.asarray(data.increment_square)[row]
    return squares


def isotropic_normal(residual_square, dimension, variance):
    return -0.5 * dimension * np.log(2 * np.pi * variance) - 0.5 * residual_square / variance
