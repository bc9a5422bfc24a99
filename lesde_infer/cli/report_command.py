"""``lesde report``: one page on one or several fits."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import h5py
import typer

from data_tools.errors import InputError
from data_tools.recording_schema import FORMAT
from lesde_infer.cli.console import prefixed, progress_bars
from lesde_infer.cli.options import (
    AllowUnconvergedOption,
    CurveOption,
    ForceOption,
    GroupOption,
    ImpactOption,
    LayerOption,
    SeedOption,
    UntilOption,
)
from lesde_infer.cli.output_files import check_outputs

if TYPE_CHECKING:
    from lesde_infer.fit_result import Fit
    from lesde_infer.predictive import Check


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("report")(report)


def report(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="Fits (.nc) or recordings (.h5); NAME=FILE gives a name.")
    ],
    out: Annotated[Path, typer.Option(help="Page to make (.html).")],
    recordings: Annotated[
        list[Path] | None,
        typer.Option("--recording", metavar="FILE", help="The recording of each fit, in order; adds checks."),
    ] = None,
    title: Annotated[str, typer.Option(help="Title of the page.")] = "Local elasticity",
    layer: LayerOption = None,
    impact: ImpactOption = "R",
    curve: CurveOption = "gp",
    group: GroupOption = "labels",
    until: UntilOption = None,
    seed: SeedOption = 0,
    allow_unconverged: AllowUnconvergedOption = False,
    force: ForceOption = False,
) -> None:
    """Write up fits as one self-contained HTML page.

    The question, the answer, the evidence, the doubts. Recordings are fitted and checked first; the options from
    --layer on are for them.
    """
    named = [_named(argument) for argument in files]
    paths = [path for _, path in named]
    check_outputs([out], inputs=[*paths, *(recordings or [])], force=force)
    fits = [path for path in paths if not is_recording(path)]
    if recordings and len(recordings) != len(fits):
        raise InputError(f"{len(recordings)} --recording for {len(fits)} fits; give one for each fit, in order")
    recording_of = dict(zip(fits, recordings or [], strict=bool(recordings)))
    from lesde_infer.fit_result import load
    from lesde_infer.inference import fit as run_fit
    from lesde_infer.report import ReportEntry, write_report

    loaded = {path: load(path) for path in fits}  # what cannot be read is found out before anything is fitted
    entries = []
    with progress_bars() as show:
        for name, path in named:
            if path in loaded:
                entries.append(ReportEntry(name, loaded[path], _checked(loaded[path], recording_of.get(path), seed)))
                continue
            fitted = run_fit(
                path,
                layer=layer,
                impact=impact,
                curve=curve,
                group=group,
                until=until,
                seed=seed,
                allow_unconverged=allow_unconverged,
                progress=prefixed(show, name),
            )
            entries.append(ReportEntry(name, fitted, _checked(fitted, path, seed)))
    command = shlex.join(["lesde", "report", *files, "--out", str(out)])
    print(write_report(out, entries, title=title, command=command, force=force))


def is_recording(path: Path) -> bool:
    """Tell a recording from a fit, by content where it can be read, else by name; neither is trusted yet."""
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            return file.attrs.get("format") == FORMAT
    except (OSError, RuntimeError, ValueError):
        return path.suffix != ".nc"


def _named(argument: str) -> tuple[str, Path]:
    """Split NAME=FILE; a file is called by its name without the ending."""
    name, separator, path = argument.partition("=")
    if separator and not Path(argument).exists():
        return name, Path(path)
    return Path(argument).stem, Path(argument)


def _checked(fitted: "Fit", recording: Path | None, seed: int) -> "Check | None":
    """Check a fit against its recording, if that was given and there is a posterior to speak of."""
    if recording is None or not fitted.diagnostics().converged:
        return None
    from lesde_infer.predictive import check

    return check(fitted, recording, seed=seed)
