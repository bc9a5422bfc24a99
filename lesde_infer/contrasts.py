"""Differences between architectures, and when they are settled.

A contrast is the difference of two architecture means on the scale on which runs differ by sums. It is called *settled*
where its central 95 % interval lies on one side of 0 (the architectures differ) or inside ± ln 1.25 (they are
equivalent). 25 % is what a fit may be off: posteriors of γ lay between 0.8 and 1.25 times the elasticity measured on
live networks (benchmarks/results/measured_truth.md). Where it is not settled, the number of further runs of each that
would settle it is given, if means and chance from run to run are what they seem.

tests/lesde_infer/test_comparison.py finds differences that are there; benchmarks/comparison.py measures how often equal
architectures are called different.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lesde_infer.meta_analysis import GroupPosterior, Scale

EQUIVALENT = float(np.log(1.25))
SURE = 0.95
MOST_FURTHER_RUNS = 1000


@dataclass(frozen=True)
class Quantity:
    """How a quantity is carried to the scale on which runs differ by sums, and back.

    Attributes
    ----------
    name : str
        One of `lesde_infer.run_summary.QUANTITIES`.
    scale : str
        ``asinh`` of x over `reference`, ``log``, or ``linear``.
    reference : float
        What γ's posteriors resolve: the median over runs of their standard deviations.
    """

    name: str
    scale: Scale
    reference: float = 1.0

    def forward(self, values: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """Carry values to the scale."""
        if self.scale == "linear":
            return values
        return np.log(values) if self.scale == "log" else np.arcsinh(values / self.reference)

    def back(self, values: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """Carry values back."""
        if self.scale == "linear":
            return values
        return np.exp(values) if self.scale == "log" else self.reference * np.sinh(values)


@dataclass(frozen=True)
class Contrast:
    """Difference a − b of two architectures in a quantity; see the module's docstring.

    Attributes
    ----------
    a, b, quantity, scale : str
        What is compared, and on which scale (`Quantity`).
    mean, q05, q95 : float
        Posterior mean and central 90 % interval of the difference.
    probability_greater : float
        Probability that a's mean is greater.
    probability_equivalent : float
        Probability that the difference is smaller than ln 1.25.
    verdict : str
        ``a greater``, ``b greater``, ``equivalent`` or ``open``.
    further_runs : int or None
        Further runs of each that would settle it; 0 where it is settled, None where a thousand would not.
    """

    a: str
    b: str
    quantity: str
    scale: Scale
    mean: float
    q05: float
    q95: float
    probability_greater: float
    probability_equivalent: float
    verdict: str
    further_runs: int | None


def contrast(a: str, b: str, quantity: Quantity, of_a: GroupPosterior, of_b: GroupPosterior) -> Contrast:
    """Return the difference of two architectures; draws of both are independent."""
    n = min(len(of_a.mean), len(of_b.mean))
    difference = of_a.mean[:n] - of_b.mean[:n]
    low, high = np.quantile(difference, [0.5 - SURE / 2, 0.5 + SURE / 2])
    verdict = "open"
    if low > 0:
        verdict = "a greater"
    elif high < 0:
        verdict = "b greater"
    elif max(-low, high) < EQUIVALENT:
        verdict = "equivalent"
    q05, q95 = np.quantile(difference, [0.05, 0.95])
    return Contrast(
        a=a,
        b=b,
        quantity=quantity.name,
        scale=quantity.scale,
        mean=float(difference.mean()),
        q05=float(q05),
        q95=float(q95),
        probability_greater=float((difference > 0).mean()),
        probability_equivalent=float((np.abs(difference) < EQUIVALENT).mean()),
        verdict=verdict,
        further_runs=0 if verdict != "open" else further_runs(float(difference.mean()), of_a, of_b),
    )


def further_runs(mean: float, of_a: GroupPosterior, of_b: GroupPosterior) -> int | None:
    """Return how many further runs of each would settle a difference, if it and the chance of runs stay what they are.

    With n runs of each the standard error is √((τₐ² + sₐ²)/nₐ + (τ_b² + s_b²)/n_b), at the posterior medians of τ.
    """
    variances = [float(np.median(own.chance)) ** 2 + own.error**2 for own in (of_a, of_b)]
    for more in range(1, MOST_FURTHER_RUNS + 1):
        counts = (of_a.n_runs + more, of_b.n_runs + more)
        error = np.sqrt(sum(variance / count for variance, count in zip(variances, counts, strict=True)))
        if abs(mean) > 1.96 * error or abs(mean) + 1.96 * error < EQUIVALENT:
            return more
    return None
