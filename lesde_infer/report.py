"""One self-contained web page on one or several fits: question, answer, evidence, doubts, provenance.

See `lesde_infer.page`. A fit that did not converge is named and refused: none of its posterior's numbers are shown.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_tools.errors import InputError
from data_tools.new_file import refuse_existing
from lesde_infer import plots
from lesde_infer.page import Image, draw, encode, format_number, write_page

if TYPE_CHECKING:
    from lesde_infer.fit_result import Fit
    from lesde_infer.predictive import Check

DEFAULT_QUESTION = "Is this network locally elastic, and will its features separate?"


@dataclass(frozen=True)
class ReportEntry:
    """One run of the report.

    Attributes
    ----------
    name : str
        What the run is called on the page; unique.
    fit : Fit
    check : Check or None
        Prediction of that fit against what was observed; its section is left out if None.
    """

    name: str
    fit: "Fit"
    check: "Check | None" = None


@dataclass(frozen=True)
class _MetricRow:
    """A metric at the last step compared."""

    label: str
    observed: float
    median: float
    low: float
    high: float
    inside: bool
    p_value: float


@dataclass(frozen=True)
class _Section:
    """An entry as the template shows it; what comes from the posterior is None if the fit is refused."""

    name: str
    anchor: str
    settings: dict[str, Any]
    provenance: dict[str, str]
    diagnostics: Any
    flags: Sequence[Any]
    verdict: Any | None
    check: Any | None
    metric_rows: Sequence[_MetricRow]
    evidence: Sequence[Image]
    metric_images: Sequence[Image]
    doubt_images: Sequence[Image]


def write_report(
    out: str | Path,
    entries: Sequence[ReportEntry],
    *,
    title: str,
    question: str | None = None,
    command: str | None = None,
    force: bool = False,
) -> Path:
    """Write the report as one HTML file, which appears complete or not at all.

    Parameters
    ----------
    out : path
        File to write, in an existing folder.
    entries : sequence of ReportEntry
        One section each; with several, their verdicts stand side by side in one table.
    title : str
        Title of the page.
    question : str, optional
        The question the report answers, in the reader's words.
    command : str, optional
        Command line that made it, for the record.
    force : bool
        Replace an existing file.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    InputError
        If there are no entries, two have the same name, the folder does not exist, or the file exists and may not
        be replaced.
    """
    path = Path(out)
    refuse_existing(path, force)
    names = [entry.name for entry in entries]
    if not names:
        raise InputError("a report needs at least one fit; name one")
    for entry in entries:
        entry.fit.require_all_parts(f"a report on {entry.name}")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InputError(f"two fits of the report are both called {repeated[0]!r}; give each a name of its own")
    return write_page(
        path,
        "report.html.j2",
        force=force,
        title=title,
        question=question or DEFAULT_QUESTION,
        command=command,
        sections=[_section(entry, f"run-{number}") for number, entry in enumerate(entries, start=1)],
    )


def _section(entry: ReportEntry, anchor: str) -> _Section:
    fit, diagnostics = entry.fit, entry.fit.diagnostics()
    shown = bool(diagnostics.converged)
    check = entry.check if shown else None
    return _Section(
        name=entry.name,
        anchor=anchor,
        settings=dataclasses.asdict(fit.settings),
        provenance=dict(fit.provenance),
        diagnostics=diagnostics,
        flags=tuple(fit.flags) if shown else (),  # their messages may quote the posterior
        verdict=fit.verdict() if shown else None,
        check=check,
        metric_rows=_metric_rows(check) if check is not None else (),
        evidence=_evidence(entry) if shown else (),
        metric_images=_metric_images(check) if check is not None else (),
        doubt_images=_doubt_images(fit) if shown else (),
    )


def _evidence(entry: ReportEntry) -> list[Image]:
    gamma = entry.fit.posterior["gamma"].median(["chain", "draw"]).to_numpy()
    images = [
        draw(
            lambda axes: plots.plot_elasticity(entry.fit, axes),
            alt=f"Curves of the separation rate γ and of α and β against optimizer steps. The median of γ is "
            f"{format_number(gamma[0])} at the first step shown and {format_number(gamma[-1])} at the last.",
            caption="Local elasticity over training: medians with 50 % and 90 % bands. γ above zero means that a "
            "training step moves samples of its own class more than those of others.",
        )
    ]
    if entry.check is not None:
        means = plots.plot_class_means(entry.check)
        plots.figure_of(means).set_size_inches(6.2, 3.3)
        images.append(
            encode(
                plots.figure_of(means),
                alt=f"Paths of {np.shape(entry.check.class_means_observed)[1]} class means, observed and predicted.",
                caption="Paths of the class means relative to their centre, in the plane where the observed final ones "
                "spread most. Numbered markers are the observed ends.",
            )
        )
    return images


def _metric_images(check: "Check") -> list[Image]:
    images = []
    for row, metric in zip(_metric_rows(check), check.predicted, strict=True):
        where = "inside" if row.inside else "outside"
        images.append(
            draw(
                partial(plots.plot_predicted_against_observed, check, metric),
                alt=f"{row.label} against optimizer steps. At the last step it was observed as "
                f"{format_number(row.observed)}, {where} the predicted 90 % band "
                f"from {format_number(row.low)} to {format_number(row.high)}.",
                caption=row.label,
                size=(4.4, 2.9),
            )
        )
    return images


def _doubt_images(fit: "Fit") -> list[Image]:
    images = [
        draw(
            lambda axes: plots.plot_noise_scales(fit, axes),
            alt="Noise scales of the strata against optimizer steps.",
            caption="Noise shared by all classes, shared by a class, and of individual samples.",
        ),
        encode(
            plots.figure_of(plots.plot_trace_rank(fit)),
            alt="Traces of the chains, and histograms of the ranks of their draws.",
            caption="Chains that agree give flat rank histograms within the grey band.",
        ),
    ]
    if "energy" in fit.data["sample_stats"]:
        images.append(
            draw(
                lambda axes: plots.plot_energy(fit, axes),
                alt="Distribution of the energy and of its changes from draw to draw.",
                caption="Energy of the sampler: the two distributions should be about equally wide.",
            )
        )
    return images


def _metric_rows(check: "Check") -> list[_MetricRow]:
    rows = []
    for metric, draws in check.predicted.items():
        predicted, observed = np.asarray(draws)[:, -1:], np.asarray(check.observed[metric])[-1:]
        finite = predicted[np.isfinite(predicted)]
        low, median, high = np.quantile(finite, [0.05, 0.5, 0.95]) if finite.size else (np.nan,) * 3
        rows.append(
            _MetricRow(
                label=plots.METRIC_LABELS.get(metric, metric).replace("\n", " "),
                observed=float(observed[0]),
                median=float(median),
                low=float(low),
                high=float(high),
                inside=bool(plots.inside_band(predicted, observed)[0]),
                p_value=float(np.asarray(check.p_values[metric])[-1]),
            )
        )
    return rows
