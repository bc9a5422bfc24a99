"""One self-contained web page on a comparison of architectures: question, answer, evidence, doubts, provenance.

See `lesde_infer.page`. What is not settled is said to be open, with the number of further runs that would settle it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_tools.new_file import refuse_existing
from lesde_infer.page import Image, encode, format_number, write_page
from lesde_infer.plots_comparison import LABELS, plot_comparison

if TYPE_CHECKING:
    from lesde_infer.comparison import Comparison
    from lesde_infer.contrasts import Contrast

DEFAULT_QUESTION = "Is one architecture more locally elastic than another, beyond the chance of seeds?"
SCALES = {"asinh": "asinh", "log": "logarithm", "linear": "as it is"}


@dataclass(frozen=True)
class _Row:
    """Means over the runs of each architecture in one quantity; None where its runs do not tell it."""

    label: str
    cells: list[dict[str, float] | None]


@dataclass(frozen=True)
class _Difference:
    """A contrast, in words and numbers."""

    label: str
    contrast: "Contrast"
    scale: str
    verdict: str
    settled: bool
    further: str


def write_comparison_report(
    out: str | Path,
    comparison: "Comparison",
    *,
    title: str = "Architectures compared",
    question: str | None = None,
    command: str | None = None,
    settings: Mapping[str, Any] | None = None,
    force: bool = False,
) -> Path:
    """Write the report as one HTML file, which appears complete or not at all.

    Parameters
    ----------
    out : path
        File to write, in an existing folder.
    comparison : Comparison
        What `lesde_infer.compare` returned.
    title : str
        Title of the page.
    question : str, optional
        The question the report answers, in the reader's words.
    command : str, optional
        Command line that made it, for the record.
    settings : mapping, optional
        Settings of the fits, for the record.
    force : bool
        Replace an existing file.

    Raises
    ------
    InputError
        If the folder does not exist, or the file exists and may not be replaced.
    """
    path = Path(out)
    refuse_existing(path, force)
    summary = comparison.to_json()
    names = list(comparison.runs)
    differences = [_difference(contrast) for contrast in comparison.contrasts]
    return write_page(
        path,
        "comparison.html.j2",
        force=force,
        title=title,
        question=question or DEFAULT_QUESTION,
        command=command,
        settings=dict(settings or {}),
        names=names,
        n_runs={name: len(comparison.runs[name]) for name in names},
        architectures=summary["architectures"],
        rows=[
            _Row(LABELS[quantity], [summary["architectures"][name].get(quantity) for name in names])
            for quantity in comparison.quantities
        ],
        differences=differences,
        answers=_answers(differences),
        n_settled=sum(difference.settled for difference in differences),
        matrix=_matrix(comparison, next(iter(comparison.quantities), "")),
        matrix_label=LABELS.get(next(iter(comparison.quantities), ""), ""),
        picture=_picture(comparison),
        adequacy=[(name, found) for name in names for found in comparison.adequacy.get(name, [])],
        remarks=comparison.remarks,
        loss_level=comparison.loss_level,
        runs=[(name, run) for name in names for run in comparison.runs[name]],
        route=comparison.route,
    )


def _difference(contrast: "Contrast") -> _Difference:
    words = {
        "a greater": f"{contrast.a} greater",
        "b greater": f"{contrast.b} greater",
        "equivalent": "equivalent",
        "open": "open",
    }
    further = "more than 1,000 of each" if contrast.further_runs is None else f"{contrast.further_runs} of each"
    return _Difference(
        label=LABELS[contrast.quantity],
        contrast=contrast,
        scale=SCALES[contrast.scale],
        verdict=words[contrast.verdict],
        settled=contrast.verdict != "open",
        further="–" if contrast.further_runs == 0 else further,
    )


def _answers(differences: list[_Difference]) -> list[tuple[str, list[str], list[str]]]:
    """Return, for each pair of architectures, what is settled and what is open, in words."""
    pairs: dict[tuple[str, str], tuple[list[str], list[str]]] = {}
    for difference in differences:
        own = difference.contrast
        settled, still_open = pairs.setdefault((own.a, own.b), ([], []))
        if difference.settled:
            settled.append(f"{difference.label}: {difference.verdict}")
        else:
            likelier, probability = own.a, own.probability_greater
            if probability < 0.5:
                likelier, probability = own.b, 1.0 - probability
            still_open.append(f"{difference.label} ({likelier} greater with probability {probability:.2f})")
    return [(f"{a} and {b}", settled, still_open) for (a, b), (settled, still_open) in pairs.items()]


def _matrix(comparison: "Comparison", quantity: str) -> list[tuple[str, list[str]]]:
    """Return, for each architecture, how it compares with every other in a quantity; empty where none is compared."""
    cells: dict[tuple[str, str], str] = {}
    for own in comparison.contrasts:
        if own.quantity != quantity:
            continue
        for a, b, side, probability in (
            (own.a, own.b, "a greater", own.probability_greater),
            (own.b, own.a, "b greater", 1.0 - own.probability_greater),
        ):
            if own.verdict in ("equivalent", "open"):
                cells[a, b] = own.verdict if own.verdict == "equivalent" else f"open ({probability:.2f})"
            else:
                cells[a, b] = "greater" if own.verdict == side else "less"
    names = list(comparison.runs)
    return [(a, [cells.get((a, b), "–") for b in names]) for a in names] if cells else []


def _picture(comparison: "Comparison") -> Image:
    figure = plot_comparison(comparison)
    medians = [
        f"{name} {format_number(comparison.interval(name, quantity)['mean'])}"
        for quantity in list(comparison.quantities)[:1]
        for name in comparison.runs
        if quantity in comparison.posteriors[name]
    ]
    first = LABELS[next(iter(comparison.quantities))]
    return encode(
        figure,
        alt=f"Runs of each architecture, and their means, in all quantities. {first}: {', '.join(medians)}.",
        caption="Points are runs, with one standard deviation of what each run tells; bars are means over runs with "
        "50 % and 90 % intervals.",
    )
