"""Paths through intervals that were not fitted: where they go, what drives them, and what they are compared with."""

from dataclasses import dataclass, fields, replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from data_tools.errors import InputError
from data_tools.recording import Recording
from data_tools.recording_writer import write_recording
from lesde_infer.interval_rates import IntervalRates
from lesde_infer.noise_memory import ALL_STAYS
from lesde_infer.predictive import check, probability_separable
from lesde_infer.replication_path import ReplicationPath
from lesde_infer.simulation import simulate
from lesde_infer.statistics import compute_statistics

STEPS = np.arange(0, 130, 10)
RATES = {"alpha": 0.15, "beta": 0.0, "kappa": 0.002}


@dataclass(frozen=True)
class GappyFit:
    """A fit of a recording with gaps, whose rates are known and constant."""

    steps: np.ndarray
    times: np.ndarray
    interval_starts: np.ndarray
    class_sizes: np.ndarray
    movement: np.ndarray
    impact: str = "R"
    frequencies: tuple[float, ...] | None = None

    @classmethod
    def of(cls, path, impact="R"):
        with Recording(path) as recording:
            found = compute_statistics(recording, "logits", impact)
        return cls(found.steps, found.times, found.starts, found.class_sizes, found.contrast.increment_square, impact)

    noise_directions = None
    common_growth = None

    @property
    def noise_memory(self):
        return ALL_STAYS

    @property
    def n_classes(self):
        return len(self.class_sizes)

    @property
    def settings(self):
        return SimpleNamespace(
            layer="logits",
            impact=self.impact,
            group="labels",
            within="isotropic",
            class_frequencies=self.frequencies,
            time="recorded",
        )

    def interval_rates(self, n_draws, seed):
        ones = np.ones((n_draws, len(self.interval_starts)))
        return IntervalRates.from_elasticity(
            *(RATES[name] * ones for name in ("alpha", "beta", "kappa")),
            n_classes=self.n_classes,
            **{f"{name}_sd": 0.0 * ones for name in ("global", "class", "individual")},
            **{f"{name}_dof": np.full(n_draws, np.inf) for name in ("global", "class", "individual")},
        )


def write_with_gaps(folder, where):
    """Simulate a run without noise, and write it with NaN at the (record, sample) of each of ``where``."""
    scales = dict.fromkeys(("global_scale", "class_scale", "individual_scale"), 0.0)
    with simulate(
        folder / "whole.h5", n_classes=3, samples_per_class=8, steps=STEPS, impact="R", noise=False, seed=2,
        **RATES, **scales,
    ) as recording:  # fmt: skip
        features, labels = np.asarray(recording.features("logits")[:]), recording.labels
    gaps = features.copy()
    for place in where:
        gaps[place] = np.nan
    return write_recording(folder / "gaps.h5", STEPS, labels, {"logits": gaps}, logits="logits"), features, labels


def test_paths_cross_gaps_and_are_compared_over_the_samples_that_are_there(tmp_path):
    """Without noise, and with rates that are constant, the path is the run also where nothing was recorded of it."""
    own = np.arange(8, 16)  # class 1
    # It comes at record 2; two samples are missing at record 7, two from the first fitted on, and record 9 is missing.
    where = [(slice(0, 2), own), (7, [3, 10]), (slice(2, None), [0, 20]), (9, slice(None))]
    path, features, labels = write_with_gaps(tmp_path, where)
    fit = GappyFit.of(path)
    np.testing.assert_array_equal(fit.interval_starts, [2, 3, 4, 5, 6, 7, 10, 11])
    result = check(fit, path, n_draws=2, n_times=8)
    np.testing.assert_array_equal(result.steps, [30, 40, 50, 60, 70, 80, 110, 120])
    assert (result.at_step, result.horizon_step) == (20, 120)
    for place, record in enumerate(result.steps // 10):
        absent = [0, 20, *([3, 10] if record == 7 else [])]
        kept = np.setdiff1d(np.arange(24), absent)
        means = [features[record, kept][labels[kept] == k].mean(axis=0) for k in range(3)]
        np.testing.assert_allclose(result.class_means_observed[place], means, rtol=1e-6, atol=1e-9)
        for draw in range(2):
            # Residuals are averages over the samples of the path, which lacks two, so rates carry over only roughly.
            np.testing.assert_allclose(result.class_means_predicted[draw, place], means, rtol=0.05, atol=0.05)
    for name, values in result.observed.items():
        assert np.isfinite(values).all(), name
    assert probability_separable(fit, path, n_draws=2)[0] == float(result.separable_observed)


def test_a_recording_with_other_gaps_is_not_the_one_that_was_fitted(tmp_path):
    path, *_ = write_with_gaps(tmp_path, [(3, slice(None))])
    fit = GappyFit.of(path)
    (tmp_path / "other").mkdir()
    other, *_ = write_with_gaps(tmp_path / "other", [(0, slice(0, 7))])
    with pytest.raises(InputError, match="give the recording that was fitted"):
        check(fit, other, n_draws=2)


def test_records_without_enough_of_the_chosen_samples_are_passed_over(tmp_path):
    """The first record holds two samples of a class, which are missing later, where others are there."""
    late, early = np.arange(2, 8), np.arange(2)
    path, *_ = write_with_gaps(tmp_path, [(slice(0, 2), late), (slice(3, None), early)])
    fit = GappyFit.of(path)
    result = check(fit, path, n_draws=2, n_times=12)
    np.testing.assert_array_equal(result.steps, [10, 20])
    with pytest.raises(InputError, match=r"no record to compare at holds two samples of each class.*--until"):
        check(fit, path, n_draws=2, n_times=1)


def test_paths_are_driven_by_the_sampling_frequencies_of_the_fit(tmp_path):
    """Without noise the path is the run, if training draws classes as often as it did, and only then."""
    scales = dict.fromkeys(("global_scale", "class_scale", "individual_scale"), 0.0)
    path, shares = tmp_path / "run.h5", (0.7, 0.2, 0.1)
    simulate(
        path, n_classes=3, samples_per_class=8, steps=STEPS, impact="R", noise=False, class_frequencies=shares,
        **RATES, **scales,
    ).close()  # fmt: skip
    fit = GappyFit.of(path)
    weighted = check(replace(fit, frequencies=shares), path, n_draws=2, n_times=2)
    balanced = check(fit, path, n_draws=2, n_times=2)
    observed = weighted.class_means_observed
    np.testing.assert_allclose(weighted.class_means_predicted[0], observed, rtol=1e-4, atol=1e-6)
    assert np.abs(balanced.class_means_predicted[0] - observed).max() > 0.1 * np.abs(observed).max()


def path_of(times, starts):
    steps = np.arange(len(times))
    return ReplicationPath.of(SimpleNamespace(interval_starts=np.array(starts), times=np.array(times), steps=steps))


def linear_rates(times, n_draws=3):
    """Rates that are linear in time, and noise whose variance per unit of time is constant, at given intervals."""
    starts, stops = (np.array(ends, dtype=float) for ends in zip(*times, strict=True))
    middles, lengths = (starts + stops) / 2, stops - starts
    slopes = np.arange(1.0, n_draws + 1)[:, None]
    rate = 0.5 + slopes * middles
    roots = np.broadcast_to(np.sqrt(lengths), rate.shape)
    dof = np.full(n_draws, np.inf)
    pattern = rate[..., None, None] * np.array([[1.0, -1.0], [0.5, 2.0]])
    return IntervalRates(
        *(rate, -rate, 2 * rate, 0.3 * roots, 0.2 * roots, 0.1 * roots, slopes * roots, dof, dof, dof, dof, pattern),
        kappa_across=3 * rate,
        individual_sd_across=0.4 * roots,
        pull=4 * rate,
    )


def test_rates_between_fitted_intervals_are_linear_in_time():
    times = [0.0, 1.0, 3.0, 4.0, 8.0, 9.0, 9.5]
    path = path_of(times, [1, 4, 5])
    np.testing.assert_array_equal(path.lengths, [2.0, 1.0, 4.0, 1.0, 0.5])
    assert [path.place(record) for record in range(1, 7)] == [0, 1, 2, 3, 4, 5]
    spans = list(pairwise(times[1:]))
    filled = path.across_gaps(linear_rates([spans[i] for i in (0, 3, 4)]))
    expected = linear_rates(spans)
    assert expected.pull is not None
    for field in fields(expected):
        if field.name != "pattern":
            np.testing.assert_allclose(getattr(filled, field.name), getattr(expected, field.name), rtol=1e-12)


def test_nothing_changes_without_gaps():
    path = path_of([0.0, 1.0, 3.0], [0, 1])
    rates = linear_rates([(0, 1), (1, 3)])
    assert path.across_gaps(rates) is rates
    np.testing.assert_array_equal(path.last_records, [0, 1, 2])


def test_records_between_which_no_time_passes_are_one_point_of_the_path():
    path = path_of([0.0, 1.0, 1.0, 1.0, 2.0], [0, 3])
    np.testing.assert_array_equal(path.lengths, [1.0, 1.0])
    np.testing.assert_array_equal(path.fitted, [0, 1])
    np.testing.assert_array_equal(path.last_records, [0, 3, 4])
    assert [path.place(record) for record in range(5)] == [0, 1, 1, 1, 2]
    rates = linear_rates([(0, 1), (1, 2)])
    assert path.across_gaps(replace(rates)).n_intervals == 2
