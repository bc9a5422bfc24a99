"""What is reported of a matrix of elasticity: identities between pattern, E, γ, α and β, and a fit end to end."""

import dataclasses

import numpy as np
import pytest
from core_helpers import make_run

import lesde_infer as li
from data_tools import write_recording
from lesde_infer._jax import jnp
from lesde_infer.inference import fit
from lesde_infer.pattern_assembly import pattern_data
from lesde_infer.pattern_model import PatternParameters
from lesde_infer.pattern_posterior import PatternDraws, matrix_times
from lesde_infer.sampling import SampleRun
from lesde_infer.statistics import compute_statistics

N_CLASSES, N_RECORDS = 3, 8


def pattern_draws(tmp_path, entries, *, drifting=False, scale=1.0):
    """Arrange made-up draws, entries (chain, draw, contrast, pattern · class)."""
    with make_run(N_CLASSES, 4, N_RECORDS).write(tmp_path / "run.h5") as recording:
        statistics = compute_statistics(recording, "out", "R")
    data = pattern_data(statistics, mixed=False, drifting=drifting)
    shape = (*entries(data).shape[:2], N_RECORDS - 1)
    parameters = PatternParameters(
        pattern=jnp.asarray(entries(data)),
        log_scale_curve=jnp.log(scale) * jnp.ones(shape),
        log_scale=jnp.zeros((*shape[:2], 1, shape[2])),
        attenuation=jnp.zeros((*shape[:2], 1, shape[2])),
        degrees=jnp.ones((*shape[:2], 1, 2)),
        interval_exponent=jnp.zeros((*shape[:2], 1)),
        size_slope=jnp.zeros((*shape[:2], 1, 2)),
    )
    return PatternDraws.of(SampleRun({}, parameters, np.zeros((*shape[:2], 1, shape[2])), {}), data, statistics)


def test_homogeneous_pattern_has_one_gamma(tmp_path):
    """γ effective, γ of the kernel and α − β are one number, at every time, whatever the impacts are."""
    draws = pattern_draws(tmp_path, lambda data: 0.4 * np.broadcast_to(data.homogeneous, (2, 3, 2, 3)), scale=1.5)
    np.testing.assert_allclose(draws.gamma, 0.6, rtol=1e-12)
    np.testing.assert_allclose(draws.gamma_kernel, 0.6, rtol=1e-12)


@pytest.mark.parametrize("drifting", [False, True])
def test_elasticity_has_the_column_means_given_and_moves_contrasts_as_the_pattern_does(tmp_path, drifting):
    rng = np.random.default_rng(0)
    entries = rng.normal(size=(2, 3, N_CLASSES - 1, N_CLASSES * (1 + drifting)))
    draws = pattern_draws(tmp_path, lambda _: entries, drifting=drifting, scale=0.7)
    column_mean = rng.normal(size=draws.gamma.shape)
    chosen = matrix_times(N_RECORDS - 1)
    matrices = draws.elasticity(column_mean, chosen)
    np.testing.assert_allclose(matrices.mean(axis=3), np.repeat(column_mean[:, :, chosen, None], 3, axis=3), rtol=1e-10)
    diagonal = np.einsum("cdtkk->cdt", matrices) / N_CLASSES
    others = (matrices.sum(axis=(3, 4)) - N_CLASSES * diagonal) / (N_CLASSES * (N_CLASSES - 1))
    np.testing.assert_allclose(diagonal - others, draws.gamma_kernel[:, :, chosen], rtol=1e-10)
    with make_run(N_CLASSES, 4, N_RECORDS).write(tmp_path / "again.h5") as recording:
        impacts = compute_statistics(recording, "out", "R").pattern.coordinates[chosen]
    drift = np.einsum("cdtkl,tjl->cdtjk", matrices, impacts)
    drift, contrast = (v - v.mean(axis=-1, keepdims=True) for v in (drift, impacts))
    projected = (drift * contrast).sum(axis=(3, 4)) / (contrast**2).sum(axis=(1, 2))
    np.testing.assert_allclose(projected, draws.gamma[:, :, chosen], rtol=1e-10)


@pytest.fixture(scope="module")
def recovered(tmp_path_factory):
    """Fit class means that move by a known matrix, under impact I of known class means."""
    rng = np.random.default_rng(4)
    n_records, per_class = 81, 4
    elasticity = np.array([[0.9, 0.2, -0.3], [0.0, 0.7, 0.1], [0.3, -0.2, 0.8]])
    labels = np.repeat(np.arange(N_CLASSES), per_class)
    means, features = rng.normal(size=(N_CLASSES, 5)), []
    spread = rng.normal(size=(len(labels), 5))
    spread -= np.stack([spread[labels == k].mean(axis=0) for k in labels])
    for _ in range(n_records):
        features.append(means[labels] + spread)
        drift = (
            elasticity @ means
        ) / N_CLASSES - 0.8 * means / N_CLASSES  # a known pull, so that means stay of one size
        means = means + 0.05 * drift + 0.02 * rng.normal(size=means.shape)
        spread = spread + 0.01 * rng.normal(size=spread.shape)
    path = tmp_path_factory.mktemp("matrix") / "run.h5"
    write_recording(path, np.arange(n_records), labels, {"features": np.array(features)}, logits=None)
    result = fit(path, impact="I", elasticity="matrix", curve="constant", n_draws=400)
    return result, path, 0.05 * (elasticity - 0.8 * np.eye(N_CLASSES))


def test_a_known_matrix_is_recovered(recovered):
    """Its contrasts lie within four posterior standard deviations, entry by entry, and are told from none."""
    result, _, elasticity = recovered
    assert result.diagnostics().converged
    draws = result.posterior.to_dataset()
    found = draws["contrast_pattern"] * draws["pattern_scale"].isel(time=0)
    expected = elasticity - elasticity.mean(axis=0)
    mean, sd = found.mean(("chain", "draw")).to_numpy(), found.std(("chain", "draw")).to_numpy()
    assert (np.abs(mean - expected) < 4 * sd).all()
    assert np.corrcoef(mean.ravel(), expected.ravel())[0, 1] > 0.8


def test_a_matrix_survives_saving_and_is_simulated(recovered, tmp_path):
    result, path, _ = recovered
    loaded = li.load(result.save(tmp_path / "fit.nc"))
    assert loaded.settings == dataclasses.replace(result.settings, elasticity="matrix")
    assert set(loaded.posterior["E"].dims) == {"chain", "draw", "matrix_time", "class_to", "class_from"}
    assert "size_slope" in loaded.posterior  # noise in ten dimensions tells its size
    assert loaded.posterior["size_slope"].dims == ("chain", "draw")
    assert "gamma_kernel" in loaded.to_json()["curves"]
    rates = loaded.interval_rates(n_draws=20, seed=0)
    assert rates.pattern is not None
    np.testing.assert_allclose(rates.pattern.sum(axis=2), 0.0, atol=1e-12)
    np.testing.assert_allclose(np.einsum("dtkk->dt", rates.pattern) / 2, rates.gamma, atol=1e-12)
    check = li.check(loaded, path, n_draws=20)
    low, high = np.quantile(check.predicted["between_norm"][:, -1], [0.01, 0.99])
    assert low < check.observed["between_norm"][-1] < high
