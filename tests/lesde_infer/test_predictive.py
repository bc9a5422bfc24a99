"""Checks of a fit against its run: right where the fit is the truth, and extreme where it is wrong on purpose."""

import json
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from scipy.stats import kstest

from data_tools.errors import InputError
from data_tools.recording import Recording
from data_tools.recording_writer import write_recording
from lesde_infer.common_growth import CommonGrowth
from lesde_infer.dynamics import simulate_records
from lesde_infer.interval_rates import IntervalRates
from lesde_infer.noise_memory import ALL_STAYS
from lesde_infer.observed import observe
from lesde_infer.posterior import common_growth_variables
from lesde_infer.predictive import (
    SLOW_METRICS,
    PredictionError,
    check,
    probability_separable,
    separable_share,
    two_sided_p_values,
)
from lesde_infer.simulation import simulate
from lesde_infer.statistics import compute_statistics

N_DRAWS = 39  # 40 ranks, the observed one included
N_RUNS = 20
STEPS = np.arange(0, 130, 10)
TRUTH = {"alpha": 0.15, "beta": 0.0, "kappa": 0.002}
SCALES = {"global_scale": 0.02, "class_scale": 0.02, "individual_scale": 0.03}
DOF = 5.0
KEY_METRICS = ("ncm_accuracy", "nc1", "nc2_equinorm", "between_norm", "within_between_ratio")
TEST_FAILURE_RATE = 1e-3  # of each test of uniformity, if the p-values are right; seeds are fixed


@dataclass(frozen=True)
class KnownFit:
    """A fit whose posterior is given: the same rates in each draw, unless a test changes some."""

    steps: np.ndarray = field(default_factory=lambda: STEPS)
    layer: str = "logits"
    impact: str = "R"
    group: str = "labels"
    sizes: tuple[int, ...] = (8, 8, 8)
    alpha: float = TRUTH["alpha"]
    beta: float = TRUTH["beta"]
    kappa: float = TRUTH["kappa"]
    scale: float = 1.0
    kappa_of_draw: dict[int, float] = field(default_factory=dict)
    movement: np.ndarray | None = None

    @property
    def class_sizes(self):
        return np.array(self.sizes)

    noise_directions = None
    common_growth = None

    @property
    def noise_memory(self):
        return ALL_STAYS

    @property
    def n_classes(self):
        return len(self.sizes)

    @property
    def settings(self):
        return SimpleNamespace(
            layer=self.layer,
            impact=self.impact,
            group=self.group,
            within="isotropic",
            class_frequencies=None,
            time="recorded",
        )

    @property
    def times(self):
        return self.steps.astype(float)

    @property
    def interval_starts(self):
        return np.arange(len(self.steps) - 1)

    def interval_rates(self, n_draws, seed):
        ones = np.ones((n_draws, len(self.steps) - 1))
        kappa = self.kappa * ones
        for draw, value in self.kappa_of_draw.items():
            kappa[draw] = value
        roots = self.scale * np.sqrt(np.diff(self.times)) * ones
        return IntervalRates.from_elasticity(
            self.alpha * ones,
            self.beta * ones,
            kappa,
            n_classes=self.n_classes,
            **{name.replace("scale", "sd"): value * roots for name, value in SCALES.items()},
            **{f"{stratum}_dof": np.full(n_draws, DOF) for stratum in ("global", "class", "individual")},
        )


def make_run(path, seed=0, **changes):
    """Return the path of a run simulated under the rates of `KnownFit`."""
    settings = {"n_classes": 3, "samples_per_class": 8, "steps": STEPS, "impact": "R", "dof": DOF, **TRUTH, **SCALES}
    simulate(path, **{**settings, "seed": seed, **changes}).close()
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("predictive") / "run.h5")


def of_run(fit, run):
    """Return the fit as if it were of the run, a path or an open recording."""
    with nullcontext(run) if isinstance(run, Recording) else Recording(run) as recording:
        labels = recording.labels if fit.group == "labels" else recording.given_labels
        features = np.asarray(recording.features(recording.layers[-1] if fit.layer == "fc1" else fit.layer), float)
    means = np.stack([features[:, labels == k].mean(axis=1) for k in np.unique(labels)], axis=1)
    change = np.diff(means - means.mean(axis=1, keepdims=True), axis=0)
    return replace(fit, movement=(change**2).sum(axis=(1, 2))[: len(fit.steps) - 1])


def quick_check(fit, recording, **changes):
    """Check with few draws at two records: one shape, compiled once."""
    return check(of_run(fit, recording), recording, **{"n_draws": N_DRAWS, "n_times": 2, **changes})


@dataclass(frozen=True)
class FitWithGrowth(KnownFit):
    """The same, which knows how contrasts and deviations of its run grew."""

    common_growth: CommonGrowth | None = None
    n_steps: np.ndarray = field(default_factory=lambda: np.diff(STEPS))

    @classmethod
    def of(cls, path, **changes):
        with Recording(path) as recording:
            found = compute_statistics(recording, "logits", "R")
        ones, rates = np.ones(len(found.lengths)), TRUTH | changes
        gamma, global_rate = rates["alpha"] - rates["beta"], (rates["alpha"] + 2 * rates["beta"]) / 3
        growth = common_growth_variables(found, gamma * ones, global_rate * ones, ["class_noise"])
        return cls(**changes, common_growth=CommonGrowth.from_variables(xr.Dataset(growth)))


@pytest.mark.slow
@pytest.mark.parametrize("grows", [False, True])
def test_p_values_are_uniform_under_the_true_rates(tmp_path, monkeypatch, grows):
    """The recorded run is then one more draw, so its rank among the draws is uniform.

    So it is where paths are told how contrasts and deviations grew, which in these runs have nothing in common.
    """
    monkeypatch.setattr("lesde_infer.predictive.SLOW_METRIC_DRAWS", 3)  # what is slow is looked at in the end only
    halfway = {"alpha": 0.03}  # separates about half of the runs
    paths = [make_run(tmp_path / f"{seed}.h5", seed, **halfway) for seed in range(N_RUNS)]
    fits = [FitWithGrowth.of(path, **halfway) if grows else KnownFit(**halfway) for path in paths]
    checks = [quick_check(fit, path, seed=seed) for seed, (fit, path) in enumerate(zip(fits, paths, strict=True))]
    for metric in ("nc1", "between_norm", "within_between_ratio", "nc2_equinorm"):
        for step in (0, 1):
            p_values = np.array([result.p_values[metric][step] for result in checks])
            # Spread the ties, which is what the discrete ranks of 40 make of a uniform number.
            spread = p_values - np.random.default_rng(step).random(len(p_values)) * 2 / (N_DRAWS + 1)
            assert kstest(spread, "uniform").pvalue > TEST_FAILURE_RATE, (metric, step, np.sort(p_values))
    shares = [result.probability_separable for result in checks]
    separated = np.array([result.separable_observed for result in checks])
    assert 0.1 < np.mean(shares) < 0.9  # else nothing is tested
    assert abs(np.mean(shares) - separated.mean()) < 4 * np.sqrt(np.mean(shares) * (1 - np.mean(shares)) / N_RUNS)


@pytest.mark.parametrize(
    ("wrong", "metrics"),
    [
        ({"alpha": 0.0}, ("between_norm", "nc1", "within_between_ratio")),
        ({"alpha": 1.5}, ("between_norm",)),
        ({"kappa": 0.03}, ("nc1", "within_between_ratio")),
        ({"kappa": -0.05}, ("nc1", "within_between_ratio")),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_wrong_rates_give_extreme_p_values(run, wrong, metrics):
    result = quick_check(KnownFit(**wrong), run)
    for metric in metrics:
        assert result.p_values[metric][-1] == pytest.approx(1 / (N_DRAWS + 1)), metric


def test_noiseless_run_is_replicated_exactly(tmp_path):
    """Without noise there is one path, the recorded one, if labels, times and rates arrive where they belong."""
    steps = np.unique(np.r_[0, 3, 5, 14, STEPS[4:]])  # 13 records as the others, at unequal intervals
    path = make_run(tmp_path / "run.h5", seed=4, steps=steps, label_noise=0.3, noise=False, dof=np.inf)
    with Recording(path) as recording:
        features, labels = np.asarray(recording.features("logits")[:]), recording.labels
        assert (labels != recording.given_labels).any()
        result = quick_check(KnownFit(steps=steps, scale=0.0), recording)
    records = [6, 12]
    np.testing.assert_array_equal(result.steps, steps[records])
    means = np.array([[features[record][labels == k].mean(axis=0) for k in range(3)] for record in records])
    np.testing.assert_allclose(result.class_means_observed, means, rtol=1e-6)
    np.testing.assert_allclose(result.class_means_predicted, np.stack([means] * N_DRAWS), rtol=1e-4, atol=1e-6)
    assert set(result.predicted) == {*KEY_METRICS, *SLOW_METRICS, "nc2_equiangular", "network_accuracy", "nc4"}
    for metric, values in result.predicted.items():
        np.testing.assert_allclose(values, [result.observed[metric]] * N_DRAWS, rtol=1e-4, atol=1e-6, err_msg=metric)
    assert (result.at_step, result.horizon_step, result.n_failed_draws) == (0, 120, 0)


def test_observed_metrics_are_those_of_the_recorded_features(run):
    result = quick_check(KnownFit(), run)
    with Recording(run) as recording:
        for position, step in enumerate(result.steps):
            features = np.asarray(recording.features("logits")[int(np.searchsorted(STEPS, step))], dtype=float)
            names = tuple(result.observed)
            expected = observe(features, recording.labels, metrics=names, logits=features)
            assert {name: result.observed[name][position] for name in names} == expected
    np.testing.assert_array_equal(result.steps, [60, 120])
    assert result.separable_observed == (result.observed["linear_separability"][-1] == 1)


def test_same_arguments_give_the_same_result(run):
    """From a path and from an open recording alike; the seed of the recording does not repeat its noise."""
    first, again, other = (quick_check(KnownFit(), run, seed=seed) for seed in (0, 0, 1))
    with Recording(run) as recording:
        opened = quick_check(KnownFit(), recording)
        assert recording.features("logits")[0].shape == (24, 3)  # left open
    assert first.to_json() == again.to_json() == opened.to_json()
    np.testing.assert_array_equal(first.class_means_predicted, again.class_means_predicted)
    assert not np.isclose(first.predicted["between_norm"], other.predicted["between_norm"]).any()
    assert not np.isclose(first.predicted["between_norm"][:, -1], first.observed["between_norm"][-1], rtol=1e-5).any()


def test_batches_hold_each_draw_once(run, monkeypatch):
    """Draws told apart by κ: memory for 13 of the 39 at a time loses none and mixes none up."""
    fit = KnownFit(scale=0.0, kappa_of_draw=dict(enumerate(np.linspace(0.0, 0.04, N_DRAWS))))
    whole = quick_check(fit, run)
    monkeypatch.setattr("lesde_infer.predictive.BATCH_BYTES", 13 * 2 * 24 * 3 * 8)
    batched = quick_check(fit, run)
    np.testing.assert_allclose(batched.predicted["nc1"], whole.predicted["nc1"], rtol=1e-9)
    assert (np.diff(whole.predicted["within_between_ratio"][:, 1]) > 0).all()


def test_batches_have_noise_of_their_own(run, monkeypatch):
    monkeypatch.setattr("lesde_infer.predictive.BATCH_BYTES", 13 * 2 * 24 * 3 * 8)
    norms = quick_check(KnownFit(), run).predicted["between_norm"]
    assert len(np.unique(norms)) == norms.size


def test_slow_metrics_are_thinned_before_the_last_step_only(run, monkeypatch):
    monkeypatch.setattr("lesde_infer.predictive.SLOW_METRIC_DRAWS", 13)
    result = quick_check(KnownFit(), run)
    for metric, values in result.predicted.items():
        assert values.shape == (N_DRAWS, 2)
        expected = [13 if metric in SLOW_METRICS else N_DRAWS, N_DRAWS]
        assert np.isfinite(values).sum(axis=0).tolist() == expected, metric
        assert np.isfinite(result.p_values[metric]).all()
    assert set(np.unique(result.predicted["linear_separability"][:, -1])) <= {0.0, 1 / 3, 2 / 3, 1.0}
    all_separable = (result.predicted["linear_separability"][:, -1] == 1).mean()
    assert result.probability_separable == all_separable


def test_paths_that_overflow_are_left_out_and_counted(run):
    """Of 39, three are fewer than a tenth: one overflows, two are finite but too large to square."""
    result = quick_check(KnownFit(kappa_of_draw={3: 50.0, 20: 2.88, 38: 2.88}), run)
    sound = quick_check(KnownFit(), run)
    kept = np.setdiff1d(np.arange(N_DRAWS), [3, 20, 38])
    assert result.n_failed_draws == 3
    assert sound.n_failed_draws == 0
    np.testing.assert_array_equal(result.class_means_predicted, sound.class_means_predicted[kept])
    np.testing.assert_array_equal(result.predicted["nc1"], sound.predicted["nc1"][kept])
    assert result.to_json()["n_draws"] == 36


def test_too_many_overflowing_paths_are_refused(run):
    fit = KnownFit(kappa_of_draw=dict.fromkeys(range(4), 50.0))
    with pytest.raises(PredictionError, match=r"^at least 4 of 39 simulated paths leave the range .* fit impact R.*$"):
        quick_check(fit, run)
    with pytest.raises(PredictionError, match="4 of 39"):
        probability_separable(of_run(fit, run), run, n_draws=N_DRAWS)


def test_undefined_metrics_become_null(tmp_path):
    """Three class means on a line never span two dimensions, so NC1 is not defined; nor has a layer alone outputs."""
    path = make_run(tmp_path / "run.h5", impact="I", n_features=1, alpha=0.01)
    fit = KnownFit(layer="features", impact="I", alpha=0.01)
    result = quick_check(fit, path)
    assert np.isnan(result.predicted["nc1"]).all()
    assert np.isnan(result.observed["nc1"]).all()
    assert np.isnan(result.p_values["nc1"]).all()
    assert "network_accuracy" not in result.predicted
    written = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert written["predicted"]["nc1"] == dict.fromkeys(("q05", "q25", "q50", "q75", "q95"))
    assert written["observed"]["nc1"] is None
    assert written["p_values"]["nc1"] is None
    quantiles = np.quantile(result.predicted["between_norm"], [0.05, 0.25, 0.5, 0.75, 0.95], axis=0)
    np.testing.assert_allclose(list(written["predicted"]["between_norm"].values()), quantiles[:, -1])
    np.testing.assert_allclose(written["series"]["between_norm"]["q25"], quantiles[1])
    assert written["series"]["between_norm"]["observed"] == result.observed["between_norm"].tolist()
    assert written["steps"] == [60, 120]
    assert (written["at_step"], written["horizon_step"]) == (0, 120)


def test_classes_with_many_samples_are_thinned_alike_for_observed_and_predicted(tmp_path):
    sizes = [3, 12, 9]
    path = make_run(tmp_path / "run.h5", impact="I", alpha=0.01, samples_per_class=sizes)
    fit = KnownFit(impact="I", alpha=0.01, sizes=tuple(sizes))
    with Recording(path) as recording:
        last, labels = np.asarray(recording.features("logits")[-1], dtype=float), recording.labels
    full = np.array([last[labels == k].mean(axis=0) for k in range(3)])
    thinned, again, other = (quick_check(fit, path, max_samples_per_class=3, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_allclose(thinned.class_means_observed[-1, 0], full[0])  # the small class is kept whole
    for k in (1, 2):
        members = last[labels == k]
        triples = {
            tuple(np.round(members[[a, b, c]].mean(axis=0), 9))
            for a in range(len(members))
            for b in range(a)
            for c in range(b)
        }
        assert tuple(np.round(thinned.class_means_observed[-1, k], 9)) in triples
        assert not np.allclose(thinned.class_means_observed[-1, k], other.class_means_observed[-1, k])
    assert thinned.to_json() == again.to_json()


def test_a_recording_that_grew_is_checked_up_to_the_fit(tmp_path):
    """Also by given labels, which the recording keeps apart."""
    path = make_run(tmp_path / "run.h5", impact="I", alpha=0.01, label_noise=0.4)
    with Recording(path) as recording:
        features, given = np.asarray(recording.features("logits")[4], dtype=float), recording.given_labels
    sizes = tuple(np.bincount(given))
    assert sizes != (8, 8, 8)
    fit = KnownFit(steps=STEPS[:5], impact="I", alpha=0.01, group="given_labels", sizes=sizes)
    result = quick_check(fit, path, n_times=9)
    np.testing.assert_array_equal(result.steps, STEPS[1:5])  # all there are, but the first, which is given
    expected = [features[given == k].mean(axis=0) for k in range(3)]
    np.testing.assert_allclose(result.class_means_observed[-1], expected)
    assert result.horizon_step == 40


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer": "fc1"}, "layer 'fc1' was not recorded; choose one of logits"),
        ({"steps": STEPS + (STEPS == 70)}, "step 70 at record 7, not 71"),
        ({"steps": np.append(STEPS, 130)}, "holds 13 records, but 14 were fitted"),
        ({"sizes": (8, 9, 8)}, "holds 8 samples of class 1, but 9 were fitted"),
        ({"sizes": (8, 8)}, "holds 3 classes, but 2 were fitted"),
    ],
)
def test_another_recording_than_the_fitted_one_is_refused(run, change, message):
    with pytest.raises(InputError, match=message) as raised:
        quick_check(KnownFit(**change), run)
    assert str(run) in str(raised.value)
    assert "\n" not in str(raised.value)
    with pytest.raises(InputError, match=message):
        probability_separable(of_run(KnownFit(**change), run), run)


def test_another_run_of_the_same_shape_is_refused(run, tmp_path):
    other = make_run(tmp_path / "other.h5", seed=1)
    message = "other.h5: features move otherwise after step 0 than they did in the run that was fitted"
    with pytest.raises(InputError, match=message):
        check(of_run(KnownFit(), run), other)
    continued_otherwise = of_run(KnownFit(), run)
    continued_otherwise.movement[-1] *= 1.001
    with pytest.raises(InputError, match="features move otherwise after step 110"):
        probability_separable(continued_otherwise, run)


@pytest.mark.parametrize(
    "change",
    [{"n_draws": 0}, {"n_times": 0}, {"seed": -1}, {"max_samples_per_class": 1}],
    ids=lambda change: str(change),
)
def test_arguments_out_of_range_are_refused(run, change):
    with pytest.raises(InputError, match=f"^{next(iter(change))} is .*; give a whole number from"):
        check(KnownFit(), run, **change)


def test_times_in_another_unit_are_refused(run):
    class OtherTimes(KnownFit):
        @property
        def times(self):
            return self.steps * 0.005

    with pytest.raises(InputError, match=r"time 10\.0 at record 1, not 0\.05"):
        quick_check(OtherTimes(), run)


def test_a_record_that_is_not_finite_is_refused_by_its_step(tmp_path):
    features = np.random.default_rng(0).normal(size=(13, 24, 3))
    features[12, 5, 1] = np.nan
    path = write_recording(tmp_path / "run.h5", STEPS, np.arange(24) % 3, {"logits": features}, logits="logits")
    with pytest.raises(InputError, match="not a number at step 120"):
        quick_check(KnownFit(), path)


def test_impact_r_needs_samples_of_each_output(tmp_path):
    features = np.random.default_rng(0).normal(size=(13, 24, 3))
    path = write_recording(
        tmp_path / "run.h5",
        STEPS,
        np.arange(24) % 3,
        {"logits": features},
        logits="logits",
        given_labels=np.arange(24) % 2,
    )
    with pytest.raises(InputError, match="the network has 3 outputs, but /given_labels holds 2 classes"):
        quick_check(KnownFit(sizes=(12, 12), group="given_labels"), path)


@pytest.mark.parametrize(("n_classes", "impact"), [(2, "L"), (3, "R")])
def test_probability_of_separation_at_both_extremes(tmp_path, n_classes, impact):
    """Elastic classes move apart; without elasticity classes that overlap stay so. `check` agrees draw by draw."""
    labels = np.arange(24) % n_classes
    features = 0.5 * np.random.default_rng(1).normal(size=(13, 24, n_classes)) + 0.05 * np.eye(n_classes)[labels]
    path = write_recording(tmp_path / "run.h5", STEPS, labels, {"logits": features}, logits="logits")
    elastic = KnownFit(impact=impact, sizes=(24 // n_classes,) * n_classes, alpha=0.3, kappa=0.0)
    inelastic = replace(elastic, alpha=0.0)
    probability, error = probability_separable(of_run(elastic, path), path, n_draws=N_DRAWS)
    assert probability == 1
    assert 0 < error < 0.05
    assert probability_separable(of_run(inelastic, path), path, n_draws=N_DRAWS) == (0.0, pytest.approx(error))
    between = replace(elastic, alpha=0.03)
    result = quick_check(between, path)
    assert 0 < result.probability_separable < 1
    pair = probability_separable(of_run(between, path), path, n_draws=N_DRAWS)
    assert (result.probability_separable, result.probability_separable_error) == pair


def test_hidden_layer_under_impact_r_uses_the_recorded_classifier(tmp_path):
    """A noiseless run of a 5-dimensional layer under a changing classifier is replicated, with NC3 and accuracy."""
    generator = np.random.default_rng(2)
    labels = np.arange(24) % 3
    weight = generator.normal(size=(1, 3, 5)) + 0.3 * generator.normal(size=(13, 3, 5)).cumsum(axis=0)
    bias = generator.normal(size=(13, 3))
    fit = KnownFit(layer="fc2", alpha=0.1, scale=0.0)
    features = simulate_records(
        generator.normal(size=(24, 5)),
        labels,
        labels,
        np.diff(fit.times),
        fit.interval_rates(1, 0),
        "R",
        seed=0,
        keep=np.arange(13),
        n_classes=3,
        classifier=(weight, bias),
        noise=False,
    )[0]
    logits = np.einsum("tnp,tkp->tnk", features, weight) + bias[:, None]
    layers = {"fc2": features, "fc3": logits}
    written = {"logits": "fc3", "classifier": (weight, bias)}
    result = quick_check(fit, write_recording(tmp_path / "run.h5", STEPS, labels, layers, **written))
    assert {"network_accuracy", "nc3", "nc4"} <= set(result.predicted)
    for metric, values in result.predicted.items():
        np.testing.assert_allclose(values, [result.observed[metric]] * N_DRAWS, rtol=1e-3, atol=1e-5, err_msg=metric)
    assert result.observed["network_accuracy"][-1] == (logits[-1].argmax(axis=1) == labels).mean()

    bare = write_recording(tmp_path / "bare.h5", STEPS, labels, layers, logits="fc3")
    with pytest.raises(InputError, match="/classifier is not what layer 'fc2' feeds"):
        quick_check(fit, bare)


def test_p_values_rank_the_observed_value_among_the_draws():
    draws = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])[:, None]
    predicted = np.tile(draws, 5)
    p_values = two_sided_p_values(predicted, np.array([-1.0, 9.0, 4.0, 3.5, np.nan]))
    # Ranks (½, 9½, 5, 4½) of 10.
    np.testing.assert_allclose(p_values, [0.1, 0.1, 1.0, 0.9, np.nan])
    tied = two_sided_p_values(np.array([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0], [np.nan, np.nan]]), np.array([1.0, 1.0]))
    np.testing.assert_allclose(tied, [1.0, 0.75])  # 1 − (1 + ½·2 + ½)/4 = ⅜
    assert np.isnan(two_sided_p_values(np.full((3, 1), np.nan), np.array([1.0]))).all()


def test_share_has_an_error_even_where_all_draws_agree():
    share, error = separable_share(np.repeat([True, False], [30, 70]))
    assert share == 0.3
    assert error == pytest.approx(np.sqrt(0.3 * 0.7 / 100), rel=0.01)
    assert separable_share(np.ones(99, dtype=bool)) == (1.0, pytest.approx(np.sqrt(0.995 * 0.005 / 99)))
