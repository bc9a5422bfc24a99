"""Runs of architectures that can be read or fitted; the others are left out, and named."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from data_tools.errors import InputError

Source = TypeVar("Source")
Run = TypeVar("Run")


def readable_runs(
    architectures: Mapping[str, Sequence[Source]], read: Callable[[str, Source], Run]
) -> tuple[dict[str, list[Run]], list[str]]:
    """Read all runs, given the architecture of each; return those that can be read, and what is left out, and why.

    Raises
    ------
    InputError, ConvergenceError
        As of the first run that is left out, where fewer than two architectures have a run left.
    """
    from lesde_infer.inference import ConvergenceError

    found: dict[str, list[Run]] = {}
    left_out: list[str] = []
    first: InputError | ConvergenceError | None = None
    for name, sources in architectures.items():
        for source in sources:
            try:
                run = read(name, source)
            except (InputError, ConvergenceError) as error:
                left_out.append(f"{name}: a run is left out: {error}")
                first = first or error
            else:
                found.setdefault(name, []).append(run)
    if first is not None and len(found) < 2:
        raise first
    left_out += [f"{name}: has no run left and is not compared" for name in architectures if name not in found]
    return found, left_out
