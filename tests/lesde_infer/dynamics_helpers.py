"""What the tests of the simulator share: small classes of samples, rates, and one path."""

from dataclasses import replace

import numpy as np

from lesde_infer.dynamics import simulate_records
from lesde_infer.interval_rates import IntervalRates

SIZES = {2: (3, 5), 3: (4, 2, 5), 4: (3, 6, 2, 4), 5: (2, 4, 1, 3, 5)}


def constant_rates(
    alpha, beta, kappa, n_classes, *, n_draws=1, n_intervals=1, sd=(0.0, 0.0, 0.0), dof=np.inf, impact_sd=None
):
    """Rates that never change; contrasts have another noise along their drift if ``impact_sd`` is given."""

    def full(value):
        return np.full((n_draws, n_intervals), float(value))

    degrees = np.full(n_draws, float(dof))
    rates = IntervalRates.from_elasticity(
        full(alpha),
        full(beta),
        full(kappa),
        n_classes=n_classes,
        global_sd=full(sd[0]),
        class_sd=full(sd[1]),
        individual_sd=full(sd[2]),
        global_dof=degrees,
        class_dof=degrees,
        individual_dof=degrees,
    )
    return rates if impact_sd is None else replace(rates, impact_sd=full(impact_sd))


def case(n_classes, n_features, *, seed=0, corrupted=False):
    """Samples of unequal classes in random order, whose given labels may differ from their classes."""
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(np.arange(n_classes), SIZES[n_classes]))
    given = rng.permutation(groups) if corrupted else groups
    return rng.normal(size=(len(groups), n_features)), groups, given


def run(features, groups, given, length, rates, impact, **options):
    """Simulate intervals of one length without noise; return the last record of the first draw."""
    n_intervals = rates.n_intervals
    defaults = {"seed": 0, "keep": np.array([n_intervals]), "n_classes": int(groups.max()) + 1, "noise": False}
    lengths = np.full(n_intervals, length)
    return simulate_records(features, groups, given, lengths, rates, impact, **{**defaults, **options})[0, -1]


def class_means(features, groups):
    return np.array([features[groups == k].mean(axis=0) for k in range(groups.max() + 1)])
