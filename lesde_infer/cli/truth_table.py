"""What ``lesde check --truth`` prints: the posterior beside elasticity measured on the live network."""

from typing import TYPE_CHECKING, Any

from lesde_infer.cli.console import plain_table, short_number

if TYPE_CHECKING:
    from rich.console import Console

COLUMNS = ("steps", "measured", "posterior (90 %)", "agree", "median step", "posterior", "step/tangent", "flag")


def show_truth(truth: dict[str, Any], console: "Console") -> None:
    """Print the windows, the totals, and what to know of the measurement.

    Parameters
    ----------
    truth : dict
        From `lesde_infer.truth.TruthCheck.to_json`.
    console : Console
        Where to print.
    """
    table = plain_table("γ per step, measured on the live network (mean ± standard error) and inferred")
    for heading in COLUMNS:
        table.add_column(heading, justify="left" if heading == "flag" else "right")
    for window in truth["windows"]:
        table.add_row(
            f"{window['start_step']} to {window['stop_step']}",
            f"{short_number(window['measured'])} ± {short_number(window['error'])}",
            f"{short_number(window['q50'])} ({short_number(window['q05'])} to {short_number(window['q95'])})",
            "yes" if window["compatible"] else "NO",
            f"{short_number(window['median']['measured'])} ± {short_number(window['median']['error'])}",
            short_number(window["median"]["q50"]),
            short_number(window["small_step_ratio"]),
            window["flag"] or "",
        )
    console.print(table)
    n_counted = truth["n_windows"] - truth["n_flagged"]
    flagged = f"; {truth['n_flagged']} flagged are not counted" if truth["n_flagged"] else ""
    if n_counted:
        n_agree = round(truth["coverage90"] * n_counted)
        console.print(f"agree at 90 %            {n_agree} of {n_counted} windows ({truth['coverage90']:.2f}){flagged}")
        console.print(f"posterior / measured     {short_number(truth['median_ratio'])} (median)")
        console.print(
            f"with median steps        {truth['coverage90_of_medians']:.2f} agree, posterior / measured "
            f"{short_number(truth['median_ratio_of_medians'])}"
        )
    else:
        console.print(f"agree at 90 %            no window to count{flagged}")
    if truth["explained"] is not None:
        console.print(_explained(truth["explained"]))
    for remark in truth["notes"]:
        console.print(f"note: {remark}")


def _explained(shares: dict[str, Any]) -> str:
    fitted = "" if shares["matrix"] is None else f"fitted matrix {short_number(shares['matrix'])}, "
    return (
        f"explained drift          {fitted}homogeneous {short_number(shares['homogeneous'])}, at best "
        f"{short_number(shares['best_constant_matrix'])} by a constant matrix fitted to the measurement and its noise, "
        f"{short_number(shares['held_out_constant_matrix'])} where it was not fitted (squared cosines, second half)"
    )
