"""``lesde reduce``: keep of a recording what fits need, at a few kilobytes a record."""

from pathlib import Path
from typing import Annotated

import typer

from lesde_infer.cli.console import printable, progress_bars, results_console
from lesde_infer.cli.options import ForceOption, JsonOption, SeedOption
from lesde_infer.cli.output_files import check_outputs, write_json


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("reduce")(reduce)


def reduce(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Recording.")],
    out: Annotated[Path, typer.Option(help="Recording to make.")],
    layer: Annotated[
        list[str] | None, typer.Option(help="Layer whose statistics are kept; repeat for more; all by default.")
    ] = None,
    impact: Annotated[
        list[str] | None,
        typer.Option(metavar="[R|L|I]", help="Impact to keep statistics for; repeat; all that fit by default."),
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(metavar="[labels|given_labels]", help="Grouping to keep; repeat for more; both by default."),
    ] = None,
    keep: Annotated[int, typer.Option(min=2, help="Samples of each class whose features are kept.")] = 50,
    seed: SeedOption = 0,
    json: JsonOption = None,
    force: ForceOption = False,
) -> None:
    """Reduce a recording: statistics of all samples, and the features of a few.

    What is kept is fitted as the whole recording is, with the same posterior. Checks, metrics and pictures are of the
    samples kept. What needs other statistics than were kept is refused.
    """
    check_outputs([out, json], inputs=[file], force=force)
    from lesde_infer.reduction import Reduction, reduce_recording

    reduction = Reduction(
        layers=layer or None,
        impacts=impact or None,
        groups=group or ("labels", "given_labels"),
        keep_per_class=keep,
        seed=seed,
    )
    with progress_bars() as show:
        reduce_recording(file, out, reduction, progress=show, force=force)
    before, after = file.stat().st_size, out.stat().st_size
    line = f"{file} ({before / 1e6:.3g} MB) reduced to {out} ({after / 1e6:.3g} MB)"
    results_console(json).print(printable(line))
    write_json({"file": str(file), "out": str(out), "bytes_before": before, "bytes": after}, json, force=force)
