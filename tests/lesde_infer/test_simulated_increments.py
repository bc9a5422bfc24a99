"""Increments drawn as statistics have the law of whole vectors that are drawn and then collapsed."""

from dataclasses import replace

import numpy as np
import pytest
from core_helpers import make_case, random_strata
from scipy import stats

from lesde_infer._jax import jax, jnp
from lesde_infer.assembly import assemble, locate
from lesde_infer.calibration_template import Template, simulated_template
from lesde_infer.model import Parameters, increment_density, interval_degrees, predict_intervals
from lesde_infer.pattern_model import PatternData, PatternParameters, PatternVariant, pattern_density, predict_pattern
from lesde_infer.posterior import build_posterior
from lesde_infer.simulated_increments import draw_increments, simulate_run
from lesde_infer.statistics import compute_statistics
from lesde_infer.strata_variant import StrataVariant

N_ALIKE = 4000  # intervals, all alike, so that each gives one draw of the same law
LEAST_P_VALUE = 1e-4
DIMENSIONS = (7, 1, 3, 1)


def repeat(data, interval):
    """Return data of one interval repeated."""
    time_first = {"lengths", "n_steps", "relative_length", "coordinates", "increments", "weight", "drift"}
    if isinstance(data, PatternData):
        time_first |= {"feedback", "exposure", "relative_size"}
    fixed = {
        "is_number",
        "dimension",
        "reference",
        "is_rate",
        "relaxes",
        "prior",
        "n_classes",
        "basis",
        "spread",
        "lean",
        "kinds",
    }
    changed = {}
    for name, value in data._asdict().items():
        if name in fixed:
            continue
        if name == "design":
            rows = {part: jnp.repeat(getattr(value, part)[interval][None], N_ALIKE, 0) for part in ("trend", "basis")}
            changed[name] = value._replace(elapsed=jnp.full(N_ALIKE, value.elapsed[interval]), **rows)
            continue
        axis = 0 if name in time_first else 1
        changed[name] = jnp.repeat(jnp.take(value, jnp.array([interval]), axis=axis), N_ALIKE, axis=axis)
    return data._replace(**changed)


def student_factor(rng, degrees):
    """√λ, λ ~ InverseGamma(ν/2, ν/2)."""
    return 1.0 / np.sqrt(rng.gamma(degrees / 2.0, 2.0 / degrees))


def assert_same_law(ours, theirs):
    assert stats.ks_2samp(ours, theirs).pvalue > LEAST_P_VALUE


@pytest.fixture(scope="module")
def case():
    """A vector, a number, a vector that directions fill up, and a measured log variance."""
    rng = np.random.default_rng(5)
    data, directions, _ = random_strata(rng, 6, DIMENSIONS, 3, numbers=(1,), measured=True, mixed=True)
    interval = 2
    # The first stratum's last direction has no length, as that of the mean residual has none along 1.
    data = data._replace(direction_square=data.direction_square.at[0, :, 2].set(0.0))
    directions = [own[interval].copy() for own in directions]
    directions[0][2] = 0.0
    data = repeat(data, interval)
    values = (rng.normal(size=4), rng.normal(size=4), rng.normal(-0.3, 0.3, size=4))
    curves = [jnp.asarray(np.repeat(value[:, None], N_ALIKE, 1)) for value in values]
    degrees = jnp.asarray(rng.uniform(1.5, 6.0, size=(4, 2)))
    return data, directions, Parameters(*curves, degrees, jnp.asarray(rng.normal(0, 0.3, size=4)))


@pytest.fixture(scope="module")
def simulated(case):
    data, _, parameters = case
    return draw_increments(StrataVariant("gp", False, True), parameters, data, np.random.default_rng(0))


@pytest.fixture(scope="module")
def whole(case):
    """Whole vectors Σⱼ cⱼuⱼ + s ε of each stratum: list of (draw, dimension)."""
    data, directions, parameters = case
    prediction, rng = predict_intervals(parameters, data, coupled=False), np.random.default_rng(1)
    degrees = np.asarray(interval_degrees(parameters.degrees, data.relative_length))[:, 0]
    vectors = []
    for stratum, own in enumerate(directions):
        mean = np.asarray(prediction.coefficients)[stratum, 0] @ own
        scale = np.exp(float(prediction.log_noise[stratum, 0]))
        noise = rng.normal(size=(N_ALIKE, len(mean))) * student_factor(rng, np.full((N_ALIKE, 1), degrees[stratum]))
        vectors.append(mean + scale * noise)
    return vectors


class TestStrata:
    def test_inner_products_and_squares_have_their_law(self, case, simulated, whole):
        _, directions, _ = case
        for stratum, vectors in enumerate(whole):
            assert_same_law(np.asarray(simulated.increment_square)[stratum], (vectors**2).sum(axis=1))
            if stratum in (1, 3):
                assert_same_law(np.asarray(simulated.increment)[stratum], vectors[:, 0])
                assert not np.asarray(simulated.direction_increment)[stratum].any()
                continue
            assert not np.asarray(simulated.increment)[stratum].any()
            for component, direction in enumerate(directions[stratum]):
                products = np.asarray(simulated.direction_increment)[stratum, :, component]
                if direction.any():
                    assert_same_law(products, vectors @ direction)
                else:
                    assert not products.any()

    def test_residuals_are_those_of_the_likelihood(self, case, simulated):
        """Squared residuals over d s² have an F distribution with d and ν degrees of freedom."""
        _, _, parameters = case
        density = increment_density(parameters, simulated, coupled=False)
        residual = np.asarray(simulated.increment_square - density.explained)
        scaled = residual / np.exp(2.0 * np.asarray(density.log_scale)) / np.array(DIMENSIONS)[:, None]
        for stratum, dimension in enumerate(DIMENSIONS):
            law = stats.f(dimension, float(density.degrees[stratum, 0]))
            assert stats.kstest(scaled[stratum], law.cdf).pvalue > LEAST_P_VALUE

    def test_residuals_do_not_lean_on_directions(self, case, simulated):
        """Spherical noise: its direction is independent of its size."""
        data, _, parameters = case
        density = increment_density(parameters, simulated, coupled=False)
        size = np.asarray(simulated.increment_square - density.explained)[0]
        coefficients = np.asarray(predict_intervals(parameters, simulated, coupled=False).coefficients)[0]
        square = np.asarray(data.direction_square)[0]
        along = np.asarray(simulated.direction_increment)[0] - coefficients * square
        share = along[:, :2] ** 2 / square[:, :2] / size[:, None]
        assert (stats.spearmanr(share[:, 0], size).pvalue, stats.spearmanr(share[:, 1], size).pvalue) > (0.001, 0.001)
        for component in range(2):  # the share of one of d dimensions
            assert stats.kstest(share[:, component], stats.beta(0.5, 3.0).cdf).pvalue > LEAST_P_VALUE


def test_coupled_strata_move_by_their_closed_form(tmp_path):
    """Under L contrasts and mean share rates; with next to no noise, increments are what rates make of directions."""
    run, layer, impact = make_case("L", 3, seed=0)
    with run.write(tmp_path / "run.h5") as recording:
        statistics = compute_statistics(recording, layer, impact)
    submodel = assemble(statistics, "constant")[0]
    assert submodel.variant.coupled
    n_intervals = len(statistics.lengths)
    location = jnp.asarray(np.outer([0.3, -0.1], np.ones(n_intervals)) / statistics.lengths.max())
    quiet = jnp.full((2, n_intervals), -25.0)
    parameters = Parameters(location, quiet, jnp.zeros((2, n_intervals)), jnp.full((2, 2), 4.0), jnp.zeros(2))
    data = draw_increments(submodel.variant, parameters, submodel.data, np.random.default_rng(0))
    coefficients = predict_intervals(parameters, submodel.data, coupled=True).coefficients
    expected = np.asarray(coefficients * submodel.data.direction_square)
    np.testing.assert_allclose(np.asarray(data.direction_increment), expected, rtol=1e-6, atol=1e-9)


def test_pattern_increments_have_the_law_of_the_likelihood(tmp_path):
    run, layer, impact = make_case("R hidden", 3, seed=1)
    with run.write(tmp_path / "run.h5") as recording:
        statistics = compute_statistics(recording, layer, impact)
    submodel = assemble(statistics, "gp", "matrix")[0]
    data = repeat(submodel.data, 1)._replace(relative_size=jnp.full(N_ALIKE, 0.7))
    n_contrasts, n_entries = data.homogeneous.shape
    dimension = int(data.dimension[0])
    assert dimension > data.increments[0].size  # there is more than axes span
    rng = np.random.default_rng(2)
    parameters = PatternParameters(
        pattern=jnp.asarray(rng.normal(size=(n_contrasts, n_entries))),
        log_scale_curve=jnp.full(N_ALIKE, -1.0),
        log_scale=jnp.full((1, N_ALIKE), -2.0),
        attenuation=jnp.full((1, N_ALIKE), -0.3),
        degrees=jnp.full((1, 2), 3.0),
        interval_exponent=jnp.zeros(1),
        size_slope=jnp.full((1, 2), 0.5),
    )
    simulated = draw_increments(PatternVariant("gp", False, sized=True), parameters, data, rng)
    prediction = predict_pattern(parameters, data)
    mean, scale = np.asarray(prediction.directions[0] @ parameters.pattern.T), np.exp(float(prediction.log_noise[0, 0]))

    vectors = np.concatenate([mean.ravel(), np.zeros(dimension - mean.size)]) + scale * rng.normal(
        size=(N_ALIKE, dimension)
    ) * student_factor(rng, np.full((N_ALIKE, 1), 3.0))
    flat = np.asarray(simulated.increments).reshape(N_ALIKE, -1)
    for coordinate in range(mean.size):
        assert_same_law(flat[:, coordinate], vectors[:, coordinate])
    assert_same_law(np.asarray(simulated.increment_square)[0], (vectors**2).sum(axis=1))
    density = pattern_density(parameters, simulated)
    residual = np.asarray(simulated.increment_square - density.explained)[0] / scale**2 / dimension
    assert stats.kstest(residual, stats.f(dimension, 3.0).cdf).pvalue > LEAST_P_VALUE


@pytest.fixture(scope="module")
def template():
    return simulated_template(curve="gp", n_records=20, burst=2)


@pytest.fixture(scope="module")
def runs(template):
    return [simulate_run(template.submodels, 0, number) for number in range(150)]


class TestRuns:
    def test_a_simulation_depends_on_seed_and_number_alone(self, template, runs):
        again = simulate_run(template.submodels, 0, 7)
        other = simulate_run(template.submodels, 1, 7)
        for one, two in zip(
            jax.tree.leaves(again.truth[0].values), jax.tree.leaves(runs[7].truth[0].values), strict=True
        ):
            np.testing.assert_array_equal(one, two)
        squares = [np.asarray(run.submodels[0].data.increment_square) for run in (again, runs[7], runs[8], other)]
        np.testing.assert_array_equal(squares[0], squares[1])
        assert not np.isclose(squares[0], squares[2]).any()
        assert not np.isclose(squares[0], squares[3]).any()

    def test_nothing_but_increments_is_replaced(self, template, runs):
        drawn = {"increment", "increment_square", "direction_increment", "increments"}
        for before, after in zip(template.submodels, runs[0].submodels, strict=True):
            assert (before.strata, before.variant) == (after.strata, after.variant)
            for name in set(before.data._fields) - drawn:
                for one, two in zip(
                    jax.tree.leaves(getattr(before.data, name)), jax.tree.leaves(getattr(after.data, name)), strict=True
                ):
                    np.testing.assert_array_equal(one, two)

    def test_truths_have_the_distribution_of_the_prior(self, template, runs):
        excess = np.array([run.truth[1].values["degrees_excess"] for run in runs]).ravel()
        assert stats.kstest(excess, stats.gamma(2.0, scale=2.0).cdf).pvalue > LEAST_P_VALUE
        exponent = np.array([run.truth[0].values["interval_exponent"] for run in runs]).ravel()
        assert stats.kstest(exponent, stats.norm(0.0, 0.5).cdf).pvalue > LEAST_P_VALUE
        data, place = locate(template.submodels, "growth_along")
        levels = np.array([run.truth[3].values["curve_weights"][0, 0, place, 0] for run in runs])
        law = stats.norm(float(data.prior.level_mean[place]), float(data.prior.level_sd[place]))
        assert stats.kstest(levels, law.cdf).pvalue > LEAST_P_VALUE

    def test_no_two_submodels_share_random_numbers(self, runs):
        first, second = (np.array([run.truth[i].values["degrees_excess"].ravel()[0] for run in runs]) for i in (1, 2))
        assert stats.spearmanr(first, second).pvalue > 0.001

    def test_truth_is_arranged_as_a_posterior_of_one_draw(self, template, runs):
        run = runs[0]
        posterior = build_posterior(template.statistics, run.submodels, run.truth, mixed=True)["posterior"]
        assert posterior["gamma"].shape == (1, 1, 19)
        np.testing.assert_array_equal(posterior["gamma"][0, 0], run.truth[0].parameters.location[0, 0, 0])
        np.testing.assert_allclose(
            posterior["gamma"],
            posterior["alpha"] - posterior["beta"],
            rtol=1e-9,
            atol=1e-9 * abs(posterior["alpha"]).max(),
        )

    def test_log_likelihood_of_the_truth_is_that_of_the_simulated_data(self, runs):
        run = runs[0]
        parameters = jax.tree.map(lambda value: jnp.asarray(value[0, 0]), run.truth[1].parameters)
        data = run.submodels[1].data
        expected = increment_density(parameters, data, coupled=False).log_prob(data.increment_square)
        np.testing.assert_allclose(run.truth[1].log_likelihood[0, 0], expected, rtol=1e-9)

    def test_digest_tells_designs_and_priors_apart(self, template):
        first = template.submodels[0]
        wider = first.data.prior._replace(level_sd=2.0 * first.data.prior.level_sd)
        changed = replace(first, data=first.data._replace(prior=wider))
        other = replace(template, submodels=(changed, *template.submodels[1:]))
        assert isinstance(other, Template)
        assert other.digest() != template.digest()
        assert template.digest() == simulated_template(curve="gp", n_records=20, burst=2).digest()
