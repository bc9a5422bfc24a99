"""How much of the measured drift a matrix of elasticity explains, and whether ELPD prefers it to a homogeneous one.

Recordings are those of measured_truth.py, which makes them; digits have ten classes. Of each this prints shares of the
one-step drift of contrasts that was measured in the second half (squared cosines, `lesde_infer.explained_drift`): of
homogeneous elasticity, of a constant matrix fitted to the log by weighted least squares, weights being one over squared
sizes of increments, each interval's own (as a Student-t in 90 dimensions weighs) or the mean nearby, with the drift
multiplied by 1 + b q or not (`lesde_infer.step_sizes`), of the posterior of `fit(elasticity="matrix")`, and of the
constant matrix that least squares fits to the measurement itself, where it was fitted and where it was not. The
difference in ELPD is that of drift alone (`lesde_infer.pattern_choice`).

    python benchmarks/matrix.py RECORDING … [--no-fit] [--json FILE]
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from data_tools.drift_measures import contrasts, mean_drift
from data_tools.recording import Recording
from lesde_infer import check_truth, fit
from lesde_infer.explained_drift import constant_matrix, held_out_drift, squared_cosine
from lesde_infer.interval_lengths import neighbouring_mean
from lesde_infer.pattern_choice import pattern_worth, sample_contrasts
from lesde_infer.statistics import Statistics, compute_statistics
from lesde_infer.step_sizes import step_sizes


def least_squares(
    statistics: Statistics, weight: Float[np.ndarray, " time"], factor: Float[np.ndarray, " time"]
) -> Float[np.ndarray, "class_to class_from"]:
    """Return the constant matrix that explains the increments best; drift is multiplied by ``factor``."""
    pushed = (statistics.lengths * factor / statistics.n_classes)[:, None, None] * statistics.pattern.coordinates
    gram = np.einsum("t,tjk,tjl->kl", weight, pushed, pushed)
    product = np.einsum("t,tjk,tjl->kl", weight, statistics.pattern.increments, pushed)
    return product @ np.linalg.pinv(gram, hermitian=True)


def without_the_model(path: Path) -> dict[str, Any]:
    """Return shares explained by least squares, of the log and of the measurement."""
    with Recording(path) as recording:
        layer = recording.choose_layer(None)
        statistics = compute_statistics(recording, layer, "R")
        measured = recording.elasticity(layer, "labels")
        if measured is None or measured.impact is None:
            raise SystemExit(f"{path}: no elasticity was measured")
        late = np.flatnonzero(measured.steps >= (statistics.steps[0] + statistics.steps[-1]) / 2)
        drift = contrasts(mean_drift(measured.onestep[late], measured.shares)[0])
        impact = np.asarray(measured.impact[late], dtype=np.float64)
    square, relative = statistics.contrast.increment_square, step_sizes(statistics).relative
    nearby = neighbouring_mean(square, statistics.n_steps, statistics.moved)
    found = {"homogeneous": squared_cosine(contrasts(impact), drift)}
    for name, size, slope in (
        ("own", square, 0.0),
        ("own, b = 1", square, 1.0),
        ("nearby", nearby, 0.0),
        ("nearby, b = 1", nearby, 1.0),
    ):
        matrix = least_squares(statistics, statistics.moved / np.maximum(size, 1e-300), 1.0 + slope * relative)
        found[name] = squared_cosine(contrasts(matrix @ impact), drift)
    found["best constant"] = squared_cosine(constant_matrix(impact, drift) @ impact, drift)
    found["held out"] = squared_cosine(held_out_drift(impact, drift), drift)
    return found


def with_the_model(path: Path, seed: int) -> dict[str, Any]:
    """Return what the posterior explains, how it converged, and its ELPD less that of homogeneous elasticity."""
    fitted = fit(path, elasticity="matrix", seed=seed, allow_unconverged=True)
    explained = check_truth(fitted, path).explained
    diagnostics = fitted.diagnostics()
    with Recording(path) as recording:
        statistics = compute_statistics(recording, fitted.settings.layer, "R")
    (alike,) = sample_contrasts(statistics, "gp", homogeneous=(True,), seed=seed)
    own = fitted.data["log_likelihood"]["contrast"].transpose("chain", "draw", "time").to_numpy()
    worth = pattern_worth(own, alike.log_likelihood[:, :, 0])
    return {
        "matrix": None if explained is None else explained.matrix,
        "converged": diagnostics.converged,
        "problems": list(diagnostics.problems),
        "elpd": worth.difference,
        "elpd_se": worth.difference_se,
        "pareto_k_bad_share": max(worth.bad_share),
    }


def main() -> None:
    """Measure the recordings given, and print one JSON object for each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("recordings", type=Path, nargs="+")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-fit", action="store_true", help="least squares alone: seconds")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results = {}
    for path in arguments.recordings:
        results[path.stem] = without_the_model(path)
        if not arguments.no_fit:
            results[path.stem] |= with_the_model(path, arguments.seed)
        print(json.dumps({path.stem: results[path.stem]}), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
