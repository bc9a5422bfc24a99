"""Turn the tables that the code of the LE-SDE paper writes into recordings."""

import os
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from data_tools.csv_tables import numbered_columns, read_columns, read_header, whole_numbers
from data_tools.errors import InputError
from data_tools.recording_writer import write_recording

DEFAULT_WINDOW = 50

_KEYS = ("itr", "y")
_TRIAL = "trial"
_PREFIX = "y_logit"
_SCALARS = {"tr_loss": "loss", "val_loss": "validation_loss", "val_acc": "validation_accuracy"}


def recording_from_paper(
    csv_path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    force: bool = False,
    layer: str = "fc3",
    window: int = DEFAULT_WINDOW,
) -> Path:
    """Convert a table with the columns ``trial``, ``itr``, ``smp``, ``y``, ``y_logit0``, …, ``tr_loss``, ….

    Such a table holds at each iteration the logits of just the sample that is trained on, and the label it is given.
    So no sample is seen at two records in turn. A record here gathers the rows of `window` iterations, of all trials,
    and stands at their middle. Its samples are those that came up, as many of each class as came up in every window:
    their class means and the spread about them are what they were, but the samples are *others* at every record. What
    follows single samples (κ and the noise of individuals) therefore says nothing; the provenance notes it as
    ``cross_section``.

    Parameters
    ----------
    csv_path
        The table, perhaps compressed (``.csv.gz``).
    out
        Recording to make. Its labels, and given labels, are ``y``; what corrupted samples really are is not in the
        table. The scalars ``loss``, ``validation_loss`` and ``validation_accuracy`` are means over the window.
    force
        Replace an existing file.
    layer
        What to call the layer of the logits.
    window
        Iterations that make one record. The last iterations are left out if they do not fill one.

    Returns
    -------
    pathlib.Path
        `out`.

    Raises
    ------
    InputError
        If a column is missing or a field no number, a label is out of range, or some class comes up fewer than two
        times in some window.
    """
    source = Path(csv_path)
    if window < 1:
        raise InputError(f"window is {window}; it must be at least 1")
    header = read_header(source)
    names = numbered_columns(source, _PREFIX)
    scalars = [name for name in _SCALARS if name in header]
    trial = [_TRIAL] if _TRIAL in header else []
    table = read_columns(source, [*_KEYS, *trial, *names, *scalars], may_be_empty=scalars)
    iterations, labels = (whole_numbers(table[name], source, name) for name in _KEYS)
    outside = np.flatnonzero((labels < 0) | (labels >= len(names)))
    if outside.size:
        raise InputError(
            f"{source}: column 'y' holds {labels[outside[0]]} in line {outside[0] + 2}, outside 0 … {len(names) - 1}, "
            "the classes of its logits"
        )
    if iterations.min() < 0:
        raise InputError(f"{source}: column 'itr' holds {iterations.min()}; iterations count from 0")
    first = int(iterations.min())
    n_windows = int(iterations.max() + 1 - first) // window
    if n_windows < 1:
        raise InputError(
            f"{source}: its {iterations.max() + 1 - first} iterations do not fill a window of {window}; lower it"
        )
    window_of = (iterations - first) // window
    order = np.lexsort((iterations, labels, window_of))
    order = order[window_of[order] < n_windows]
    counts = np.bincount(window_of[order] * len(names) + labels[order], minlength=n_windows * len(names))
    per_class = int(counts.min())
    if per_class < 2:
        scarce = int(counts.argmin())
        raise InputError(
            f"{source}: class {scarce % len(names)} comes up {per_class} times in the window from iteration "
            f"{first + scarce // len(names) * window}, and it takes two; widen the window, now {window}"
        )
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    chosen = order[(starts[:, None] + np.arange(per_class) * counts[:, None] // per_class).reshape(n_windows, -1)]
    logits = np.stack([table[name] for name in names], axis=1)
    try:
        return write_recording(
            out,
            first + window * np.arange(n_windows) + window // 2,
            np.repeat(np.arange(len(names)), per_class),
            {layer: logits[chosen]},
            logits=layer,
            scalars={_SCALARS[name]: _window_means(table[name], window_of, n_windows) for name in scalars},
            provenance={
                "converted_from": source.name,
                "cross_section": "samples are others at every record",
                "window": window,
                "n_trials": int(np.unique(table[_TRIAL]).size) if trial else 1,
            },
            force=force,
        )
    except InputError as error:
        raise InputError(f"{source}: {error}") from error


def _window_means(
    values: Float[np.ndarray, " row"], window_of: Int[np.ndarray, " row"], n_windows: int
) -> Float[np.ndarray, " window"]:
    """Average what is given in each window; not a number where nothing is."""
    used = (window_of < n_windows) & np.isfinite(values)
    sums = np.bincount(window_of[used], weights=values[used], minlength=n_windows)
    counts = np.bincount(window_of[used], minlength=n_windows)
    return np.divide(sums, counts, out=np.full(n_windows, np.nan), where=counts > 0)
