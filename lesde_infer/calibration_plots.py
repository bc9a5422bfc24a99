"""Pictures of a calibration: distribution of ranks, z-scores and contraction, coverage. See `lesde_infer.plots`."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import norm

from lesde_infer.calibration import Calibration
from lesde_infer.plots import OKABE_ITO
from lesde_infer.rank_statistics import COVERAGE_LEVELS, FALSE_ALARM, RANKED_DRAWS, rank_counts, simultaneous_band

PANELS_A_ROW = 6
PICTURES = ("rank_ecdf.png", "z_scores.png", "coverage.png")
ERRORS_SHOWN = 2.0  # Monte-Carlo standard errors of coverage that are shaded
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_GOOD, _BAD = OKABE_ITO[0], OKABE_ITO[1]


def save_pictures(calibration: Calibration, folder: Path) -> list[Path]:
    """Write all pictures to a folder, replacing older ones; return their paths."""
    figures = (plot_rank_ecdf(calibration), plot_z_scores(calibration), plot_coverage(calibration))
    paths = [folder / name for name in PICTURES]
    for path, figure in zip(paths, figures, strict=True):
        figure.savefig(path, dpi=120)
    return paths


def plot_rank_ecdf(calibration: Calibration) -> Figure:
    """Draw the difference between the distribution of ranks and the uniform, with the band that decides.

    The band holds the ranks of all quantities of calibrated posteriors at once with a probability of at least 95 %.
    A posterior that is too narrow rises first and falls then; one too large lies below zero.
    """
    n_rows = math.ceil(len(calibration.quantities) / PANELS_A_ROW)
    figure = Figure(figsize=(2.3 * PANELS_A_ROW, 1.9 * n_rows), layout="constrained")
    panels = figure.subplots(n_rows, PANELS_A_ROW, sharex=True, sharey=True, squeeze=False).ravel()
    n = len(calibration.reported)
    low, high = simultaneous_band(n, 1.0 - FALSE_ALARM / len(calibration.quantities))
    uniform = np.arange(1, RANKED_DRAWS + 1) / (RANKED_DRAWS + 1)
    for index, (name, check) in enumerate(calibration.checks.items()):
        axes = panels[index]
        is_calibrated = check.ranks.verdict == "calibrated"
        axes.fill_between(uniform, low / n - uniform, high / n - uniform, color="0.85", linewidth=0)
        difference = rank_counts(calibration.ranks[:, index]) / n - uniform
        axes.step(uniform, difference, color=_GOOD if is_calibrated else _BAD, linestyle="-" if is_calibrated else "--")
        title = name if is_calibrated else f"{name}\n{check.ranks.verdict}"
        axes.set_title(title, fontsize=8, color="black" if is_calibrated else _BAD)
    for axes in panels[len(calibration.quantities) :]:
        axes.set_visible(False)
    figure.supxlabel("rank of the truth (share of the draws)")
    figure.supylabel("cumulative share of simulations − uniform")
    return figure


def plot_z_scores(calibration: Calibration) -> Figure:
    """Draw quantiles of z-scores and of contraction, a row a quantity.

    Dotted lines are the normal distribution's quantiles, which z-scores have where posteriors are about normal.
    """
    figure, (left, right) = _rows(calibration, 2, width=9.0)
    _draw_quantiles(left, calibration.z_scores)
    for probability in _QUANTILES:
        left.axvline(float(norm.ppf(probability)), color="0.6", linestyle=":", linewidth=0.8, zorder=0)
    left.set_xlim(-4.0, 4.0)
    left.set_xlabel("z-score: (mean − truth) / sd")
    _draw_quantiles(right, calibration.contractions)
    right.set_xlim(-0.5, 1.05)
    right.set_xlabel("contraction: 1 − (posterior sd / prior sd)²")
    return figure


def plot_coverage(calibration: Calibration) -> Figure:
    """Draw the coverage of central intervals, a row a quantity, and its Monte-Carlo error around what it should be."""
    figure, panels = _rows(calibration, len(COVERAGE_LEVELS), width=10.0)
    places = np.arange(len(calibration.quantities))
    checks = list(calibration.checks.values())
    colours = [_GOOD if check.ranks.verdict == "calibrated" else _BAD for check in checks]
    for axes, level in zip(panels, COVERAGE_LEVELS, strict=True):
        error = ERRORS_SHOWN * calibration.coverage_error(level)
        axes.axvspan(level - error, level + error, color="0.85", linewidth=0)
        axes.axvline(level, color="0.5", linewidth=0.8)
        axes.scatter([check.ranks.coverage[level] for check in checks], places, c=colours, s=14, zorder=3)
        axes.set_xlabel(f"coverage of {100 * level:g} % intervals")
    return figure


def _rows(calibration: Calibration, n_columns: int, *, width: float) -> tuple[Figure, Sequence[Axes]]:
    """Return a figure with a row for each quantity."""
    n_quantities = len(calibration.quantities)
    figure = Figure(figsize=(width, 1.2 + 0.2 * n_quantities), layout="constrained")
    panels = figure.subplots(1, n_columns, sharey=True)
    panels[0].set_yticks(np.arange(n_quantities), calibration.quantities, fontsize=8)
    panels[0].set_ylim(n_quantities - 0.5, -0.5)
    return figure, panels


def _draw_quantiles(axes: Axes, values: Float[np.ndarray, "simulation quantity"]) -> None:
    """Draw median, middle half and middle 90 % of each column."""
    places = np.arange(values.shape[1])
    low, lower, middle, upper, high = np.nanquantile(values, _QUANTILES, axis=0)
    axes.hlines(places, low, high, color=_GOOD, linewidth=1.0)
    axes.hlines(places, lower, upper, color=_GOOD, linewidth=3.5)
    axes.scatter(middle, places, color="black", s=10, zorder=3)
