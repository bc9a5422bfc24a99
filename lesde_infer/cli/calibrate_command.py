"""``lesde calibrate``: whether the posteriors of runs like this one are what they say they are."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from data_tools.errors import InputError
from lesde_infer.cli.console import note, plain_table, progress_bars, results_console
from lesde_infer.cli.failure import CommandError
from lesde_infer.cli.options import (
    CurveOption,
    ElasticityOption,
    ForceOption,
    GroupOption,
    ImpactOption,
    JsonOption,
    LayerOption,
    SeedOption,
    UntilOption,
    WithinOption,
)
from lesde_infer.cli.output_files import check_outputs, write_json

if TYPE_CHECKING:
    from rich.console import Console

    from lesde_infer.calibration import Calibration

JOURNAL = "simulations.jsonl"
MOST_NAMED = 4  # quantities named in the line that says what is wrong


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("calibrate")(calibrate)


def calibrate(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]", help="Recording whose design is calibrated; by default a small simulated one."
        ),
    ] = None,
    layer: LayerOption = None,
    impact: ImpactOption = "R",
    elasticity: ElasticityOption = "homogeneous",
    curve: CurveOption = "gp",
    group: GroupOption = "labels",
    within: WithinOption = "spanned",
    until: UntilOption = None,
    burst: Annotated[
        int, typer.Option(min=1, help="Without FILE: consecutive records at a time; 1 spaces them evenly.")
    ] = 1,
    strata: Annotated[
        Literal["all", "class-means"],
        typer.Option(
            help="Calibrate all that is fitted, or what tells elasticity alone: the rest is the same for every impact."
        ),
    ] = "all",
    simulations: Annotated[int, typer.Option(min=2, help="Runs to simulate and fit.")] = 300,
    chains: Annotated[int, typer.Option(min=2, help="Chains of each fit.")] = 2,
    draws: Annotated[int, typer.Option(min=1, help="Draws of each chain; more where limits are missed.")] = 400,
    seed: SeedOption = 0,
    json: JsonOption = None,
    out_dir: Annotated[
        Path | None,
        typer.Option(help="Folder for pictures and for the simulations, with which a later call of the same goes on."),
    ] = None,
    force: ForceOption = False,
) -> None:
    """Simulate runs from the prior, fit them, and see whether intervals hold the truth as often as they say.

    Simulation-based calibration (Talts et al. 2018) of the very fits that `lesde fit` makes, with fewer draws. Exit
    code 1 means that the truth's ranks leave their simultaneous 95 % band for some quantity.
    """
    if out_dir is not None and out_dir.exists() and not out_dir.is_dir():
        raise InputError(f"{out_dir}: is a file; name a folder with --out-dir")
    check_outputs([json], inputs=[] if file is None else [file], force=force)
    from lesde_infer.calibration import calibrate as run_calibration
    from lesde_infer.calibration_template import recorded_template, simulated_template

    if file is None:
        if layer is not None or group != "labels" or until is not None:
            raise InputError("--layer, --group and --until are about a recording; give its FILE too, or leave them out")
        template = simulated_template(
            impact=impact, elasticity=elasticity, curve=curve, within=within, burst=burst, strata=strata
        )
    else:
        if burst != 1:
            raise InputError("--burst is about the simulated template; leave it out, since FILE is given")
        template = recorded_template(
            file,
            layer=layer,
            impact=impact,
            elasticity=elasticity,
            curve=curve,
            group=group,
            within=within,
            until=until,
            strata=strata,
        )
    if out_dir is not None:
        out_dir.mkdir(parents=True, exist_ok=True)
    with progress_bars() as show:
        result = run_calibration(
            template,
            n_simulations=simulations,
            seed=seed,
            n_chains=chains,
            n_draws=draws,
            journal=None if out_dir is None else out_dir / JOURNAL,
            force=force,
            progress=show,
        )
    show_calibration(result, results_console(json))
    if out_dir is not None:
        from lesde_infer.calibration_plots import save_pictures

        for path in save_pictures(result, out_dir):
            note(f"picture: {path}")
    write_json(result.to_json(), json, force=force)
    if wrong := result.miscalibrated:
        named = ", ".join(f"{name} ({result.checks[name].ranks.verdict})" for name in wrong[:MOST_NAMED])
        others = f" and {len(wrong) - MOST_NAMED} more" if len(wrong) > MOST_NAMED else ""
        raise CommandError(f"{len(wrong)} of {len(result.quantities)} quantities are miscalibrated: {named}{others}")


def show_calibration(result: "Calibration", console: "Console") -> None:
    """Print coverage and verdict of every quantity, and how many fits missed their limits."""
    from lesde_infer.rank_statistics import COVERAGE_LEVELS

    settings = result.settings
    table = plain_table(
        f"{len(result.simulations)} simulations: impact {settings['impact']}, {settings['elasticity']} elasticity, "
        f"curve {settings['curve']}, {settings['n_classes']} classes, {settings['n_records']} records"
    )
    table.add_column("quantity")
    for level in COVERAGE_LEVELS:
        table.add_column(f"in {100 * level:g} %", justify="right")
    for heading in ("z-score", "contraction", "p-value"):
        table.add_column(heading, justify="right")
    table.add_column("posterior is")
    for name, check in result.checks.items():
        table.add_row(
            name,
            *(f"{100 * check.ranks.coverage[level]:.1f}" for level in COVERAGE_LEVELS),
            f"{check.z_mean:.2f} ± {check.z_sd:.2f}",
            f"{check.contraction:.3f}",
            f"{check.ranks.p_value:.2g}",
            check.ranks.verdict,
        )
    table.add_section()
    errors = (f"± {100 * result.coverage_error(level):.1f}" for level in COVERAGE_LEVELS)
    table.add_row("Monte-Carlo error", *errors, "0 ± 1 is ideal", "", "", "")
    console.print(table)
    missed, least = len(result.unconverged), 100 * result.coverage_of_all(0.9).min()
    console.print(
        f"{missed} of {len(result.simulations)} fits missed a limit of the sampler and were left out, as such fits are "
        f"refused; of all, 90 % intervals hold at least {least:.1f} % of the truths"
        if missed
        else "every fit met the limits of the sampler"
    )
