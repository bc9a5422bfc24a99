"""Reproduce the paper: LeNet on drawn shapes, a share p of the labels wrong, and what becomes of elasticity.

Trains LeNet by the protocol of Zhang, Wang and Su (NeurIPS 2021, section 4) for each p and several seeds, records the
logits, and asks of each run: is it elastic, did its real classes separate, and does the fit say so? The paper's
estimators, whose class means are those of the labels given, are taken over all seeds of a p, as the paper averages over
trials. Tables and figures go to the results folder; recordings and fits stay in the work folder, and what is there is
not made again.

    python examples/phase_transition.py [--noise 0 0.1 …] [--seeds 5] [--jobs N] [--work DIR] [--results DIR] [--short]

A run takes a minute and a half on one core, most of it the fits. ``--short`` is a check that all of it works: three p,
two seeds, 1,000 steps, curves that are constant; its numbers mean nothing.
"""

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from phase_transition_figures import draw_all
from phase_transition_table import page
from side_by_side import carry_out_all

HERE = Path(__file__).parent
NOISES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 2 / 3, 0.7, 0.8)
SEEDS, STEPS, EVERY, PROBE = 5, 10_000, 50, 100
SHOWN = 60  # points of a curve that are kept
DRAWS = 100  # of which replications show class means


@dataclass(frozen=True)
class Run:
    """A training; ``quick`` is that of the check."""

    noise: float
    seed: int
    quick: bool = False

    @property
    def name(self) -> str:
        """What its files are called."""
        return f"{'quick-' if self.quick else ''}p{self.noise:.2f}-seed{self.seed}"


def carry_out(run: Run, work: Path) -> dict[str, Any]:
    """Train, record, fit and observe a run, as far as that was not done, and return what came out."""
    kept = work / f"{run.name}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    recording = record(run, work)
    outcome = {"noise": run.noise, "seed": run.seed, **observe(recording), **infer(run, recording, work)}
    unfinished = kept.with_suffix(".part")
    unfinished.write_text(json.dumps(outcome))
    unfinished.rename(kept)
    return outcome


def record(run: Run, work: Path) -> Path:
    """Train by the paper's protocol, and record the logits of 100 samples a class."""
    from data_tools.experiments import ExperimentConfig, run_experiment

    path = work / f"{run.name}.h5"
    if not path.exists():
        config = ExperimentConfig(
            label_noise=run.noise,
            seed=run.seed,
            steps=1_000 if run.quick else STEPS,
            every=EVERY,
            burst=1,
            probe_per_class=10 if run.quick else PROBE,
        )
        unfinished = work / f"unfinished-{run.name}.h5"
        run_experiment(config, unfinished, force=True)
        unfinished.rename(path)
    return path


def observe(path: Path) -> dict[str, Any]:
    """Return what happened: separability of the real classes in the logits at the end, and the validation loss."""
    import lesde_infer as li
    from data_tools.recording import Recording

    found = li.geometry(path, n_permutations=1)
    with Recording(path) as recording:
        chosen = np.unique(np.linspace(0, recording.n_records - 1, SHOWN).round().astype(int))
        loss = recording.scalars["validation_loss"][chosen]
        accuracy = float(recording.scalars["validation_accuracy"][-1])
        steps = recording.steps[chosen]
    return {
        "separable": found.separation.n_separable_pairs == found.separation.n_pairs,
        "linear_accuracy": found.metrics["linear_accuracy"],
        "validation_accuracy": accuracy,
        "loss": {"step": steps.tolist(), "value": np.asarray(loss, dtype=float).tolist()},
    }


def infer(run: Run, recording: Path, work: Path) -> dict[str, Any]:
    """Return what the fit says: by real classes, and of first seeds, as the paper sees it, by given labels under I."""
    import lesde_infer as li

    curve = "constant" if run.quick else "gp"
    fit = fitted(recording, work / f"{run.name}.nc", curve=curve, seed=run.seed)
    check = li.check(fit, recording, n_draws=DRAWS, seed=run.seed)
    summary = fit.to_json()
    names = ("converged", "probability_gamma_positive", "phase_probabilities", "tail_index")
    found = {name: summary[name] for name in names}
    found["probability_separable"] = check.probability_separable
    found["p_values"] = check.to_json()["p_values"]
    if run.seed == 0:
        by_given = fitted(
            recording,
            work / f"{run.name}-given.nc",
            impact="I",
            curve=curve,
            group="given_labels",
            seed=run.seed,
            within="isotropic",
        )
        found["paper"] = integrals(by_given)
        found["class_means"] = {
            "steps": check.steps.tolist(),
            "observed": check.class_means_observed.tolist(),
            "predicted": check.class_means_predicted[:40].tolist(),
        }
    return found


def fitted(recording: Path, kept: Path, **choices: Any) -> Any:
    """Return the fit that was kept, or fit and keep it, whether it converged or not."""
    import lesde_infer as li

    if kept.exists():
        return li.load(kept)
    fit = li.fit(recording, allow_unconverged=True, **choices)
    fit.save(kept)
    return fit


def integrals(fit: Any) -> dict[str, Any]:
    """Return ∫α and ∫β of a fit over the record, as quantiles of draws, and the paper's tail index of α."""
    posterior, lengths = fit.posterior, np.diff(fit.times)[fit.interval_starts]
    bands = {}
    for name in ("alpha", "beta"):
        rate = posterior[name].transpose("chain", "draw", "time").to_numpy()
        total = np.cumsum(rate.reshape(-1, rate.shape[-1]) * lengths, axis=1)
        chosen = np.unique(np.linspace(0, total.shape[1] - 1, SHOWN).round().astype(int))
        bands[name] = np.quantile(total[:, chosen], [0.05, 0.5, 0.95], axis=0).tolist()
        bands["step"] = fit.steps[fit.interval_starts[chosen] + 1].tolist()
    tail = posterior["paper_tail_index"].to_numpy()
    return {
        **bands,
        "converged": fit.diagnostics().converged,
        "tail_index": np.nanquantile(tail, [0.05, 0.5, 0.95]).tolist(),
    }


def moments(runs: Sequence[Run], work: Path) -> dict[str, Any]:
    """Estimate by the paper's formulas over the seeds of one p, class means by the labels given."""
    import lesde_infer as li
    from data_tools import InputError

    paths = [work / f"{run.name}.h5" for run in runs]
    found: dict[str, Any] = {}
    for impact in ("I", "L"):
        try:
            found[impact] = li.estimate_moments(paths, impact=impact, group="given_labels").to_json()
        except InputError as error:
            found[impact] = {"refused": str(error)}
    return found


def main() -> None:
    """Carry out what is missing, and write tables and figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--noise", type=float, nargs="+", default=NOISES, help="shares p of the labels that are wrong")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="runs of each p")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time")
    parser.add_argument("--work", type=Path, default=HERE / "work" / "phase_transition")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--short", action="store_true", help="see that it works; the numbers mean nothing")
    arguments = parser.parse_args()
    if arguments.seeds < 1 or arguments.jobs < 1 or not all(0 <= noise <= 1 for noise in arguments.noise):
        parser.error("--seeds and --jobs are at least 1, and --noise are shares from 0 to 1")
    noises = (0.0, 0.5, 0.8) if arguments.short else tuple(arguments.noise)
    seeds = range(2 if arguments.short else arguments.seeds)
    runs = [Run(noise, seed, arguments.short) for noise in noises for seed in seeds]
    arguments.work.mkdir(parents=True, exist_ok=True)
    outcomes = carry_out_all(carry_out, runs, arguments.work, arguments.jobs)
    by_noise = {noise: moments([run for run in runs if run.noise == noise], arguments.work) for noise in noises}
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "phase_transition.md").write_text(page(outcomes, by_noise, short=arguments.short))
    draw_all(outcomes, by_noise, arguments.results)
    print(f"results: {arguments.results / 'phase_transition.md'}")


if __name__ == "__main__":
    main()
