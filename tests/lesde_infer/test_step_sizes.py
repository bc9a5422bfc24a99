"""Steps that differ in size by orders of magnitude, and drift that grows with them: γ is the mean rate all the same."""

import numpy as np
import pytest
from core_helpers import random_strata

from data_tools import Recording, write_recording
from lesde_infer._jax import jax, jnp
from lesde_infer.assembly import assemble
from lesde_infer.model import Parameters, predict_intervals
from lesde_infer.statistics import compute_statistics
from lesde_infer.submodel_sampler import SubmodelSampler

K, WIDTH, INTERVALS, EVERY, GAMMA = 3, 4, 150, 10, 1.5e-3


def test_the_drift_is_multiplied_by_one_plus_slope_times_relative_size():
    rng = np.random.default_rng(0)
    data, _, _ = random_strata(rng, 6, [1, 1], numbers=(0, 1), mixed=True)
    sizes, slopes = rng.uniform(-1.0, 3.0, size=(2, 6)), rng.normal(size=(2, 2))
    plain = Parameters(
        jnp.asarray(rng.normal(size=(2, 6))), jnp.zeros((2, 6)), jnp.zeros((2, 6)), jnp.full((2, 2), 3.0), jnp.zeros(2)
    )
    before = predict_intervals(plain, data, coupled=False)
    sized = plain._replace(size_slope=jnp.asarray(slopes))
    after = predict_intervals(sized, data._replace(relative_size=jnp.asarray(sizes)), coupled=False)
    x = np.asarray(data.relative_length)
    factor = 1.0 + (slopes[:, :1] * (1.0 - x) + slopes[:, 1:] * x) * sizes
    np.testing.assert_allclose(after.coefficients, factor[..., None] * np.asarray(before.coefficients), rtol=1e-10)
    np.testing.assert_array_equal(after.log_noise, before.log_noise)


@pytest.fixture(
    scope="module", params=[1.0, pytest.param(0.0, marks=pytest.mark.slow)], ids=["proportional", "indifferent"]
)
def sampled(request, tmp_path_factory):
    """Draws of γ and of b from a run whose contrasts follow the mean rate GAMMA under impact I; and the true b."""
    slope, rng = request.param, np.random.default_rng(1)
    sizes = rng.lognormal(sigma=1.3, size=INTERVALS)
    sizes /= sizes.mean()
    assert np.median(sizes) < 0.6  # most steps are small
    means = [np.array([[1.0, 0.2, -0.3, 0.1], [-0.6, 0.5, 0.2, -0.2], [-0.4, -0.7, 0.1, 0.1]])]
    for size in sizes:
        contrasts = means[-1] - means[-1].mean(axis=0)
        drift = (1.0 + slope * (size - 1.0)) * GAMMA * EVERY / K * contrasts
        means.append(means[-1] + drift + 0.006 * size * rng.normal(size=(K, WIDTH)))
    labels = np.arange(4 * K) % K
    deviations = rng.normal(size=(4, K, WIDTH))
    deviations -= deviations.mean(axis=0)
    features = np.array(means)[:, labels] + deviations.reshape(-1, WIDTH)
    path = tmp_path_factory.mktemp("sizes") / "run.h5"
    write_recording(path, EVERY * np.arange(INTERVALS + 1), labels, {"hidden": features})
    with Recording(path) as recording:
        statistics = compute_statistics(recording, "hidden", "I")
    own = next(submodel for submodel in assemble(statistics, "constant") if submodel.strata == ("contrast",))
    sampler = SubmodelSampler(own, jax.random.key(0), 2)
    sampler.run_until(400, lambda _: None)
    run = sampler.draws()
    return slope, np.asarray(run.parameters.location)[:, :, 0, 0].ravel(), run.values["size_slope"][..., 0, 0].ravel()


def test_gamma_is_the_mean_rate_whether_drift_grows_with_steps_or_not(sampled):
    _, gamma, _ = sampled
    assert gamma.std() < 0.3 * GAMMA
    assert abs(gamma.mean() - GAMMA) < 3.5 * gamma.std()


def test_how_drift_follows_sizes_is_learned(sampled):
    slope, _, found = sampled
    assert found.std() < 0.25  # of a prior of 0.5 ± 0.5
    assert abs(found.mean() - slope) < 4.0 * found.std()
