"""Power-scaling: its direction in conjugate models, whose priors are scaled, and the log prior by closed forms."""

import numpy as np
import pytest
from core_helpers import make_run, random_strata
from made_up_fits import CHAINS, DRAWS, curve, make_fit, normal_density, normal_posterior
from scipy import stats

from data_tools.errors import InputError
from lesde_infer._jax import jnp
from lesde_infer.assembly import assemble
from lesde_infer.curves import BASIS_FUNCTIONS, EXPONENT_SD, TIME_SCALE_SHARE, n_weights
from lesde_infer.log_prior import top_level_log_prior
from lesde_infer.pattern_model import DRIFT_SHARE, LOG_SPREAD_SD, MEAN_SPREAD
from lesde_infer.prior_sensitivity import CONFLICT, FINE, WEAK, diagnosis, power_weights, prior_sensitivity, sensitivity
from lesde_infer.statistics import compute_statistics
from lesde_infer.strata_variant import StrataVariant

INTERVALS = 30


def gaussian_fit(priors, observations=None, *, names=("contrast", "class_noise", "shared", "growth", "individual")):
    """Fit means of normal data, stratum by stratum; γ, g and κ are those of contrast, shared and growth."""
    rng = np.random.default_rng(0)
    draws, log_likelihood, log_prior = {}, {}, {}
    for name in names:
        data = rng.normal(0.0, 1.0, size=INTERVALS)
        data += (observations or {}).get(name, 0.0) - data.mean()
        mean, sd = priors.get(name, (0.0, 3.0))
        noise = 30.0 if name == "growth" and "growth" in priors else 1.0
        draws[name] = normal_posterior(rng, data, prior_mean=mean, prior_sd=sd, noise=noise)
        log_likelihood[name] = normal_density(draws[name], data, noise)
        log_prior[name] = stats.norm.logpdf(draws[name], mean, sd)

    def flat(values):
        return curve(np.repeat(values[:, :, None], INTERVALS, axis=2))

    rates = {"gamma": draws["contrast"], "kappa": draws["growth"], "beta": draws["shared"] - draws["contrast"] / 3}
    posterior = {name: flat(values) for name, values in rates.items()}
    posterior["alpha"] = flat(rates["beta"] + rates["gamma"])
    posterior["tail_index"] = (("chain", "draw"), rates["gamma"])
    posterior["paper_tail_index"] = (("chain", "draw"), rates["beta"] + rates["gamma"])
    return make_fit(log_likelihood, posterior=posterior, log_prior=log_prior)


def diagnoses(fit):
    table = prior_sensitivity(fit)
    return dict(zip(table["quantity"].to_numpy().tolist(), table["diagnosis"].to_numpy().tolist(), strict=True))


GAMMA, KAPPA = (tuple(f"{name}[{time}]" for time in ("early", "middle", "late")) for name in ("gamma", "kappa"))


class TestDirection:
    def test_wide_priors_around_the_data_are_fine(self):
        found = diagnoses(gaussian_fit({}))
        assert set(found.values()) == {FINE}
        assert {*GAMMA, *KAPPA, "tail_index", "paper_tail_index"} < set(found)

    def test_a_prior_far_from_the_data_is_in_conflict_with_them(self):
        found = diagnoses(gaussian_fit({"contrast": (8.0, 1.0)}))
        for name in (*GAMMA, "tail_index"):
            assert found[name] == CONFLICT, name
        for name in KAPPA:
            assert found[name] == FINE, name  # whose priors are others

    def test_of_data_that_say_little_the_prior_remains(self):
        found = diagnoses(gaussian_fit({"growth": (0.0, 1.0)}))
        for name in KAPPA:
            assert found[name] == WEAK, name
        for name in GAMMA:
            assert found[name] == FINE, name

    def test_a_conflict_of_the_mean_shows_in_what_depends_on_it(self):
        found = diagnoses(gaussian_fit({"shared": (8.0, 1.0)}))
        assert {found[f"{name}[late]"] for name in ("alpha", "beta")} == {CONFLICT}
        assert found["gamma[late]"] == FINE

    def test_submodels_of_several_strata_are_scaled_as_one(self):
        """Under L a conflict of the mean is one of contrasts too: they are one model."""
        apart = gaussian_fit({"shared": (8.0, 1.0)}, names=("contrast", "shared", "growth", "individual"))
        priors = {name: values.to_numpy() for name, values in apart.data["log_prior"].to_dataset().items()}
        joint = {
            "contrast+shared": priors["contrast"] + priors["shared"],
            "growth": priors["growth"],
            "individual": priors["individual"],
        }
        likelihood = {name: v.to_numpy() for name, v in apart.data["log_likelihood"].to_dataset().items()}
        posterior = {name: (v.dims, v.to_numpy()) for name, v in apart.posterior.data_vars.items()}
        found = prior_sensitivity(make_fit(likelihood, posterior=posterior, log_prior=joint))
        weights = power_weights(joint["contrast+shared"])
        expected = sensitivity(apart.posterior["gamma"].to_numpy()[:, :, 3], weights)
        assert float(found["prior"].sel(quantity="gamma[late]")) == pytest.approx(expected)


class TestValues:
    def test_sensitivity_grows_with_the_distance_of_the_prior(self):
        rng = np.random.default_rng(1)
        data = np.zeros(10)
        found = []
        for mean in (0.0, 2.0, 4.0, 8.0):
            draws = normal_posterior(rng, data, prior_mean=mean)
            found.append(sensitivity(draws, power_weights(stats.norm.logpdf(draws, mean, 1.0))))
        assert found == sorted(found)
        assert found[0] < 0.1 < found[-1]

    def test_weights_move_the_posterior_as_scaling_the_prior_does(self):
        """A normal prior to the power a is one of precision a."""
        rng = np.random.default_rng(2)
        data, mean = np.zeros(10), 5.0
        draws = normal_posterior(rng, data, prior_mean=mean)
        lower, upper = power_weights(stats.norm.logpdf(draws, mean, 1.0))
        for weights, power in ((lower, 0.99), (upper, 1.01)):
            np.testing.assert_allclose(weights.sum(), 1.0)
            moved = (weights * draws).sum() - draws.mean()
            exact = power * mean / (power + 10) - mean / 11
            np.testing.assert_allclose(moved, exact, rtol=0.1)

    def test_what_depends_on_nothing_is_not_sensitive(self):
        rng = np.random.default_rng(3)
        weights = power_weights(stats.norm.logpdf(rng.normal(size=(CHAINS, DRAWS, 10))).sum(axis=2))
        assert max(sensitivity(rng.normal(size=(CHAINS, DRAWS)), weights) for _ in range(20)) < 0.03

    def test_diagnoses_are_those_of_arviz(self):
        assert diagnosis(0.05, 0.05) == CONFLICT
        assert diagnosis(0.06, 0.04) == WEAK
        assert diagnosis(0.04, 0.01) == diagnosis(0.04, 0.2) == diagnosis(np.nan, np.nan) == FINE

    def test_stuck_chains_have_no_sensitivity(self):
        made_up = gaussian_fit({})
        made_up.data["log_prior"]["growth"][:] = 1.0
        table = prior_sensitivity(made_up)
        assert np.isnan(table["prior"].sel(quantity="kappa[late]"))
        assert np.isfinite(table["prior"].sel(quantity="gamma[late]"))


def test_a_fit_that_kept_no_prior_is_refused():
    made_up = gaussian_fit({})
    del made_up.data["log_prior"]
    with pytest.raises(InputError, match=r"no log prior of its draws.*fit again"):
        made_up.prior_sensitivity()


@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("family", ["constant", "power", "gp"])
def test_log_prior_of_strata_is_that_of_numbers(family, mixed, coupled):
    """All priors written out, but for the weights of Gaussian processes given their amplitude and length."""
    rng = np.random.default_rng(4)
    data, _, _ = random_strata(rng, 8, (4, 3), 2, mixed=mixed)
    n_strata, n_curves = 2, (3 if mixed else 2) * 2
    values = {
        "curve_weights": rng.normal(size=(n_curves, n_weights(family))),
        "degrees_excess": rng.uniform(1.0, 5.0, size=(n_strata, 1 + mixed)),
    }
    prior = {name: np.asarray(v) for name, v in data.prior._asdict().items()}
    expected = stats.norm.logpdf(values["curve_weights"][:, 0], prior["level_mean"], prior["level_sd"]).sum()
    expected += stats.gamma.logpdf(values["degrees_excess"], 2.0, scale=2.0).sum()
    if family == "power":
        expected += stats.norm.logpdf(values["curve_weights"][:, 1], 0.0, EXPONENT_SD).sum()
        values["power_time_scale"] = np.array(0.02)
        expected += stats.lognorm.logpdf(0.02, 1.0, scale=TIME_SCALE_SHARE)
    if family == "gp":
        assert values["curve_weights"].shape[1] == 2 + BASIS_FUNCTIONS
        expected += stats.norm.logpdf(values["curve_weights"][:, 1], 0.0, prior["slope_sd"]).sum()
        values["curve_amplitude"] = rng.uniform(0.2, 2.0, size=n_curves)
        values["curve_length"] = rng.uniform(0.2, 1.0, size=n_curves)
        expected += stats.halfnorm.logpdf(values["curve_amplitude"], scale=prior["amplitude_sd"]).sum()
        expected += stats.lognorm.logpdf(values["curve_length"], 0.5, scale=0.5).sum()
    if mixed:
        values["interval_exponent"] = rng.normal(size=n_strata)
        expected += stats.norm.logpdf(values["interval_exponent"], 0.0, 0.5).sum()
    sites = {name: jnp.asarray(v) for name, v in values.items()}
    found = top_level_log_prior(StrataVariant(family, coupled, mixed).model, sites, data)
    assert float(found) == pytest.approx(expected, rel=1e-9)


def test_log_prior_of_a_pattern_leaves_its_entries_out(tmp_path):
    with make_run(3, 4, 8).write(tmp_path / "run.h5") as recording:
        submodel = assemble(compute_statistics(recording, "out", "R"), "constant", "matrix")[0]
    data, rng = submodel.data, np.random.default_rng(5)
    n_curves = len(data.prior.level_mean)
    assert n_curves == 2  # intervals are alike
    n_patterns = data.drift.shape[1]
    values = {
        "curve_weights": rng.normal(size=(n_curves, 1)),
        "pattern_mean": np.array(0.3),
        "pattern_spread": np.array([0.02, 0.01])[:n_patterns],
        "pattern": rng.normal(size=data.homogeneous.shape),
        "degrees_excess": rng.uniform(1.0, 5.0, size=(1, 1)),
        "size_slope": rng.normal(size=(1, 1)),
    }
    level_mean, level_sd = np.asarray(data.prior.level_mean), np.asarray(data.prior.level_sd)
    expected = stats.norm.logpdf(values["curve_weights"][:, 0], level_mean, level_sd).sum()
    expected += stats.norm.logpdf(values["size_slope"], 0.5, 0.5).sum()
    expected += stats.norm.logpdf(0.3, 0.0, MEAN_SPREAD)
    medians = float(data.spread) * np.array([1.0, DRIFT_SHARE])[:n_patterns]
    expected += stats.lognorm.logpdf(values["pattern_spread"], LOG_SPREAD_SD, scale=medians).sum()
    expected += stats.gamma.logpdf(values["degrees_excess"], 2.0, scale=2.0).sum()
    found = top_level_log_prior(submodel.variant.model, {name: jnp.asarray(v) for name, v in values.items()}, data)
    assert float(found) == pytest.approx(expected, rel=1e-9)
