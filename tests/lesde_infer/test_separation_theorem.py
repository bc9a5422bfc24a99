"""The theorem's limits against the ratio at late times, and exact laws against simulated paths."""

import numpy as np
import pytest

import lesde_infer as li
from data_tools import InputError
from lesde_infer.separation_theorem import PowerLaws, probability_of_separation


class TestLimits:
    @pytest.mark.parametrize(
        ("rate", "r", "q", "limit"),
        [
            (3.0, 0.5, 0.0, "separates"),
            (0.3, 0.9, 0.0, "separates"),
            (3.0, 1.1, 0.0, "does not separate"),
            (30.0, 1.5, 0.9, "does not separate"),
            (3.0, 1.5, 1.5, "depends on the start"),
            (1.6, 1.0, 0.0, "separates"),
            (1.4, 1.0, 0.0, "does not separate"),
            (1.5, 1.0, 0.0, "depends on the start"),
            (0.1, 1.0, 1.5, "separates"),
            (0.1, 1.0, 1.0, "separates"),
            (1.0, 1.0, 0.5, "separates"),  # 1/3 > 1/4
            (0.6, 1.0, 0.5, "does not separate"),
        ],
    )
    def test_the_ratio_goes_where_the_derivation_says(self, rate, r, q, limit):
        """Slope of the log ratio at times of 10²⁰⁰; a factor √log t (q = 1) counts as slow, a constant as none."""
        laws = PowerLaws(rate, r, q)
        early, late = laws.log_ratio(np.array([1e100, 1e200]))
        assert laws.limit == limit
        if limit == "depends on the start":
            assert late - early == pytest.approx(0.0, abs=0.05)
        else:
            assert (late - early > 0.05) == (limit == "separates")

    def test_the_ratio_is_its_closed_form(self):
        """γ = 2/√t, σ² = 0.25: G = (4/K)(√t − 1), V = 1 + (t − 1)/4."""
        times = np.array([1.0, 9.0, 100.0])
        expected = np.log(0.7) + 4 / 5 * (np.sqrt(times) - 1) - 0.5 * np.log(1 + (times - 1) / 4)
        found = PowerLaws(2.0, 0.5, noise=0.5, n_classes=5, start=0.7).log_ratio(times)
        np.testing.assert_allclose(found, expected, atol=1e-5)

    def test_growth_of_deviations_takes_from_the_rate(self):
        """κ = 0.5/t, γ/K = 1/t, σ = 1: gain t^½, V = 1 + log t; with k as large as c/K nothing is gained."""
        times = np.array([10.0, 1e4])
        found = PowerLaws(3.0, 1.0, growth=0.5).log_ratio(times)
        np.testing.assert_allclose(found, 0.5 * np.log(times) - 0.5 * np.log(1 + np.log(times)), atol=1e-5)
        assert np.all(PowerLaws(3.0, 1.0, growth=1.0).log_ratio(times) < 0)
        with pytest.raises(InputError, match="growth 0"):
            _ = PowerLaws(3.0, 1.0, growth=0.5).limit


class TestExperiment:
    def test_shares_of_runs_go_where_the_limit_says(self):
        for r, q, limit in ((0.5, 0.0, 1.0), (0.9, 0.0, 1.0), (1.1, 0.0, 0.0), (1.5, 0.5, 0.0)):
            share, error = probability_of_separation(PowerLaws(3.0, r, q), 1e12, n_runs=30)
            assert share == limit
            assert 0 < error < 0.1

    def test_where_it_depends_on_the_start_it_does(self):
        near, far = (
            probability_of_separation(PowerLaws(3.0, 1.5, 1.5, start=start), 1e12, n_runs=30)[0]
            for start in (0.2, 50.0)
        )
        assert (near, far) == (0.0, 1.0)

    def test_the_laws_are_those_of_simulated_paths(self, tmp_path):
        """γ = 1.2/t^0.7 and σ² = 0.01/t^0.5 in steps of one: growth of contrasts exact, variance to its own error."""
        laws = PowerLaws(1.2, 0.7, 0.5, noise=0.1)
        labels = np.repeat(np.arange(3), 400)
        rng = np.random.default_rng(0)
        first = np.eye(3)[labels] + rng.normal(size=(1200, 3))
        with li.simulate(
            tmp_path / "run.h5",
            n_classes=3,
            samples_per_class=400,
            steps=np.arange(1, 1002),
            alpha=lambda t: 0.8 * laws.rate * t**-laws.exponent,
            beta=lambda t: -0.2 * laws.rate * t**-laws.exponent,
            kappa=0.0,
            global_scale=0.0,
            class_scale=0.0,
            individual_scale=lambda t: laws.noise * t ** (-laws.noise_exponent / 2),
            impact="I",
            first_features=first,
        ) as recording:
            ends = np.asarray(recording.features("logits")[[0, -1]], dtype=float)
        size, spread = [], []
        for features in ends:
            means = np.stack([features[labels == k].mean(axis=0) for k in range(3)])
            size.append(np.linalg.norm(means - means.mean(axis=0)))
            spread.append((features - means[labels]).var())
        grown = laws.rate / 3 * laws.log_growth(np.array([1001.0]))[0]
        assert np.log(size[1] / size[0]) == pytest.approx(grown, rel=2e-3)  # rates are those of middles of steps
        variance = 0.01 * (1001**0.5 - 1) / 0.5
        assert spread[1] - spread[0] == pytest.approx(variance, rel=0.15)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PowerLaws(0.0, 1.0), "rate is 0.0"),
        (lambda: PowerLaws(1.0, 1.0, noise=-1.0), "noise is -1.0"),
        (lambda: PowerLaws(1.0, 1.0, n_classes=1), "n_classes is 1"),
        (lambda: probability_of_separation(PowerLaws(1.0, 1.0), 0.5), "time is 0.5; it begins at 1"),
        (lambda: probability_of_separation(PowerLaws(1.0, 1.0), 2.0, n_runs=1), "n_runs is 1"),
    ],
)
def test_bad_input_is_refused(build, message):
    with pytest.raises(InputError, match=message):
        build()
