"""One fit of a run that is still training, in a process of its own: ``python -m lesde_infer.watch_fit``.

It has the lowest priority, so that training gets every core it asks for, and writes what a dashboard shows.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.errors import InputError
from data_tools.new_file import written_whole
from data_tools.recording import Recording
from data_tools.thinning import thin_recording
from lesde_infer.predictive import PredictionError

MOST_RECORDS = 400  # that a fit takes in


def infer(
    path: Path,
    until: int,
    horizon: int | None,
    *,
    layer: str | None,
    curve: str,
    draws: int | None = None,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Fit a recording up to a step, and forecast up to a horizon.

    Parameters
    ----------
    path : Path
        Recording.
    until : int
        Last step that is fitted.
    horizon : int, optional
        Step at which training will end; without it nothing is forecast.
    layer, curve : str
        As of `lesde_infer.fit`.
    draws : int, optional
        Draws of each chain, by default those of `lesde_infer.fit`.
    folder : Path, optional
        For a thinned copy of a long recording; without it all records are fitted.

    Returns
    -------
    dict
        ``until_step``, ``converged``, ``gamma_end``, ``probability_gamma_positive`` and the ``verdict`` in words; with
        a horizon beyond the last fitted step also ``horizon_step`` and ``probability_separable`` there. Where a fit is
        not possible, ``refused`` says why.
    """
    from lesde_infer.forecasting import continue_fit
    from lesde_infer.future_grid import future_grid, prefix_end
    from lesde_infer.inference import DRAWS, fit

    try:
        recorded, path = path, thinned(path, until, folder)
        time_end = None
        if horizon is not None and horizon > until:
            with Recording(path) as recording:
                end = prefix_end(recording, until)
                time_end = float(future_grid(recording, end, horizon, "recorded").times[-1])
        result = fit(
            path,
            layer=layer,
            curve=curve,  # type: ignore[arg-type]
            until=until,
            horizon=time_end,
            n_draws=DRAWS if draws is None else draws,
            allow_unconverged=True,
            cache=path == recorded,
        )
        summary = result.to_json()
        found: dict[str, Any] = {
            "until_step": until,
            **{name: summary[name] for name in ("converged", "gamma_end", "probability_gamma_positive")},
            "verdict": result.verdict().sentence,
        }
        if time_end is not None:
            forecast = continue_fit(result, path, horizon=horizon)
            found |= {"horizon_step": horizon, "probability_separable": forecast.probability_separable}
    except (InputError, PredictionError) as error:
        return {"until_step": until, "refused": str(error)}
    return found


def thinned(path: Path, until: int, folder: Path | None) -> Path:
    """Return a recording of `MOST_RECORDS` records at most: pairs that follow one another, spread over all of a run.

    So the cost of a fit does not grow with the run. Pairs are those of the fewest steps, which bursts are made for.
    """
    with Recording(path) as recording:
        steps = recording.steps[recording.steps <= until]
        if folder is None or len(steps) <= MOST_RECORDS or recording.is_reduced:
            return path
        lengths = np.diff(steps)
        starts = np.flatnonzero(lengths == lengths.min())
        starts = starts[np.unique(np.linspace(0, len(starts) - 1, MOST_RECORDS // 2).round().astype(int))]
        chosen = np.union1d(np.union1d(starts, starts + 1), [0, len(steps) - 1])
        return thin_recording(recording, folder / "thinned.h5", chosen, force=True)


def main() -> None:
    """Fit, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("file", type=Path)
    parser.add_argument("until", type=int)
    parser.add_argument("out", type=Path)
    parser.add_argument("--horizon", type=int)
    parser.add_argument("--layer")
    parser.add_argument("--curve", default="gp")
    arguments = parser.parse_args()
    if hasattr(os, "nice"):
        os.nice(19)
    found = infer(
        arguments.file,
        arguments.until,
        arguments.horizon,
        layer=arguments.layer,
        curve=arguments.curve,
        folder=arguments.out.parent,
    )
    with written_whole(arguments.out, force=True) as temporary:
        temporary.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
