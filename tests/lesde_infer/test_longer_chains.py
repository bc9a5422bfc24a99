"""Chains that lag behind run for longer, and what is kept of them is what they are."""

import numpy as np
import pytest
from core_helpers import make_run

from lesde_infer.assembly import assemble
from lesde_infer.concurrent_sampling import ConcurrentSampler
from lesde_infer.longer_chains import COMMON, HOPELESS, Mixing, lagging, mixing, out_of_reach, wanted_draws
from lesde_infer.sampling import SampleRun, evenly_spread
from lesde_infer.statistics import compute_statistics

N_CHAINS, N_DRAWS = 4, 600


def run_of(draws):
    """A run whose one parameter has these draws."""
    return SampleRun({"site": draws}, (np.zeros(draws.shape[:2]),), np.zeros((*draws.shape[:2], 1, 1)), {})


def independent(rng):
    return rng.normal(size=(N_CHAINS, N_DRAWS, 3))


def slow(rng):
    """An autoregression of coefficient 0.98: 2,400 draws are worth some 25."""
    noise, draws = rng.normal(size=(N_CHAINS, N_DRAWS, 3)), np.zeros((N_CHAINS, N_DRAWS, 3))
    for i in range(1, N_DRAWS):
        draws[:, i] = 0.98 * draws[:, i - 1] + noise[:, i]
    return draws


def test_the_submodel_that_mixes_badly_is_found():
    rng = np.random.default_rng(0)
    runs = [run_of(independent(rng)), run_of(slow(rng)), run_of(independent(rng))]
    assert lagging(mixing(runs)) == [False, True, False]


def test_one_bad_coordinate_among_good_ones_is_enough():
    rng = np.random.default_rng(1)
    draws = independent(rng)
    draws[..., 1] = slow(rng)[..., 1]
    assert lagging(mixing([run_of(independent(rng)), run_of(draws)])) == [False, True]


def test_chains_apart_lag_whatever_their_draws():
    rng = np.random.default_rng(2)
    apart = independent(rng)
    apart[0] += 1.0
    stuck = np.zeros((N_CHAINS, N_DRAWS, 3)) + np.arange(N_CHAINS)[:, None, None]
    found = mixing([run_of(independent(rng)), run_of(apart), run_of(stuck)])
    assert lagging(found) == [False, True, True]
    assert out_of_reach(found, 2.5)


def test_all_run_on_where_each_meets_its_limits():
    rng = np.random.default_rng(3)
    found = mixing([run_of(independent(rng)), run_of(independent(rng))])
    assert lagging(found) == [True, True]
    assert not out_of_reach(found, 2.5)


@pytest.mark.parametrize("near", [Mixing(1.0089, 1100.0), Mixing(1.001, 450.0)])
def test_those_near_a_limit_run_on_with_those_that_miss_it(near):
    """What is derived from them may miss it: as did the noise of samples in one fit."""
    good, poor = Mixing(1.0048, 1290.0), Mixing(1.0087, 194.0)
    assert lagging([good, poor, near]) == [False, True, True]
    assert lagging([good, near]) == [False, True]


def test_limits_may_be_others():
    rng = np.random.default_rng(4)
    found = mixing([run_of(independent(rng)), run_of(slow(rng))])
    assert lagging(found, maximal_r_hat=2.0, minimal_ess=5.0) == [True, True]  # none lags: all
    assert lagging(found, minimal_ess=1e9) == [True, True]


def test_chains_run_on_only_where_that_may_do():
    good, poor = Mixing(1.001, 1500.0), Mixing(1.05, 60.0)
    assert not out_of_reach([good, poor], 2.5)  # 150 of 400 is within the error of such an estimate
    assert out_of_reach([good, poor], 1.5)
    assert out_of_reach([good, poor], 2.5, minimal_ess=601.0)
    assert out_of_reach([good, Mixing(np.nan, np.nan)], 1e9)
    assert not out_of_reach([good, Mixing(1.2, HOPELESS * 400.0 / 2.5)], 2.5)


def test_only_those_behind_get_more_than_the_common_number():
    assert wanted_draws(300, 1, [True, False]) == [300, 300]
    assert wanted_draws(300, COMMON, [True, False]) == [600, 600]
    assert wanted_draws(300, 10, [True, False, True]) == [3000, 600, 3000]


@pytest.mark.parametrize(("n_available", "n_wanted"), [(600, 600), (600, 300), (1000, 300), (3000, 600), (50, 50)])
def test_kept_draws_are_evenly_spread(n_available, n_wanted):
    kept = evenly_spread(n_available, n_wanted)
    gaps = np.diff(kept, prepend=-1)
    assert len(kept) == n_wanted
    assert kept[-1] == n_available - 1
    assert set(gaps) <= {n_available // n_wanted, -(-n_available // n_wanted)}


@pytest.mark.xdist_group("concurrent")  # one compilation serves all
def test_thinned_draws_are_draws_of_the_longer_chain(tmp_path):
    """Draws and statistics of a submodel that ran three times as long, joined to one that did not."""
    with make_run(3, 3, n_records=12, seed=4).write(tmp_path / "run.h5") as recording:
        submodels = assemble(compute_statistics(recording, "hidden", "I"), "constant")
    n_longer = len(submodels) - 1
    sampler = ConcurrentSampler(submodels, seed=1, n_chains=2)
    sampler.run_until(50)
    short = sampler.draws()
    sampler.run_until([50] * n_longer + [150])
    *same, thinned = sampler.draws()
    for one, other in zip(short, same, strict=False):
        np.testing.assert_array_equal(one.parameters.location, other.parameters.location)
    alone = ConcurrentSampler(submodels, seed=1, n_chains=2)
    alone.run_until(150)
    full = alone.draws()[-1]
    kept = evenly_spread(150, 50)
    np.testing.assert_array_equal(thinned.parameters.location, full.parameters.location[:, kept])
    np.testing.assert_array_equal(thinned.log_likelihood, full.log_likelihood[:, kept])
    np.testing.assert_array_equal(thinned.statistics["energy"], full.statistics["energy"][:, kept])
    for name, combine in (("n_steps", np.sum), ("acceptance_rate", np.mean), ("diverging", np.any)):
        groups = full.statistics[name].reshape(2, 50, 3)
        np.testing.assert_allclose(thinned.statistics[name], combine(groups, axis=2), rtol=1e-12)
