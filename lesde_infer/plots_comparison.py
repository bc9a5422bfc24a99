"""Pictures of a comparison: every run, and the mean over runs, of each architecture."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import AsinhLocator, FuncFormatter, LogLocator

from lesde_infer.meta_analysis import moments
from lesde_infer.plots import OKABE_ITO

if TYPE_CHECKING:
    from lesde_infer.comparison import Comparison

LABELS = {
    "gamma_end": "γ at the end",
    "gamma_at_half": "γ at half of the record",
    "gamma_at_loss": "γ at equal loss",
    "gamma_integral": "∫γ dt",
    "tail_index": "tail index of γ",
    "separation_step": "step of separation",
    "nc1": "NC1 at the end",
    "within_between_ratio": "within/between at the end",
}
"""Quantities of `lesde_infer.run_summary`, in words."""
PER_TIME = "per unit of time of the recordings"
UNITS = {
    **dict.fromkeys(("gamma_end", "gamma_at_half", "gamma_at_loss"), PER_TIME),
    "separation_step": "optimizer steps",
}
"""Units of quantities that have one."""
MOST_TICKS = 5
FEW_DECADES = 2.0  # over which a logarithmic axis has numbers between powers of ten
RUN_SPREAD = 0.3  # of the height of a row, over which its runs are spread


def plot_comparison(comparison: "Comparison") -> Figure:
    """Draw runs (points, with a standard deviation each) and means over runs (bars, 50 % and 90 %), a panel a quantity.

    Parameters
    ----------
    comparison : Comparison

    Returns
    -------
    Figure
        Not registered with pyplot.
    """
    names = list(comparison.quantities)
    n_columns = min(2, len(names))
    n_rows = -(-len(names) // n_columns)
    architectures = list(comparison.runs)
    height = 0.9 + 0.32 * len(architectures)
    figure = Figure(figsize=(4.6 * n_columns, height * n_rows), layout="constrained")
    panels = figure.subplots(n_rows, n_columns, sharey=True, squeeze=False)
    for axes, name in zip(panels.flat, names, strict=False):
        _draw_quantity(axes, comparison, name)
        axes.set_yticks(range(len(architectures)), architectures)
        axes.set_ylim(len(architectures) - 0.5, -0.5)
    for axes in panels.flat[len(names) :]:
        axes.set_axis_off()
    return figure


def _draw_quantity(axes: Axes, comparison: "Comparison", name: str) -> None:
    quantity = comparison.quantities[name]
    for row, (architecture, runs) in enumerate(comparison.runs.items()):
        colour = OKABE_ITO[row % len(OKABE_ITO)]
        told = [run for run in runs if name in run.inferred or name in run.observed]
        for offset, run in zip(np.linspace(-RUN_SPREAD, RUN_SPREAD, len(told)), told, strict=True):
            value, error = moments(run.inferred[name]) if name in run.inferred else (run.observed[name], 0.0)
            axes.errorbar(value, row + offset, xerr=error or None, color=colour, fmt=".", markersize=4, linewidth=0.7)
        posterior = comparison.posteriors[architecture].get(name)
        if posterior is None:
            continue
        for level, width in ((0.9, 1.5), (0.5, 4.0)):
            low, high = quantity.back(np.quantile(posterior.mean, [0.5 - level / 2, 0.5 + level / 2]))
            axes.plot([low, high], [row, row], color=colour, linewidth=width, alpha=0.55, solid_capstyle="butt")
        axes.plot(float(quantity.back(np.median(posterior.mean))), row, "|", color=colour, markersize=12)
    all_positive = axes.dataLim.x0 > 0
    if quantity.scale == "log" or (quantity.scale == "asinh" and all_positive):
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        if np.log10(high / low) < FEW_DECADES:
            plain = FuncFormatter(lambda value, _: f"{value:g}")
            axes.xaxis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
            axes.xaxis.set_major_formatter(plain)
            axes.xaxis.set_minor_formatter(plain)
    elif quantity.scale == "asinh":
        axes.set_xscale("asinh", linear_width=quantity.reference)
        axes.xaxis.set_major_locator(AsinhLocator(quantity.reference, numticks=MOST_TICKS))
        axes.axvline(0.0, color="#888888", linewidth=0.7, linestyle=":")
    axes.set_title(LABELS[name], fontsize="medium")
    axes.set_xlabel(UNITS.get(name, "no unit"), fontsize="small")
