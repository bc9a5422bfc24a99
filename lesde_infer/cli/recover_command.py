"""``lesde recover``: save what is whole in a recording whose writer died."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from lesde_infer.cli.console import printable, progress_bars, results_console
from lesde_infer.cli.options import ForceOption, JsonOption
from lesde_infer.cli.output_files import check_outputs, write_json


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("recover")(recover)


def recover(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Recording that was not finished, or is damaged.")],
    out: Annotated[Path, typer.Option(help="Recording to make.")],
    copy: Annotated[bool, typer.Option("--copy", help="Make it even if nothing is wrong with FILE.")] = False,
    json: JsonOption = None,
    force: ForceOption = False,
) -> None:
    """Save all whole records of a recording whose writer died.

    They are copied to a new file, which is a finished recording; FILE stays as it is. A healthy recording is read
    through and found so, and not copied.
    """
    check_outputs([out, json], inputs=[file], force=force)
    from data_tools.recovery import recover as recover_recording

    with progress_bars() as show:
        found = recover_recording(
            file, out, force=force, copy_healthy=copy, progress=None if show is None else partial(show, "reading")
        )
    endings = {"finished": "finished", "died": "its writer died", "unknown": "not finished", "writing": "being written"}
    lines = [f"{file}: {endings[found.writer]}; {found.n_kept} records are whole, {found.n_lost} are lost"]
    if found.n_measurements_kept or found.n_measurements_lost:
        lines.append(
            f"{found.n_measurements_kept} measurements of elasticity are whole, {found.n_measurements_lost} are lost"
        )
    lines += found.reasons
    lines.append("nothing to recover, so nothing was copied" if found.out is None else f"saved as {found.out}")
    console = results_console(json)
    for line in lines:
        console.print(printable(line))
    result = {
        "file": str(file),
        "out": None if found.out is None else str(found.out),
        "writer": found.writer,
        "n_records_kept": found.n_kept,
        "n_records_lost": found.n_lost,
        "n_measurements_kept": found.n_measurements_kept,
        "n_measurements_lost": found.n_measurements_lost,
        "reasons": list(found.reasons),
    }
    write_json(result, json, force=force)
