"""Calibration of posteriors that are known to be right or wrong, and of a few real fits."""

import itertools
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from data_tools import InputError
from lesde_infer import calibrated_fit, submodel_sampler
from lesde_infer import calibration as calibration_module
from lesde_infer._jax import jax
from lesde_infer.assembly import locate
from lesde_infer.calibrated_fit import Simulation, rank_truth
from lesde_infer.calibrated_quantities import quantities
from lesde_infer.calibration import Calibration, calibrate
from lesde_infer.calibration_journal import CalibrationJournal
from lesde_infer.calibration_template import simulated_template, template_steps
from lesde_infer.posterior import build_posterior
from lesde_infer.rank_statistics import (
    COVERAGE_LEVELS,
    FALSE_ALARM,
    RANKED_DRAWS,
    check_ranks,
    covered_share,
    rank_counts,
    simultaneous_band,
    uniformity_p_value,
)
from lesde_infer.simulated_increments import simulate_run

N_SIMULATIONS = 300


def conjugate_ranks(seed, *, shift=0.0, spread=1.0, n_simulations=N_SIMULATIONS):
    """Ranks of θ ~ N(0, 1) among draws of its posterior given y ~ N(θ, 1), moved and stretched in units of its sd."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=n_simulations)
    mean, sd = (truth + rng.normal(size=n_simulations)) / 2, np.sqrt(0.5)
    draws = mean + sd * (shift + spread * rng.normal(size=(RANKED_DRAWS, n_simulations)))
    return (draws < truth).sum(axis=0)


class TestVerdicts:
    @pytest.mark.parametrize(
        ("defect", "verdict"),
        [
            ({"shift": 0.5}, "shifted up"),
            ({"shift": -0.5}, "shifted down"),
            ({"spread": 0.65}, "too narrow"),
            ({"spread": 1.6}, "too wide"),
        ],
    )
    def test_a_wrong_posterior_is_called_what_it_is_every_time(self, defect, verdict):
        """Even where it is one of 40 quantities, which widens the band."""
        for seed in range(25):
            assert check_ranks(conjugate_ranks(seed, **defect), n_quantities=40).verdict == verdict

    def test_right_posteriors_are_called_calibrated_at_the_rate_promised(self):
        n_seeds = 600
        alarms = sum(check_ranks(conjugate_ranks(seed)).verdict != "calibrated" for seed in range(n_seeds))
        low, high = stats.binom.ppf([0.001, 0.999], n_seeds, FALSE_ALARM)
        assert low <= alarms <= high

    @pytest.mark.slow
    def test_together_right_quantities_raise_few_alarms(self):
        n_seeds, n_quantities = 40, 30
        alarms = sum(
            any(
                check_ranks(conjugate_ranks([seed, quantity]), n_quantities=n_quantities).verdict != "calibrated"
                for quantity in range(n_quantities)
            )
            for seed in range(n_seeds)
        )
        assert alarms <= stats.binom.ppf(0.999, n_seeds, FALSE_ALARM)

    def test_a_few_simulations_suffice_to_find_a_gross_error(self):
        assert check_ranks(np.zeros(12, dtype=int), n_quantities=40).verdict == "shifted up"
        assert check_ranks(np.full(12, RANKED_DRAWS), n_quantities=40).verdict == "shifted down"
        assert check_ranks(np.repeat([0, RANKED_DRAWS], 6), n_quantities=40).verdict == "too narrow"
        assert check_ranks(np.full(20, RANKED_DRAWS // 2), n_quantities=40).verdict == "too wide"


class TestBand:
    @pytest.mark.parametrize(("n", "n_ranked"), [(2, 3), (3, 4), (4, 2)])
    def test_probabilities_are_those_of_all_outcomes(self, n, n_ranked):
        """With n ranks of L + 1 values there are (L + 1)ⁿ outcomes, equally probable."""
        outcomes = [np.array(ranks) for ranks in itertools.product(range(n_ranked + 1), repeat=n)]
        p_values = np.array([uniformity_p_value(ranks, n_ranked) for ranks in outcomes])
        for p_value in p_values:
            assert np.mean(p_values <= p_value + 1e-9) == pytest.approx(p_value, abs=1e-9)
        for probability in (0.5, 0.8):
            low, high = simultaneous_band(n, probability, n_ranked)
            counts = np.array([rank_counts(ranks, n_ranked) for ranks in outcomes])
            inside = ((low <= counts) & (counts <= high)).all(axis=1)
            assert inside.mean() >= probability - 1e-9
            np.testing.assert_array_equal(inside, p_values > 1 - probability + 1e-9)

    def test_band_and_p_value_decide_alike(self):
        rng = np.random.default_rng(0)
        low, high = simultaneous_band(50, 0.9)
        for _ in range(200):
            ranks = rng.integers(0, RANKED_DRAWS + 1, size=50)
            counts = rank_counts(ranks)
            assert ((low <= counts) & (counts <= high)).all() == (uniformity_p_value(ranks) > 0.1)

    def test_agrees_with_the_simulated_band_of_arviz(self):
        from arviz_stats.ecdf_utils import get_pointwise_confidence_band, simulate_confidence_bands

        n, points = 100, np.arange(1, RANKED_DRAWS + 1) / (RANKED_DRAWS + 1)
        level = simulate_confidence_bands(n, 1, points, 0.95, 2000, np.random.default_rng(1))
        expected = get_pointwise_confidence_band(level, n, points)
        for ours, theirs in zip(simultaneous_band(n, 0.95), expected, strict=True):
            assert np.abs(ours / n - theirs).max() < 0.025


class TestRanks:
    def test_coverage_of_uniform_ranks_is_exact_at_every_level(self):
        ranks = np.arange(RANKED_DRAWS + 1)
        for level in COVERAGE_LEVELS:
            assert covered_share(ranks, level) == pytest.approx(level)

    def test_rank_is_the_number_of_draws_below(self):
        draws = np.linspace(0, 1, 2 * 60)[:-1].reshape(1, -1, 1)
        assert rank_truth(draws, np.array([-1.0]), np.random.default_rng(0)) == 0
        assert rank_truth(draws, np.array([2.0]), np.random.default_rng(0)) == RANKED_DRAWS
        assert rank_truth(draws, np.array([draws[0, 30, 0] - 1e-9]), np.random.default_rng(0)) == 30

    def test_draws_are_taken_from_all_chains(self):
        draws = np.stack([np.zeros((500, 1)), np.ones((500, 1))])
        assert abs(rank_truth(draws, np.array([0.5]), np.random.default_rng(0)) - RANKED_DRAWS / 2) <= 1

    def test_no_interval_of_draws_that_are_not_finite_holds_the_truth(self):
        rng, draws = np.random.default_rng(0), np.full((2, 100, 1), np.nan)
        assert {int(rank_truth(draws, np.zeros(1), rng)[0]) for _ in range(50)} == {0, RANKED_DRAWS}

    def test_ties_are_broken_at_random(self):
        rng = np.random.default_rng(0)
        ranks = np.array([rank_truth(np.zeros((2, 100, 1)), np.zeros(1), rng)[0] for _ in range(2000)])
        assert uniformity_p_value(ranks) > 0.001
        assert (ranks.min(), ranks.max()) == (0, RANKED_DRAWS)


def made_up(n_simulations, quantities=("right", "narrow"), seed=0):
    """Return a calibration of a posterior that is right and of one that is too narrow."""
    ranks = np.stack(
        [
            conjugate_ranks(seed, n_simulations=n_simulations),
            conjugate_ranks(seed, spread=0.5, n_simulations=n_simulations),
        ]
    )
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=n_simulations)
    simulations = tuple(
        Simulation(
            number=number,
            converged=number != 3,
            r_hat_max=1.0,
            ess_min=500.0,
            divergences=0,
            n_draws=400,
            truth=np.full(2, truth[number]),
            mean=np.full(2, truth[number] + 0.1 * rng.normal()),
            sd=np.array([0.1, 0.05]),
            rank=ranks[:, number],
        )
        for number in range(n_simulations)
    )
    settings = {"impact": "R", "elasticity": "homogeneous", "curve": "gp", "n_classes": 3, "n_records": 60}
    return Calibration(settings, quantities, simulations)


class TestResult:
    def test_summarises_quantity_by_quantity(self):
        result = made_up(300)
        assert result.miscalibrated == ["narrow"]
        assert result.unconverged == [3]
        right, narrow = result.checks.values()
        assert (right.z_sd, narrow.z_sd) == (pytest.approx(1.0, abs=0.15), pytest.approx(2.0, abs=0.3))
        assert right.contraction == pytest.approx(0.99, abs=0.005)
        assert result.coverage_error(0.9) == pytest.approx(0.0173, abs=1e-4)
        found = json.loads(json.dumps(result.to_json()))
        assert found["quantities"]["narrow"]["verdict"] == "too narrow"
        assert found["n_converged"] == 299
        assert not found["calibrated"]

    def test_fits_that_are_refused_are_left_out_and_told(self):
        right = made_up(300)
        lost = tuple(
            replace(simulation, converged=simulation.number % 4 > 0, rank=simulation.rank * (simulation.number % 4 > 0))
            for simulation in right.simulations
        )
        result = Calibration(right.settings, right.quantities, lost)
        assert len(result.unconverged) == 75
        assert result.ranks.shape == (225, 2)
        assert result.checks["right"].ranks.verdict == "calibrated"
        assert result.checks["right"].ranks.coverage[0.9] == pytest.approx(0.9, abs=0.05)
        assert result.coverage_of_all(0.9)[0] == pytest.approx(0.9 * 0.75, abs=0.05)
        assert result.to_json()["coverage90_of_all"]["right"] == result.coverage_of_all(0.9)[0]

    def test_what_is_refused_because_of_its_data_bends_no_ranks(self):
        """θ ~ N(0, 1), y ~ N(θ, 1): ranks where y > 0.5 are uniform, though truths there are no draws of N(0, 1)."""
        rng = np.random.default_rng(5)
        truth = rng.normal(size=4000)
        data = truth + rng.normal(size=4000)
        draws = data[:, None] / 2 + np.sqrt(0.5) * rng.normal(size=(4000, RANKED_DRAWS))
        ranks = (draws < truth[:, None]).sum(axis=1)[data > 0.5]
        assert truth[data > 0.5].mean() > 0.5
        assert uniformity_p_value(ranks) > 0.01

    def test_pictures_are_drawn(self, tmp_path):
        from lesde_infer.calibration_plots import PICTURES, save_pictures

        paths = save_pictures(made_up(50), tmp_path)
        assert [path.name for path in paths] == list(PICTURES)
        assert all(path.stat().st_size > 5000 for path in paths)


class TestJournal:
    SETTINGS = {"seed": 0, "curve": "gp"}  # noqa: RUF012
    NAMES = ("a", "b")

    def fill(self, path, numbers, **options):
        with CalibrationJournal(path, options.pop("settings", self.SETTINGS), self.NAMES, **options) as journal:
            for number in numbers:
                journal.append(made_up(8).simulations[number])
            return dict(journal.done)

    def test_keeps_what_was_done(self, tmp_path):
        written = self.fill(tmp_path / "j.jsonl", [0, 2])
        read = self.fill(tmp_path / "j.jsonl", [1])
        assert sorted(read) == [0, 1, 2]
        for number in written:
            for name in ("truth", "mean", "sd", "rank"):
                np.testing.assert_array_equal(getattr(read[number], name), getattr(written[number], name))
            assert read[number].converged is written[number].converged

    def test_forgets_a_line_that_was_interrupted(self, tmp_path):
        path = tmp_path / "j.jsonl"
        self.fill(path, [0, 1])
        path.write_bytes(path.read_bytes()[:-20])
        assert sorted(self.fill(path, [4])) == [0, 4]
        assert sorted(self.fill(path, [])) == [0, 4]

    def test_nan_survives(self, tmp_path):
        path = tmp_path / "j.jsonl"
        simulation = made_up(8).simulations[0]
        stuck = Simulation(**{**vars(simulation), "r_hat_max": np.nan, "sd": np.array([0.0, np.nan])})
        with CalibrationJournal(path, {}, self.NAMES) as journal:
            journal.append(stuck)
        with CalibrationJournal(path, {}, self.NAMES) as journal:
            assert np.isnan(journal.done[0].r_hat_max)
            np.testing.assert_array_equal(journal.done[0].sd, [0.0, np.nan])

    def test_refuses_other_settings_unless_forced(self, tmp_path):
        path = tmp_path / "j.jsonl"
        self.fill(path, [0])
        other = {**self.SETTINGS, "seed": 1}
        with pytest.raises(InputError, match=r"another calibration \(seed differ\); give another folder"):
            self.fill(path, [], settings=other)
        assert sorted(self.fill(path, [])) == [0]
        assert self.fill(path, [], settings=other, force=True) == {}

    def test_refuses_other_files(self, tmp_path):
        path = tmp_path / "j.jsonl"
        path.write_text("step,loss\n1,2\n")
        with pytest.raises(InputError, match="is no file of simulations"):
            self.fill(path, [])

    def test_names_a_damaged_line(self, tmp_path):
        path = tmp_path / "j.jsonl"
        self.fill(path, [0])
        with path.open("a") as file:
            file.write('{"number": 1}\n')
        with pytest.raises(InputError, match=r"a line is damaged: '\{\"number\": 1\}'"):
            self.fill(path, [])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_simulations": 1}, "n_simulations is 1; give at least 2"),
        ({"n_chains": 1}, "n_chains is 1; give at least 2"),
        ({"seed": -1}, "seed is -1; give at least 0"),
        ({"n_draws": 50}, "2 chains of 50 draws are fewer than the 119"),
    ],
)
def test_numbers_that_are_too_small_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        calibrate(SimpleNamespace(), **options)


def test_template_steps_come_in_bursts():
    assert template_steps(4, 1).tolist() == [0, 20, 40, 60]
    assert template_steps(5, 2).tolist() == [0, 1, 40, 41, 80]


@pytest.fixture(scope="module")
def tiny_template():
    return simulated_template(curve="constant", n_records=20)


def test_parts_of_deviations_are_calibrated_by_names_of_their_own():
    """Each rate on the scale of its own stratum, asinh(rate/reference), and each stratum's log likelihood."""
    template = simulated_template(curve="constant", within="spanned", n_records=12)
    run = simulate_run(template.submodels, 0, 0)
    tree = build_posterior(template.statistics, run.submodels, run.truth, mixed=template.mixed)
    found = quantities(tree, template)
    for name, stratum in (("kappa", "growth_along"), ("kappa_across", "growth_across"), ("pull", "pull")):
        data, place = locate(template.submodels, stratum)
        expected = np.arcsinh(tree["posterior"][name].isel(time=0).to_numpy() / float(data.reference[place]))
        np.testing.assert_allclose(found[f"{name}[middle]"], expected, rtol=1e-12)
    for name in ("individual_scale", "individual_scale_across", "pull_scatter", "individual_scatter_across"):
        np.testing.assert_allclose(found[f"{name}[middle]"], np.log(tree["posterior"][name].isel(time=0)), rtol=1e-12)
    for stratum in ("growth_along", "growth_across", "pull", "individual_along", "individual_across"):
        assert {f"degrees[{stratum}]", f"log_likelihood[{stratum}]"} <= found.keys()


@pytest.mark.slow
def test_real_fits_go_on_where_they_were(tiny_template, tmp_path, monkeypatch):
    """A few short fits, in two parts: the second takes up the first, and ranks whatever the chains gave."""
    monkeypatch.setattr(calibrated_fit, "LONGER", ())
    monkeypatch.setattr(submodel_sampler, "WARMUP", 100)
    journal, reports = tmp_path / "j.jsonl", []
    calibrate(tiny_template, n_simulations=2, n_draws=100, journal=journal)
    result = calibrate(
        tiny_template, n_simulations=4, n_draws=100, journal=journal, progress=lambda *report: reports.append(report)
    )
    assert reports == [("simulations", done, 4) for done in (2, 3, 4)]
    assert result.ranks.shape == (4, len(result.quantities))
    assert (result.ranks >= 0).all()
    assert (result.ranks <= RANKED_DRAWS).all()
    assert result.miscalibrated == []
    assert result.checks["gamma[middle]"].contraction > 0.5
    assert "log_likelihood[contrast]" in result.quantities

    def again(*args, **kwargs):
        raise AssertionError("a simulation was fitted again")

    monkeypatch.setattr(calibration_module, "fit_simulation", again)
    repeated = calibrate(tiny_template, n_simulations=4, n_draws=100, journal=journal)
    np.testing.assert_array_equal(repeated.ranks, result.ranks)


@pytest.mark.slow
def test_a_tiny_run_is_calibrated(tiny_template):
    result = calibrate(tiny_template, n_simulations=12, n_draws=200)
    assert result.miscalibrated == []
    assert len(result.unconverged) <= 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"impact": "R", "curve": "constant"},
        {"impact": "L", "curve": "constant", "burst": 2},
        {"impact": "I", "curve": "power"},
        {"impact": "R", "curve": "constant", "elasticity": "matrix"},
        {"impact": "R", "curve": "constant", "within": "spanned"},
    ],
)
def test_fits_are_calibrated(options):
    result = calibrate(simulated_template(n_records=30, **options), n_simulations=60)
    checks = {name: check for name, check in result.checks.items() if name in result.miscalibrated}
    assert checks == {}
    assert len(result.unconverged) <= 6


def test_class_means_alone_are_the_submodels_that_calibration_of_all_has_too():
    everything, alone = simulated_template(), simulated_template(strata="class-means")
    assert [submodel.strata for submodel in alone.submodels] == [("contrast",), ("class_noise",), ("shared",)]
    for one, other in zip(alone.submodels, everything.submodels, strict=False):
        assert one.strata == other.strata
        for mine, theirs in zip(jax.tree.leaves(one.data), jax.tree.leaves(other.data), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    example = simulate_run(alone.submodels, 0, 0)
    tree = build_posterior(alone.statistics, example.submodels, example.truth, mixed=alone.mixed)
    names = set(quantities(tree, alone))
    assert {"gamma[early]", "alpha[late]", "beta[late]", "tail_index", "size_slope", "degrees[shared]"} <= names
    assert not any("kappa" in name or "individual" in name for name in names)
