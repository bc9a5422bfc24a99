"""Data simulated from the model give its parameters back, within 90 % intervals at about the nominal rate.

Twenty runs are simulated sample by sample, collapsed, and fitted by the programs that fit one run.
"""

import numpy as np
import pytest
from scipy.stats import binom

from lesde_infer.assembly import assemble
from lesde_infer.concurrent_sampling import ConcurrentSampler
from lesde_infer.impacts import elasticity_from_rates
from lesde_infer.simulation import simulate
from lesde_infer.statistics import compute_statistics

pytestmark = pytest.mark.slow

N_RUNS, N_INTERVALS, EVERY = 20, 50, 20
STEPS = np.arange(0, (N_INTERVALS + 1) * EVERY, EVERY)
SPAN = float(STEPS[-1])
CASES = [
    ("R", "gp", 3),
    ("R", "power", 10),
    ("R", "constant", 2),
    ("I", "gp", 2),
    ("I", "power", 3),
    ("I", "constant", 10),
    ("L", "gp", 3),
    ("L", "power", 2),
    ("L", "constant", 10),
]


def true_curves(curve, impact, n_classes):
    """Return α(t), β(t), κ(t) of the given family, at a strength that moves features well beyond their noise."""
    scale = n_classes * (1e-2 if impact == "R" else 1.5 / SPAN)
    shape = {
        "constant": lambda t: 1.0,
        "power": lambda t: ((t + 0.01 * SPAN) / (0.91 * SPAN)) ** -0.4,
        "gp": lambda t: np.exp(0.6 * np.sin(2.0 * np.log(t + 0.01 * SPAN))),
    }[curve]
    return (
        lambda t: 0.8 * scale * shape(t),
        lambda t: -0.2 * scale * shape(t),
        lambda t: 0.5 / SPAN * shape(t),
    )


def simulated_statistics(folder, impact, curve, n_classes, seed):
    alpha, beta, kappa = true_curves(curve, impact, n_classes)
    with simulate(
        folder / f"{seed}.h5",
        n_classes=n_classes,
        samples_per_class=[10 + 5 * (k % 3) for k in range(n_classes)],
        steps=STEPS,
        alpha=alpha,
        beta=beta,
        kappa=kappa,
        global_scale=2e-3,
        class_scale=2e-3,
        individual_scale=2e-3,
        impact=impact,
        dof=5.0,
        seed=seed,
        n_features=n_classes,
    ) as recording:
        return compute_statistics(recording, recording.layers[0], impact)


def locations(all_statistics, curve):
    """Posterior draws of each stratum's location curve: (run, draw, time)."""
    submodels = [submodel for statistics in all_statistics for submodel in assemble(statistics, curve)]
    sampler = ConcurrentSampler(submodels, seed=0, n_chains=4)
    sampler.run_until(250)
    draws = {}
    for submodel, run in zip(submodels, sampler.draws(), strict=True):
        for index, name in enumerate(submodel.strata):
            values = np.asarray(run.parameters.location)[:, :, index]
            draws.setdefault(name, []).append(values.reshape(-1, values.shape[-1]))
    return {name: np.stack(values) for name, values in draws.items()}


@pytest.mark.parametrize(("impact", "curve", "n_classes"), CASES)
def test_ninety_percent_intervals_hold_the_truth_at_about_that_rate(tmp_path, impact, curve, n_classes):
    all_statistics = [simulated_statistics(tmp_path, impact, curve, n_classes, seed) for seed in range(N_RUNS)]
    draws = locations(all_statistics, curve)
    alpha, beta = elasticity_from_rates(draws["contrast"], draws["shared"], n_classes)
    truth = true_curves(curve, impact, n_classes)
    midpoints = all_statistics[0].midpoints
    covered = []
    quantities = {"gamma": draws["contrast"], "alpha": alpha, "beta": beta, "kappa": draws["growth"]}
    for name, values in quantities.items():
        for at in (len(midpoints) // 4, len(midpoints) // 2, 9 * len(midpoints) // 10):
            a, b, k = (function(midpoints[at]) for function in truth)
            true = {"gamma": a - b, "alpha": a, "beta": b, "kappa": k}[name]
            low, high = np.quantile(values[:, :, at], [0.05, 0.95], axis=1)
            covered.append((low < true) & (true < high))
    covered = np.array(covered)
    # Quantities of one run are dependent, at worst entirely: the run is the unit, and its share covered is averaged.
    share = covered.mean()
    lowest = binom.ppf(0.001, N_RUNS, 0.9) / N_RUNS
    assert share >= lowest, f"{share:.2f} of 90 % intervals hold the truth, by quantity {covered.mean(axis=1)}"
    by_quantity = dict(
        zip(quantities, covered.reshape(len(quantities), -1).mean(axis=1).round(2).tolist(), strict=True)
    )
    print(f"{impact}/{curve}/K={n_classes}: coverage {share:.3f}, by quantity {by_quantity}")
