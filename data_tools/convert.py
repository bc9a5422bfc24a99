"""Turn other formats into recordings: the format is guessed from the path, or named."""

import os
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from data_tools.convert_csv import recording_from_csv
from data_tools.convert_npy import recording_from_npy
from data_tools.convert_npz import recording_from_npz
from data_tools.convert_paper import DEFAULT_WINDOW, recording_from_paper
from data_tools.csv_tables import read_header
from data_tools.errors import InputError

__all__ = [
    "SourceFormat",
    "convert_recording",
    "guess_format",
    "recording_from_csv",
    "recording_from_npy",
    "recording_from_npz",
    "recording_from_paper",
]

SourceFormat: TypeAlias = Literal["npz", "npy", "csv", "paper"]
"""A NumPy archive, a folder of NumPy arrays, a table of logits, the table that the paper's own code writes."""

DEFAULT_LAYER = "fc3"


def convert_recording(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    source_format: SourceFormat | None = None,
    layer: str = DEFAULT_LAYER,
    window: int = DEFAULT_WINDOW,
    force: bool = False,
) -> Path:
    """Convert a file or folder to a recording.

    Parameters
    ----------
    source
        What to convert; see `recording_from_npz`, `recording_from_npy`, `recording_from_csv` and
        `recording_from_paper` for what it has to hold.
    out
        Recording to make.
    source_format
        By default guessed, see `guess_format`.
    layer
        What to call the layer of the logits.
    window
        Steps that make one record; for the paper's tables only.
    force
        Replace an existing file.

    Returns
    -------
    pathlib.Path
        `out`.

    Raises
    ------
    InputError
        If the source cannot be read, its format cannot be guessed, or what it holds contradicts itself.
    """
    path = Path(source)
    chosen = guess_format(path) if source_format is None else source_format
    if chosen == "npz":
        return recording_from_npz(path, out, force=force, layer=layer)
    if chosen == "npy":
        return recording_from_npy(path, out, force=force, layer=layer)
    if chosen == "csv":
        return recording_from_csv(path, out, force=force, layer=layer)
    if chosen == "paper":
        return recording_from_paper(path, out, force=force, layer=layer, window=window)
    raise InputError(f"format is {chosen!r}; choose one of {', '.join(get_args(SourceFormat))}")


def guess_format(source: Path) -> SourceFormat:
    """Tell the format of a source: a folder by what it is, a file by its ending, a table by its columns.

    Raises
    ------
    InputError
        If there is no such file, or it may be anything.
    """
    if not source.exists():
        raise InputError(f"{source}: no such file; check the name")
    if source.is_dir():
        return "npy"
    name = source.name.lower()
    if name.endswith((".npz", ".npy")):
        return "npz"
    if name.endswith((".csv", ".csv.gz")):
        columns = read_header(source)
        if {"itr", "smp"} <= set(columns):
            return "paper"
        if {"step", "sample"} <= set(columns):
            return "csv"
        raise InputError(
            f"{source}: has the columns {', '.join(columns)}; a table of logits has step, sample, label, logit_0, …, "
            "one of the paper's code trial, itr, smp, y, y_logit0, …"
        )
    raise InputError(
        f"{source}: of no known format; give an archive (.npz), a folder of arrays (.npy) or a table (.csv), or say "
        "which it is with --format"
    )
