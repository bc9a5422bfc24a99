"""A file of simulations that are done, so that a calibration that was interrupted goes on where it was.

JSON Lines: the settings first, then one line a simulation, in the order in which they ended.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from data_tools.errors import InputError
from lesde_infer.calibrated_fit import Simulation

FORMAT, VERSION = "lesde-calibration", 1


class CalibrationJournal:
    """Simulations in a file, which grows by a line each.

    Parameters
    ----------
    path : path
        The file; made if it is missing.
    settings : dict
        All that a simulation depends on; those in the file must be the same.
    quantities : sequence of str
        What the entries of a simulation's arrays are.
    force : bool
        Begin anew if the file has other settings.

    Raises
    ------
    InputError
        If the file has other settings, or is none of ours.
    """

    def __init__(self, path: Path, settings: dict[str, Any], quantities: Sequence[str], *, force: bool = False) -> None:
        self._path = path
        header = {"format": FORMAT, "version": VERSION, "settings": settings, "quantities": list(quantities)}
        self.done: dict[int, Simulation] = {}
        kept = _whole_lines(path)
        if kept and (problem := _difference(kept[0], header)):
            if not force:
                raise InputError(f"{path}: {problem}; give another folder, or begin anew with --force (force=True)")
            kept = []
        for line in kept[1:]:
            simulation = _simulation(path, line, len(quantities))
            self.done[simulation.number] = simulation
        self._file = path.open("ab")
        self._file.truncate(sum(len(line) + 1 for line in kept))  # without a line that was interrupted
        if not kept:
            self._write(header)

    def append(self, simulation: Simulation) -> None:
        """Add a simulation."""
        self._write({name: _plain(value) for name, value in asdict(simulation).items()})
        self.done[simulation.number] = simulation

    def _write(self, values: dict[str, Any]) -> None:
        self._file.write(json.dumps(values, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def __enter__(self) -> Self:
        """Return the journal."""
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        """Close the file."""
        self._file.close()


def _whole_lines(path: Path) -> list[bytes]:
    """Return the lines of a file that were written whole."""
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def _difference(line: bytes, header: dict[str, Any]) -> str | None:
    """Say how the first line of a file differs from that expected."""
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        return "is no file of simulations"
    if found == header:
        return None
    own, other = header["settings"], found.get("settings", {})
    names = [name for name in own if other.get(name) != own[name]]
    return f"holds simulations of another calibration ({', '.join(names) or 'its quantities'} differ)"


def _simulation(path: Path, line: bytes, n_quantities: int) -> Simulation:
    """Read a line that `CalibrationJournal.append` wrote; null stands for NaN."""

    def array(name: str, dtype: type[int] | type[float]) -> np.ndarray:
        found: np.ndarray = np.array(values[name], dtype=dtype)
        if found.shape != (n_quantities,):
            raise ValueError(f"{name} has shape {found.shape}")
        return found

    def number(name: str) -> float:
        return math.nan if values[name] is None else float(values[name])

    try:
        values = json.loads(line)
        return Simulation(
            number=int(values["number"]),
            converged=bool(values["converged"]),
            r_hat_max=number("r_hat_max"),
            ess_min=number("ess_min"),
            divergences=int(values["divergences"]),
            n_draws=int(values["n_draws"]),
            truth=array("truth", float),
            mean=array("mean", float),
            sd=array("sd", float),
            rank=array("rank", int),
        )
    except (ValueError, KeyError, TypeError) as error:
        start = line[:40].decode(errors="replace")
        raise InputError(
            f"{path}: a line is damaged: {start!r}…; remove it, or begin anew in another folder"
        ) from error


def _plain(value: Any) -> Any:
    """Reduce arrays to lists, and what is not finite to null."""
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value.tolist()]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
