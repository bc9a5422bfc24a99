"""The fit users run: what it returns, that it is repeatable, kept without loss, and refused where it must be."""

import json

import numpy as np
import pytest
import xarray as xr

from data_tools.errors import InputError
from data_tools.recording import Recording
from data_tools.recording_writer import write_recording
from lesde_infer import diagnostics, inference, longer_chains
from lesde_infer.fit_result import Fit, load
from lesde_infer.inference import ConvergenceError, fit
from lesde_infer.predictive import check
from lesde_infer.simulation import simulate

pytestmark = pytest.mark.xdist_group("fit")  # one compilation serves all

K, STEPS = 3, np.arange(0, 1230, 30)
ALPHA, BETA, KAPPA = 0.9e-2, -0.3e-2, 0.4e-3


@pytest.fixture(scope="module")
def recording_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("fit") / "run.h5"
    simulate(
        path,
        n_classes=K,
        samples_per_class=[20, 30, 25],
        steps=STEPS,
        alpha=ALPHA,
        beta=BETA,
        kappa=KAPPA,
        global_scale=2e-3,
        class_scale=1e-3,
        individual_scale=2e-3,
        impact="R",
        dof=6.0,
        seed=5,
    ).close()
    return path


@pytest.fixture(scope="module")
def fitted(recording_path):
    return fit(recording_path, curve="constant", within="isotropic", seed=3)


STRATA = ["contrast", "class_noise", "shared", "growth", "individual"]
PARTS = {"kappa": 0.8e-3, "kappa_across": -1.2e-3, "individual_scale": 4e-3, "individual_scale_across": 1e-3}
PULL = 4e-3


@pytest.fixture(scope="module")
def by_parts(tmp_path_factory):
    """A fit of a run whose deviations grow and shake otherwise along the class means than across, and its recording."""
    path = tmp_path_factory.mktemp("parts") / "run.h5"
    options = {"global_scale": 2e-3, "class_scale": 1e-3, "impact": "R", "dof": 30.0, "seed": 5, "pull": PULL, **PARTS}
    generator = np.random.default_rng(2)
    first = 0.5 * generator.normal(size=(180, K)) + np.repeat(np.eye(K), 60, axis=0)
    rates = {"alpha": ALPHA, "beta": BETA, "first_features": first}
    simulate(path, n_classes=K, samples_per_class=60, steps=STEPS, **rates, **options).close()
    return fit(path, curve="constant", within="spanned", seed=3), path


def test_true_rates_of_parts_lie_in_their_intervals(by_parts):
    """One of the five truths is the 0.5 % quantile of its posterior, so that at 99 % the draws alone would decide."""
    posterior = by_parts[0].posterior
    for name, truth in {**PARTS, "pull": PULL}.items():
        low, high = np.quantile(posterior[name].isel(time=0), [0.001, 0.999])
        assert low < truth < high, f"{name}: {truth} outside its 99.8 % interval {low:.3g} to {high:.3g}"
        assert high - low < abs(truth), f"{name}: the interval {low:.3g} to {high:.3g} says little"


def test_parts_are_reported_and_replicated(by_parts, tmp_path):
    """JSON has curves of both parts, a saved fit replicates alike, and its simulations hold what was recorded."""
    result, path = by_parts
    summary = result.to_json()
    assert summary["within"] == "spanned"
    assert {"kappa", "kappa_across", "pull"} <= summary["curves"].keys()
    assert {"kappa", "kappa_across", "pull"} <= summary["prior_sensitivity"].keys()
    again = load(result.save(tmp_path / "fit.nc"))
    assert again.settings.within == "spanned"
    rates, its = result.interval_rates(50, seed=1), again.interval_rates(50, seed=1)
    for name in ("kappa", "kappa_across", "pull", "individual_sd", "individual_sd_across"):
        np.testing.assert_array_equal(getattr(its, name), getattr(rates, name))
    checked = check(again, path, n_draws=60)
    for metric in ("within_between_ratio", "nc1", "between_norm"):
        low, high = np.quantile(checked.predicted[metric][:, -1], [0.005, 0.995])
        assert low < checked.observed[metric][-1] < high, metric


def test_true_rates_lie_in_their_intervals(fitted):
    for name, truth in (("gamma", ALPHA - BETA), ("alpha", ALPHA), ("beta", BETA), ("kappa", KAPPA)):
        low, high = np.quantile(fitted.posterior[name].isel(time=0), [0.005, 0.995])
        assert low < truth < high, f"{name}: {truth} outside its 99 % interval {low:.3g} to {high:.3g}"
    # The mean over classes relaxes here, which leaves α and β loosely known; γ and κ must be known well.
    for name, truth in (("gamma", ALPHA - BETA), ("kappa", KAPPA)):
        low, high = np.quantile(fitted.posterior[name].isel(time=0), [0.005, 0.995])
        assert high - low < abs(truth), f"{name}: the interval {low:.3g} to {high:.3g} says little"


def test_noise_scales_lie_in_their_intervals(fitted):
    # The scales of the strata as the model defines them; class noise is a contrast, which takes nothing from it.
    for name, truth in (("class_scale", 1e-3), ("global_scale", 2e-3), ("individual_scale", 2e-3)):
        low, high = np.quantile(fitted.posterior[name].isel(time=0), [0.001, 0.999])
        assert low < truth < high, f"{name}: {truth} outside {low:.3g} to {high:.3g}"
    # Along the impact it is given in units of what was seen across it, which scatters from one interval to the next.
    low, high = np.quantile(np.exp(np.log(fitted.posterior["impact_scale"]).mean("time")), [0.001, 0.999])
    assert low < 1e-3 < high


def test_elasticity_is_alpha_minus_beta(fitted):
    posterior = fitted.posterior
    np.testing.assert_allclose(posterior["gamma"], posterior["alpha"] - posterior["beta"], rtol=1e-12, atol=1e-15)
    mean_rate = (posterior["alpha"] + (K - 1) * posterior["beta"]) / K
    np.testing.assert_allclose(posterior["global_rate"], mean_rate, rtol=1e-10, atol=1e-15)


def test_a_fit_meets_its_limits_and_says_so(fitted):
    judged = fitted.diagnostics()
    assert judged.converged
    assert judged.problems == ()
    assert judged.r_hat_max <= 1.01
    assert min(judged.ess_bulk_min, judged.ess_tail_min) >= 400
    assert judged.divergences == 0


def test_the_data_tree_follows_the_arviz_schema(fitted):
    assert {"posterior", "sample_stats", "log_likelihood", "observed_data", "constant_data"} <= set(
        fitted.data.children
    )
    assert fitted.posterior["gamma"].dims == ("chain", "draw", "time")
    assert fitted.posterior["tail_index"].dims == ("chain", "draw")
    assert list(fitted.data["log_likelihood"].data_vars) == STRATA
    assert list(fitted.posterior["degrees"].coords["stratum"].to_numpy()) == STRATA
    for name, values in fitted.data["log_likelihood"].data_vars.items():
        assert np.isfinite(values).all(), name


def test_the_log_density_of_draws_is_the_log_likelihood_plus_the_prior(fitted):
    # lp includes the prior and the Jacobian of the whitening, so only its changes with the likelihood can be checked:
    # draws of higher likelihood have higher density, strongly so.
    total = sum(values.sum("time") for values in fitted.data["log_likelihood"].data_vars.values())
    correlation = np.corrcoef(total.to_numpy().ravel(), fitted.data["sample_stats"]["lp"].to_numpy().ravel())[0, 1]
    assert correlation > 0.3


def test_saved_and_loaded_without_loss(fitted, tmp_path):
    path = fitted.save(tmp_path / "fit.nc")
    again = load(path)
    groups = ("posterior", "sample_stats", "log_likelihood", "log_prior", "observed_data", "constant_data")
    for group in (*groups, "prior_widths"):
        xr.testing.assert_identical(again.data[group].to_dataset(), fitted.data[group].to_dataset())
    assert again.to_json() == fitted.to_json()
    assert again.settings == fitted.settings
    with pytest.raises(InputError, match="exists"):
        fitted.save(path)
    fitted.save(path, force=True)


def test_equal_seeds_give_equal_draws_and_others_do_not(recording_path, fitted):
    again = fit(recording_path, curve="constant", within="isotropic", seed=3)
    xr.testing.assert_identical(again.posterior.to_dataset(), fitted.posterior.to_dataset())
    other = fit(recording_path, curve="constant", within="isotropic", seed=4)
    assert not np.array_equal(other.posterior["gamma"], fitted.posterior["gamma"])
    # Two posteriors of one run agree within Monte-Carlo error.
    for name in ("gamma", "kappa"):
        means = [float(result.posterior[name].mean()) for result in (fitted, other)]
        sd = float(fitted.posterior[name].isel(time=0).std())
        standard_error = sd * np.sqrt(2.0 / fitted.diagnostics().ess_bulk_min)
        assert abs(means[0] - means[1]) < 5 * standard_error, name


def test_rates_alone_are_those_of_the_whole_fit(recording_path, fitted, tmp_path):
    """Draw by draw; what takes the rest of the model is refused, and the other way round it does as what was kept."""
    rates = fit(recording_path, curve="constant", within="isotropic", seed=3, parts="rates")
    common = ("alpha", "beta", "gamma", "global_rate", "tail_index", "paper_tail_index", "impact_scale", "global_scale")
    n_draws = min(rates.posterior.sizes["draw"], fitted.posterior.sizes["draw"])
    assert n_draws == rates.posterior.sizes["draw"] == fitted.posterior.sizes["draw"]
    for name in common:
        np.testing.assert_array_equal(rates.posterior[name], fitted.posterior[name])
    assert "kappa" not in rates.posterior
    found = load(rates.save(tmp_path / "rates.nc")).to_json()
    assert found["parts"] == "rates"
    assert found["elpd"] is None
    assert found["converged"]
    assert np.isnan(found["probability_separable"])
    assert set(found["prior_sensitivity"]) == {"gamma", "alpha", "beta", "tail_index", "paper_tail_index"} or all(
        name.split("_")[0] in {"gamma", "alpha", "beta", "tail", "paper"} for name in found["prior_sensitivity"]
    )
    with pytest.raises(InputError, match="this fit is of rates alone, but replicating the run takes the whole model"):
        check(rates, recording_path)


def test_json_has_the_keys_of_the_contract(fitted):
    result = json.loads(json.dumps(fitted.to_json(), allow_nan=False))
    assert result["n_samples"] == 75
    assert (result["n_features"], result["n_classes"], result["n_records"]) == (K, K, len(STEPS))
    assert result["wall_seconds"] > 0
    assert set(result["gamma_end"]) == {"mean", "q05", "q95"}
    assert sum(result["phase_probabilities"].values()) == pytest.approx(1.0)
    assert set(result["curves"]) == {"step", "gamma", "alpha", "beta", "kappa"}
    for band in ("gamma", "alpha", "beta", "kappa"):
        q05, q50, q95 = (np.array(result["curves"][band][q]) for q in ("q05", "q50", "q95"))
        assert len(q50) == len(result["curves"]["step"]) == len(STEPS) - 1
        assert np.all((q05 <= q50) & (q50 <= q95))


def test_json_says_what_predicts_and_what_leans_on_its_prior(fitted):
    result = json.loads(json.dumps(fitted.to_json(), allow_nan=False))
    assert set(result["elpd"]) == {"contrasts", "shared", "class_means", "growth", "individual", "total"}
    for group, found in result["elpd"].items():
        assert set(found) == {"elpd", "se", "p_loo", "pareto_k_bad_share"}, group
        assert found["se"] > 0, group
        assert 0 < found["p_loo"] < 20, group
    parts = sum(result["elpd"][group]["elpd"] for group in ("class_means", "growth", "individual"))
    assert result["elpd"]["total"]["elpd"] == pytest.approx(parts)
    # A held-out interval is predicted less well than one that was seen.
    seen = sum(np.log(np.exp(v).mean(["chain", "draw"])).sum() for v in fitted.data["log_likelihood"].values())
    assert result["elpd"]["total"]["elpd"] < float(seen)
    table = fitted.prior_sensitivity()
    assert list(result["prior_sensitivity"]) == ["gamma", "alpha", "beta", "kappa", "paper_tail_index"]
    for name, found in result["prior_sensitivity"].items():
        assert found["prior"] == float(table["prior"].sel(quantity=name))
    # Intervals of γ and κ are far narrower than their priors.
    for name in ("gamma", "kappa"):
        found = result["prior_sensitivity"][name]
        assert found["prior"] < 0.05 < found["likelihood"], name
        assert found["diagnosis"] == "✓", name


def test_interval_rates_are_those_of_the_posterior(fitted):
    rates = fitted.interval_rates(n_draws=50, seed=1)
    assert rates.gamma.shape == (50, len(STEPS) - 1)
    low, high = np.quantile(fitted.posterior["gamma"], [0.0, 1.0])
    assert np.all((rates.gamma >= low) & (rates.gamma <= high))
    assert np.isinf(rates.class_dof).all()
    assert np.isinf(rates.impact_dof).all()


def test_replicated_noise_is_as_large_as_it_was_recorded(fitted):
    rates = fitted.interval_rates(n_draws=400, seed=1)
    observed = fitted.data["observed_data"].to_dataset()
    # Growth has no scatter in this run: what intervals measure scatters by error, and is told from it.
    growth, measured = np.median(rates.kappa, axis=0) * 30.0, observed["log_growth"].to_numpy()
    assert np.abs(growth - KAPPA * 30.0).max() < 0.3 * np.abs(measured - KAPPA * 30.0).max()
    # Individual noise scatters by its Student-t factor, far more than by error.
    variance, measured = np.log(np.median(rates.individual_sd, axis=0) ** 2), observed["log_variance"].to_numpy()
    assert np.abs(variance - measured).max() < 0.1 < measured.std()
    for sd, scale in ((rates.class_sd, 1e-3), (rates.impact_sd, 1e-3), (rates.global_sd, 2e-3)):
        assert np.median(sd) == pytest.approx(scale * np.sqrt(30.0), rel=0.25)


def test_a_fit_that_misses_its_limits_is_refused_after_longer_attempts(recording_path, monkeypatch):
    run_for = []
    run_until = inference.ConcurrentSampler.run_until

    def remember(sampler, n_draws, progress=None):
        run_for.append(n_draws)
        run_until(sampler, n_draws, progress)

    monkeypatch.setattr(inference.ConcurrentSampler, "run_until", remember)
    monkeypatch.setattr(diagnostics, "MINIMAL_ESS", 1e9)
    monkeypatch.setattr(inference, "LONGER", (2, 3))
    with pytest.raises(ConvergenceError, match=r"run.h5: the posterior did not converge \(ess_bulk of .* below"):
        fit(recording_path, curve="constant", within="isotropic")
    assert [max(wanted) for wanted in run_for] == [times * inference.DRAWS for times in (1, *inference.LONGER)]
    accepted = fit(recording_path, curve="constant", within="isotropic", allow_unconverged=True)
    assert isinstance(accepted, Fit)
    assert accepted.posterior.sizes["draw"] >= longer_chains.COMMON * inference.DRAWS
    assert not accepted.diagnostics().converged


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer": "fc9"}, "no layer 'fc9'; it holds logits"),
        ({"impact": "Q"}, "impact 'Q' is unknown; choose one of I, L, R"),
        ({"curve": "spline"}, "curve 'spline' is unknown; choose one of constant, power, gp"),
        ({"group": "colour"}, "group 'colour' is unknown"),
        ({"within": "round"}, "within 'round' is unknown; choose one of isotropic, spanned"),
        ({"elasticity": "diagonal"}, "elasticity 'diagonal' is unknown; choose one of homogeneous, matrix"),
        ({"until": 60, "curve": "gp"}, "3 records are too few for curve 'gp', which needs 17"),
        ({"until": 0}, "1 record.* up to step 0"),
    ],
)
def test_what_cannot_be_fitted_is_refused_in_one_line(recording_path, arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        fit(recording_path, **arguments)
    assert "\n" not in str(caught.value)


def test_loading_what_is_no_fit_is_refused(recording_path, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load(tmp_path / "missing.nc")
    with pytest.raises(InputError, match=r"is no (readable )?fit"):
        load(recording_path)
    (tmp_path / "text.nc").write_text("not a fit")
    with pytest.raises(InputError, match="no readable fit"):
        load(tmp_path / "text.nc")


def test_gaps_are_left_out_counted_and_checked_across(fitted, recording_path, tmp_path):
    """γ stays where it was, a flag says what is missing, and the run is simulated again through the gap."""
    with Recording(recording_path) as recording:
        features, labels = np.asarray(recording.features("logits")[:]), recording.labels
    features[np.random.default_rng(0).random(features.shape[:2]) < 0.1] = np.nan
    features[12] = np.nan
    path = write_recording(tmp_path / "gaps.h5", STEPS, labels, {"logits": features}, logits="logits")
    gappy = fit(path, curve="constant", within="isotropic", seed=3)
    for name in ("gamma", "kappa"):
        draws, complete = gappy.posterior[name].isel(time=0), fitted.posterior[name].isel(time=0)
        assert abs(float(draws.median() - complete.median())) < 1.5 * float(complete.std()), name
        assert 0.7 < float(draws.std() / complete.std()) < 1.5, name
    gappy.save(tmp_path / "fit.nc")
    found = load(tmp_path / "fit.nc").to_json()
    assert found["missing"]["n_missing_samples"] == np.count_nonzero(np.isnan(features[..., 0]))
    assert found["missing"]["n_dropped_intervals"] == 2
    assert (found["time_unit"], found["class_frequencies"]) == ("steps", [1 / 3] * 3)
    flag = next(flag for flag in found["flags"] if flag["name"] == "missing_data")
    assert "2 intervals were dropped" in flag["message"]
    assert (found["n_records"], len(found["curves"]["step"])) == (len(STEPS), len(STEPS) - 3)
    np.testing.assert_array_equal(found["curves"]["step"], np.delete((STEPS[1:] + STEPS[:-1]) / 2, [11, 12]))
    assert np.isfinite(found["probability_separable"])
    result = check(gappy, path, n_draws=20, n_times=4)
    assert result.horizon_step == STEPS[-1]
    assert result.p_values["between_norm"][-1] > 0.05
