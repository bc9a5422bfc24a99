"""The page on a comparison: what is settled, what is open, what it rests on; hostile names; a browser's view."""

import numpy as np
import pytest
from compared_fits import made_up_fit
from report_page import HOSTILE, Page, opens_without_complaint

from data_tools.errors import InputError
from lesde_infer.comparison import compare
from lesde_infer.comparison_report import DEFAULT_QUESTION, write_comparison_report
from lesde_infer.model_adequacy import Adequacy, RunAdequacy


def study(names=("lenet", "mlp"), ratio=3.0, n_runs=4):
    rng = np.random.default_rng(0)
    return {
        name: [made_up_fit(0.05 * factor * np.exp(0.1 * rng.normal()), seed=i) for i in range(n_runs)]
        for name, factor in zip(names, (1.0, ratio, 1.0), strict=False)
    }


@pytest.fixture(scope="module")
def result():
    found = compare(study())
    run = RunAdequacy("run", "R", "I", -0.4, 0.1, 50, 0.02, ())
    found.adequacy["mlp"] = [Adequacy("R", "I", -0.4, 0.1, 4, (run,))]
    return found


@pytest.fixture(scope="module")
def path(result, tmp_path_factory):
    out = tmp_path_factory.mktemp("comparison") / "page.html"
    return write_comparison_report(
        out,
        result,
        command="lesde compare lenet=a.h5 mlp=b.h5 --report page.html",
        settings={"impact": "R", "layer": None},
    )


@pytest.fixture(scope="module")
def page(path):
    return Page(path.read_text(encoding="utf-8"))


def test_answer_evidence_doubts_and_provenance_are_there(page):
    for words in (
        DEFAULT_QUESTION,
        "Settled: γ at the end: mlp greater",
        "lenet − mlp",
        "Open: tail index of γ",
        "of each",
        "−0.400 ± 0.100",
        "2.0 %",
        "γ is not compared at equal loss",
        "lesde compare lenet=a.h5",
        "two-stage",
        "arXiv:2110.05960",
        "numpyro",
    ):
        assert words in page.text


def test_numbers_are_those_of_the_comparison(page, result):
    found = next(contrast for contrast in result.contrasts if contrast.quantity == "gamma_end")
    assert f"{found.probability_greater:.3f}" in page.text or "< 0.001" in page.text
    assert f"{abs(found.mean):.2f}" in page.text


def test_nothing_is_loaded_and_everything_is_labelled(page, path):
    assert page.attributes("script") == [{}]
    images = page.attributes("img")
    assert len(images) == 1
    assert images[0]["src"].startswith("data:image/svg+xml;base64,")
    assert "lenet" in images[0]["alt"]
    assert all("aria-label" in table for table in page.attributes("table"))
    assert {header["scope"] for header in page.attributes("th")} == {"col", "row"}
    targets = {link["href"][1:] for link in page.attributes("a") if link["href"].startswith("#")}
    assert targets <= {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert "url(" not in path.read_text(encoding="utf-8")


def test_without_rivals_it_says_how_to_try_them(tmp_path):
    text = write_comparison_report(tmp_path / "p.html", compare(study())).read_text(encoding="utf-8")
    assert "--rivals I,L" in text


def test_hostile_names_are_escaped(tmp_path):
    text = write_comparison_report(
        tmp_path / "p.html", compare(study((HOSTILE, "mlp"))), title=HOSTILE, command=HOSTILE
    ).read_text(encoding="utf-8")
    assert text.count("<script") == 1  # the one that sorts tables
    assert "<img src=http" not in text


def test_the_same_comparison_gives_the_same_page(result, path, tmp_path):
    again = write_comparison_report(
        tmp_path / "p.html",
        result,
        command="lesde compare lenet=a.h5 mlp=b.h5 --report page.html",
        settings={"impact": "R", "layer": None},
    )
    assert again.read_bytes() == path.read_bytes()


def test_a_page_that_is_there_is_not_replaced(result, path):
    with pytest.raises(InputError, match="exists"):
        write_comparison_report(path, result)


@pytest.mark.parametrize("width", [400, 900, 1600])
def test_the_comparison_opens_in_a_browser_without_complaint(path, tmp_path, width):
    opens_without_complaint(path, tmp_path, width)
