"""What commands print: results on standard output, progress on standard error if that is a terminal."""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PIPE_WIDTH = 140

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is in all."""


def printable(text: str) -> str:
    """Make one line of any text: names in a file may hold line ends, or codes that would steer the terminal."""
    line = " ".join(text.split())
    return "".join(character if character.isprintable() else f"\\x{ord(character):02x}" for character in line)


def results_console(json: str | None) -> "Console":
    """Return where results are printed for people: standard output, unless the machine-readable result goes there."""
    from rich.console import Console  # quick commands and --help do without it

    file = sys.stderr if json == "-" else sys.stdout
    # A pipe has no width; Rich would squeeze tables into 80 columns.
    width = None if file.isatty() else PIPE_WIDTH
    return Console(file=file, width=width, highlight=False, markup=False, soft_wrap=True)


def note(message: str) -> None:
    """Print a remark on standard error."""
    print(f"lesde: {printable(message)}", file=sys.stderr)


def plain_table(title: str) -> "Table":
    """Return an empty table in the style of all tables here."""
    from rich import box
    from rich.table import Table

    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)


def short_number(value: float | None) -> str:
    """Write a number with three digits; a dash where it is not defined."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.3g}"


@contextmanager
def progress_bars() -> Iterator[Progress | None]:
    """Show progress on a terminal: one bar for each thing that is being done. None where there is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(printable(stage), total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield show


def prefixed(show: Progress | None, name: str) -> Progress | None:
    """Return progress that says of which run it is, or none where none is shown."""
    return None if show is None else lambda stage, done, total: show(f"{name}: {stage}", done, total)
