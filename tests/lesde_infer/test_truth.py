"""Posterior against measured elasticity: coverage where truth is known, and wrong posteriors found."""

import json

import numpy as np
import pytest
import xarray as xr

import lesde_infer as li
from data_tools import InputError, Recording, write_recording
from data_tools.drift_measures import SeparationRates
from data_tools.elasticity_records import DriftMeasurement, ElasticitySettings, ElasticitySnapshot
from lesde_infer.cli import main
from lesde_infer.explained_drift import explained_drift, squared_cosine
from lesde_infer.fit_result import Fit
from lesde_infer.flags import Flag
from lesde_infer.plots_truth import plot_truth
from lesde_infer.truth import check_truth
from lesde_infer.truth_windows import Comparison, compare_windows, covering_flag, mean_rate, median_rate

K = 3
STEPS = np.unique(np.r_[np.arange(0, 1001, 20), np.arange(1, 1000, 20)])  # bursts of two
SNAPSHOTS = np.arange(0, 1001, 10)
LABELS = np.repeat(np.arange(K), 4)
GIVEN = np.roll(LABELS, 1)
CHAINS, DRAWS = 2, 400
CENTRING = np.eye(K) - 1 / K
EXPECTED = {"both": 0.916, "measurement": 0.940}
"""Coverage of calibrated posteriors by the rule for ten snapshots a window, whose error is estimated: from a simulation
of 200,000 windows in plain NumPy (rates, weights and errors only), with other random numbers than those used here."""


def impacts(seed=0):
    """Impacts at each snapshot, of varying size."""
    rng = np.random.default_rng([seed, 1])
    return rng.normal(size=(len(SNAPSHOTS), K, K)) * rng.uniform(0.5, 2.0, size=(len(SNAPSHOTS), 1, 1))


def drift_of(gamma, impact):
    """Drift of homogeneous elasticity, γ/K times the contrasts of the impact."""
    return np.reshape(gamma, (-1, 1, 1)) / K * (impact - impact.mean(axis=1, keepdims=True))


def write_run(path, onestep=None, *, impact=None, tangent=None, given=None, by_given=None, time=None, momentum=0.0):
    """Write a run whose features wander; ``onestep`` has shape (snapshot, repeat, class, feature), if measured."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(len(STEPS), len(LABELS), K)).cumsum(axis=0)
    elasticity = None
    if onestep is not None:
        snapshots = []
        for s, step in enumerate(SNAPSHOTS):
            found = {"labels": DriftMeasurement(onestep[s][None], None if tangent is None else tangent[s], impact[s])}
            if by_given is not None:
                found["given_labels"] = DriftMeasurement(by_given[s][None], None, impact[s])
            snapshots.append(ElasticitySnapshot(int(step), 0.1, {"out": found}))
        settings = ElasticitySettings(np.ones(1), onestep.shape[1], 8, "SGD", momentum)
        elasticity = (settings, snapshots)
    options = {"logits": "out", "given_labels": given, "time": time, "elasticity": elasticity, "force": True}
    return write_recording(path, STEPS, LABELS, {"out": features}, **options)


def make_fit(path, gamma, *, layer="out", impact="R", group="labels", flagged=(), variables=None, constant=None):
    """Return a fit of a run with draws of γ per unit of time, (draw, interval), and intervals nothing identifies."""
    with Recording(path) as recording:
        labels = recording.labels if group == "labels" else recording.given_labels
        features, times = np.asarray(recording.features("out")[:], float), recording.time
    means = np.stack([features[:, labels == k].mean(axis=1) for k in range(K)], axis=1)
    change = np.diff(means - means.mean(axis=1, keepdims=True), axis=0)
    n_intervals = len(STEPS) - 1
    gamma = np.broadcast_to(gamma, (CHAINS * DRAWS, n_intervals)).reshape(CHAINS, DRAWS, n_intervals)
    curve, ones = ("chain", "draw", "time"), np.ones(n_intervals)
    middles = (times[1:] + times[:-1]) / 2
    posterior = {"gamma": (curve, gamma), "global_rate": (curve, np.ones_like(gamma)), **(variables or {})}
    constants = {
        "step": ("record", STEPS),
        "record_time": ("record", times),
        "class_size": ("class_", np.bincount(labels)),
        "length": ("time", np.diff(times)),
        "impact_f": ("time", np.where(np.isin(np.arange(n_intervals), flagged), 0.1, 1e4)),
        "impact_persistence": ("time", ones),
        "shared_feedback": ("time", 0 * ones),
        **(constant or {}),
    }
    widths = dict.fromkeys(("gamma", "global_rate"), ("time", 100 * ones))
    references = {"gamma_reference": 1e-3, "global_rate_reference": 1e-3}
    settings = {"elasticity": "matrix" if variables else "homogeneous", "curve": "gp", "seed": 0, "until": None}
    tree = xr.DataTree.from_dict(
        {
            "posterior": xr.Dataset(posterior, coords={"time": middles}),
            "constant_data": xr.Dataset(constants, attrs={"n_features": K}),
            "observed_data": xr.Dataset({"contrast_increment_square": ("time", (change**2).sum(axis=(1, 2)))}),
            "prior_widths": xr.Dataset(widths, attrs=references),
        }
    )
    tree.attrs = {
        "format": "lesde-fit",
        "version": 1,
        "settings": json.dumps({**settings, "layer": layer, "impact": impact, "group": group}),
    }
    return Fit(tree)


def truth_and_posterior(seed, *, error=0.02, spread=0.03, scatter=0.06):
    """Return a measured run whose typical rate is 0.5, and draws of a posterior that is calibrated.

    In each of ten windows the draws are off by their own standard deviation; ``error`` is that of a measurement, from
    four steps.
    """
    rng = np.random.default_rng([seed, 2])
    impact = impacts(seed)
    rates = 0.5 + scatter * rng.normal(size=(len(SNAPSHOTS), 1)) + 2 * error * rng.normal(size=(len(SNAPSHOTS), 4))
    onestep = np.stack([drift_of(rates[:, r], impact) for r in range(4)], axis=1)
    window = np.minimum(np.searchsorted(np.arange(100, 1001, 100), (STEPS[1:] + STEPS[:-1]) / 2), 9)
    centre = 0.5 + spread * rng.normal(size=10)
    draws = centre + spread * rng.normal(size=(CHAINS * DRAWS, 10))
    return impact, onestep, draws[:, window]


def coverage(tmp_path, change, n_seeds=20, **options):
    """Share of compatible windows over seeds, and the median ratio, of posteriors changed in some way."""
    found = []
    for seed in range(n_seeds):
        impact, onestep, draws = truth_and_posterior(seed, **options)
        path = write_run(tmp_path / "run.h5", onestep, impact=impact)
        found.append(check_truth(make_fit(path, change(draws)), path))
    assert all(truth.n_windows == 10 for truth in found)
    return np.mean([truth.coverage90 for truth in found]), np.median([truth.median_ratio for truth in found])


class TestCoverage:
    def test_a_right_posterior_covers_nine_of_ten(self, tmp_path):
        share, ratio = coverage(tmp_path, lambda draws: draws)
        assert abs(share - EXPECTED["both"]) < 4 * np.sqrt(0.9 * 0.1 / 200)
        assert ratio == pytest.approx(1.0, abs=0.03)

    def test_a_posterior_off_by_a_factor_of_two_is_found(self, tmp_path):
        for factor in (0.5, 2.0):
            share, ratio = coverage(tmp_path, lambda draws, factor=factor: factor * draws, n_seeds=4)
            assert share < 0.1
            assert ratio == pytest.approx(factor, rel=0.06)

    def test_a_posterior_too_narrow_is_found_where_the_measurement_is_better(self, tmp_path):
        def narrowed(draws):
            middle = np.median(draws, axis=0)
            return middle + 0.05 * (draws - middle)

        share, ratio = coverage(tmp_path, narrowed, n_seeds=8, error=0.003, spread=0.1, scatter=0.005)
        assert share < 0.3
        assert abs(ratio - 1) < 0.2

    def test_a_poor_measurement_excuses_no_more_than_its_error(self, tmp_path):
        """With errors far beyond the posterior's width, what counts is the error stated for the measurement."""
        share, _ = coverage(tmp_path, lambda draws: draws, error=0.3, spread=0.001, scatter=0.0)
        assert abs(share - EXPECTED["measurement"]) < 4 * np.sqrt(0.94 * 0.06 / 200)


class TestWindows:
    def test_the_numbers_are_those_of_a_plain_loop(self, tmp_path):
        impact, onestep, draws = truth_and_posterior(3)
        tangent = drift_of(np.linspace(0.5, 0.8, len(SNAPSHOTS)), impact)
        path = write_run(tmp_path / "run.h5", onestep, impact=impact, tangent=tangent)
        windows = check_truth(make_fit(path, draws), path, n_windows=4).windows
        assert [(w.start_step, w.stop_step) for w in windows] == [(0, 250), (250, 500), (500, 750), (750, 1000)]
        assert [w.n_snapshots for w in windows] == [25, 25, 25, 26]
        contrasts = impact - impact.mean(axis=1, keepdims=True)
        for w in windows:
            inside = [
                s for s, step in enumerate(SNAPSHOTS) if w.start_step <= step < w.stop_step + (w.stop_step == 1000)
            ]
            above = np.array([K * np.vdot(onestep[s].mean(axis=0), contrasts[s]) for s in inside])
            below = np.array([np.vdot(contrasts[s], contrasts[s]) for s in inside])
            rates = above / below
            n = len(inside)
            assert w.median.measured == pytest.approx(np.median(rates))
            assert w.median.error == pytest.approx(1.2533 * rates.std(ddof=1) / np.sqrt(n), rel=1e-4)
            assert w.mean.measured == pytest.approx(above.sum() / below.sum())
            without = [np.delete(above, s).sum() / np.delete(below, s).sum() for s in range(n)]
            assert w.mean.error == pytest.approx(np.sqrt((n - 1) * np.var(without)))
            assert w.tangent == pytest.approx(np.median(np.linspace(0.5, 0.8, len(SNAPSHOTS))[inside]))
            assert w.small_step_ratio == pytest.approx(w.median.measured / w.tangent)
            chosen = [t for t in range(len(STEPS) - 1) if w.start_step <= (STEPS[t] + STEPS[t + 1]) / 2 < w.stop_step]
            by_draw = [np.median(draw[chosen]) for draw in draws]
            quantiles = (w.median.q05, w.median.q50, w.median.q95)
            assert quantiles == pytest.approx(tuple(np.quantile(by_draw, [0.05, 0.5, 0.95])))
            middles = (STEPS[1:] + STEPS[:-1]) / 2
            places = [min(chosen, key=lambda t, s=s: abs(middles[t] - SNAPSHOTS[s])) for s in inside]
            by_draw = draws[:, places] @ below / below.sum()
            quantiles = (w.mean.q05, w.mean.q50, w.mean.q95)
            assert quantiles == pytest.approx(tuple(np.quantile(by_draw, [0.05, 0.5, 0.95])))
            assert w.mean.ratio == pytest.approx(w.mean.q50 / w.mean.measured)

    def test_windows_with_few_measurements_are_left_out_and_named(self, tmp_path):
        impact, onestep, draws = truth_and_posterior(0)
        impact[:27] = 0.0  # up to step 260, nothing to measure a rate along
        path = write_run(tmp_path / "run.h5", onestep, impact=impact)
        truth = check_truth(make_fit(path, draws), path)
        assert [(w.start_step, w.n_snapshots) for w in truth.windows[:2]] == [(200, 3), (300, 10)]
        assert len(truth.windows) == truth.n_windows == 8
        assert truth.notes == (
            "steps 0 to 100 left out: only 0 measurements there",
            "steps 100 to 200 left out: only 0 measurements there",
        )
        tiny = check_truth(make_fit(path, draws), path, n_windows=25)
        assert all(w.n_snapshots >= 3 for w in tiny.windows)
        assert tiny.n_windows + len(tiny.notes) == 25

    def test_measurements_after_the_fit_are_not_looked_at(self, tmp_path):
        impact, onestep, draws = truth_and_posterior(1)
        path = write_run(tmp_path / "run.h5", onestep, impact=impact)
        fit = make_fit(path, draws)
        half = len(STEPS) // 2
        parts = {
            "posterior": fit.data["posterior"].to_dataset().isel(time=slice(half - 1)),
            "constant_data": fit.data["constant_data"].to_dataset().isel(record=slice(half), time=slice(half - 1)),
            "observed_data": fit.data["observed_data"].to_dataset().isel(time=slice(half - 1)),
            "prior_widths": fit.data["prior_widths"].to_dataset().isel(time=slice(half - 1)),
        }
        tree = xr.DataTree.from_dict(parts)
        tree.attrs = fit.data.attrs
        truth = check_truth(Fit(tree), path)
        assert truth.windows[-1].stop_step == STEPS[half - 1]
        assert sum(w.n_snapshots for w in truth.windows) == np.count_nonzero(STEPS[half - 1] >= SNAPSHOTS)

    @pytest.mark.parametrize(
        ("rate", "error", "expected"),
        [
            ([1.0, 2.0, 3.0, 4.0], [0.1, 0.1, 0.1, 0.1], np.std([1, 2, 3, 4], ddof=1)),  # scatter holds the errors
            ([1.0, 1.0, 1.0, 1.0], [0.1, 0.7, 0.1, 0.1], np.sqrt((3 * 0.01 + 0.49) / 4)),  # chance agreement
            ([1.0, 2.0, 3.0, 4.0], [np.nan] * 4, np.std([1, 2, 3, 4], ddof=1)),  # a single repeat
        ],
    )
    def test_the_error_of_the_median(self, rate, error, expected):
        rates = SeparationRates(np.array(rate), np.array(error), np.ones(4))
        median, found = median_rate(rates, np.ones(4, dtype=bool))
        assert median == np.median(rate)
        assert found == pytest.approx(1.2533 * expected / 2, rel=1e-4)

    @pytest.mark.parametrize(("n", "factor"), [(3, 1.080), (10, 1.066), (41, 1.007)])
    def test_the_error_of_the_median_is_rather_too_large_than_too_small(self, n, factor):
        """By these factors for normal values (tables of order statistics); 20,000 samples know them to 0.5 %."""
        samples = np.random.default_rng(n).normal(size=(20_000, n))
        assert 1.2533 / np.sqrt(n) / np.median(samples, axis=1).std() == pytest.approx(factor, abs=0.02)
        heavy = np.random.default_rng(n).standard_t(3, size=(20_000, n))
        assert 1.2533 * heavy.std() / np.sqrt(n) > np.median(heavy, axis=1).std()

    def test_each_side_of_the_interval_has_its_own_width(self):
        for measured, compatible in ((1.99, True), (2.01, False), (0.91, True), (0.89, False)):
            assert Comparison(measured, 0.0, 0.9, 1.0, 2.0).compatible is compatible
        # √(0.1² + 1.645²) = 1.648 below, √(1 + 1.645²) = 1.925 above
        for measured, compatible in ((2.92, True), (2.93, False), (-0.647, True), (-0.65, False)):
            assert Comparison(measured, 1.0, 0.9, 1.0, 2.0).compatible is compatible

    def test_the_mean_follows_rates_that_grow_with_the_impact_where_the_median_does_not(self, tmp_path):
        """Rates 0.2 and 1.0 at impacts of size 1 and 3, one in three large: mean (2·0.2 + 9)/11 = 0.855, median 0.2."""
        large = np.arange(len(SNAPSHOTS)) % 3 == 0
        shape = np.random.default_rng(0).normal(size=(K, K))
        impact = np.where(large, 3.0, 1.0)[:, None, None] * shape
        onestep = drift_of(np.where(large, 1.0, 0.2), impact)[:, None]
        path = write_run(tmp_path / "run.h5", onestep, impact=impact)
        mean = 0.85 * (1 + 0.05 * np.random.default_rng(1).normal(size=(CHAINS * DRAWS, 1)))
        window = check_truth(make_fit(path, mean), path, n_windows=1).windows[0]
        assert window.mean.measured == pytest.approx(0.855, abs=0.01)
        assert window.median.measured == pytest.approx(0.2)
        assert window.mean.compatible
        assert not window.median.compatible

    def test_the_error_of_the_mean_is_that_of_repeated_windows(self):
        """Weights that vary by e^±1, rates that scatter: the jackknife against the sd over 4,000 windows of 12."""
        rng = np.random.default_rng(0)
        found = []
        for _ in range(4000):
            weight = np.exp(rng.normal(size=12))
            rates = SeparationRates(1.0 + rng.normal(size=12), np.full(12, np.nan), weight)
            found.append(mean_rate(rates, np.ones(12, dtype=bool)))
        means, errors, _ = np.array(found).T
        assert np.sqrt((errors**2).mean()) == pytest.approx(means.std(), rel=0.08)

    def test_the_error_of_the_mean_is_no_less_than_that_of_its_measurement(self):
        rates = SeparationRates(np.ones(4), np.full(4, 0.4), np.array([1.0, 1.0, 1.0, 5.0]))
        assert mean_rate(rates, np.ones(4, dtype=bool)) == pytest.approx((1.0, 0.4 * np.sqrt(28) / 8, 1.6449))

    def test_what_to_know_of_the_measurement_is_said(self, tmp_path):
        impact, onestep, draws = truth_and_posterior(0)
        path = write_run(tmp_path / "run.h5", onestep[:, :1], impact=impact, momentum=0.9)
        single, momentum = check_truth(make_fit(path, draws), path).notes
        assert "single step" in single
        assert "momentum 0.9" in momentum


class TestFlags:
    def test_flagged_windows_are_shown_but_do_not_count(self, tmp_path):
        impact, onestep, draws = truth_and_posterior(0)
        draws[:, :40] *= 5.0  # wrong up to step 400, where nothing is identified
        path = write_run(tmp_path / "run.h5", onestep, impact=impact)
        fit = make_fit(path, draws, flagged=np.arange(40))
        assert [(f.name, f.start_step, f.stop_step) for f in fit.flags] == [("gamma_not_identified", 0, 400)]
        truth = check_truth(fit, path)
        assert [w.flag for w in truth.windows] == 4 * ["gamma_not_identified"] + 6 * [None]
        assert not any(w.compatible for w in truth.windows[:4])
        assert (truth.n_windows, truth.n_flagged) == (10, 4)
        assert truth.coverage90 == np.mean([w.compatible for w in truth.windows[4:]])
        assert truth.median_ratio == np.median([w.mean.ratio for w in truth.windows[4:]])

    def test_where_all_are_flagged_there_is_no_share(self, tmp_path):
        impact, onestep, draws = truth_and_posterior(0)
        path = write_run(tmp_path / "run.h5", onestep, impact=impact)
        truth = check_truth(make_fit(path, draws, flagged=np.arange(len(STEPS))), path)
        assert np.isnan(truth.coverage90)
        found = truth.to_json()
        assert (found["n_windows"], found["n_flagged"], found["coverage90"], found["median_ratio"]) == (
            10,
            10,
            None,
            None,
        )
        json.dumps(found, allow_nan=False)

    @pytest.mark.parametrize(
        ("stretches", "expected"),
        [
            ([("interval_bias", 0, 51)], "interval_bias"),
            ([("interval_bias", 0, 50)], None),  # half is not most
            ([("interval_bias", 0, 30), ("gamma_not_identified", 60, 100)], "gamma_not_identified"),
            ([("interval_bias", 0, 40), ("interval_bias", 20, 50)], None),  # not counted twice
            ([("beta_not_identified", 0, 100)], None),
            ([], None),
        ],
    )
    def test_a_flag_has_to_cover_most_of_the_window(self, stretches, expected):
        flags = [Flag(*stretch, "message") for stretch in stretches]
        assert covering_flag(flags, 0, 100) == expected


class TestUnitsAndGroups:
    def test_rates_per_unit_of_time_are_compared_per_step(self, tmp_path):
        """Time as cumulative learning rate, which falls: γ per time is constant where γ per step falls with it."""
        impact, onestep, draws = truth_and_posterior(0)
        time = 0.1 * np.sqrt(STEPS + 1.0)
        path = write_run(tmp_path / "time.h5", onestep, impact=impact, time=time)
        per_time = draws * np.diff(STEPS) / np.diff(time)
        plain = write_run(tmp_path / "steps.h5", onestep, impact=impact)
        expected = check_truth(make_fit(plain, draws), plain).to_json()
        found = check_truth(make_fit(path, per_time), path).to_json()
        for one, other in zip(found["windows"], expected["windows"], strict=True):
            assert one["q50"] == pytest.approx(other["q50"])
            assert one["measured"] == other["measured"]
        assert found["coverage90"] == expected["coverage90"]

    def test_each_grouping_is_compared_with_its_own_measurement(self, tmp_path):
        impact = impacts()
        onestep, by_given = drift_of(0.5, impact)[:, None], drift_of(0.1, impact)[:, None]
        path = write_run(tmp_path / "run.h5", onestep, impact=impact, given=GIVEN, by_given=by_given)
        for group, rate in (("labels", 0.5), ("given_labels", 0.1)):
            draws = rate * (1 + 0.1 * np.random.default_rng(0).normal(size=(CHAINS * DRAWS, 1)))
            truth = check_truth(make_fit(path, draws, group=group), path)
            assert [w.mean.measured for w in truth.windows] == pytest.approx([rate] * 10)
            assert truth.coverage90 == 1

    def test_an_open_recording_stays_open(self, tmp_path):
        impact, onestep, draws = truth_and_posterior(0)
        path = write_run(tmp_path / "run.h5", onestep, impact=impact)
        fit = make_fit(path, draws)
        with Recording(path) as recording:
            assert li.check_truth(fit, recording).to_json() == li.check_truth(fit, path).to_json()
            assert recording.features("out")[0].shape == (12, 3)


class TestExplainedDrift:
    """Closed forms: what a matrix C, not homogeneous, makes of impacts of its own."""

    C = CENTRING @ np.array([[1.0, -2.0, 0.5], [0.3, 0.7, 0.0], [0.0, 1.5, -1.0]])

    def explained(self, tmp_path, onestep, impact, fitted=None, course=None):
        """Explained drift where the fit's matrix is ``fitted``, each draw of it scaled by another s(t)."""
        path = write_run(tmp_path / "run.h5", onestep[:, None], impact=impact)
        variables, constant = None, None
        if fitted is not None:
            rng = np.random.default_rng(5)
            scale = rng.uniform(0.5, 1.5, size=(CHAINS, DRAWS, len(STEPS) - 1))
            pattern = fitted + 0.1 * CENTRING @ rng.normal(size=(CHAINS, DRAWS, K, K))
            matrix = ("chain", "draw", "class_to", "class_from")
            variables = {
                "pattern_scale": (("chain", "draw", "time"), scale),
                "contrast_pattern": (matrix, pattern),
            }
            if course is not None:
                variables["contrast_pattern_drift"] = (matrix, 0 * pattern + self.C)
                constant = {"pattern_drift": ("time", course)}
        fit = make_fit(path, 0.5 * np.ones((CHAINS * DRAWS, 1)), variables=variables, constant=constant)
        with Recording(path) as recording:
            return explained_drift(fit, recording.elasticity("out"))

    def test_the_matrix_that_is_true_explains_all_and_the_homogeneous_one_its_cosine(self, tmp_path):
        impact = impacts()
        found = self.explained(tmp_path, self.C @ impact, impact, fitted=self.C)
        assert found.n_snapshots == 51
        assert found.matrix == pytest.approx(1.0, abs=5e-3)  # the mean over draws is not exactly C
        assert found.best_constant_matrix == pytest.approx(1.0)
        assert found.held_out_constant_matrix == pytest.approx(1.0)
        late = impact[50:]
        assert found.homogeneous == pytest.approx(squared_cosine(CENTRING @ late, self.C @ late))
        assert found.homogeneous < 0.5

    def test_white_impacts_turn_shares_into_cosines_of_matrices(self, tmp_path):
        """Where Σ h hᵀ is a multiple of one, ⟨C h, C' h⟩ summed is that multiple of ⟨C, C'⟩."""
        impact = np.tile(np.linalg.qr(np.random.default_rng(0).normal(size=(K, K)))[0], (len(SNAPSHOTS), 1, 1))
        other = CENTRING @ np.random.default_rng(9).normal(size=(K, K))
        found = self.explained(tmp_path, self.C @ impact, impact, fitted=other)
        assert found.matrix == pytest.approx(squared_cosine(other, self.C), abs=0.02)
        assert found.homogeneous == pytest.approx(np.trace(self.C) ** 2 / (K - 1) / np.vdot(self.C, self.C))

    def test_noise_lowers_all_and_the_best_matrix_fits_some_of_it(self, tmp_path):
        impact = impacts()
        noise = CENTRING @ np.random.default_rng(4).normal(size=impact.shape)
        onestep = self.C @ impact + 3 * noise
        found = self.explained(tmp_path, onestep, impact, fitted=self.C)
        late, drift = impact[50:], onestep[50:] - onestep[50:].mean(axis=1, keepdims=True)
        rows = np.einsum("tkp->ktp", drift).reshape(K, -1)
        columns = np.einsum("tkp->ktp", late).reshape(K, -1)
        residual = rows - np.linalg.lstsq(columns.T, rows.T)[0].T @ columns
        assert found.best_constant_matrix == pytest.approx(1 - (residual**2).sum() / (rows**2).sum())
        assert found.matrix == pytest.approx(squared_cosine(self.C @ late, drift), abs=0.01)
        assert 0.1 < found.matrix < found.best_constant_matrix < 0.9
        held_out = np.empty_like(drift)
        for first in range(10):  # every tenth left out
            kept = np.delete(np.arange(51), np.arange(first, 51, 10))
            rows, columns = (v[kept].transpose(1, 0, 2).reshape(K, -1) for v in (drift, late))
            held_out[first::10] = np.linalg.lstsq(columns.T, rows.T)[0].T @ late[first::10]
        assert found.held_out_constant_matrix == pytest.approx(squared_cosine(held_out, drift))
        assert found.held_out_constant_matrix < found.best_constant_matrix

    def test_a_matrix_fitted_to_noise_alone_explains_nothing_that_was_held_out(self, tmp_path):
        noise = np.random.default_rng(6).normal(size=(len(SNAPSHOTS), K, K))
        found = self.explained(tmp_path, noise, impacts())
        assert found.held_out_constant_matrix < 0.5 * found.best_constant_matrix

    def test_a_pattern_that_drifts_is_added_where_it_is(self, tmp_path):
        """From −C to C by its course: at M₀ = 0 the sign is that of x̃, and a constant matrix explains little."""
        middles = (STEPS[1:] + STEPS[:-1]) / 2
        course = np.where(middles < 750, -1.0, 1.0)
        impact = impacts()
        signs = np.where(SNAPSHOTS < 750, -1.0, 1.0)[:, None, None]
        found = self.explained(tmp_path, signs * (self.C @ impact), impact, fitted=0 * self.C, course=course)
        assert found.matrix > 0.95
        assert found.best_constant_matrix < 0.4

    def test_homogeneous_fits_have_no_matrix_and_follow_gamma(self, tmp_path):
        impact = impacts()
        found = self.explained(tmp_path, drift_of(0.5, impact), impact)
        assert found.matrix is None
        assert found.homogeneous == pytest.approx(1.0)

    def test_a_drift_that_vanishes_is_not_explained(self, tmp_path):
        impact = impacts()
        assert self.explained(tmp_path, 0 * impact, impact) is None

    def test_tiny_drifts_do_not_underflow(self):
        a = np.array([1.0, 2.0, 3.0])
        assert squared_cosine(1e-200 * a, 1e-200 * a[::-1]) == pytest.approx(squared_cosine(a, a[::-1]))


class TestRefused:
    @pytest.fixture
    def run(self, tmp_path):
        impact, onestep, draws = truth_and_posterior(0)
        return write_run(tmp_path / "run.h5", onestep, impact=impact), draws

    def test_a_recording_without_measurement(self, tmp_path):
        path = write_run(tmp_path / "run.h5")
        with pytest.raises(
            InputError, match=r"run\.h5: no elasticity of layer 'out' by labels.*--measure-elasticity-every"
        ):
            check_truth(make_fit(path, 0.5), path)

    def test_a_grouping_that_was_not_measured(self, tmp_path):
        impact, onestep, draws = truth_and_posterior(0)
        path = write_run(tmp_path / "run.h5", onestep, impact=impact, given=GIVEN)
        with pytest.raises(InputError, match="by given_labels was measured"):
            check_truth(make_fit(path, draws, group="given_labels"), path)

    def test_another_run(self, run, tmp_path):
        path, draws = run
        fit = make_fit(path, draws)
        fit.data["observed_data"]["contrast_increment_square"][0] *= 2
        with pytest.raises(InputError, match="give the recording that was fitted"):
            check_truth(fit, path)

    def test_another_impact(self, run):
        path, draws = run
        with pytest.raises(InputError, match=r"impact I.*fit impact R"):
            check_truth(make_fit(path, draws, impact="I"), path)

    def test_windows_that_cannot_be(self, run):
        path, draws = run
        with pytest.raises(InputError, match="n_windows is 0"):
            check_truth(make_fit(path, draws), path, n_windows=0)
        with pytest.raises(InputError, match=r"measured 101 times.*fewer windows"):
            check_truth(make_fit(path, draws), path, n_windows=200)

    def test_measurements_without_impacts(self, tmp_path):
        _, onestep, draws = truth_and_posterior(0)
        path = write_run(tmp_path / "run.h5", onestep, impact=[None] * len(SNAPSHOTS))
        with pytest.raises(InputError, match="measured without impacts"):
            check_truth(make_fit(path, draws), path)


class TestPlot:
    def test_points_are_the_measured_medians(self, tmp_path):
        impact, onestep, draws = truth_and_posterior(0)
        draws[:, 40:60] *= 3.0  # steps 400 to 600
        path = write_run(tmp_path / "run.h5", onestep, impact=impact)
        fit = make_fit(path, draws, flagged=np.arange(20))
        truth = check_truth(fit, path)
        axes = plot_truth(fit, truth)
        drawn = {container.get_label(): container.lines[0].get_xydata() for container in axes.containers}
        assert len(drawn["measured, flagged"]) == truth.n_flagged == 2
        assert {450.0, 550.0} <= set(drawn["measured, incompatible"][:, 0])
        points = np.concatenate(list(drawn.values()))
        assert sorted(points[:, 1]) == pytest.approx(sorted(w.mean.measured for w in truth.windows))
        axes.figure.savefig(tmp_path / "truth.png")


class TestCommand:
    @pytest.fixture
    def saved(self, tmp_path, monkeypatch):
        """Return a saved fit and its run; the simulation, tested elsewhere, is left out."""
        from report_fakes import make_check

        fake = make_check()
        quantiles = dict.fromkeys(("q05", "q25", "q50", "q75", "q95"), 1.0)
        fake.to_json = lambda: {
            "at_step": 0,
            "horizon_step": 1000,
            "predicted": {"nc1": quantiles},
            "observed": {"nc1": 1.0},
            "p_values": {"nc1": 1.0},
            "probability_separable": 1.0,
            "probability_separable_error": 0.0,
            "separable_observed": True,
        }
        monkeypatch.setattr("lesde_infer.predictive.check", lambda *arguments, **options: fake)
        impact, onestep, draws = truth_and_posterior(0)
        path = write_run(tmp_path / "run.h5", onestep, impact=impact)
        fit = make_fit(path, draws, flagged=np.arange(20))
        return fit.save(tmp_path / "fit.nc"), path, fit

    def test_prints_the_windows_and_writes_what_was_promised(self, saved, tmp_path, capsys):
        fitted, path, fit = saved
        target = tmp_path / "out.json"
        assert main(["check", str(fitted), str(path), "--truth", "--json", str(target)]) == 0
        shown = capsys.readouterr().out
        found = json.loads(target.read_text())
        assert {"at_step", "predicted", "truth"} <= set(found)
        expected = check_truth(fit, path)
        promised = expected.to_json()
        assert found["truth"].pop("explained") == pytest.approx(promised.pop("explained"))  # sums in another order
        assert found["truth"] == promised
        assert (found["truth"]["n_windows"], found["truth"]["n_flagged"]) == (10, 2)
        assert len(found["truth"]["windows"]) == 10
        agree = sum(w.compatible for w in expected.unflagged)
        assert f"{agree} of 8 windows ({agree / 8:.2f}); 2 flagged are not counted" in shown
        assert shown.count("gamma_not_identified") == 2
        assert "homogeneous" in shown

    def test_without_the_option_nothing_is_compared(self, saved, capsys):
        fitted, path, _ = saved
        assert main(["check", str(fitted), str(path), "--json", "-"]) == 0
        assert "truth" not in json.loads(capsys.readouterr().out)

    def test_windows_are_as_many_as_asked_for(self, saved, capsys):
        fitted, path, _ = saved
        assert main(["check", str(fitted), str(path), "--truth", "--windows", "5", "--json", "-"]) == 0
        assert json.loads(capsys.readouterr().out)["truth"]["n_windows"] == 5

    def test_a_recording_without_measurement_is_one_line_and_no_file(self, saved, tmp_path, capsys):
        fitted, path, _ = saved
        write_run(path)
        target = tmp_path / "out.json"
        assert main(["check", str(fitted), str(path), "--truth", "--json", str(target)]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        assert "--measure-elasticity-every" in captured.err
        assert not target.exists()


def test_windows_know_where_intervals_were_dropped():
    """Each rate stands at the middle of its own interval, not of the one that has its number among the records."""
    steps = np.arange(0, 90, 10)
    middles = np.array([5.0, 15.0, 65.0, 75.0])  # those between were dropped for gaps
    draws = np.tile([1.0, 1.0, 4.0, 4.0], (10, 1))
    measured = np.arange(0, 80, 2)
    rates = SeparationRates(np.full(40, 2.0), np.full(40, 0.1), np.ones(40))
    windows, notes = compare_windows(steps, middles, draws, [], measured, rates, None, 4)
    assert [(window.start_step, window.mean.q50) for window in windows] == [(0, 1.0), (60, 4.0)]
    assert notes == [
        "steps 20 to 40 left out: no interval of records has its middle there",
        "steps 40 to 60 left out: no interval of records has its middle there",
    ]
