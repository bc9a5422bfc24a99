"""Threads change nothing but time: draws, failures and progress are those of one thread."""

import threading

import numpy as np
import pytest
from core_helpers import make_run

from lesde_infer import concurrent_sampling, submodel_sampler
from lesde_infer._jax import jax
from lesde_infer.assembly import assemble
from lesde_infer.concurrent_sampling import ConcurrentSampler
from lesde_infer.statistics import compute_statistics
from lesde_infer.submodel_sampler import CAREFUL_WARMUP, SHORTENINGS, SMALLER_STEP, WARMUP, SubmodelSampler

pytestmark = pytest.mark.xdist_group("concurrent")  # one compilation serves all


@pytest.fixture(scope="module")
def submodels(tmp_path_factory):
    run = make_run(3, 3, n_records=12, seed=4)
    with run.write(tmp_path_factory.mktemp("concurrent") / "run.h5") as recording:
        return assemble(compute_statistics(recording, "hidden", "I"), "constant")


def sampler(submodels, seed=1):
    return ConcurrentSampler(submodels, seed=seed, n_chains=2)


def locations(sampled):
    return [np.asarray(run.parameters.location) for run in sampled.draws()]


@pytest.mark.slow
def test_draws_do_not_depend_on_the_number_of_threads(submodels, monkeypatch):
    results = []
    for n_cores in (1, 3):
        monkeypatch.setattr(concurrent_sampling, "n_cores", lambda n=n_cores: n)
        sampled = sampler(submodels)
        sampled.run_until(50)
        results.append(locations(sampled))
    for one, three in zip(*results, strict=True):
        np.testing.assert_array_equal(one, three)


def test_submodels_use_random_numbers_of_their_own(submodels):
    twice = sampler([submodels[0], submodels[0]])
    twice.run_until(50)
    first, second = locations(twice)
    assert not np.isclose(first, second).any()


def test_a_longer_run_keeps_the_draws_it_has(submodels):
    sampled = sampler(submodels)
    sampled.run_until(50)
    short = locations(sampled)
    sampled.run_until(150)
    for before, after in zip(short, locations(sampled), strict=True):
        assert after.shape[1] == 150
        np.testing.assert_array_equal(after[:, :50], before)
    sampled.run_until(100)  # has been done
    assert locations(sampled)[0].shape[1] == 150


def test_progress_counts_every_iteration_once(submodels):
    seen = []
    sampled = sampler(submodels)
    sampled.run_until(100, lambda *report: seen.append(report))
    total = len(submodels) * (WARMUP + 100)
    assert [done for _, done, _ in seen] == list(range(50, total + 1, 50))
    assert {total for _, _, total in seen} == {total}


def with_a_divergence(sampled, index):
    """Make one transition of a submodel a divergent one."""
    kept = sampled._samplers[index]._chains._kept
    diverging = np.zeros_like(kept[0].diverging)
    diverging[7, 1] = True
    kept[0] = kept[0]._replace(diverging=diverging)


def test_chains_that_diverge_go_on_with_smaller_steps(submodels):
    sampled = sampler(submodels)
    sampled.run_until(50)
    before = sampled.draws()
    with_a_divergence(sampled, 2)
    seen = []
    sampled.run_until(100, lambda *report: seen.append(report))
    # All went on for 50; what the diverging ones drew is thrown away, and they settle for 50 more.
    assert seen[-1][1:] == (len(submodels) * 50 + 50 + 100,) * 2
    for index, (old, new) in enumerate(zip(before, sampled.draws(), strict=True)):
        share = SMALLER_STEP if index == 2 else 1.0
        np.testing.assert_allclose(new.statistics["step_size"][:, 0], share * old.statistics["step_size"][:, -1])
        assert new.values["curve_weights"].shape[1] == 100
        assert np.array_equal(new.parameters.location[:, :50], old.parameters.location) == (index != 2)
    assert sampled._samplers[2].divergences == 0


def test_only_submodels_that_diverged_start_anew(submodels, monkeypatch):
    sampled = sampler(submodels)
    sampled.run_until(50)
    before = locations(sampled)
    with_a_divergence(sampled, 2)
    sampled._samplers[2]._shortenings_left = 0
    monkeypatch.setattr(submodel_sampler, "find_mode", None)  # modes are found once
    seen = []
    sampled.run_until(100, lambda *report: seen.append(report))
    # Chains that were to be replaced went on for one step of 50 before that was seen.
    assert seen[-1][1:] == (len(submodels) * 50 + CAREFUL_WARMUP + 100,) * 2
    for index, (old, new) in enumerate(zip(before, locations(sampled), strict=True)):
        assert new.shape[1] == 100
        assert np.array_equal(new[:, :50], old) == (index != 2)


def test_chains_that_diverge_again_take_still_smaller_steps(submodels, monkeypatch):
    asked = []

    class Diverging:
        """Chains in which every transition diverges."""

        divergences = 1

        def __init__(self, *_, n_warmup, target_acceptance, **__):
            asked.append((n_warmup, target_acceptance))
            self.n_done = 0

        def take_smaller_steps(self, share):
            asked.append(share)
            self.n_done = 100

        def advance(self):
            self.n_done += 50
            return 50

    monkeypatch.setattr(submodel_sampler, "Chains", Diverging)
    one = SubmodelSampler(submodels[0], jax.random.key(0), 2)
    one.run_until(100, lambda _: None)
    assert asked == [(WARMUP, 0.9), *[SMALLER_STEP] * SHORTENINGS, (CAREFUL_WARMUP, 0.99), (CAREFUL_WARMUP, 0.998)]
    assert one.iterations_left(100) == 0
    assert one.divergences == 1  # what is left is counted, and refused


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_ends_all_threads(submodels, error):
    def fail(stage, done, total):
        if done >= 200:
            raise error("from the progress shown")

    sampled = sampler(submodels)
    with pytest.raises(error, match="progress shown"):
        sampled.run_until(10_000, fail)
    assert threading.active_count() == 1 or all("ThreadPool" not in thread.name for thread in threading.enumerate())


def test_nothing_sampled_is_an_error(submodels):
    with pytest.raises(RuntimeError, match="nothing was sampled"):
        sampler(submodels).draws()
