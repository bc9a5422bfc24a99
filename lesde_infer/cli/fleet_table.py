"""``lesde fit … --out-dir``: many runs, a line each."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from lesde_infer.cli.console import note, plain_table, progress_bars, results_console, short_number
from lesde_infer.cli.failure import BAD_INPUT, FAILURE
from lesde_infer.cli.output_files import check_outputs, write_json

if TYPE_CHECKING:
    from rich.console import Console

    from lesde_infer.fleet import Fleet


def fit_fleet(
    sources: list[Path],
    folder: Path,
    options: dict[str, Any],
    *,
    workers: int,
    scheduler: str | None,
    json: str | None,
    force: bool,
) -> None:
    """Fit many recordings, print what came of each, and exit with 1 if some has no fit, 2 if none has."""
    from lesde_infer.fleet import find_recordings, fit_many

    paths = find_recordings(sources)
    check_outputs([json], inputs=paths, force=force)
    with progress_bars() as show:
        fleet = fit_many(paths, folder, workers=workers, scheduler=scheduler, force=force, progress=show, **options)
    for run in fleet.runs:
        if run.message:
            note(run.message)
    show_fleet(fleet, results_console(json))
    write_json(fleet.to_json(), json, force=force)
    if not fleet.with_fit and fleet.count("refused") == len(fleet.runs):
        raise typer.Exit(BAD_INPUT)
    if len(fleet.with_fit) < len(fleet.runs):
        raise typer.Exit(FAILURE)


def show_fleet(fleet: "Fleet", console: "Console") -> None:
    """Print a line for each run, then how many have a fit."""
    table = plain_table("γ at the end per unit of time, and probabilities")
    for heading in ("recording", "fit", "records", "γ (90 % interval)", "P(γ > 0)", "P(separable)", "tail index"):
        table.add_column(heading, justify="left" if heading in ("recording", "fit") else "right")
    for run in fleet.runs:
        own = run.summary
        if not own:
            table.add_row(run.recording.name, run.status, *["–"] * 5)
            continue
        gamma = own["gamma_end"]
        table.add_row(
            run.recording.name,
            run.status,
            str(own["n_records"]),
            f"{short_number(gamma['mean'])} ({short_number(gamma['q05'])} to {short_number(gamma['q95'])})",
            f"{own['probability_gamma_positive']:.3f}",
            f"{own['probability_separable']:.3f}",
            f"{own['tail_index']['mean']:.2f}",
        )
    console.print(table)
    console.print(f"{len(fleet.with_fit)} of {len(fleet.runs)} recordings have a fit")
