"""Run one contestant of `benchmarks/inference.py` in a process of its own, and write its draws and figures.

    python benchmarks/contestant.py NAME RECORDING --seconds 60 --impact I --out FOLDER

Writes NAME.npz (draws of γ, of the shared rate g and, where the model has it, κ, by chain, per mean interval) and
NAME.json. Seconds are those of the processor; they bound sampling, but not that of lesde. Times start before the
recording is read and leave imports out.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

CLASS_MEANS = ("contrast", "class_noise", "shared")


def run_lesde(name: str, path: str, impact: str, out: Path) -> dict[str, Any]:
    """Fit twice: the first fit compiles, the second, with another seed, does not.

    `lesde` is the call that users make, which samples deviations from class means as well, checks convergence, and
    simulates the run again for its verdict; `lesde-class-means` samples only what tells γ and g, as the peers do.
    """
    from plain_models import read_run
    from timed_nuts import CHAINS, DRAWS, Clock

    import lesde_infer.inference
    import lesde_infer.predictive  # noqa: F401  (imports are not timed)

    run = read_run(path)
    fit = _fit if name == "lesde" else _fit_class_means
    figures: dict[str, Any] = {"finished": True, "chains": CHAINS, "draws": DRAWS}
    for seed, span in enumerate(("whole", "sampling")):
        clock = Clock()
        gamma, shared, also = fit(path, impact, seed)
        figures |= clock.read(span) | also
    np.savez(out / f"{name}.npz", gamma=gamma * run.unit, shared_rate=shared * run.unit)
    return figures


Found = tuple[np.ndarray, np.ndarray, dict[str, Any]]


def _fit(path: str, impact: str, seed: int) -> Found:
    from data_tools.recording import Recording
    from lesde_infer.inference import fit

    found = fit(path, impact=impact, curve="constant", seed=seed)
    beta, gamma = (found.posterior[name].isel(time=-1).to_numpy() for name in ("beta", "gamma"))
    n_classes = np.unique(Recording(path).labels).size
    diagnostics = found.diagnostics()
    also = {"r_hat_max": diagnostics.r_hat_max, "divergences": int(diagnostics.divergences)}
    return gamma, beta + gamma / n_classes, also


def _fit_class_means(path: str, impact: str, seed: int) -> Found:
    from timed_nuts import CHAINS, DRAWS

    from data_tools.recording import Recording
    from lesde_infer.assembly import assemble
    from lesde_infer.concurrent_sampling import ConcurrentSampler
    from lesde_infer.statistics import compute_statistics

    with Recording(path) as recording:
        statistics = compute_statistics(recording, recording.choose_layer(None), impact)
    submodels = [one for one in assemble(statistics, "constant") if one.strata[0] in CLASS_MEANS]
    sampler = ConcurrentSampler(submodels, seed=seed, n_chains=CHAINS)
    sampler.run_until(DRAWS)
    rates = {
        one.strata[0]: np.asarray(draws.parameters.location)[:, :, 0, -1]
        for one, draws in zip(submodels, sampler.draws(), strict=True)
    }
    return rates["contrast"], rates["shared"], {}


def run_sampled(name: str, path: str, impact: str, seconds: float, out: Path) -> dict[str, Any]:
    """Sample a model that NumPyro's NUTS draws from."""
    import timed_nuts
    from plain_models import plain_task, read_run

    family, _, variant = name.partition("-")
    if family != "plain":
        import peer_models  # imports are not timed

        if name.startswith("dynestyx"):
            import dynestyx  # noqa: F401
        else:
            import cd_dynamax  # noqa: F401
    clock = timed_nuts.Clock()
    run = read_run(path)
    task = plain_task(run, variant, impact) if family == "plain" else peer_models.peer_task(run, name)
    figures, draws = timed_nuts.sample(task, seconds, clock)
    np.savez(out / f"{name}.npz", **draws)
    return figures


def main() -> None:
    """Run the contestant."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("name")
    parser.add_argument("recording")
    parser.add_argument("--seconds", type=float, default=60.0, help="processor seconds of sampling, but for lesde")
    parser.add_argument("--impact", choices=("I", "R"), default="I")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.name.startswith("lesde"):
        figures = run_lesde(arguments.name, arguments.recording, arguments.impact, arguments.out)
    else:
        figures = run_sampled(arguments.name, arguments.recording, arguments.impact, arguments.seconds, arguments.out)
    (arguments.out / f"{arguments.name}.json").write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
