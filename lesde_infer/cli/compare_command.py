"""``lesde compare``: whether one architecture is more elastic than another, or that is the chance of seeds."""

import dataclasses
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from data_tools.errors import InputError
from lesde_infer.cli.console import note, plain_table, prefixed, progress_bars, results_console, short_number
from lesde_infer.cli.options import (
    CacheOption,
    CurveOption,
    DriveOption,
    ElasticityOption,
    ForceOption,
    GroupOption,
    Impact,
    ImpactOption,
    JsonOption,
    LayerOption,
    SeedOption,
    TimeOption,
    UntilOption,
    choices,
)
from lesde_infer.cli.output_files import check_outputs, write_json, write_text

if TYPE_CHECKING:
    from rich.console import Console

    from lesde_infer.comparison import Comparison
    from lesde_infer.fleet_run import FleetRun

Route = Literal["two-stage", "joint", "quick"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("compare")(compare)


def compare(
    architectures: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME=FILE[,FILE…] …", help="Recordings, or posteriors (.nc), of the runs of each architecture."
        ),
    ],
    layer: LayerOption = None,
    impact: ImpactOption = "R",
    elasticity: ElasticityOption = "homogeneous",
    curve: CurveOption = "gp",
    group: GroupOption = "labels",
    until: UntilOption = None,
    time: TimeOption = "recorded",
    drive: DriveOption = "auto",
    loss: Annotated[
        float | None,
        typer.Option(
            help="Loss (nats) at which γ is compared; by default one that most architectures pass in all runs."
        ),
    ] = None,
    route: Annotated[
        Route,
        typer.Option(
            help="Runs put together from means and errors of fits, from all draws by NUTS, or from quick estimates, "
            "for which nothing is fitted."
        ),
    ] = "two-stage",
    allow_different_data: Annotated[
        bool, typer.Option("--allow-different-data", help="Compare in spite of other probe sets or label noise.")
    ] = False,
    out_dir: Annotated[
        Path | None, typer.Option(help="Keep fits in this folder, and use those that are there.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Runs fitted at a time; by default one a core.")] = None,
    rivals: Annotated[
        str | None,
        typer.Option(
            metavar="I,L", help="Impacts under which runs are fitted as well, to see whether they explain more."
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="HTML", help="Write the comparison up as one self-contained page.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(metavar="CSV", help="Write the differences as a table.")] = None,
    latex: Annotated[Path | None, typer.Option(metavar="TEX", help="Write means and differences as LaTeX.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="PNG", help="Draw runs and means of all quantities.")] = None,
    seed: SeedOption = 0,
    json: JsonOption = None,
    cache: CacheOption = True,
    force: ForceOption = False,
) -> None:
    """Compare architectures, each known by one or more training runs.

    Every run is fitted; γ at the end, at half of training and at equal loss, its integral and tail index, the step from
    which classes are separable, and collapse at the end are compared, with the chance from run to run learned from the
    runs of each. Runs that cannot be fitted are named and left out. The result says of each difference whether it is
    settled, and how many further runs would settle it.
    """
    runs = parse_architectures(architectures)
    inputs = [path for paths in runs.values() for path in paths]
    for path in inputs:
        if not path.is_file():
            raise InputError(f"{path}: no such file; give recordings, or fits made by `lesde fit --out`")
    check_outputs([json, plot, report, csv, latex], inputs=inputs, force=force)
    others = [] if rivals is None else choices("--rivals", rivals, Impact)
    from lesde_infer.comparison import compare as run_compare
    from lesde_infer.cores import n_cores
    from lesde_infer.fleet import fit_many

    options: dict[str, Any] = {
        "layer": layer,
        "elasticity": elasticity,
        "curve": curve,
        "group": group,
        "until": until,
        "time": time,
        "drive": drive,
        "parts": "all" if others else "rates",
    }
    if route == "quick":
        chosen = (impact, elasticity, curve, group, until, time, drive, out_dir, rivals)
        if chosen != ("R", "homogeneous", "gp", "labels", None, "recorded", "auto", None, None):
            raise InputError("--route quick fits nothing and takes no option of fits but --layer; leave out the others")
        options = {"layer": layer}
    recordings = [path for path in inputs if path.suffix != ".nc" and route != "quick"]
    with progress_bars() as show, _folder(out_dir) as folder:
        fits: dict[tuple[Path, str], FleetRun] = {}
        for of_impact in dict.fromkeys([impact, *others]) if recordings else []:
            fleet = fit_many(
                recordings,
                folder if of_impact == impact else folder / of_impact,
                workers=min(n_cores() if workers is None else workers, len(recordings)),
                seed=seed,
                force=force,
                progress=prefixed(show, of_impact),
                impact=of_impact,
                cache=cache,
                **options,
            )
            fits |= {(run.recording, of_impact): run for run in fleet.runs}
        result = run_compare(
            runs,
            loss=loss,
            route=route,
            allow_different_data=allow_different_data,
            seed=seed,
            rivals=others,
            **(
                options
                if route == "quick"
                else {"fit_run": lambda path, of_impact: fits[path, of_impact].load(), "impact": impact}
            ),
        )
    for remark in result.remarks:
        note(remark)
    show_comparison(result, results_console(json))
    if plot is not None:
        from data_tools.new_file import written_whole
        from lesde_infer.plots_comparison import plot_comparison

        figure = plot_comparison(result)
        with written_whole(plot, force) as temporary:
            figure.savefig(temporary, format="png", dpi=150)
    if csv is not None:
        write_text(csv, result.to_dataframe().to_csv(index=False), force=force)
    if latex is not None:
        write_text(latex, result.to_latex(), force=force)
    if report is not None:
        from lesde_infer.comparison_report import write_comparison_report

        write_comparison_report(
            report,
            result,
            command=shlex.join(["lesde", "compare", *architectures, "--report", str(report)]),
            settings={**options, "impact": impact, "seed": seed},
            force=force,
        )
    write_json({**result.to_json(), "seed": seed}, json, force=force)


def parse_architectures(arguments: list[str]) -> dict[str, list[Path]]:
    """Read NAME=FILE,FILE… arguments.

    Raises
    ------
    InputError
        If one is not of that form, a name comes twice, a file comes twice, or there are fewer than two.
    """
    found: dict[str, list[Path]] = {}
    for argument in arguments:
        name, separator, files = argument.partition("=")
        paths = [Path(file) for file in files.split(",") if file]
        if not separator or not name or not paths:
            raise InputError(f"'{argument}' names no architecture and its runs; write NAME=FILE,FILE…")
        if name in found:
            raise InputError(f"architecture '{name}' is given twice; list its runs once, with commas")
        found[name] = paths
    seen: dict[Path, str] = {}
    for name, paths in found.items():
        for path in paths:
            if path.resolve() in seen:
                raise InputError(f"{path}: is given for {seen[path.resolve()]} and for {name}; a run counts once")
            seen[path.resolve()] = name
    if len(found) < 2:
        raise InputError("one architecture is nothing to compare; give two or more, as NAME=FILE,FILE…")
    return found


@contextmanager
def _folder(chosen: Path | None) -> Iterator[Path]:
    """Return the folder in which fits are kept: that chosen, or one that is gone in the end."""
    if chosen is not None:
        yield chosen
        return
    with TemporaryDirectory(prefix="lesde-compare-") as folder:
        yield Path(folder)


def show_comparison(result: "Comparison", console: "Console") -> None:
    """Print what is known of each architecture, then the contrasts."""
    from lesde_infer.plots_comparison import LABELS

    summary = result.to_json()
    names = list(summary["architectures"])
    table = plain_table("Means over runs (90 % interval); sd: from run to run, on the scale of the difference")
    table.add_column("quantity")
    for name in names:
        table.add_column(f"{name} ({summary['architectures'][name]['n_runs']})", justify="right")
    for quantity in result.quantities:
        cells = []
        for name in names:
            own = summary["architectures"][name].get(quantity)
            cells.append(
                "–"
                if own is None
                else f"{short_number(own['mean'])} ({short_number(own['q05'])} to {short_number(own['q95'])}), "
                f"sd {own['between_run_sd']['q50']:.2g}"
            )
        table.add_row(LABELS[quantity], *cells)
    console.print(table)
    for name in names:
        own = summary["architectures"][name]
        if own["probability_elastic"] is not None:
            console.print(
                f"P({name} is elastic at the end) {own['probability_elastic']:.3f}; a further run of it "
                f"{own['probability_elastic_next_run']:.3f}"
            )
    table = plain_table("Differences a − b, of logarithms, asinh, or (tail index) as they are")
    for heading in ("a − b", "quantity", "difference (90 %)", "P(a > b)", "P(within 25 %)", "verdict", "further runs"):
        table.add_column(heading, justify="left" if heading in ("a − b", "quantity", "verdict") else "right")
    for contrast in map(dataclasses.asdict, result.contrasts):
        further = contrast["further_runs"]
        verdicts = {f"{side} greater": f"{contrast[side]} greater" for side in ("a", "b")}
        table.add_row(
            f"{contrast['a']} − {contrast['b']}",
            LABELS[contrast["quantity"]],
            f"{contrast['mean']:.2f} ({contrast['q05']:.2f} to {contrast['q95']:.2f})",
            f"{contrast['probability_greater']:.3f}",
            f"{contrast['probability_equivalent']:.3f}",
            verdicts.get(contrast["verdict"], contrast["verdict"]),
            "–" if further == 0 else "> 1000" if further is None else f"{further} of each",
        )
    console.print(table)
    for name, adequacies in result.adequacy.items():
        for found in adequacies:
            console.print(
                f"{name}: ELPD of class means under {found.impact} less that under {found.rival}: "
                f"{found.difference:.3f} ± {found.error:.3f} nats an interval ({found.n_runs} runs)"
            )
