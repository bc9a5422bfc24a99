"""What a pattern is worth: decided for class means that move by one, not for those that move alike."""

import numpy as np
import pytest
from core_helpers import make_run

from data_tools import Recording, write_recording
from lesde_infer._jax import jnp
from lesde_infer.assembly import pattern_submodel
from lesde_infer.pattern_choice import pattern_worth, sample_contrasts
from lesde_infer.statistics import compute_statistics
from lesde_infer.variant import interval_log_likelihood

N_CLASSES, PER_CLASS, N_RECORDS = 3, 4, 81
PATTERN = np.array([[0.9, 0.2, -0.3], [0.0, 0.7, 0.1], [0.3, -0.2, 0.8]])
ALIKE = 0.7 * np.eye(N_CLASSES)


def statistics_of(path, elasticity, seed):
    """Class means that move by a matrix under impact I, less a known pull that keeps them of one size."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(N_CLASSES), PER_CLASS)
    means, features = rng.normal(size=(N_CLASSES, 5)), []
    spread = rng.normal(size=(len(labels), 5))
    spread -= np.stack([spread[labels == k].mean(axis=0) for k in labels])
    for _ in range(N_RECORDS):
        features.append(means[labels] + spread)
        drift = (elasticity - 0.8 * np.eye(N_CLASSES)) @ means / N_CLASSES
        means = means + 0.05 * drift + 0.02 * rng.normal(size=means.shape)
    write_recording(path, np.arange(N_RECORDS), labels, {"features": np.array(features)}, logits=None)
    with Recording(path) as recording:
        return compute_statistics(recording, "features", "I")


@pytest.mark.slow
@pytest.mark.parametrize(("elasticity", "has_pattern"), [(PATTERN, True), (ALIKE, False)])
def test_a_pattern_is_preferred_where_there_is_one(tmp_path, elasticity, has_pattern):
    statistics = statistics_of(tmp_path / "run.h5", elasticity, seed=4)
    runs = sample_contrasts(statistics, "constant", n_chains=2, n_draws=300)
    worth = pattern_worth(*(run.log_likelihood[:, :, 0] for run in runs))
    assert max(worth.bad_share) < 0.05
    assert worth.p_loo[0] > worth.p_loo[1]  # more that can adapt
    if has_pattern:
        assert worth.resolved
        assert worth.difference > 0
    else:
        assert worth.difference < max(4.0, 2.0 * worth.difference_se)
        assert worth.difference > -N_CLASSES * (N_CLASSES - 1) * 2  # pooled, its entries cost little


@pytest.mark.slow
def test_homogeneous_elasticity_is_a_special_case_of_the_pattern(tmp_path):
    """Of the same data: sites but the pattern's own are shared, and the densities are equal at Z = a Bᵀ."""
    with make_run(3, 4, 20).write(tmp_path / "run.h5") as recording:
        statistics = compute_statistics(recording, "out", "R")
    alike, full = (pattern_submodel(statistics, "constant", homogeneous=own) for own in (True, False))
    values = {
        "curve_weights": 0.3 * jnp.ones(alike.variant.whitened_shapes(alike.data)["curve_weights"]),
        "pattern_mean": jnp.asarray(1.4),
        "degrees_excess": jnp.full((1, 1 + full.variant.mixed), 3.0),
        "interval_exponent": jnp.full(1, 0.1),
        "size_slope": jnp.full((1, 1 + full.variant.mixed), 0.6),
    }
    mean = alike.data.reference[0] * jnp.sinh(values["pattern_mean"])
    n_patterns = alike.data.drift.shape[1]
    own = {**values, "pattern": mean * alike.data.homogeneous, "pattern_spread": jnp.ones(n_patterns)}
    first = interval_log_likelihood(alike.variant, values, alike.data)
    np.testing.assert_allclose(first, interval_log_likelihood(full.variant, own, full.data), rtol=1e-12)
    assert "pattern" not in alike.variant.whitened_shapes(alike.data)
    other = interval_log_likelihood(alike.variant, {**values, "pattern_mean": jnp.asarray(-1.4)}, alike.data)
    assert not np.allclose(first, other)


def test_difference_and_its_error_are_those_of_the_intervals():
    """Densities that are the same in all draws leave nothing to estimate: sums, and √(n · variance)."""
    rng = np.random.default_rng(0)
    densities = rng.normal(size=(2, 30))
    worth = pattern_worth(*(np.broadcast_to(own, (2, 100, 30)) for own in densities))
    behind = densities[0] - densities[1]
    assert worth.difference == pytest.approx(behind.sum())
    assert worth.difference_se == pytest.approx(np.sqrt(30) * behind.std())
    assert worth.resolved == (abs(behind.sum()) > max(4, 2 * np.sqrt(30) * behind.std()))
    assert worth.p_loo == (0.0, 0.0)
