"""The report: refuses what it must, escapes what is hostile, loads nothing, and opens in a browser."""

import re
from types import SimpleNamespace

import pytest
from report_fakes import FakeSettings, make_check, make_fit
from report_page import HOSTILE, Page, opened, opens_without_complaint

from data_tools.errors import InputError
from lesde_infer.page import format_interval, format_number, format_probability
from lesde_infer.report import DEFAULT_QUESTION, ReportEntry, write_report


@pytest.fixture(scope="module")
def entries():
    flags = [SimpleNamespace(name="beta_not_identified", start_step=0, stop_step=1500, message="β is its prior here.")]
    return [
        ReportEntry("lenet", make_fit(flags=flags), make_check()),
        ReportEntry("mlp", make_fit(1)),
        ReportEntry("cnn", make_fit(2, converged=False), make_check(2)),
    ]


@pytest.fixture(scope="module")
def report(entries, tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "report.html"
    command = "lesde report lenet.nc mlp.nc cnn.nc --out report.html"
    assert write_report(out, entries, title="Three networks", command=command) == out
    return out


@pytest.fixture(scope="module")
def page(report):
    return Page(report.read_text(encoding="utf-8"))


def test_question_answer_evidence_doubts_and_provenance_are_there(page, entries):
    for words in (
        "Three networks",
        DEFAULT_QUESTION,
        "locally elastic, and its classes separate",
        "β is its prior here.",
        "beta not identified",
        "is predicted loosely",
        "lesde report lenet.nc",
        "ab" * 32,
        "homogeneous",
        "arXiv:2110.05960",
        "numpyro",
    ):
        assert words in page.text
    verdict = entries[0].fit.verdict()
    assert format_interval(verdict.gamma_end) in page.text
    assert format_probability(verdict.probability_separable) in page.text


def test_nothing_is_loaded_from_anywhere(page, report):
    assert page.attributes("script") == [{}]  # one, in the page itself
    (policy,) = [meta["content"] for meta in page.attributes("meta") if meta.get("http-equiv")]
    assert policy.startswith("default-src 'none';")
    assert "script-src 'sha256-" in policy
    assert all(image["src"].startswith("data:image/svg+xml;base64,") for image in page.attributes("img"))
    assert all(link["href"].startswith("data:") for link in page.attributes("link"))
    policy = next(meta for meta in page.attributes("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy["content"]
    assert "@import" not in report.read_text(encoding="utf-8")
    assert "url(" not in report.read_text(encoding="utf-8")


def test_images_have_alternatives_and_tables_have_headers(page):
    images = page.attributes("img")
    assert (
        len(images) == 2 + 4 + 3 + 1 + 3
    )  # two evidence plots, four metrics, three doubts; one and three without check
    assert all(len(image["alt"]) > 20 for image in images)
    assert all("aria-label" in table for table in page.attributes("table"))
    assert {header["scope"] for header in page.attributes("th")} == {"col", "row"}
    assert page.attributes("html") == [{"lang": "en"}]
    identities = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identities) == len(set(identities))
    targets = {link["href"][1:] for link in page.attributes("a") if link["href"].startswith("#")}
    assert targets <= set(identities)


def test_an_unconverged_fit_is_refused_and_shows_no_number_of_its_posterior(entries, tmp_path):
    refused = entries[2]
    page = Page(write_report(tmp_path / "r.html", [refused], title="t").read_text(encoding="utf-8"))
    assert "refused: not converged" in page.text
    assert "31 divergent transitions" in page.text
    assert not page.attributes("img")
    verdict = refused.fit.verdict()
    for value in (verdict.gamma_end.mean, verdict.gamma_end.q05, verdict.tail_index.mean, verdict.tail_index.q95):
        assert format_number(value) not in page.text
    assert "0.975" not in page.text
    assert "locally elastic, and its classes separate" not in page.text
    assert "Predicted and observed" not in page.text


def test_predictions_outside_their_band_are_said_to_be(page, report, entries):
    cells = re.findall(r'<td class="(?:yes|no)">(inside|outside)</td>', report.read_text(encoding="utf-8"))
    assert dict(zip(entries[0].check.predicted, cells, strict=True)) == {
        "linear_separability": "inside",
        "linear_accuracy": "inside",
        "nc1": "outside",
        "between_norm": "inside",
    }
    assert re.search(r"NC1: within-class variability \(no unit\)\s*0\.0400\s*outside", page.text)


def test_hostile_names_and_texts_are_escaped(tmp_path):
    flags = [SimpleNamespace(name=HOSTILE, start_step=0, stop_step=1, message=HOSTILE)]
    fit = make_fit(flags=flags, provenance={HOSTILE: HOSTILE}, settings=FakeSettings(layer=HOSTILE))
    out = write_report(
        tmp_path / "r.html", [ReportEntry(HOSTILE, fit)], title=HOSTILE, question=HOSTILE, command=HOSTILE
    )
    page = Page(out.read_text(encoding="utf-8"))
    assert page.attributes("script") == [{}]
    assert not [image for image in page.attributes("img") if "example.org" in image["src"]]
    assert page.text.count("alert('x')") >= 8


def test_the_same_fits_give_the_same_page(entries, tmp_path):
    first = write_report(tmp_path / "a.html", entries[1:2], title="t").read_bytes()
    assert write_report(tmp_path / "b.html", entries[1:2], title="t").read_bytes() == first


def test_an_existing_file_is_kept_unless_forced(entries, tmp_path):
    out = tmp_path / "r.html"
    out.write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        write_report(out, entries[2:], title="t")
    assert out.read_text() == "mine"
    write_report(out, entries[2:], title="t", force=True)
    assert "<h1>t</h1>" in out.read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]


def test_a_failure_half_way_leaves_nothing_behind(entries, tmp_path, monkeypatch):
    monkeypatch.setattr("data_tools.new_file.move_into_place", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_report(tmp_path / "r.html", entries[2:], title="t")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("names", "out", "message"),
    [
        ([], "r.html", "at least one fit"),
        (["a", "b", "a"], "r.html", "both called 'a'"),
        (["a"], "missing/r.html", "does not exist"),
    ],
)
def test_bad_input_is_named(entries, tmp_path, names, out, message):
    with pytest.raises(InputError, match=message):
        write_report(tmp_path / out, [ReportEntry(name, entries[2].fit) for name in names], title="t")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1.5, "1.50"),
        (-0.012345, "−0.0123"),
        (0.00012345, "1.23×10⁻⁴"),
        (999.6, "1,000"),
        (12345.6, "12,300"),
        (1e5, "100,000"),
        (-2.5e6, "−2.50×10⁶"),
        (4.56e-7, "4.56×10⁻⁷"),
        (float("nan"), "not defined"),
        (float("inf"), "∞"),
        (float("-inf"), "−∞"),
    ],
)
def test_numbers_are_written_as_prose_does(value, text):
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(1.0, "> 0.999"), (0.0, "< 0.001"), (0.5, "0.500"), (float("nan"), "not defined")]
)
def test_probabilities_never_claim_certainty(value, text):
    assert format_probability(value) == text


@pytest.mark.parametrize("width", [400, 900, 1600])
def test_the_page_opens_in_a_browser_without_complaint(report, tmp_path, width):
    opens_without_complaint(report, tmp_path, width)


def test_tables_are_sorted_by_what_their_cells_say(report, tmp_path):
    """Numbers as numbers, also with powers of ten, and back; a table with a cell across columns is left alone."""
    with opened(report, tmp_path, 900) as browser:
        tables = browser.find_elements("css selector", "table")
        sortable = [table for table in tables if table.find_elements("css selector", "th button")]
        assert sortable
        assert len(sortable) < len(tables)  # verdicts side by side hold a refused run, in one cell across columns
        versions = next(table for table in sortable if table.accessible_name.startswith("Versions"))
        buttons = versions.find_elements("css selector", "th button")
        column = "return [...arguments[0].tBodies[0].rows].map(row => row.cells[0].innerText)"
        before = browser.execute_script(column, versions)
        buttons[0].click()
        assert browser.execute_script(column, versions) == sorted(before, key=str.lower)
        buttons[0].click()
        assert browser.execute_script(column, versions) == sorted(before, key=str.lower, reverse=True)
        assert browser.get_log("browser") == []


def test_hostile_names_run_nothing_in_a_browser(tmp_path):
    """No alert opens, no image of theirs is there, and they are read as text."""
    entry = ReportEntry(HOSTILE, make_fit(), make_check())
    out = write_report(tmp_path / "hostile.html", [entry], title=HOSTILE, question=HOSTILE, command=HOSTILE)
    with opened(out, tmp_path, 900) as browser:
        assert browser.find_element("css selector", "h1").text == HOSTILE
        assert browser.execute_script("return document.scripts.length") == 1
        assert not browser.find_elements("css selector", "img:not([src^=data])")
        assert browser.get_log("browser") == []
