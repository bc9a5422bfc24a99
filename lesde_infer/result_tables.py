"""Results as tables: data frames, CSV and LaTeX."""

import re
from typing import TYPE_CHECKING, Any

import pandas as pd

from lesde_infer.page import format_number
from lesde_infer.plots_comparison import LABELS
from lesde_infer.verdict import say_probability

if TYPE_CHECKING:
    from lesde_infer.comparison import Comparison

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}
_SIGNS = {"γ": r"\gamma", "∫": r"\int ", "−": "-", "±": r"\pm ", "<": "<", ">": ">"}
_POWERS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


def curve_table(curves: dict[str, Any]) -> pd.DataFrame:
    """Return the curves of a fit's JSON, a row a step, in columns such as ``gamma_q05`` and ``gamma_q95``."""
    columns: dict[str, Any] = {"step": curves["step"]}
    for name, quantiles in curves.items():
        if name != "step":
            columns |= {f"{name}_{quantile}": values for quantile, values in quantiles.items()}
    return pd.DataFrame(columns)


def contrast_table(comparison: "Comparison") -> pd.DataFrame:
    """Return the contrasts of a comparison, one a row."""
    return pd.DataFrame([vars(contrast) for contrast in comparison.contrasts])


def latex_tables(comparison: "Comparison") -> str:
    """Return means over runs and contrasts as two LaTeX tables, which need the package booktabs."""
    names = list(comparison.runs)
    means = [
        [
            LABELS[quantity],
            *(_mean(comparison, name, quantity) for name in names),
        ]
        for quantity in comparison.quantities
    ]
    contrasts = [
        [
            f"{own.a} − {own.b}",
            LABELS[own.quantity],
            f"{own.mean:.2f} ({own.q05:.2f} to {own.q95:.2f})".replace("-", "−"),
            say_probability(own.probability_greater, decimals=3),
            {"a greater": f"{own.a} greater", "b greater": f"{own.b} greater"}.get(own.verdict, own.verdict),
        ]
        for own in comparison.contrasts
    ]
    heads = [f"{name} ({len(comparison.runs[name])})" for name in names]
    return "\n".join(
        [
            _table(["quantity", *heads], means, "Means over runs (number of runs) with central 90 % intervals."),
            _table(
                ["a − b", "quantity", "difference (90 %)", "P(a > b)", "verdict"],
                contrasts,
                "Differences of logarithms, asinh, or (tail index) as they are.",
            ),
        ]
    )


def _mean(comparison: "Comparison", name: str, quantity: str) -> str:
    if quantity not in comparison.posteriors[name]:
        return "–"
    found = comparison.interval(name, quantity)
    low, middle, high = (format_number(found[key]) for key in ("q05", "mean", "q95"))
    return f"{middle} ({low} to {high})"


def _table(head: list[str], rows: list[list[str]], caption: str) -> str:
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex(caption)}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
        r"\toprule",
        *(" & ".join(map(_latex, row)) + r" \\" for row in [head]),
        r"\midrule",
        *(" & ".join(map(_latex, row)) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex(text: str) -> str:
    """Escape what LaTeX takes for its own, and write what it has no letter for."""
    escaped = "".join(_SPECIAL.get(letter, letter) for letter in text)
    escaped = re.sub("×10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)", _power_of_ten, escaped)
    return "".join(rf"\ensuremath{{{_SIGNS[letter]}}}" if letter in _SIGNS else letter for letter in escaped)


def _power_of_ten(found: re.Match[str]) -> str:
    return rf"\ensuremath{{\times 10^{{{found.group(1).translate(_POWERS)}}}}}"
