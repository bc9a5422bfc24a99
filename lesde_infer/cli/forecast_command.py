"""``lesde forecast``: what follows the first part of a run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lesde_infer.cli.console import note, plain_table, progress_bars, results_console, short_number
from lesde_infer.cli.options import (
    AllowUnconvergedOption,
    CacheOption,
    CurveOption,
    DriveOption,
    ElasticityOption,
    ForceOption,
    FrequenciesOption,
    GroupOption,
    ImpactOption,
    JsonOption,
    LayerOption,
    SeedOption,
    TimeOption,
    WithinOption,
    numbers,
)
from lesde_infer.cli.output_files import check_outputs, write_json

if TYPE_CHECKING:
    from rich.console import Console


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("forecast")(forecast)


def forecast(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Recording.")],
    at: Annotated[
        float, typer.Option(help="Where the known part ends: a share of the recorded steps (0.3), or a step.")
    ],
    horizon: Annotated[
        int | None, typer.Option(metavar="STEP", help="Forecast up to this step; by default the last recorded.")
    ] = None,
    layer: LayerOption = None,
    impact: ImpactOption = "R",
    elasticity: ElasticityOption = "homogeneous",
    curve: CurveOption = "gp",
    group: GroupOption = "labels",
    within: WithinOption = "spanned",
    class_frequencies: FrequenciesOption = None,
    time: TimeOption = "recorded",
    drive: DriveOption = "auto",
    n_draws: Annotated[int, typer.Option("--draws", min=2, help="Simulated futures.")] = 100,
    seed: SeedOption = 0,
    plot: Annotated[Path | None, typer.Option(metavar="PNG", help="Draw what is predicted, and what came.")] = None,
    json: JsonOption = None,
    allow_unconverged: AllowUnconvergedOption = False,
    cache: CacheOption = True,
    force: ForceOption = False,
) -> None:
    """Fit the first part of a run, and simulate what follows.

    Nothing recorded later enters the forecast. Where the recording goes on, what was predicted is scored by the CRPS,
    beside metrics staying as they are (persistence), going on as they went (linearly in log t), and the paper's
    estimators continued.
    """
    check_outputs([json, plot], inputs=[file], force=force)
    from lesde_infer.forecasting import forecast as run_forecast

    with progress_bars() as show:
        result = run_forecast(
            file,
            at=at,
            horizon=horizon,
            layer=layer,
            impact=impact,
            elasticity=elasticity,
            curve=curve,
            group=group,
            within=within,
            class_frequencies=None if class_frequencies is None else numbers("--class-frequencies", class_frequencies),
            time=time,
            drive=drive,
            seed=seed,
            n_draws=n_draws,
            allow_unconverged=allow_unconverged,
            cache=cache,
            progress=show,
        )
    summary = result.to_json()
    show_forecast(summary, results_console(json))
    if plot is not None:
        from data_tools.new_file import written_whole
        from lesde_infer.plots_forecast import plot_forecast

        figure = plot_forecast(result)
        with written_whole(plot, force) as temporary:
            figure.savefig(temporary, format="png", dpi=150)
    write_json(summary, json, force=force)


def show_forecast(result: dict[str, Any], console: "Console") -> None:
    """Print metrics at the horizon, predicted and recorded, and what to doubt."""
    table = plain_table(f"At step {result['horizon_step']}, forecast from step {result['at_step']}")
    headings = ("metric", "at the start", "predicted", "90 % interval", "recorded", "CRPS", "persistence", "paper's")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "metric" else "right")
    for name, quantiles in result["predicted"].items():
        score = result["scores"].get(name, {})
        table.add_row(
            name.replace("_", " ") + (" (log)" if score.get("scale") == "log" else ""),
            short_number(result["start"][name]),
            short_number(quantiles["q50"]),
            f"{short_number(quantiles['q05'])} to {short_number(quantiles['q95'])}",
            short_number(result["observed"][name]),
            short_number(score.get("crps")),
            short_number(score.get("crps_persistence")),
            short_number(score.get("crps_paper")),
        )
    console.print(table)
    console.print(
        f"P(all classes separable) {result['probability_separable']:.3f} ± {result['probability_separable_error']:.3f}"
        + {None: "", True: "; recorded: yes", False: "; recorded: no"}[result["separable_observed"]]
    )
    separation = result["separation"]
    if separation["separable_at_start"]:
        console.print("all classes are separable already where the forecast starts")
    elif separation["first_step"]["q50"] is not None:
        first = {name: "later" if step is None else f"{step:.0f}" for name, step in separation["first_step"].items()}
        console.print(
            f"first separable at step {first['q50']} ({first['q05']} to {first['q95']}), "
            f"of the steps {', '.join(map(str, result['steps']))}"
        )
    lean = result["prior_weight"]
    ratios = next(iter(lean["posterior_to_prior_sd"].values()))
    console.print(
        f"extrapolated             {lean['log_time_extrapolated']:.0%} of log time; posterior over prior sd of the "
        f"rate of separation {ratios['at']:.2f} at the start, {ratios['horizon']:.2f} at the horizon"
    )
    if result["n_failed_draws"]:
        console.print(f"left out                 {result['n_failed_draws']} paths that diverged")
    for name, reason in result["metrics_left_out"].items():
        console.print(f"no {name.replace('_', ' ')}: {reason}")
    for remark in result["notes"]:
        note(remark)
