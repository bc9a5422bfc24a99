"""``lesde fit`` and ``lesde check``: infer elasticity, and compare what follows with what was recorded."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from data_tools.errors import InputError
from lesde_infer.cli.console import note, plain_table, progress_bars, results_console, short_number
from lesde_infer.cli.fleet_table import fit_fleet
from lesde_infer.cli.moments_command import moments_beside_posterior, show_beside_posterior
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
    PartsOption,
    SeedOption,
    TimeOption,
    UntilOption,
    WithinOption,
    numbers,
)
from lesde_infer.cli.output_files import check_outputs, write_json, write_text
from lesde_infer.cli.report_command import is_recording
from lesde_infer.cli.truth_table import show_truth

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from lesde_infer.fit_result import Fit

SHOWN_STEPS = 7
UNSETTLED = {
    "gamma": ("gamma_not_identified",),
    "alpha": ("gamma_not_identified", "beta_not_identified"),
    "beta": ("gamma_not_identified", "beta_not_identified"),
    "kappa": ("kappa_not_identified",),
}
"""Rates of the table, and the flags that say of each that it is not identified."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("fit")(fit)
    app.command("check")(check)


def fit(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="Recordings, or with --out-dir folders of recordings.")
    ],
    layer: LayerOption = None,
    impact: ImpactOption = "R",
    elasticity: ElasticityOption = "homogeneous",
    curve: CurveOption = "gp",
    group: GroupOption = "labels",
    within: WithinOption = "spanned",
    parts: PartsOption = "all",
    until: UntilOption = None,
    class_frequencies: FrequenciesOption = None,
    time: TimeOption = "recorded",
    drive: DriveOption = "auto",
    seed: SeedOption = 0,
    out: Annotated[
        Path | None, typer.Option(help="Keep the posterior in this file (.nc), to check and report.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(metavar="CSV", help="Write quantiles of the rates as a table.")] = None,
    out_dir: Annotated[
        Path | None,
        typer.Option(help="Fit many recordings, and keep posteriors in this folder; those that are there are taken."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="With --out-dir: recordings fitted at a time.")] = 1,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="A Dask scheduler, tcp://HOST:8786: its workers fit many recordings, or read a large one.",
        ),
    ] = None,
    json: JsonOption = None,
    allow_unconverged: AllowUnconvergedOption = False,
    cache: CacheOption = True,
    force: ForceOption = False,
) -> None:
    """Infer elasticity, and whether features separate.

    With --out-dir, of many runs: what fails is named and the rest goes on, and what was fitted is not fitted again.
    Exit code 1 means then that some run has no fit, 2 that none has.
    """
    options: dict[str, Any] = {
        "layer": layer,
        "impact": impact,
        "elasticity": elasticity,
        "curve": curve,
        "group": group,
        "within": within,
        "parts": parts,
        "until": until,
        "class_frequencies": None if class_frequencies is None else numbers("--class-frequencies", class_frequencies),
        "time": time,
        "drive": drive,
        "seed": seed,
        "allow_unconverged": allow_unconverged,
        "cache": cache,
    }
    if out_dir is not None:
        if out is not None or csv is not None:
            raise InputError("--out and --csv are for one recording; with --out-dir fits are called like recordings")
        fit_fleet(files, out_dir, options, workers=workers, scheduler=scheduler, json=json, force=force)
        return
    if workers > 1:
        raise InputError("--workers is for many recordings; say with --out-dir where their fits are kept")
    if files[0].is_dir():
        raise InputError(f"{files[0]}: is a folder; say with --out-dir where fits of what it holds are kept")
    if len(files) > 1:
        raise InputError(f"{len(files)} recordings: say with --out-dir where their fits are to be kept")
    file = files[0]
    check_outputs([out, json, csv], inputs=[file], force=force)
    from lesde_infer.inference import fit as run_fit

    with ExitStack() as stack:
        if scheduler is not None:
            from lesde_infer.distributed import connected, on_cluster

            options["elsewhere"] = on_cluster(stack.enter_context(connected(scheduler)))
        show = stack.enter_context(progress_bars())
        result = run_fit(file, progress=show, **options)
    if out is not None:
        result.save(out, force=force)
    summary = result.to_json()
    summary["moments"] = moments_beside_posterior(file, result.settings.layer, group, until)
    show_fit(result, summary, results_console(json))
    if csv is not None:
        write_text(csv, result.to_dataframe().to_csv(index=False), force=force)
    if out is not None and json != "-":
        print(f"\nposterior: {out}")
    write_json(summary, json, force=force)


def check(
    fitted: Annotated[Path, typer.Argument(metavar="FIT", help="Posterior made by lesde fit --out.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The recording that was fitted.")],
    n_draws: Annotated[int, typer.Option("--draws", min=2, help="Simulated runs.")] = 100,
    truth: Annotated[
        bool, typer.Option("--truth", help="Also compare γ with elasticity measured while the network trained.")
    ] = False,
    windows: Annotated[int, typer.Option(min=1, help="Windows of the record in which --truth compares.")] = 10,
    seed: SeedOption = 0,
    json: JsonOption = None,
    force: ForceOption = False,
) -> None:
    """Simulate a run again under its fit, and compare.

    Separation and collapse of the simulated features are held against those recorded: does the model say what
    happened? With --truth, inferred elasticity is held against that which lesde record --measure-elasticity-every
    measured: is the model right?
    """
    check_outputs([json], inputs=[fitted, file], force=force)
    if is_recording(fitted):
        raise InputError(f"{fitted}: is a recording, no fit; fit it first with `lesde fit {fitted} --out FIT`")
    from lesde_infer.fit_result import load
    from lesde_infer.predictive import check as run_check

    loaded, measured = load(fitted), None
    if truth:  # first, since simulations take longer than it takes to find that nothing was measured
        from lesde_infer.truth import check_truth

        measured = check_truth(loaded, file, n_windows=windows).to_json()
    result = run_check(loaded, file, n_draws=n_draws, seed=seed).to_json()
    console = results_console(json)
    show_check(result, console)
    if measured is not None:
        show_truth(measured, console)
        result["truth"] = measured
    write_json(result, json, force=force)


def show_fit(result: "Fit", summary: dict[str, Any], console: "Console") -> None:
    """Print the verdict, the curves at a few steps, and what to doubt."""
    from lesde_infer.prior_sensitivity import THRESHOLD
    from lesde_infer.time_axis import TIME_UNITS

    if not summary["converged"]:
        note("this fit did NOT converge; its numbers cannot be trusted")
    console.print(result.verdict().sentence)
    console.print(_curve_table(summary["curves"], TIME_UNITS[summary["time_unit"]], summary["flags"]))
    tail = summary["tail_index"]
    console.print(f"P(γ > 0 at the end)      {summary['probability_gamma_positive']:.3f}")
    if summary["parts"] == "all":
        console.print(f"P(all classes separable) {summary['probability_separable']:.3f}")
    console.print(f"tail index of γ          {tail['mean']:.2f} ({tail['q05']:.2f} to {tail['q95']:.2f})")
    console.print(
        f"sampler                  r-hat ≤ {summary['r_hat_max']:.3f}, ESS ≥ {summary['ess_bulk_min']:.0f} bulk and "
        f"{summary['ess_tail_min']:.0f} tail, {summary['divergences']} divergences, {summary['wall_seconds']:.0f} s"
    )
    if summary["elpd"] is not None:
        density = summary["elpd"]["total"]
        console.print(
            f"ELPD (PSIS-LOO)          {density['elpd']:.1f} ± {density['se']:.1f}, p_loo {density['p_loo']:.1f}; "
            "compare drifts with lesde select"
        )
    for warning in summary["elpd_warnings"]:
        console.print(f"note (ELPD): {warning}")
    for quantity, found in summary["prior_sensitivity"].items():
        if found["prior"] >= THRESHOLD:
            console.print(
                f"prior sensitivity of {quantity}: {found['diagnosis']} "
                f"(prior {found['prior']:.2f}, likelihood {found['likelihood']:.2f}; threshold {THRESHOLD})"
            )
    if summary["drive"] == "filtered":
        console.print("drive                    impacts filtered by the memory of momentum")
    shares = summary["class_frequencies"]
    if len(set(shares)) > 1:
        console.print(
            f"sampling frequencies     {', '.join(f'{share:.3g}' for share in shares)}: impacts are weighted by them"
        )
    show_beside_posterior(summary, console)
    for flag in summary["flags"]:
        console.print(f"flag {flag['name']}, steps {flag['start_step']} to {flag['stop_step']}: {flag['message']}")


def show_check(result: dict[str, Any], console: "Console") -> None:
    """Print observed and predicted metrics at the last step."""
    table = plain_table(f"At step {result['horizon_step']}, simulated from step {result['at_step']}")
    for heading in ("metric", "observed", "predicted", "90 % interval", "p-value"):
        table.add_column(heading, justify="left" if heading == "metric" else "right")
    for name, quantiles in result["predicted"].items():
        table.add_row(
            name.replace("_", " "),
            short_number(result["observed"][name]),
            short_number(quantiles["q50"]),
            f"{short_number(quantiles['q05'])} to {short_number(quantiles['q95'])}",
            short_number(result["p_values"][name]),
        )
    console.print(table)
    console.print(
        f"P(all classes separable) {result['probability_separable']:.3f} "
        f"± {result['probability_separable_error']:.3f}; observed: {'yes' if result['separable_observed'] else 'no'}"
    )


def _curve_table(curves: dict[str, Any], unit: str, flags: list[dict[str, Any]]) -> "Table":
    names = [name for name in UNSETTLED if name in curves]
    table = plain_table(f"Rates per {unit}: median (90 % interval); ?: not identified, see the flags")
    table.add_column("step", justify="right")
    for name in names:
        table.add_column({"gamma": "γ = α − β", "alpha": "α", "beta": "β", "kappa": "κ"}[name], justify="right")
    steps = curves["step"]
    for index in np.unique(np.linspace(0, len(steps) - 1, SHOWN_STEPS).round().astype(int)).tolist():
        table.add_row(
            f"{steps[index]:.0f}",
            *(
                f"{short_number(curves[name]['q50'][index])} "
                f"({short_number(curves[name]['q05'][index])} to {short_number(curves[name]['q95'][index])})"
                f"{' ?' if _is_unsettled(name, steps[index], flags) else ''}"
                for name in names
            ),
        )
    return table


def _is_unsettled(name: str, step: float, flags: list[dict[str, Any]]) -> bool:
    """Tell whether a flag says of a rate that the data do not identify it at a step."""
    return any(flag["name"] in UNSETTLED[name] and flag["start_step"] <= step <= flag["stop_step"] for flag in flags)
