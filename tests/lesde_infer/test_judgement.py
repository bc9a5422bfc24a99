"""Diagnostics, flags, verdict and tail indices on posteriors made to order."""

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from lesde_infer.diagnostics import diagnose, table
from lesde_infer.flags import find_flags
from lesde_infer.posterior import paper_tail_index, tail_index
from lesde_infer.verdict import judge

CHAINS, DRAWS, TIMES = 4, 500, 40
LENGTH = 25.0
CURVE = ("chain", "draw", "time")


def noise(seed, *shape):
    return np.random.default_rng(seed).normal(size=(CHAINS, DRAWS, *shape))


class Record:
    """The parts of `Statistics` that tail indices read."""

    times = np.arange(TIMES + 1) * LENGTH
    steps = times.astype(int)
    lengths = np.diff(times)
    midpoints = (times[1:] + times[:-1]) / 2


def posterior(gamma, global_rate=None, **more):
    time = Record.midpoints
    gamma = np.broadcast_to(gamma, (CHAINS, DRAWS, TIMES))
    global_rate = 0.01 * (1 + 0.1 * noise(2, TIMES)) if global_rate is None else global_rate
    return xr.Dataset(
        {
            "gamma": (CURVE, gamma),
            "global_rate": (CURVE, np.broadcast_to(global_rate, gamma.shape)),
            "tail_index": (("chain", "draw"), tail_index(gamma, Record, 1e-9)),
            "paper_tail_index": (("chain", "draw"), np.full((CHAINS, DRAWS), 0.7)),
            **more,
        },
        coords={"time": time},
    )


def constants(impact_f=1e4, persistence=1.0, shared_feedback=0.0):
    ones = np.ones(TIMES)
    return xr.Dataset(
        {
            "step": ("record", Record.steps),
            "class_size": ("class_", [100, 100, 100]),
            "length": ("time", Record.lengths),
            "impact_f": ("time", impact_f * ones),
            "impact_persistence": ("time", persistence * ones),
            "shared_feedback": ("time", shared_feedback * ones),
        }
    )


def prior_widths(reference=1e-3):
    widths = {name: ("time", np.full(TIMES, 6.0)) for name in ("gamma", "global_rate")}
    return xr.Dataset(widths, attrs={"gamma_reference": reference, "global_rate_reference": reference})


ELASTIC = 0.02 * (1 + 0.1 * noise(1, 1))


def names(flags):
    return [flag.name for flag in flags]


def test_well_sampled_draws_converge():
    judged = diagnose(xr.Dataset({"x": (("chain", "draw"), noise(0))}), np.zeros((CHAINS, DRAWS), bool))
    assert judged.converged
    assert judged.r_hat_max < 1.01
    assert 1000 < judged.ess_bulk_min < 3000


@pytest.mark.parametrize(
    "fault", ["shifted chain", "random walk", "stuck chain", "divergence", "heavy mixing in tails"]
)
def test_each_fault_of_sampling_is_found(fault):
    draws, diverging = noise(0), np.zeros((CHAINS, DRAWS), bool)
    if fault == "shifted chain":
        draws[0] += 1.0
    elif fault == "random walk":
        draws = np.cumsum(draws, axis=1)
    elif fault == "stuck chain":
        draws[1] = draws[1, :1]
    elif fault == "divergence":
        diverging[2, 17] = True
    else:
        draws *= np.repeat(np.exp(2 * noise(3)[:, ::100]), 100, axis=1)
    judged = diagnose(xr.Dataset({"x": (("chain", "draw"), draws)}), diverging)
    assert not judged.converged
    assert judged.problems


def test_parameters_that_the_model_holds_fixed_have_nothing_to_converge():
    rows = table(
        xr.Dataset({"x": (("chain", "draw"), noise(0)), "fixed": (("chain", "draw"), np.ones((CHAINS, DRAWS)))})
    )
    assert list(rows["parameter"].to_numpy()) == ["x"]


def test_an_identified_run_has_no_flags():
    assert find_flags(posterior(ELASTIC), constants(), prior_widths(), impact="R") == []


def test_impacts_within_chance_leave_gamma_unidentified():
    flags = find_flags(posterior(ELASTIC), constants(impact_f=0.5), prior_widths(), impact="R")
    assert names(flags) == ["gamma_not_identified"]
    assert (flags[0].start_step, flags[0].stop_step) == (0, 1000)


def test_a_posterior_as_wide_as_the_prior_leaves_gamma_unidentified():
    wide = 1e-3 * np.sinh(5 * noise(4, 1))
    assert names(find_flags(posterior(wide), constants(), prior_widths(), impact="R")) == ["gamma_not_identified"]


@pytest.mark.parametrize("impact", ["I", "L", "R"])
def test_long_intervals_bound_gamma_only_where_impacts_fluctuate_within_them(impact):
    fluctuating = constants(persistence=np.where(np.arange(TIMES) < 20, 0.98, 0.96))
    flags = find_flags(posterior(ELASTIC), fluctuating, prior_widths(), impact=impact)
    assert names(flags) == ["interval_bias"]
    assert (flags[0].start_step, flags[0].stop_step) == (500, 1000)
    assert "burst" in flags[0].message


def test_what_increments_miss_bounds_gamma_where_it_is_more_than_gamma_is_uncertain_by():
    """γ of 0.02 ± 10 %, whose 90 % interval is 16 % to either side: a loss L is 16 % of what is seen at L = 0.14."""
    for loss, expected in ((0.16, ["interval_bias"]), (0.12, [])):
        missing = constants().assign(interval_loss=("time", np.full(TIMES, loss)))
        assert names(find_flags(posterior(ELASTIC), missing, prior_widths(), impact="R")) == expected
    surer = posterior(0.02 * (1 + 0.05 * noise(1, 1)))
    assert names(find_flags(surer, missing, prior_widths(), impact="R")) == ["interval_bias"]


def test_bursts_of_short_intervals_leave_nothing_to_warn_of():
    in_bursts = posterior(ELASTIC, interval_exponent=(("chain", "draw", "stratum"), noise(5, 5)))
    assert find_flags(in_bursts, constants(persistence=0.5), prior_widths(), impact="R") == []


def test_what_is_not_identified_is_not_said_to_be_biased():
    flags = find_flags(posterior(ELASTIC), constants(impact_f=0.5, persistence=0.5), prior_widths(), impact="R")
    assert names(flags) == ["gamma_not_identified"]


def test_a_mean_that_relaxes_at_once_leaves_beta_unidentified():
    fast = 1.0 * (1 + 0.1 * noise(2, TIMES))
    flags = find_flags(posterior(ELASTIC, fast), constants(shared_feedback=0.2), prior_widths(), impact="R")
    assert names(flags) == ["beta_not_identified"]


@pytest.mark.parametrize(
    ("spread", "flag"),
    [
        ("log_growth_spread", "kappa_not_identified"),
        ("log_growth_along_spread", "kappa_not_identified"),
        ("log_growth_across_spread", "kappa_across_not_identified"),
    ],
)
def test_samples_of_a_class_that_are_equal_leave_kappa_unidentified(spread, flag):
    equal = constants().assign({spread: ("time", (np.arange(TIMES) < 30).astype(float))})
    equal = equal.assign(moved=("time", (np.arange(TIMES) < 36).astype(float)))
    equal = equal.assign(driven=("time", np.ones(TIMES)), spike=("time", np.zeros(TIMES)))
    flags = find_flags(posterior(ELASTIC), equal, prior_widths(), impact="R")
    # Where nothing moves at all, that is said instead.
    assert [(f.name, f.start_step, f.stop_step) for f in flags] == [(flag, 750, 900), ("standstill", 900, 1000)]
    assert "prior" in flags[0].message


def test_single_flagged_intervals_are_not_reported():
    spotted = constants()
    spotted["impact_f"][7] = 0.0
    assert find_flags(posterior(ELASTIC), spotted, prior_widths(), impact="R") == []


@pytest.mark.parametrize("index", [0.0, 0.5, 1.5])
def test_the_tail_index_of_a_power_law_is_its_exponent(index):
    gamma = 3.0 * Record.midpoints**-index
    assert tail_index(gamma, Record, 1e-12) == pytest.approx(index, abs=1e-9)


def test_the_tail_index_does_not_depend_on_units():
    gamma = 3.0 * Record.midpoints**-0.8
    assert tail_index(1e3 * gamma, Record, 1e-9) == pytest.approx(tail_index(gamma, Record, 1e-12), abs=1e-9)


def test_the_papers_tail_index_of_a_constant_rate():
    # ∫α = t^(1 − r) gives r: here ∫α over 1,000 steps is 1,000^0.3.
    alpha = np.full(TIMES, 1000.0**0.3 / 1000.0)
    assert paper_tail_index(alpha, Record) == pytest.approx(0.7, abs=1e-12)


def test_phases_follow_the_sign_and_the_tail_of_gamma():
    decaying = Record.midpoints**-1.5
    for gamma, phase in ((ELASTIC, "separating"), (decaying, "too_weak"), (-ELASTIC, "not_elastic")):
        verdict = judge(posterior(gamma), [], 1000, 0.5)
        assert verdict.phase_probabilities[phase] == 1.0
        assert sum(verdict.phase_probabilities.values()) == pytest.approx(1.0)


def test_the_sentence_says_what_is_sure_and_what_is_not():
    assert "is locally elastic at the end (probability > 0.99)" in judge(posterior(ELASTIC), [], 1000, 0.99).sentence
    assert "its classes separate" in judge(posterior(ELASTIC), [], 1000, 0.99).sentence
    assert "do not all separate" in judge(posterior(ELASTIC), [], 1000, 0.01).sentence
    assert "is open" in judge(posterior(ELASTIC), [], 1000, 0.5).sentence
    assert "was not simulated" in judge(posterior(ELASTIC), [], 1000, float("nan")).sentence
    assert "anti-elastic" in judge(posterior(-ELASTIC), [], 1000, 0.01).sentence
    assert "not resolved" in judge(posterior(0.02 * noise(6, 1)), [], 1000, 0.01).sentence
    flags = find_flags(posterior(ELASTIC), constants(impact_f=0.5), prior_widths(), impact="R")
    assert "cannot be told" in judge(posterior(ELASTIC), flags, 1000, 0.01).sentence


def test_the_error_of_sampling_the_probe_widens_gamma_at_the_end():
    gamma = 2.0 + 0.1 * noise(7, 1)
    sure, wider = judge(posterior(gamma), [], 1000, 0.5), judge(posterior(gamma), [], 1000, 0.5, 2.0)
    assert sure.probability_gamma_positive == 1.0
    expected = stats.norm.cdf(2.0 / np.hypot(0.1, 2.0))
    error = np.sqrt(expected * (1.0 - expected) / (CHAINS * DRAWS))
    assert abs(wider.probability_gamma_positive - expected) < 4.0 * error
    assert wider.gamma_end.q95 - wider.gamma_end.q05 == pytest.approx(2 * 1.645 * np.hypot(0.1, 2.0), rel=0.1)
    assert "not resolved" in wider.sentence
    assert sum(wider.phase_probabilities.values()) == pytest.approx(1.0)
