"""Fan charts of a forecast: what was predicted, in bands, against what was recorded."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from lesde_infer.forecast_scores import LOGARITHMIC
from lesde_infer.plots import BANDS, METRIC_LABELS, OKABE_ITO

if TYPE_CHECKING:
    from lesde_infer.forecast_result import Forecast

SHOWN = ("linear_separability", "linear_accuracy", "nc1", "within_between_ratio", "between_norm")
"""Metrics that are drawn, one below the other."""


def plot_forecast(forecast: "Forecast") -> Figure:
    """Draw predicted bands against recorded values, one panel a metric.

    Medians and central 50 % and 90 % bands fan out from the step at which the forecast starts; records up to there, and
    those that followed, are points. The probability of separation stands above.

    Parameters
    ----------
    forecast : Forecast

    Returns
    -------
    Figure
        Not registered with pyplot.
    """
    names = [name for name in SHOWN if name in forecast.predicted]
    figure = Figure(figsize=(6.4, 1.9 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    steps = np.append(forecast.at_step, forecast.steps)
    for axes, name in zip(panels, names, strict=True):
        start = forecast.past[name][-1]
        draws = forecast.predicted[name]
        draws = np.column_stack([np.full(len(draws), start), draws])
        shown = np.isfinite(draws).any(axis=0)
        for level, opacity in zip(BANDS, (0.2, 0.4), strict=True):
            low, high = np.nanquantile(draws[:, shown], [(1 - level) / 2, (1 + level) / 2], axis=0)
            axes.fill_between(
                steps[shown], low, high, color=OKABE_ITO[0], alpha=opacity, linewidth=0, label=f"{level:.0%} predicted"
            )
        axes.plot(steps[shown], np.nanmedian(draws[:, shown], axis=0), color=OKABE_ITO[0], label="median predicted")
        axes.plot(forecast.past_steps, forecast.past[name], "o", color="0.5", markersize=3, label="known")
        axes.plot(forecast.steps, forecast.observed[name], "o", color="black", markersize=4, label="recorded later")
        axes.axvline(forecast.at_step, color="0.4", linewidth=0.8, linestyle=":")
        if name in LOGARITHMIC and np.nanmin(draws) > 0:
            axes.set_yscale("log")
        axes.set_ylabel(METRIC_LABELS[name], fontsize="small")
    panels[0].legend(fontsize="x-small", framealpha=0.8, edgecolor="none")
    panels[0].set_title(
        f"forecast from step {forecast.at_step}; separable at step {forecast.horizon_step} with probability "
        f"{forecast.probability_separable:.2f}",
        fontsize="small",
    )
    panels[-1].set_xlabel("optimizer steps")
    return figure
