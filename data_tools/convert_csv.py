"""Turn a table of logits, one row for each sample and step, into a recording."""

import os
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from data_tools.csv_tables import numbered_columns, read_columns, read_header, whole_numbers
from data_tools.errors import InputError
from data_tools.recording_writer import write_recording

_KEYS = ("step", "sample", "label")
_GIVEN = "given_label"
_PREFIX = "logit_"


def recording_from_csv(
    csv_path: str | os.PathLike[str], out: str | os.PathLike[str], *, force: bool = False, layer: str = "fc3"
) -> Path:
    """Convert a table of logits to a recording.

    Parameters
    ----------
    csv_path
        Text with commas, perhaps compressed (``.csv.gz``), whose first line names the columns: ``step``, ``sample``
        (a whole number that tells samples apart), ``label``, ``logit_0``, ``logit_1``, …, and optionally
        ``given_label``. Columns and rows may come in any order. A sample that has no row at a step is missing there.
        Every other column becomes a scalar, so it has to be the same in all rows of a step, or empty.
    out
        Recording to make.
    force
        Replace an existing file.
    layer
        What to call the layer of the logits.

    Returns
    -------
    pathlib.Path
        `out`.

    Raises
    ------
    InputError
        If a column is missing or a field no number, a sample has two rows at a step or two labels, or scalars differ
        within a step.
    """
    source = Path(csv_path)
    header = read_header(source)
    logits = numbered_columns(source, _PREFIX)
    given = [_GIVEN] if _GIVEN in header else []
    scalars = [name for name in header if name and name not in {*_KEYS, *given, *logits}]
    table = read_columns(source, [*_KEYS, *given, *logits, *scalars], may_be_empty=scalars)
    steps, step_of = np.unique(whole_numbers(table["step"], source, "step"), return_inverse=True)
    samples, sample_of = np.unique(whole_numbers(table["sample"], source, "sample"), return_inverse=True)
    _refuse_repeats(step_of, sample_of, steps, samples, source)
    features = np.full((steps.size, samples.size, len(logits)), np.nan)
    features[step_of, sample_of] = np.stack([table[name] for name in logits], axis=1)
    labels = {name: _per_sample(table[name], sample_of, samples, source, name) for name in ("label", *given)}
    try:
        return write_recording(
            out,
            steps,
            labels["label"],
            {layer: features},
            logits=layer,
            given_labels=labels.get(_GIVEN),
            scalars={name: _per_step(table[name], step_of, steps, source, name) for name in scalars},
            provenance={"converted_from": source.name},
            force=force,
        )
    except InputError as error:
        raise InputError(f"{source}: {error}") from error


def _refuse_repeats(
    step_of: Int[np.ndarray, " row"],
    sample_of: Int[np.ndarray, " row"],
    steps: Int[np.ndarray, " step"],
    samples: Int[np.ndarray, " sample"],
    source: Path,
) -> None:
    """Refuse two rows of one sample at one step."""
    order = np.lexsort((sample_of, step_of))
    same = (np.diff(step_of[order]) == 0) & (np.diff(sample_of[order]) == 0)
    if same.any():
        first, second = sorted(order[np.flatnonzero(same)[0] :][:2])
        raise InputError(
            f"{source}: lines {first + 2} and {second + 2} both hold sample {samples[sample_of[first]]} at step "
            f"{steps[step_of[first]]}; keep one"
        )


def _per_sample(
    values: Float[np.ndarray, " row"],
    sample_of: Int[np.ndarray, " row"],
    samples: Int[np.ndarray, " sample"],
    source: Path,
    column: str,
) -> Int[np.ndarray, " sample"]:
    """Return the one value of each sample."""
    labels = np.zeros(samples.size, dtype=np.int64)
    whole = whole_numbers(values, source, column)
    labels[sample_of] = whole
    wrong = np.flatnonzero(labels[sample_of] != whole)
    if wrong.size:
        row = int(wrong[0])
        raise InputError(
            f"{source}: sample {samples[sample_of[row]]} has the {column} {whole[row]} in line {row + 2}, and "
            f"{labels[sample_of[row]]} elsewhere; a sample has one"
        )
    return labels


def _per_step(
    values: Float[np.ndarray, " row"],
    step_of: Int[np.ndarray, " row"],
    steps: Int[np.ndarray, " step"],
    source: Path,
    column: str,
) -> Float[np.ndarray, " step"]:
    """Return the one value of each step; not a number where all its fields are empty."""
    found = np.full(steps.size, np.nan)
    given = np.isfinite(values)
    found[step_of[given]] = values[given]
    wrong = np.flatnonzero(given & (found[step_of] != values))
    if wrong.size:
        row = int(wrong[0])
        raise InputError(
            f"{source}: column {column!r} holds {values[row]:g} in line {row + 2} and {found[step_of[row]]:g} "
            f"elsewhere at step {steps[step_of[row]]}; a scalar is the same in all rows of a step, so mend or drop it"
        )
    return found
