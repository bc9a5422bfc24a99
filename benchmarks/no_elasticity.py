"""Count how often a network is called locally elastic where nothing is.

Runs in which no sample moves its own class more than the others, by construction, are fitted with fewer draws than
users take. The rate of P(γ > 0) > 0.95 should not exceed 5 %.

- **noise**: features are independent standard normal numbers at every record.
- **walk**: features are random walks from zero, each sample by itself; their increments know nothing of where they are.
- **class walk**: the same, and class means and all features together walk as well: noise of all three strata.
- **fresh probe**: a small network is trained by SGD on isotropic Gaussian inputs with labels drawn independently of
  them. The probe's inputs and labels are drawn in the same way, but are never trained on: given the network's path,
  probe samples are exchangeable, so no class can be moved differently from another but by which samples it happened to
  get. In noisy training steps are of 8 samples, in gentle training of all: features then drift the same way throughout,
  and by chance classes drift apart with them.
- **training probe** (beside; elastic): the same with the first training samples as probe. A step on a sample moves that
  sample most, so the samples of a class move, on average, towards the label they are trained as: memorisation is
  elasticity of the model's kind, since E is the average of the tangent kernel over the samples of two classes, the
  kernel of a sample with itself included. It is so by any grouping. These runs show that the test has power.

    python benchmarks/no_elasticity.py [--seeds 50] [--work DIR] [--only CASE …]

Only γ is sampled (`gamma_alone`), and P(γ > 0) is what the verdict says. Outcomes are kept in the work folder, one line
a seed, and are not computed again. Results go to benchmarks/results/no_elasticity.json and .md.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gamma_alone import gamma_alone
from torch import nn
from torch.nn.functional import cross_entropy

from data_tools.recorder import FeatureRecorder
from data_tools.recording import Recording
from data_tools.recording_writer import write_recording
from lesde_infer.impacts import Impact
from lesde_infer.statistics import compute_statistics
from lesde_infer.verdict import SURE, gamma_at_end

HERE = Path(__file__).parent
K, PER_CLASS, RECORDS, EVERY = 3, 20, 61, 20
INPUTS, HIDDEN, TRAIN, LR = 10, 32, 150, 0.1
NOISY_BATCH, GENTLE_BATCH = 8, 150
CHAINS, DRAWS = 2, 400
MOST = 0.05


def write_features(path: Path, features: np.ndarray) -> None:
    """Write features (T, n, K) as logits of samples whose classes follow each other."""
    write_recording(
        path,
        EVERY * np.arange(RECORDS),
        np.arange(K * PER_CLASS) % K,
        {"logits": features},
        logits="logits",
        force=True,
    )


def noise(path: Path, seed: int) -> None:
    """Independent features at every record."""
    write_features(path, np.random.default_rng([seed, 1]).normal(size=(RECORDS, K * PER_CLASS, K)))


def walk(path: Path, seed: int) -> None:
    """Random walks of the samples."""
    steps = 0.1 * np.random.default_rng([seed, 2]).normal(size=(RECORDS, K * PER_CLASS, K))
    write_features(path, np.cumsum(steps, axis=0))


def class_walk(path: Path, seed: int) -> None:
    """Random walks of samples, classes, and all."""
    rng = np.random.default_rng([seed, 3])
    own = 0.1 * rng.normal(size=(RECORDS, K * PER_CLASS, K))
    of_class = 0.05 * rng.normal(size=(RECORDS, K, K))[:, np.arange(K * PER_CLASS) % K]
    write_features(path, np.cumsum(own + of_class + 0.05 * rng.normal(size=(RECORDS, 1, K)), axis=0))


def training(path: Path, seed: int, *, fresh: bool, batch_size: int) -> None:
    """Train a small network on labels that have nothing to do with the inputs."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(TRAIN, INPUTS, generator=generator)
    labels = torch.randint(K, (TRAIN,), generator=generator)
    order = torch.arange(TRAIN)
    probe = (torch.randn(K * PER_CLASS, INPUTS, generator=generator), torch.arange(K * PER_CLASS) % K)
    if not fresh:
        chosen = torch.cat([order[labels == class_][:PER_CLASS] for class_ in range(K)])
        probe = (inputs[chosen], labels[chosen])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, K))
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    with FeatureRecorder(path, model, probe=probe, layers=["2"], every=EVERY, burst=1, force=True) as recorder:
        for _ in range(EVERY * (RECORDS - 1)):
            batch = torch.randperm(TRAIN, generator=generator)[:batch_size]
            optimizer.zero_grad()
            cross_entropy(model(inputs[batch]), labels[batch]).backward()
            optimizer.step()
            recorder.step()


def fresh_probe(path: Path, seed: int) -> None:
    """Probe samples that are not trained on, in noisy training."""
    training(path, seed, fresh=True, batch_size=NOISY_BATCH)


def gentle_fresh_probe(path: Path, seed: int) -> None:
    """Probe samples that are not trained on, where every step is of all training samples."""
    training(path, seed, fresh=True, batch_size=GENTLE_BATCH)


def training_probe(path: Path, seed: int) -> None:
    """Probe samples that are trained on."""
    training(path, seed, fresh=False, batch_size=NOISY_BATCH)


@dataclass(frozen=True)
class Case:
    """What is made, how it is fitted, and whether it is free of elasticity."""

    name: str
    make: Callable[[Path, int], None]
    impact: Impact
    elastic: bool = False


CASES = (
    Case("fresh-probe-R", fresh_probe, "R"),
    Case("gentle-fresh-probe-R", gentle_fresh_probe, "R"),
    Case("noise-R", noise, "R"),
    Case("walk-R", walk, "R"),
    Case("training-probe-R", training_probe, "R", elastic=True),
    Case("class-walk-R", class_walk, "R"),
    Case("fresh-probe-I", fresh_probe, "I"),
    Case("gentle-fresh-probe-I", gentle_fresh_probe, "I"),
    Case("noise-I", noise, "I"),
    Case("walk-I", walk, "I"),
    Case("class-walk-I", class_walk, "I"),
)


def outcome(case: Case, seed: int, path: Path) -> dict[str, Any]:
    """Fit a run, and return what its verdict rests on."""
    case.make(path, seed)
    with Recording(path) as recording:
        statistics = compute_statistics(recording, recording.choose_layer(None), case.impact)
    found = gamma_alone(statistics, seed, n_chains=CHAINS, n_draws=DRAWS)
    end = gamma_at_end(found.gamma, statistics.gamma_sampling_error)
    of_probe = gamma_at_end(found.gamma, 0.0)
    return {
        "seed": seed,
        "probability_gamma_positive": float(np.mean(end > 0)),
        "probability_of_these_samples": float(np.mean(of_probe > 0)),
        "gamma_end": np.quantile(of_probe, [0.05, 0.5, 0.95]).tolist(),
        "sampling_error": statistics.gamma_sampling_error,
        "identified": not any(flag.stop_step >= statistics.steps[-1] for flag in found.flags),
        "r_hat_max": found.r_hat_max,
        "ess_min": found.ess_min,
        "divergences": found.divergences,
        "mixed": found.mixed,
    }


def carry_out(case: Case, seeds: range, work: Path) -> list[dict[str, Any]]:
    """Return the outcomes of a case, making those that are missing."""
    kept = work / f"{case.name}.jsonl"
    outcomes = [json.loads(text) for text in kept.read_text().splitlines()] if kept.exists() else []
    for seed in seeds:
        if any(known["seed"] == seed for known in outcomes):
            continue
        outcomes.append(outcome(case, seed, work / "run.h5"))
        with kept.open("a") as file:
            file.write(json.dumps(outcomes[-1]) + "\n")
        print(f"{case.name}, seed {seed}: P(γ > 0) = {outcomes[-1]['probability_gamma_positive']:.3f}", flush=True)
    return [known for known in outcomes if known["seed"] in seeds]


def summarise(case: Case, outcomes: list[dict[str, Any]]) -> dict[str, Any]:
    """Count what the verdicts say."""
    probabilities = np.array([known["probability_gamma_positive"] for known in outcomes])
    of_probe = np.array([known["probability_of_these_samples"] for known in outcomes])
    identified = np.array([known["identified"] for known in outcomes])
    sure = probabilities > SURE
    return {
        "name": case.name,
        "elastic": case.elastic,
        "runs": len(outcomes),
        "probability_above": float(np.mean(sure)),
        "probability_below": float(np.mean(probabilities < 1.0 - SURE)),
        "above_for_these_samples": float(np.mean(of_probe > SURE)),
        "not_identified": float(np.mean(~identified)),
        "called_elastic": float(np.mean(sure & identified)),
        "median_probability": float(np.median(probabilities)),
        "badly_mixed": float(np.mean([not known["mixed"] for known in outcomes])),
    }


COLUMNS = {
    "probability_above": "P(γ > 0) > 0.95",
    "probability_below": "P(γ > 0) < 0.05",
    "median_probability": "median P",
    "above_for_these_samples": "P > 0.95 without sampling error",
    "not_identified": "flagged as not identified",
    "called_elastic": "called elastic",
    "badly_mixed": "r̂ > 1.01 or divergent",
}


def page(summaries: list[dict[str, Any]]) -> str:
    """Return the results as a page of Markdown."""
    free = [summary for summary in summaries if not summary["elastic"]]
    total = sum(summary["runs"] for summary in free)
    wrong, called = (
        sum(summary["runs"] * summary[name] for summary in free) for name in ("probability_above", "called_elastic")
    )
    head = [
        "# Runs in which nothing is elastic",
        "",
        "Made by `make no-elasticity` (`benchmarks/no_elasticity.py`, where the runs are described). "
        f"K = {K}, {PER_CLASS} probe samples a class, {RECORDS} records, {CHAINS} chains of {DRAWS} draws of γ. "
        "Numbers are shares of the runs of a row.",
        "",
        f"Of {total} runs without elasticity {wrong / total:.1%} have P(γ > 0) > 0.95, and {called / total:.1%} are "
        f"called elastic (target: at most {MOST:.0%}). Rows marked elastic are so by construction, and show that the "
        "test has power.",
        "",
        f"| run, impact | runs | {' | '.join(COLUMNS.values())} |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    rows = []
    for summary in summaries:
        name = summary["name"] + (" (elastic)" if summary["elastic"] else "")
        rows.append(f"| {name} | {summary['runs']} | {' | '.join(f'{summary[key]:.2f}' for key in COLUMNS)} |")
    return "\n".join([*head, *rows, ""])


def main() -> None:
    """Carry out all runs, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=50, help="runs of each case")
    parser.add_argument("--work", type=Path, default=HERE / "work" / "no_elasticity", help="folder of outcomes")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of the tables")
    parser.add_argument("--only", nargs="+", choices=[case.name for case in CASES], help="these cases")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    summaries = []
    for case in CASES:
        if not arguments.only or case.name in arguments.only:
            outcomes = carry_out(case, range(1, arguments.seeds + 1), arguments.work)
            summaries.append(summarise(case, outcomes))
            print(json.dumps(summaries[-1]), flush=True)
            arguments.results.mkdir(parents=True, exist_ok=True)
            (arguments.results / "no_elasticity.json").write_text(json.dumps(summaries, indent=1) + "\n")
            (arguments.results / "no_elasticity.md").write_text(page(summaries))


if __name__ == "__main__":
    main()
