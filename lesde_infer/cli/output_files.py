"""Files that commands write: looked at before long work starts, written whole or not at all."""

import json as json_module
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_tools.errors import InputError
from data_tools.new_file import refuse_existing, written_whole

STANDARD_OUTPUT = "-"


def check_outputs(
    outputs: Iterable[str | Path | None], *, inputs: Iterable[str | Path] = (), force: bool = False
) -> None:
    """Find out whether all output files may be written, before any work is done.

    Parameters
    ----------
    outputs
        Files to be written; None and ``-`` are passed over.
    inputs
        Files that are read, and may not be replaced even with `force`.
    force
        Existing files may be replaced.

    Raises
    ------
    InputError
        If a file exists, its folder is missing or may not be written to, two outputs are the same, or one is an input.
    """
    taken = {Path(path).resolve(): "is read by this command" for path in inputs}
    for output in outputs:
        if output is None or str(output) == STANDARD_OUTPUT:
            continue
        path = Path(output)
        if path.resolve() in taken:
            raise InputError(f"{path}: {taken[path.resolve()]}; write to another file")
        refuse_existing(path, force)
        if not os.access(path.parent, os.W_OK):
            raise InputError(f"{path}: the folder {path.parent} may not be written to; choose another")
        taken[path.resolve()] = "is named for two outputs"


def write_json(result: Mapping[str, Any], target: str | None, *, force: bool = False) -> None:
    """Write a result for machines: to a file, to standard output if `target` is ``-``, or not at all if it is None.

    What is not a finite number becomes null, which every reader of JSON understands.

    Raises
    ------
    InputError
        If the file exists and may not be replaced.
    """
    if target is None:
        return
    text = json_module.dumps(_plain(result), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    if target == STANDARD_OUTPUT:
        print(text, end="")
        return
    with written_whole(Path(target), force) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_text(target: Path, text: str, *, force: bool = False) -> None:
    """Write a text file, whole or not at all.

    Raises
    ------
    InputError
        If the file exists and may not be replaced.
    """
    with written_whole(target, force) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _plain(value: Any) -> Any:
    """Reduce NumPy's numbers and arrays to what JSON knows."""
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
