"""What a reduced recording can be asked for: its cases, and where training was resumed in between."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from data_tools.errors import InputError
from data_tools.record_array import RecordArray
from data_tools.record_series import blocks
from data_tools.recording import Recording
from data_tools.recording_schema import AttributeValue, decode_name
from data_tools.reduced_records import FILTERED, ROOT, checked_momentum


@dataclass(frozen=True)
class ReducedContents:
    """A case of a reduced recording.

    Attributes
    ----------
    layer, impact, group : str
        What it is of; ``impact`` is ``I``, ``L`` or ``R``, ``group`` ``labels`` or ``given_labels``.
    momentum : float or None
        Of the memory by which impacts are filtered in what is held beside; None if nothing is.
    """

    layer: str
    impact: str
    group: str
    momentum: float | None


@dataclass(frozen=True)
class RestartedInterval:
    """An interval, between two records, whose statistics are unknown, since training was resumed within.

    Attributes
    ----------
    first_step, last_step : int
        Steps of the records.
    """

    first_step: int
    last_step: int


def reduced_contents(recording: Recording) -> tuple[list[ReducedContents], list[RestartedInterval]]:
    """Return the cases of a reduced recording and the intervals that fits leave out; nothing of a whole one.

    Raises
    ------
    InputError
        If what is kept of all samples cannot be right.
    """
    if (reduction := recording.reduction()) is None:
        return [], []
    layout, arrays = reduction
    cases = {name.removesuffix("/products") for name in arrays if name.count("/") == 2 and name.endswith("/products")}
    found = [_contents(recording, name, layout.attributes.get(f"{name}/{FILTERED}", {})) for name in sorted(cases)]
    if not cases:
        raise InputError(f"{recording.path}: a reduced recording that holds no statistics; reduce the whole one again")
    unknown = _empty_rows(arrays[f"{min(cases)}/products"])
    steps = recording.steps.tolist()
    return found, [RestartedInterval(steps[record - 1], steps[record]) for record in unknown]


def _contents(recording: Recording, name: str, filtered: Mapping[str, AttributeValue]) -> ReducedContents:
    layer, case = name.split("/")
    impact, _, group = case.partition("-")
    momentum = checked_momentum(filtered, recording.path, f"/{ROOT}/{name}/{FILTERED}") if filtered else None
    return ReducedContents(decode_name(layer), impact, group, momentum)


def _empty_rows(products: RecordArray) -> list[int]:
    """Return the records, but the first, whose products are all 0: they end intervals that are unknown."""
    found: list[int] = []
    for first, stop in blocks(products, len(products)):
        found += (first + np.flatnonzero(~products[first:stop].any(axis=1))).tolist()
    return [record for record in found if record > 0]
