"""The figures of phase_transition.py."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from phase_transition_table import CHANCE, PAPER_ALPHA, Outcomes, grouped

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "0.5"
CLASSES = ("#0072B2", "#D55E00", "#009E73")


def draw_all(outcomes: Outcomes, moments: dict[float, dict[str, Any]], folder: Path) -> None:
    """Draw all figures."""
    figures = {
        "fig1_class_means.png": class_means(outcomes),
        "fig3_integrals.png": integrals(outcomes, moments),
        "fig4_loss_and_tail.png": loss_and_tail(outcomes, moments),
    }
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=110)


def class_means(outcomes: Outcomes) -> Figure:
    """Draw class means of the logits, recorded and under posterior draws, in the plane in which they spread."""
    chosen = [outcome for outcome in outcomes if "class_means" in outcome]
    lowest, highest = chosen[0], min(chosen, key=lambda outcome: abs(outcome["noise"] - CHANCE))
    figure = Figure(figsize=(8.0, 4.0), layout="constrained")
    figure.suptitle("class means of the logits: recorded (thick), simulated under the fit (thin)", fontsize="medium")
    for axes, outcome in zip(figure.subplots(1, 2), (lowest, highest), strict=True):
        observed = np.array(outcome["class_means"]["observed"])
        centred = observed - observed.mean(axis=1, keepdims=True)
        plane = np.linalg.svd(centred.reshape(-1, observed.shape[2]), full_matrices=False)[2][:2].T
        predicted = np.array(outcome["class_means"]["predicted"]) @ plane
        for k, colour in enumerate(CLASSES):
            for path in predicted[:, :, k]:
                axes.plot(*path.T, color=colour, linewidth=0.4, alpha=0.3)
            axes.plot(*(observed[:, k] @ plane).T, color=colour, marker="o", markersize=3, linewidth=1.8)
        axes.set(title=f"p = {outcome['noise']:.2f}", aspect="equal")
    return figure


def integrals(outcomes: Outcomes, moments: dict[float, dict[str, Any]]) -> Figure:
    """Draw integrals of α and β at the smallest p: the paper's estimates, and the posterior of the first seed."""
    noise = min(moments)
    figure = Figure(figsize=(6.0, 3.6), layout="constrained")
    axes = figure.subplots()
    found = moments[noise]["I"]
    own = grouped(outcomes)[noise][0]["paper"]
    for name, rate, colour in (("A", "alpha", BLUE), ("B", "beta", ORANGE)):
        low, median, high = own[rate]
        axes.fill_between(own["step"], low, high, color=colour, alpha=0.25, linewidth=0)
        axes.plot(own["step"], median, color=colour, linestyle="--", label=f"∫{'αβ'[name == 'B']}, posterior")
        if "refused" not in found:
            axes.plot(found["curves"]["steps"], found["curves"][name], color=colour, label=f"{name}̂, estimated")
    axes.set(xlabel="optimizer steps", ylabel="integral since the first record", title=f"I model, p = {noise:.2f}")
    axes.legend(frameon=False)
    return figure


def loss_and_tail(outcomes: Outcomes, moments: dict[float, dict[str, Any]]) -> Figure:
    """Draw validation loss over the run for each p, and tail indices of α against p."""
    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    runs = grouped(outcomes)
    from matplotlib import colormaps

    shades = colormaps["viridis"](np.linspace(0.0, 0.92, len(runs)))
    for (noise, own), shade in zip(runs.items(), shades, strict=True):
        losses = np.array([outcome["loss"]["value"] for outcome in own])
        left.plot(own[0]["loss"]["step"], np.median(losses, axis=0), color=shade, label=f"{noise:.2f}")
    left.axhline(np.log(3), color=GREY, linewidth=0.8, linestyle=":")
    left.set(xlabel="optimizer steps", ylabel="validation loss, median over seeds")
    left.legend(title="p", frameon=False, fontsize="small", ncols=2)
    tail_indices(right, runs, moments)
    return figure


def tail_indices(axes: Axes, runs: dict[float, Outcomes], moments: dict[float, dict[str, Any]]) -> None:
    """Draw tail indices of α: the L model's over seeds with intervals, the paper's, and posteriors of the first."""
    estimated = [(noise, own["L"]) for noise, own in moments.items() if "refused" not in own["L"]]
    for noise, found in estimated:
        value, band = found["tail_index_alpha"], found["intervals"] and found["intervals"]["tail_index_alpha"]
        if value is None or not np.isfinite(value):
            continue
        if band is not None and np.isfinite([band["q05"], band["q95"]]).all():
            axes.plot([noise, noise], [band["q05"], band["q95"]], color=BLUE, linewidth=1.2)
        axes.plot(noise, value, "o", color=BLUE, label="L model, over seeds" if noise == estimated[0][0] else None)
    for place, (noise, own) in enumerate(runs.items()):
        low, median, high = own[0]["paper"]["tail_index"]
        label = "posterior, I model, first seed" if place == 0 else None
        axes.plot([noise + 0.015] * 2, [low, high], color=GREEN, linewidth=0.8)
        axes.plot(noise + 0.015, median, ".", color=GREEN, markersize=3, label=label)
    axes.plot(list(PAPER_ALPHA), list(PAPER_ALPHA.values()), "x", color=ORANGE, label="paper")
    axes.axhline(1.0, color=GREY, linewidth=0.8)
    axes.axvline(CHANCE, color=GREY, linewidth=0.8, linestyle=":")
    axes.set(xlabel="share p of wrong labels", ylabel="tail index of α", ylim=(0.3, 1.5))
    axes.legend(frameon=False, fontsize="small")
