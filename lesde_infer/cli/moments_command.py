"""``lesde moments``, and the paper's estimators beside the posterior of ``lesde fit``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import numpy as np
import typer

from data_tools.errors import InputError
from lesde_infer.cli.console import note, plain_table, results_console, short_number
from lesde_infer.cli.options import ForceOption, GroupOption, JsonOption, LayerOption, SeedOption, UntilOption
from lesde_infer.cli.output_files import check_outputs, write_json

if TYPE_CHECKING:
    from rich.console import Console

    from lesde_infer.class_means import ClassMeans
    from lesde_infer.moments import Moments

ClosedFormImpact: TypeAlias = Literal["I", "L"]

SHOWN_RECORDS = 7


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("moments")(moments)


def moments(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Recordings: one run, or several of the same steps.")
    ],
    layer: LayerOption = None,
    impact: Annotated[
        ClosedFormImpact | None,
        typer.Option(help="Isotropic (I) or logits model (L); by default I, and L where features are logits."),
    ] = None,
    group: GroupOption = "labels",
    window: Annotated[int, typer.Option(min=1, help="Steps over which rates are smoothed.")] = 151,
    until: UntilOption = None,
    seed: SeedOption = 0,
    json: JsonOption = None,
    force: ForceOption = False,
) -> None:
    """Estimate elasticity by the paper's formulas.

    Points, with bootstrap intervals over runs if there are several. They know no noise: see docs/moments.md before they
    are held against a posterior.
    """
    check_outputs([json], inputs=files, force=force)
    from lesde_infer.class_means import read_class_means
    from lesde_infer.moments import estimate_moments

    means = read_class_means(list(files), layer, group, until=until)
    found, refused = {}, []
    for name in closed_form_impacts(means) if impact is None else [impact]:
        try:
            found[name] = estimate_moments(means, impact=name, window=window, seed=seed)
        except InputError as error:
            refused.append(error)
    if not found:
        raise refused[0]
    for refusal in refused:
        note(str(refusal))
    console = results_console(json)
    console.print(
        f"layer {means.layer} by {means.group}: {means.n_features} features, {means.n_classes} classes, "
        f"{len(means.steps)} records, {means.n_runs} run{'s' if means.n_runs > 1 else ''}"
    )
    for estimates in found.values():
        show_moments(estimates, console)
    result = {
        "files": [str(file) for file in files],
        "layer": means.layer,
        "group": means.group,
        "n_runs": means.n_runs,
        "n_classes": means.n_classes,
        "n_features": means.n_features,
        "n_records": len(means.steps),
        "seed": seed,
        "moments": {name: estimates.to_json() for name, estimates in found.items()},
    }
    write_json(result, json, force=force)


def closed_form_impacts(means: "ClassMeans") -> list[ClosedFormImpact]:
    """Return the impacts whose formulas a layer admits: L takes as many features as classes."""
    return ["I", "L"] if means.n_features == means.n_classes else ["I"]


def moments_beside_posterior(
    file: Path, layer: str, group: Literal["labels", "given_labels"], until: int | None
) -> dict[str, Any]:
    """Estimate by the paper's formulas what a fit inferred; numbers that are not defined are NaN, and notes say why.

    Returns
    -------
    dict
        By impact (``I``, and ``L`` where there are as many features as classes): ``A_end``, ``B_end``,
        ``tail_index_alpha``, ``tail_index_beta``, ``reversed_share`` and ``notes``.
    """
    from lesde_infer.class_means import read_class_means
    from lesde_infer.moments import estimate_moments

    names = ("A_end", "B_end", "tail_index_alpha", "tail_index_beta", "reversed_share")
    try:
        means = read_class_means(file, layer, group, until=until)
    except InputError as error:  # a fit that left samples out for gaps need not have any that all records hold
        return {"I": {**dict.fromkeys(names, float("nan")), "notes": [str(error)]}}
    found: dict[str, Any] = {}
    for name in closed_form_impacts(means):
        try:
            estimates = estimate_moments(means, impact=name).to_json()
            # The last note says that intervals over runs take several; a fit is of one.
            found[name] = {**{key: estimates[key] for key in names}, "notes": estimates["notes"][:-1]}
        except InputError as error:
            found[name] = {**dict.fromkeys(names, float("nan")), "notes": [str(error)]}
    return found


def show_beside_posterior(summary: dict[str, Any], console: "Console") -> None:
    """Print the estimates at the end of the record, the posterior of the same tail index, and what to doubt."""
    table = plain_table("The paper's estimators: points, without noise (lesde moments; docs/moments.md)")
    for heading in ("model", "Â(end)", "B̂(end)", "tail index of ∫α", "tail index of ∫β", "signs reversed"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for name, estimates in summary["moments"].items():
        values = [estimates[key] for key in ("A_end", "B_end", "tail_index_alpha", "tail_index_beta")]
        share = estimates["reversed_share"]
        table.add_row(name, *map(short_number, values), f"{share:.0%}" if np.isfinite(share) else "–")
    paper = summary["paper_tail_index"]
    interval = f"{short_number(paper['mean'])} ({short_number(paper['q05'])} to {short_number(paper['q95'])})"
    table.add_row(f"posterior ({summary['impact']})", "–", "–", interval, "–", "–")
    console.print(table)
    for name, estimates in summary["moments"].items():
        for remark in estimates["notes"]:
            console.print(f"note ({name}): {remark}")


def show_moments(estimates: "Moments", console: "Console") -> None:
    """Print estimates at a few records, tail indices, and what to doubt."""
    heading = "" if estimates.intervals is None else " (90 % interval over runs)"
    table = plain_table(f"The paper's estimators, {estimates.impact} model{heading}")
    for name in ("step", "Â = ∫α", "B̂ = ∫β", "α̂", "β̂"):
        table.add_column(name, justify="right")
    for record in np.unique(np.linspace(0, len(estimates.steps) - 1, SHOWN_RECORDS).round().astype(int)).tolist():
        point = int(np.abs(estimates.grid_steps - estimates.steps[record]).argmin())
        places = {"A": record, "B": record, "alpha": point, "beta": point}
        table.add_row(str(estimates.steps[record]), *(_at(estimates, name, place) for name, place in places.items()))
    console.print(table)
    for rate, tail in (("α", estimates.tail_index_alpha), ("β", estimates.tail_index_beta)):
        name = "tail_index_alpha" if rate == "α" else "tail_index_beta"
        console.print(f"tail index of ∫{rate}  {short_number(tail.value)}{_interval(estimates, name)}")
    for remark in estimates.notes:
        console.print(f"note: {remark}")


def _at(estimates: "Moments", name: str, place: int) -> str:
    """Write one point of a curve, and its interval if it has one."""
    return f"{short_number(float(getattr(estimates, name)[place]))}{_interval(estimates, name, place)}"


def _interval(estimates: "Moments", name: str, place: int | None = None) -> str:
    if estimates.intervals is None:
        return ""
    low, high = (float(bound if place is None else bound[place]) for bound in getattr(estimates.intervals, name))
    return f" ({short_number(low)} to {short_number(high)})"
