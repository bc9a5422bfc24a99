"""``lesde select``: which class of drift explains a run best."""

from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from data_tools.errors import InputError
from lesde_infer.cli.console import note, plain_table, prefixed, progress_bars, results_console
from lesde_infer.cli.failure import CommandError
from lesde_infer.cli.options import (
    Curve,
    Elasticity,
    ForceOption,
    GroupOption,
    Impact,
    JsonOption,
    LayerOption,
    SeedOption,
    UntilOption,
    choices,
)
from lesde_infer.cli.output_files import check_outputs, write_json

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import Console

    from lesde_infer.model_choice import DriftComparison

TITLES = {
    "total": "total",
    "class_means": "class means",
    "contrasts": "contrasts",
    "shared": "mean",
    "growth": "growth",
    "individual": "individual",
}
"""Groups of `lesde_infer.predictive_density`, as columns."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("select")(select)


def select(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Recording.")],
    impact: Annotated[str, typer.Option(metavar="R,I,L", help="Impacts to try, with commas.")] = "R,I,L",
    curve: Annotated[
        str, typer.Option(metavar="gp,power,constant", help="Curves to try, with commas.")
    ] = "gp,power,constant",
    elasticity: Annotated[
        str, typer.Option(metavar="homogeneous,matrix", help="Elasticities to try, with commas.")
    ] = "homogeneous,matrix",
    layer: LayerOption = None,
    group: GroupOption = "labels",
    until: UntilOption = None,
    seed: SeedOption = 0,
    json: JsonOption = None,
    force: ForceOption = False,
) -> None:
    """Fit every class of drift, and tell which explains the run best.

    Each is judged by its expected log predictive density (ELPD, PSIS-LOO over intervals); differences to the best come
    with their standard errors. Drifts that the recording does not support, or that do not converge, are named and left
    out. Eighteen fits by default: name fewer impacts, curves or elasticities to be quicker.
    """
    check_outputs([json], inputs=[file], force=force)
    combinations = list(
        product(
            choices("--impact", impact, Impact),
            choices("--elasticity", elasticity, Elasticity),
            choices("--curve", curve, Curve),
        )
    )
    from lesde_infer.inference import ConvergenceError
    from lesde_infer.inference import fit as run_fit
    from lesde_infer.model_choice import compare_drifts
    from lesde_infer.predictive_density import PredictiveDensity, expected_log_predictive_density

    # Only what comparisons need is kept of each fit: draws of all of them may not fit into memory.
    densities: dict[str, PredictiveDensity] = {}
    refused: dict[str, InputError] = {}
    unconverged: dict[str, str] = {}
    with progress_bars() as show:
        for done, (its_impact, its_elasticity, its_curve) in enumerate(combinations):
            name = f"{its_impact} {its_elasticity} {its_curve}"
            if show is not None:
                show("fits", done, len(combinations))
            try:
                fitted = run_fit(
                    file,
                    layer=layer,
                    impact=its_impact,
                    elasticity=its_elasticity,
                    curve=its_curve,
                    group=group,
                    within="isotropic",  # deviations are measured alike whatever the drift, so that ELPDs compare
                    until=until,
                    seed=seed,
                    progress=prefixed(show, name),
                )
                densities[name] = expected_log_predictive_density(fitted)
            except InputError as error:
                refused[name] = error
            except ConvergenceError as error:
                unconverged[name] = str(error)
        if show is not None:
            show("fits", len(combinations), len(combinations))
    if not densities and not unconverged:
        raise next(iter(refused.values()))
    left_out = {name: {"reason": str(error), "kind": "not supported"} for name, error in refused.items()}
    left_out |= {name: {"reason": reason, "kind": "not converged"} for name, reason in unconverged.items()}
    if not densities:
        raise CommandError(f"no fit can be compared; {next(iter(unconverged.values()))}")
    for name, why in left_out.items():
        note(f"{name} is left out: {why['reason']}")
    comparison = compare_drifts(densities)
    show_comparison(comparison, results_console(json))
    run = next(iter(densities.values())).run
    result: dict[str, Any] = {
        "file": str(file),
        "layer": run.layer,
        "group": run.group,
        "n_records": len(run.steps),
        "seed": seed,
        **comparison.to_json(),
        "left_out": left_out,
    }
    write_json(result, json, force=force)


def show_comparison(comparison: "DriftComparison", console: "Console") -> None:
    """Print ELPDs and differences, in total and by group, then which drift is best."""
    table = plain_table("Expected log predictive density (PSIS-LOO over intervals), best first")
    for heading in ("drift", "ELPD", "p_loo", "k too high", *(f"Δ {title}" for title in TITLES.values())):
        table.add_column(heading, justify="left" if heading == "drift" else "right", no_wrap=heading == "drift")
    for name in comparison.table["drift"].to_numpy():
        own = comparison.table.sel(drift=name)
        total = own.sel(group="total")
        table.add_row(
            str(name),
            f"{float(total['elpd']):.1f} ± {float(total['se']):.1f}",
            f"{float(total['p_loo']):.1f}",
            f"{float(total['pareto_k_bad_share']):.1%}",
            *(_behind(own.sel(group=group)) for group in TITLES),
        )
    console.print(table)
    console.print("Δ: behind the best of the column, ± standard error; – the best itself")
    console.print(comparison.sentence)
    for remark in comparison.notes:
        console.print(f"note: {remark}")
    for warning in comparison.warnings:
        console.print(f"warning: {warning}")


def _behind(own: "xr.Dataset") -> str:
    difference, error = float(own["difference"]), float(own["difference_se"])
    return "–" if difference == 0.0 else f"{difference:.1f} ± {error:.1f}"
