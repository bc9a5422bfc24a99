"""The page of results of phase_transition.py."""

from collections import defaultdict
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

CHANCE = 2 / 3  # p at which, of three classes, the label given says nothing
PAPER_ALPHA = {
    0.0: 0.68, 0.1: 0.72, 0.2: 0.73, 0.3: 0.735, 0.4: 0.765, 0.5: 0.835, 0.6: 1.005, 0.67: 1.01, 0.7: 1.035, 0.8: 1.015
}  # fmt: skip
"""Tail indices of α in the paper's figure 4c, by p to two digits."""

RESAMPLES, MOST_DEFINED = 500, 0.9  # and the share of resamples that must have a border for it to be told
Outcomes = list[dict[str, Any]]


def grouped(outcomes: Outcomes) -> dict[float, Outcomes]:
    """Return the outcomes of each p."""
    found: dict[float, Outcomes] = defaultdict(list)
    for outcome in outcomes:
        found[outcome["noise"]].append(outcome)
    return dict(sorted(found.items()))


def page(outcomes: Outcomes, moments: dict[float, dict[str, Any]], *, short: bool) -> str:
    """Return the results as Markdown."""
    n_converged = sum(outcome["converged"] for outcome in outcomes)
    lines = [
        "# The phase transition, reproduced",
        "",
        "**A check that everything works: these numbers mean nothing.**" if short else "Made by `make paper`.",
        "",
        f"LeNet on drawn shapes, {len(outcomes)} runs, of whose fits {n_converged} converged.",
        "",
        *elasticity_table(outcomes, moments),
        *separation_table(outcomes),
        *verdicts(outcomes),
        "",
        *lost_at(outcomes),
        "",
        *(f"![{text}]({name})" for name, text in FIGURES.items()),
    ]
    return "\n".join(lines) + "\n"


FIGURES = {
    "fig1_class_means.png": "Figure 1 and 5: class means of the logits, recorded and simulated under the fit",
    "fig3_integrals.png": "Figure 3: ∫α and ∫β of the I model at p = 0",
    "fig4_loss_and_tail.png": "Figure 4: validation loss, and tail index of α against p",
}


def elasticity_table(outcomes: Outcomes, moments: dict[float, dict[str, Any]]) -> list[str]:
    """Return the paper's estimates, over the seeds of each p, beside its own figures."""
    lines = [
        "## The paper's estimators",
        "",
        "Class means by the labels given, averaged over seeds before the formulas; 90 % intervals by resampling seeds. "
        "Posterior: the same index of ∫α under impact I, of the first seed.",
        "",
        "| p | Â (I, end) | B̂ (I, end) | tail index of α (L) | of the paper | tail index of α (I) | posterior (I) |",
        "|---|---|---|---|---|---|---|",
    ]
    for noise, own in grouped(outcomes).items():
        found = moments[noise]
        low, median, high = own[0]["paper"]["tail_index"]
        paper = PAPER_ALPHA.get(round(noise, 2))
        lines.append(
            f"| {noise:.2f} | {estimate(found['I'], 'A_end')} | {estimate(found['I'], 'B_end')} "
            f"| {estimate(found['L'], 'tail_index_alpha')} | {'–' if paper is None else paper} "
            f"| {estimate(found['I'], 'tail_index_alpha')} | {number(median)} ({number(low)} to {number(high)}) |"
        )
    return [*lines, ""]


def estimate(found: dict[str, Any], name: str) -> str:
    """Write an estimate and its interval over seeds."""
    if "refused" in found:
        return "–"
    intervals = found["intervals"]
    band = "" if intervals is None else f" ({number(intervals[name]['q05'])} to {number(intervals[name]['q95'])})"
    return f"{number(found[name])}{band}"


def number(value: float | None) -> str:
    """Write a number, or a dash."""
    return "–" if value is None or not np.isfinite(value) else f"{value:.3g}"


def separation_table(outcomes: Outcomes) -> list[str]:
    """Return what became of the real classes, and what the fits say of it."""
    lines = [
        "## Separation of the real classes",
        "",
        "Medians over seeds, of the logits at the last record.",
        "",
        "| p | runs | separable | linear accuracy | validation accuracy | P(separable) | P(γ > 0) | P(separating) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for noise, own in grouped(outcomes).items():
        middle = {
            name: float(np.median([outcome[name] for outcome in own]))
            for name in (
                "linear_accuracy",
                "validation_accuracy",
                "probability_separable",
                "probability_gamma_positive",
            )
        }
        separating = float(np.median([outcome["phase_probabilities"]["separating"] for outcome in own]))
        lines.append(
            f"| {noise:.2f} | {len(own)} | {sum(outcome['separable'] for outcome in own)} | "
            f"{middle['linear_accuracy']:.2f} | {middle['validation_accuracy']:.2f} | "
            f"{middle['probability_separable']:.2f} | {middle['probability_gamma_positive']:.2f} | {separating:.2f} |"
        )
    return [*lines, ""]


def verdicts(outcomes: Outcomes) -> list[str]:
    """Return how often the verdict on separability is right, and how probabilities are calibrated."""
    probability = np.array([outcome["probability_separable"] for outcome in outcomes])
    happened = np.array([outcome["separable"] for outcome in outcomes])
    right = int(((probability > 0.5) == happened).sum())
    lines = [
        f"The likelier of separable and not is right in {right} of {len(outcomes)} runs.",
        "",
        "| P(separable) | runs | separable |",
        "|---|---|---|",
    ]
    for low, high in ((0.0, 0.05), (0.05, 0.5), (0.5, 0.95), (0.95, 1.0)):
        inside = (probability >= low) & ((probability < high) | (high == 1.0))
        lines.append(f"| {low:g} to {high:g} | {inside.sum()} | {happened[inside].sum()} |")
    piled = {
        name: [outcome["p_values"].get(name) for outcome in outcomes]
        for name in ("linear_accuracy", "nc1", "within_between_ratio", "between_norm")
    }
    lines += [
        "",
        "Posterior predictive p-values of the last record, share of runs below 0.1 (a tenth is expected):",
        "",
    ]
    for name, values in piled.items():
        defined = np.array([value for value in values if value is not None and np.isfinite(value)])
        share = f"{np.mean(defined < 0.1):.0%} of {defined.size}" if defined.size else "–"
        lines.append(f"- {name.replace('_', ' ')}: {share}")
    return lines


def lost_at(outcomes: Outcomes) -> list[str]:
    """Return at which p separation is lost: where half of the runs are separable, by logistic regression."""
    below = [outcome for outcome in outcomes if outcome["noise"] <= CHANCE + 0.01]
    noise = np.array([outcome["noise"] for outcome in below])
    happened = np.array([outcome["separable"] for outcome in below])
    if happened.all() or not happened.any():
        return ["Separation is lost nowhere, or everywhere, in these runs: no border can be estimated."]
    rng = np.random.default_rng(0)
    borders = []
    for _ in range(RESAMPLES):
        chosen = rng.integers(len(below), size=len(below))
        if 0 < happened[chosen].sum() < len(chosen):
            borders.append(midpoint(noise[chosen], happened[chosen]))
    defined = np.array(borders)[np.isfinite(borders)]
    border = midpoint(noise, happened)
    if defined.size < MOST_DEFINED * RESAMPLES or not noise.min() <= border <= noise.max():
        return ["Where separation is lost, too few runs on both sides of the border leave open."]
    low, high = np.quantile(defined, [0.05, 0.95])
    return [
        f"Half of the runs are separable at p = {border:.2f} ({low:.2f} to {high:.2f}, 90 % over "
        f"resampled runs); the label given says nothing at (K−1)/K = {CHANCE:.2f}."
    ]


def midpoint(noise: np.ndarray, happened: np.ndarray) -> float:
    """Return p where a logistic curve through the runs is at one half."""
    model = LogisticRegression(C=1e3).fit(noise[:, None], happened)
    return float(-model.intercept_[0] / model.coef_[0, 0]) if model.coef_[0, 0] else float("nan")
