"""Results as data frames, CSV and LaTeX: the numbers are those of the JSON, and LaTeX takes them."""

import csv
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from compared_fits import made_up_fit

from lesde_infer.cli import main
from lesde_infer.comparison import compare
from lesde_infer.result_tables import _latex, contrast_table, curve_table, latex_tables


@pytest.fixture(scope="module")
def result():
    rng = np.random.default_rng(0)
    return compare(
        {
            name: [made_up_fit(size * factor * np.exp(0.1 * rng.normal()), seed=i) for i in range(3)]
            for name, factor, size in (("le_net & co", 1.0, 5e-6), ("mlp", 3.0, 5e-6))
        }
    )


def test_contrasts_are_those_of_the_json(result):
    table = contrast_table(result)
    listed = result.to_json()["contrasts"]
    assert len(table) == len(listed)
    for row, own in zip(table.to_dict("records"), listed, strict=True):
        assert {name: row[name] for name in ("a", "b", "quantity", "verdict")} == {
            name: own[name] for name in ("a", "b", "quantity", "verdict")
        }
        assert row["mean"] == own["mean"]
        assert row["probability_greater"] == own["probability_greater"]
    pd.testing.assert_frame_equal(table, result.to_dataframe())


def test_curves_are_those_of_the_json():
    fit = made_up_fit(np.linspace(0.01, 0.1, 50))
    table = fit.to_dataframe()
    assert list(table.columns) == ["step", "gamma_q05", "gamma_q50", "gamma_q95"]
    np.testing.assert_allclose(table["gamma_q50"], fit.posterior["gamma"].median(["chain", "draw"]))
    assert table["step"].is_monotonic_increasing
    assert curve_table({"step": [1.0], "gamma": {"q05": [0.0]}}).to_dict("list") == {"step": [1.0], "gamma_q05": [0.0]}


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("4.56×10⁻⁷ (−1 to 2)", r"4.56\ensuremath{\times 10^{-7}} (\ensuremath{-}1 to 2)"),
        ("∫γ dt", r"\ensuremath{\int }\ensuremath{\gamma} dt"),
        ("a_b & 50 % {x} \\ #1 $", r"a\_b \& 50 \% \{x\} \textbackslash{} \#1 \$"),
        ("> 0.999", r"\ensuremath{>} 0.999"),
    ],
)
def test_letters_are_written_as_latex_takes_them(text, written):
    assert _latex(text) == written


def test_latex_has_all_rows_and_nothing_it_does_not_take(result):
    text = latex_tables(result)
    assert text == result.to_latex()
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2
    assert r"le\_net \& co" in text
    assert len(re.findall(r" \\\\$", text, re.MULTILINE)) == 2 + len(result.quantities) + len(result.contrasts)
    assert "$$" not in text
    assert all(letter.isascii() or letter == "–" for letter in text)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(result, tmp_path):
    head, end = r"\documentclass{article}\usepackage{booktabs}\begin{document}", r"\end{document}"
    (tmp_path / "t.tex").write_text("\n".join([head, latex_tables(result), end]))
    subprocess.run(["pdflatex", "-halt-on-error", "t.tex"], cwd=tmp_path, check=True, capture_output=True, timeout=120)


def test_the_command_writes_both(tmp_path, capsys):
    arguments = []
    for name, gamma in (("flat", 0.02), ("steep", 0.2)):
        files = []
        for seed in range(2):
            fit = made_up_fit(gamma, seed=seed)
            fit.data.attrs.update(format="lesde-fit", version=1)
            files.append(str(fit.save(tmp_path / f"{name}-{seed}.nc")))
        arguments.append(f"{name}={','.join(files)}")
    table, latex = tmp_path / "t.csv", tmp_path / "t.tex"
    assert main(["compare", *arguments, "--csv", str(table), "--latex", str(latex)]) == 0
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert {row["quantity"] for row in rows} >= {"gamma_end", "tail_index"}
    assert r"\toprule" in latex.read_text()
    capsys.readouterr()
    assert main(["compare", *arguments, "--csv", str(table)]) == 2
    assert "exists" in capsys.readouterr().err
