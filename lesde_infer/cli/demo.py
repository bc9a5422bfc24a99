"""``lesde demo``: three real networks, from training to verdict, in a few minutes."""

import os
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from data_tools.errors import InputError
from lesde_infer.cli.console import Progress, plain_table, prefixed, progress_bars, results_console
from lesde_infer.cli.failure import BAD_INPUT, CommandError
from lesde_infer.cli.options import ForceOption, JsonOption, SeedOption
from lesde_infer.cli.output_files import check_outputs, write_json

if TYPE_CHECKING:
    from rich.console import Console

    from lesde_infer.report import ReportEntry

RECORDERS = 2  # trainings at a time; each uses one core

# glibc's allocator otherwise returns the memory of each small batch to the system, and asks for it again.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "1000000000", "MALLOC_TRIM_THRESHOLD_": "1000000000"}


@dataclass(frozen=True)
class DemoRun:
    """A training of the demo.

    Attributes
    ----------
    name
        What it is called on the page.
    stem
        Of its files.
    options
        Of `lesde record`.
    """

    name: str
    stem: str
    options: tuple[str, ...]


# All runs have the same number of records, so that one compiled sampler serves them all.
_COMMON = ("--architecture", "lenet", "--steps", "6000", "--every", "60", "--burst", "1", "--batch-size", "1")
_GEOMNIST = (*_COMMON, "--dataset", "geomnist", "--lr", "0.005")
RUNS = (
    DemoRun("shapes, true labels", "shapes", _GEOMNIST),
    DemoRun("shapes, random labels", "shapes-random", (*_GEOMNIST, "--label-noise", "0.6667")),
    DemoRun(
        "digits, true labels",
        "digits",
        (
            *(*_COMMON, "--dataset", "digits", "--n-classes", "3", "--lr", "0.005"),
            *("--train-per-class", "120", "--probe-per-class", "100", "--validation-per-class", "50"),
        ),
    ),
)
SHORTENED = (
    "Shortened against the paper's protocol: 6,000 steps instead of 10,000, recorded every 60, and one run each "
    "instead of 100. The digits (0, 1 and 2; 8×8 pixels) are no experiment of the paper."
)
QUESTION = (
    "Three networks of the same kind: shapes with their true labels, the same shapes with labels that say nothing "
    "(two thirds of them wrong), and handwritten digits. Which are locally elastic, and whose features separate?"
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo")(demo)


def demo(
    out_dir: Annotated[Path, typer.Option(help="Folder for all that is made; created if missing.")] = Path(
        "demo-results"
    ),
    seed: SeedOption = 0,
    json: JsonOption = None,
    force: ForceOption = False,
) -> None:
    """Train three small networks, fit, check, report.

    LeNet on drawn shapes with true and with random labels, and on real handwritten digits; ends with a table and one
    HTML page that compares them. Needs PyTorch: pip install 'lesde-infer[record]'.
    """
    if out_dir.exists() and not out_dir.is_dir():
        raise InputError(f"{out_dir}: is a file; name a folder with --out-dir")
    page, picture = out_dir / "report.html", out_dir / "overview.png"
    out_dir.mkdir(parents=True, exist_ok=True)
    made = [out_dir / f"{run.stem}{ending}" for run in RUNS for ending in (".h5", ".nc")]
    check_outputs([page, picture, *made, json], force=force)
    console = results_console(json)
    console.print(SHORTENED)
    clock = _Clock(console)
    with progress_bars() as show:
        results = _record_and_fit(out_dir, seed, clock, show, force)
    from lesde_infer.cli.demo_picture import draw_overview
    from lesde_infer.report import write_report

    with clock.stage("write report"):
        command = f"lesde demo --out-dir {out_dir} --seed {seed}"
        write_report(
            page, results, title="Local elasticity of three networks", question=QUESTION, command=command, force=True
        )
        draw_overview(results, picture)
    _show(results, console)
    clock.show_total()
    console.print(f"report: {page}\npicture: {picture}")
    write_json(_summary(results, clock), json, force=force)
    refused = [entry.name for entry in results if not entry.fit.diagnostics().converged]
    if refused:
        raise CommandError(f"the sampler did not converge for {', '.join(refused)}; no verdict is given there")


class _Clock:
    """Measures the stages, and says so as each ends."""

    def __init__(self, console: "Console") -> None:
        self.seconds: dict[str, float] = {}
        self._console = console
        self._start = time.perf_counter()

    @property
    def total(self) -> float:
        return time.perf_counter() - self._start

    def add(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = seconds
        self._console.print(f"{seconds:6.1f} s  {stage}")

    def stage(self, name: str) -> "_Stage":
        return _Stage(self, name)

    def show_total(self) -> None:
        self._console.print(f"{self.total:6.1f} s  in all ({RECORDERS} trainings run beside the fits)")


class _Stage:
    """Context that adds its own duration to a clock."""

    def __init__(self, clock: _Clock, name: str) -> None:
        self._clock, self._name = clock, name

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self._clock.add(self._name, time.perf_counter() - self._start)


def _record_and_fit(out_dir: Path, seed: int, clock: _Clock, show: Progress | None, force: bool) -> "list[ReportEntry]":
    """Fit each run as soon as it is recorded, while the next ones are still training."""
    pool = ThreadPoolExecutor(RECORDERS)
    try:
        recordings: list[Future[float]] = [
            pool.submit(_record, run, out_dir / f"{run.stem}.h5", seed, force) for run in RUNS
        ]
        from lesde_infer.inference import fit
        from lesde_infer.predictive import check
        from lesde_infer.report import ReportEntry

        entries = []
        for run, recording in zip(RUNS, recordings, strict=True):
            path = out_dir / f"{run.stem}.h5"
            clock.add(f"record {run.name}", recording.result())
            with clock.stage(f"fit {run.name}"):
                fitted = fit(path, seed=seed, allow_unconverged=True, progress=prefixed(show, run.name))
                fitted.save(path.with_suffix(".nc"), force=force)
            if not fitted.diagnostics().converged:
                entries.append(ReportEntry(run.name, fitted))
                continue
            with clock.stage(f"check {run.name}"):
                entries.append(ReportEntry(run.name, fitted, check(fitted, path, seed=seed)))
        return entries
    finally:
        pool.shutdown(cancel_futures=True)


def _record(run: DemoRun, out: Path, seed: int, force: bool) -> float:
    """Record a run in a process of its own; return the seconds it took."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "lesde_infer.cli", "record", "--out", str(out), "--seed", str(seed), *run.options]
    result = subprocess.run(  # noqa: S603  (this program itself)
        command + ["--force"] * force, capture_output=True, text=True, check=False, env={**KEEP_MEMORY, **os.environ}
    )
    if result.returncode:
        message = f"{run.name}: {result.stderr.removeprefix('lesde: ').strip()}"
        raise InputError(message) if result.returncode == BAD_INPUT else CommandError(message)
    return time.perf_counter() - start


def _show(results: "list[ReportEntry]", console: "Console") -> None:
    from lesde_infer.verdict import say_probability

    table = plain_table("Verdicts")
    for heading in ("network", "P(γ > 0)", "γ at the end (90 %)", "tail index", "P(separable)", "observed"):
        table.add_column(heading)
    for entry in results:
        if entry.check is None:
            table.add_row(entry.name, "refused")
            continue
        verdict = entry.fit.verdict()
        end, tail = verdict.gamma_end, verdict.tail_index
        table.add_row(
            entry.name,
            say_probability(verdict.probability_gamma_positive),
            f"{end.mean:.2g} ({end.q05:.2g} to {end.q95:.2g})",
            f"{tail.mean:.2g} ({tail.q05:.2g} to {tail.q95:.2g})",
            say_probability(verdict.probability_separable),
            "separable" if entry.check.separable_observed else "not separable",
        )
    console.print(table)
    for entry in results:
        if entry.check is None:
            console.print(f"{entry.name}: refused, {'; '.join(entry.fit.diagnostics().problems)}")
            continue
        flags = sorted({flag.name.replace("_", " ") for flag in entry.fit.flags})
        console.print(f"{entry.name}: {entry.fit.verdict().sentence} Flags: {', '.join(flags) or 'none'}.")


def _summary(results: "list[ReportEntry]", clock: _Clock) -> dict[str, Any]:
    return {
        "runs": {
            entry.name: {
                "fit": entry.fit.to_json(),
                "check": None if entry.check is None else entry.check.to_json(),
            }
            for entry in results
        },
        "stage_seconds": clock.seconds,
        "wall_seconds": clock.total,
        "shortened": SHORTENED,
    }
