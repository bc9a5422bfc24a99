"""One picture of the demo: what was inferred above, what was predicted and seen below."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from data_tools.new_file import written_whole
from lesde_infer import plots

if TYPE_CHECKING:
    from lesde_infer.report import ReportEntry

METRIC = "linear_accuracy"
DOTS_PER_INCH = 100


def draw_overview(entries: "Sequence[ReportEntry]", out: Path) -> None:
    """Draw elasticity, and predicted against observed separation, of each run that has a check; replace `out`."""
    shown = [entry for entry in entries if entry.check is not None]
    if not shown:
        return
    figure = Figure(figsize=(3.4 * len(shown), 5.4), layout="constrained")
    axes = figure.subplots(2, len(shown), squeeze=False)
    for (upper, lower), entry in zip(axes.T, shown, strict=True):
        plots.plot_elasticity(entry.fit, upper)
        upper.set_title(entry.name)
        if entry.check is not None:
            plots.plot_predicted_against_observed(entry.check, METRIC, lower)
    with written_whole(out, force=True) as temporary:
        figure.savefig(temporary, format="png", dpi=DOTS_PER_INCH)
