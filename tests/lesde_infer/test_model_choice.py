"""ELPD against closed forms, and what comparisons of fits say, refuse and warn of."""

import json

import numpy as np
import pytest
from made_up_fits import CHAINS, DRAWS, INTERVALS, STRATA, exact_elpd, make_fit, normal_density, normal_posterior
from scipy import stats

from data_tools.errors import InputError
from lesde_infer.cli import main
from lesde_infer.inference import ConvergenceError, fit
from lesde_infer.model_choice import compare_drifts
from lesde_infer.predictive_density import GROUPS, PARTS, expected_log_predictive_density, pareto_k_limit
from lesde_infer.simulation import simulate


@pytest.fixture(scope="module")
def data():
    """One observation an interval and stratum."""
    rng = np.random.default_rng(0)
    return {name: rng.normal(0.5, 1.0, size=INTERVALS) for name in STRATA}


def normal_fit(data, seed=1, **options):
    """Fit the mean of each stratum, exactly."""
    rng = np.random.default_rng(seed)
    return make_fit({name: normal_density(normal_posterior(rng, own), own) for name, own in data.items()}, **options)


def shifted_fit(data, shift, seed=2, **options):
    """As `normal_fit`, but contrasts are predicted wrongly."""
    right = normal_fit(data, seed).data["log_likelihood"].to_dataset()
    rng = np.random.default_rng(seed)
    draws = normal_posterior(rng, data["contrast"]) + shift
    wrong = {"contrast": normal_density(draws, data["contrast"])}
    return make_fit({**{name: right[name].to_numpy() for name in right}, **wrong}, **options)


class TestExpectedLogPredictiveDensity:
    def test_is_that_of_exact_leaving_out(self, data):
        made_up = normal_fit(data)
        found = expected_log_predictive_density(made_up)
        exact = {name: exact_elpd(values) for name, values in data.items()}
        draws = made_up.data["log_likelihood"].to_dataset()
        error = {name: (draws[name].std(["chain", "draw"]) / np.sqrt(CHAINS * DRAWS)).to_numpy() for name in data}
        for group, possible in GROUPS.items():
            strata = [name for name in possible if name in exact]
            expected = sum(exact[name] for name in strata)
            tolerance = 5.0 * np.sqrt(sum(error[name] ** 2 for name in strata))  # Monte-Carlo error
            assert (np.abs(found.pointwise["elpd"].sel(group=group) - expected) < tolerance).all(), group
            own = found.table.sel(group=group)
            np.testing.assert_allclose(own["elpd"], expected.sum(), atol=0.2)
            np.testing.assert_allclose(own["se"], np.sqrt(INTERVALS * expected.var()), rtol=0.01)
            np.testing.assert_allclose(own["p_loo"], len(strata), rtol=0.25)  # each stratum has one parameter
        np.testing.assert_allclose(
            found.table["elpd"].sel(group="total"), sum(v.sum() for v in exact.values()), atol=0.3
        )
        assert not found.table["pareto_k_bad_share"].any()
        assert found.warnings == ()

    def test_parts_add_up_to_the_total(self, data):
        found = expected_log_predictive_density(normal_fit(data))
        for name in ("elpd", "p_loo"):
            parts = found.pointwise[name].sel(group=list(PARTS)).sum("group")
            np.testing.assert_allclose(found.pointwise[name].sel(group="total"), parts, rtol=1e-12)
            np.testing.assert_allclose(
                found.table[name], found.pointwise[name].sum("time"), rtol=1e-10, err_msg="table is not the sum"
            )

    def test_strata_that_depend_on_one_another_are_left_out_together(self):
        """Contrasts and mean that share their only parameter: an interval's two observations go at once."""
        rng = np.random.default_rng(3)
        both = rng.normal(0.0, 1.0, size=(2, 20))
        draws = normal_posterior(rng, both.ravel())
        log_likelihood = {
            "contrast": normal_density(draws, both[0]),
            "shared": normal_density(draws, both[1]),
            "growth": np.zeros((CHAINS, DRAWS, 20)),
            "individual": np.zeros((CHAINS, DRAWS, 20)),
        }
        found = expected_log_predictive_density(make_fit(log_likelihood, impact="L"))
        for t in range(20):
            others = np.delete(both, t, axis=1)
            precision = 1.0 + others.size
            mean, covariance = np.full(2, others.sum() / precision), np.eye(2) + 1.0 / precision
            expected = stats.multivariate_normal.logpdf(both[:, t], mean, covariance)
            np.testing.assert_allclose(
                found.pointwise["elpd"].sel(group="class_means").isel(time=t), expected, atol=0.03
            )

    def test_draws_that_all_say_the_same(self):
        density = np.random.default_rng(4).normal(size=INTERVALS)
        everywhere = np.broadcast_to(density, (CHAINS, DRAWS, INTERVALS))
        found = expected_log_predictive_density(make_fit(dict.fromkeys(STRATA, everywhere)))
        np.testing.assert_allclose(found.pointwise["elpd"].sel(group="contrasts"), 2 * density)
        assert float(found.table["p_loo"].sel(group="total")) == 0.0
        assert not found.table["pareto_k_bad_share"].any()

    def test_an_interval_that_pulls_the_posterior_is_counted_and_warned_of_once(self, data, recwarn):
        outlying = {**data, "shared": np.append(data["shared"][:-1], 40.0)}
        found = expected_log_predictive_density(normal_fit(outlying))
        share = 1.0 / INTERVALS
        expected = {"shared": share, "class_means": share, "total": share}
        for group in found.table["group"].to_numpy():
            assert float(found.table["pareto_k_bad_share"].sel(group=group)) == expected.get(str(group), 0.0), group
        assert len(found.warnings) == 1
        assert f"1 of {INTERVALS} intervals" in found.warnings[0]
        assert not recwarn.list

    def test_draws_that_are_not_finite_are_bad(self, data):
        spoilt = normal_fit(data).data["log_likelihood"].to_dataset()
        values = {name: spoilt[name].to_numpy().copy() for name in spoilt}
        values["growth"][:, :, 3] = np.nan
        found = expected_log_predictive_density(make_fit(values))
        assert np.isnan(found.table["elpd"].sel(group="total"))
        assert float(found.table["pareto_k_bad_share"].sel(group="growth")) == 1.0 / INTERVALS
        assert np.isfinite(found.table["elpd"].sel(group="class_means"))

    def test_what_is_not_there_is_not_counted_twice(self, data):
        """One contrast of one feature has nothing across the impact; that stratum repeats the other."""
        found = expected_log_predictive_density(normal_fit(data, class_sizes=(5, 5), n_features=1))
        expected = exact_elpd(data["contrast"]).sum()
        np.testing.assert_allclose(found.table["elpd"].sel(group="contrasts"), expected, atol=0.2)

    def test_limit_of_pareto_k(self):
        assert pareto_k_limit(3000) == 0.7
        assert pareto_k_limit(100) == 0.5
        assert pareto_k_limit(1) == 0.7


class TestCompareDrifts:
    def test_the_better_model_wins(self, data):
        fits = {"wrong": shifted_fit(data, 1.0), "right": normal_fit(data), "far": shifted_fit(data, 2.0)}
        result = compare_drifts(fits)
        assert (result.best, result.resolved) == ("right", True)
        assert result.table["drift"].to_numpy().tolist() == ["right", "wrong", "far"]
        assert result.sentence.startswith("right explains the run best")
        assert "wrong, the next" in result.sentence
        assert result.table["resolved"].sel(group="contrasts", drift=["wrong", "far"]).all()
        assert not result.table["resolved"].sel(group=["shared", "growth", "individual"]).any()

    def test_differences_are_paired(self, data):
        fits = {"right": normal_fit(data), "wrong": shifted_fit(data, 0.7)}
        densities = {name: expected_log_predictive_density(fit) for name, fit in fits.items()}
        table = compare_drifts(fits).table
        for group in table["group"].to_numpy():
            difference = (
                densities["right"].pointwise["elpd"].sel(group=group)
                - densities["wrong"].pointwise["elpd"].sel(group=group)
            ).to_numpy()
            own = table.sel(group=group)
            behind = own["difference"].sel(drift="wrong") - own["difference"].sel(drift="right")
            np.testing.assert_allclose(behind, difference.sum(), rtol=1e-9)
            error = np.sqrt(INTERVALS * difference.var())
            np.testing.assert_allclose(own["difference_se"].max(), error, rtol=1e-9)
            assert float(own["difference"].min()) == 0.0

    def test_a_fit_is_not_resolved_from_itself(self, data):
        one = normal_fit(data)
        result = compare_drifts({"a": one, "b": one})
        assert not result.table["difference"].any()
        assert not result.table["difference_se"].any()
        assert not result.resolved
        assert result.sentence.startswith("a has the highest ELPD, but it is not resolved from b (0.0 ± 0.0 behind)")

    def test_nor_are_two_samples_of_one_posterior(self, data):
        result = compare_drifts({"a": normal_fit(data, seed=1), "b": normal_fit(data, seed=9)})
        assert not result.resolved
        assert float(result.table["difference"].sel(group="total").max()) < 0.5

    @pytest.mark.parametrize(
        ("shift", "error", "resolved"), [(3.9, 0.1, False), (20.0, 11.0, False), (20.0, 9.0, True)]
    )
    def test_resolved_takes_four_and_two_standard_errors(self, shift, error, resolved):
        """Differences of which half the intervals have mean + s, half mean − s."""
        mean, spread = shift / INTERVALS, error / np.sqrt(INTERVALS)
        better = mean + spread * np.where(np.arange(INTERVALS) % 2, 1.0, -1.0)
        flat = np.zeros((CHAINS, DRAWS, INTERVALS))
        base = dict.fromkeys(STRATA, flat)
        result = compare_drifts({"worse": make_fit(base), "better": make_fit({**base, "growth": flat + better})})
        total = result.table.sel(group="total", drift="worse")
        np.testing.assert_allclose([total["difference"], total["difference_se"]], [shift, error], rtol=1e-9)
        assert result.resolved is resolved

    @pytest.mark.parametrize(
        ("other", "expected"),
        [
            ({"layer": "hidden"}, "layer 'out' against 'hidden'"),
            ({"group": "given_labels"}, "group 'labels' against 'given_labels'"),
            ({"class_sizes": (5, 5, 6)}, r"\[5, 5, 5\] samples a class against \[5, 5, 6\]"),
            ({"steps": np.arange(INTERVALS + 1)}, "121 records up to step 1200 against 121 up to step 120"),
            ({"movement": np.ones(INTERVALS)}, "features that move otherwise"),
            ({"movement": np.linspace(1.0, 2.0, INTERVALS - 2)}, "120 intervals without gaps against 118"),
        ],
    )
    def test_fits_of_other_runs_are_refused(self, data, other, expected):
        with pytest.raises(InputError, match=f"'a' and 'b' are not of the same run: {expected}"):
            compare_drifts({"a": normal_fit(data), "b": normal_fit(data, **other)})

    def test_fits_of_other_numbers_of_deviations_are_refused(self, data):
        """Densities of growth and variance by parts are of other numbers than those of all deviations."""
        flat = np.zeros((CHAINS, DRAWS, INTERVALS))
        parts = ("growth_along", "growth_across", "individual_along", "individual_across")
        spanned = make_fit(dict.fromkeys((*STRATA[:3], *parts), flat))
        message = "of deviations growth, individual against growth_along, growth_across, individual_along, individual_"
        with pytest.raises(InputError, match=message):
            compare_drifts({"a": make_fit(dict.fromkeys(STRATA, flat)), "b": spanned})
        assert float(expected_log_predictive_density(spanned).table["elpd"].sel(group="growth")) == 0.0

    def test_fits_of_other_lengths_are_refused(self, data):
        shorter = {name: values[:-1] for name, values in data.items()}
        with pytest.raises(InputError, match="121 records up to step 1200 against 120 up to step 1190"):
            compare_drifts({"a": normal_fit(data), "b": normal_fit(shorter)})

    def test_nothing_and_one(self, data):
        with pytest.raises(InputError, match="no fit to compare"):
            compare_drifts({})
        result = compare_drifts({"only": normal_fit(data)})
        assert "nothing to compare" in result.sentence
        assert not result.resolved

    def test_notes_and_warnings_say_whose_they_are(self, data):
        few = {name: values[:30] for name, values in data.items()}
        few["growth"] = np.append(few["growth"][:-1], 40.0)
        one_stratum = {name: values for name, values in few.items() if name != "class_noise"}
        result = compare_drifts({"split": normal_fit(few), "whole": normal_fit(one_stratum)})
        assert [note.split(":")[0] for note in result.notes] == [
            "30 intervals are few",
            "homogeneous I and R give noise along the impact a scale of its own, L and a matrix do not",
        ]
        assert sorted(warning.split(":")[0] for warning in result.warnings) == ["split", "whole"]
        written = json.loads(json.dumps(result.to_json(), allow_nan=False))
        assert set(written["drifts"]["split"]["total"]) == {
            *("elpd", "se", "p_loo", "pareto_k_bad_share"),
            *("difference", "difference_se", "resolved"),
        }


class TestSelect:
    @pytest.fixture
    def fits(self, data, monkeypatch):
        """R is right, I is wrong, L is not supported, and no power law converges."""

        def run_fit(path, *, impact, elasticity, curve, **_):
            if impact == "L":
                raise InputError(f"{path}: impact L needs as many features as classes")
            if curve == "power":
                raise ConvergenceError(f"{path}: the posterior did not converge")
            return normal_fit(data) if impact == "R" else shifted_fit(data, 1.0)

        monkeypatch.setattr("lesde_infer.inference.fit", run_fit)

    def test_names_what_is_best_and_what_is_left_out(self, fits, tmp_path, capsys):
        target = tmp_path / "selected.json"
        arguments = ["--curve", "gp, power", "--elasticity", "homogeneous", "--json", str(target)]
        assert main(["select", "run.h5", *arguments]) == 0
        captured = capsys.readouterr()
        assert "R homogeneous gp explains the run best" in captured.out
        assert captured.err.splitlines() == [
            "lesde: L homogeneous gp is left out: run.h5: impact L needs as many features as classes",
            "lesde: L homogeneous power is left out: run.h5: impact L needs as many features as classes",
            "lesde: R homogeneous power is left out: run.h5: the posterior did not converge",
            "lesde: I homogeneous power is left out: run.h5: the posterior did not converge",
        ]
        found = json.loads(target.read_text())
        assert (found["best"], found["resolved"], found["n_records"]) == ("R homogeneous gp", True, INTERVALS + 1)
        assert list(found["drifts"]) == ["R homogeneous gp", "I homogeneous gp"]
        assert found["left_out"]["R homogeneous power"]["kind"] == "not converged"
        assert found["left_out"]["L homogeneous gp"]["kind"] == "not supported"

    def test_nothing_that_converges_exits_with_1(self, fits, capsys):
        assert main(["select", "run.h5", "--curve", "power"]) == 1
        assert capsys.readouterr().err == "lesde: no fit can be compared; run.h5: the posterior did not converge\n"

    def test_nothing_that_is_supported_exits_with_2(self, fits, capsys):
        assert main(["select", "run.h5", "--impact", "L"]) == 2
        assert capsys.readouterr().err == "lesde: run.h5: impact L needs as many features as classes\n"

    @pytest.mark.parametrize(("option", "given"), [("--impact", "R,X"), ("--curve", ""), ("--elasticity", "matrix,")])
    def test_choices_that_there_are_not(self, fits, capsys, option, given):
        assert main(["select", "run.h5", option, given]) == 2
        message = capsys.readouterr().err
        assert message.startswith(f"lesde: {option}: '")
        assert "is unknown; choose of" in message


@pytest.mark.slow
@pytest.mark.xdist_group("fit")
def test_a_run_is_explained_best_by_the_impact_that_made_it(tmp_path):
    """Simulated under I, whose contrasts grow; the impact R, residuals, falls as they do."""
    path = tmp_path / "run.h5"
    options = {"alpha": 4e-3, "beta": -2e-3, "kappa": 2e-4, "impact": "I", "dof": 6.0, "seed": 1}
    noise = {"global_scale": 2e-3, "class_scale": 1e-3, "individual_scale": 2e-3}
    simulate(path, n_classes=3, samples_per_class=20, steps=np.arange(0, 930, 30), **options, **noise).close()
    fits = {
        impact: fit(path, impact=impact, curve="constant", within="isotropic", n_draws=400) for impact in ("R", "I")
    }
    result = compare_drifts(fits)
    assert (result.best, result.resolved) == ("I", True), result.sentence
