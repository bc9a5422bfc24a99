"""Look for the phase transition on handwritten digits: for K classes it is expected where labels say nothing, (K−1)/K.

Trains LeNet on the first K digits for K = 2, 3, 5 and 10, a share p of the labels wrong, by the paper's protocol (batch
size 1, learning rate 0.005, 10,000 steps), and asks of each run whether the real classes separated, and whether the
network still tells unseen digits better than by guessing. p goes up to 1.1 (K−1)/K, beyond which labels point away from
the right class. The paper's estimate of ∫γ, with classes by the labels given, stands beside. Nothing is fitted.

    python examples/digits_transition.py [--classes 2 3 5 10] [--seeds 3] [--jobs N] [--work DIR] [--results DIR]
        [--short]

A run takes half a minute on one core. ``--short`` is a check that all of it works: its numbers mean nothing.
"""

import argparse
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from phase_transition_table import midpoint
from side_by_side import carry_out_all

HERE = Path(__file__).parent
CLASSES, SEEDS, STEPS = (2, 3, 5, 10), 3, 10_000
SHARES = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1)  # p in units of (K−1)/K
RESAMPLES = 1_000
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")

Outcomes = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Run:
    """A training; ``quick`` is that of the check."""

    n_classes: int
    share: float
    seed: int
    quick: bool = False

    @property
    def noise(self) -> float:
        """Share of the labels that are wrong."""
        return min(self.share * chance_level(self.n_classes), 1.0)

    @property
    def name(self) -> str:
        """What its files are called."""
        return f"{'quick-' if self.quick else ''}digits{self.n_classes}-p{self.noise:.3f}-seed{self.seed}"


def chance_level(n_classes: int) -> float:
    """Return (K−1)/K, the share of wrong labels at which the label given says nothing of the digit."""
    return (n_classes - 1) / n_classes


def carry_out(run: Run, work: Path) -> dict[str, Any]:
    """Train, record and observe a run, as far as that was not done, and return what came out."""
    import lesde_infer as li
    from data_tools.experiments import ExperimentConfig, run_experiment
    from data_tools.recording import Recording

    kept, recording = work / f"{run.name}.json", work / f"{run.name}.h5"
    if kept.exists():
        return json.loads(kept.read_text())
    config = ExperimentConfig(
        dataset="digits",
        n_classes=run.n_classes,
        label_noise=run.noise,
        seed=run.seed,
        steps=500 if run.quick else STEPS,
        every=100,
        burst=1,
        train_per_class=120,
        probe_per_class=50,
        validation_per_class=50,
    )
    if not recording.exists():
        unfinished = work / f"unfinished-{run.name}.h5"
        run_experiment(config, unfinished, force=True)
        unfinished.rename(recording)
    found = li.geometry(recording, n_permutations=1)
    with Recording(recording) as opened:
        accuracy = float(opened.scalars["validation_accuracy"][-1])
    outcome = {
        "n_classes": run.n_classes,
        "noise": run.noise,
        "seed": run.seed,
        "separable": found.separation.n_separable_pairs == found.separation.n_pairs,
        "separable_pairs": found.separation.n_separable_pairs / found.separation.n_pairs,
        "linear_accuracy": found.metrics["linear_accuracy"],
        "validation_accuracy": accuracy,
    }
    part = kept.with_suffix(".part")
    part.write_text(json.dumps(outcome))
    part.rename(kept)
    return outcome


def integral_of_gamma(runs: Sequence[Run], work: Path) -> str:
    """Return the paper's Â − B̂ at the end, over the seeds of one p, classes by the labels given, as text."""
    import lesde_infer as li
    from data_tools import InputError

    try:
        found = li.estimate_moments([work / f"{run.name}.h5" for run in runs], impact="I", group="given_labels")
    except InputError:
        return "–"
    return f"{found.A[-1] - found.B[-1]:.1f}"


def accuracy_at_chance(outcomes: Outcomes) -> float:
    """Return the p at which mean validation accuracy falls to 1/K, between the two p around it; NaN if it does not."""
    noises = sorted({outcome["noise"] for outcome in outcomes})
    excess = []
    for noise in noises:
        own = [outcome for outcome in outcomes if outcome["noise"] == noise]
        excess.append(float(np.mean([outcome["validation_accuracy"] - 1.0 / outcome["n_classes"] for outcome in own])))
    for low, high, above, below in zip(noises[:-1], noises[1:], excess[:-1], excess[1:], strict=True):
        if above > 0.0 >= below:
            return low + (high - low) * above / (above - below)
    return float("nan")


def half_separable(outcomes: Outcomes) -> float:
    """Return the p at which half of the runs are separable, by logistic regression; NaN if all runs are alike."""
    happened = np.array([outcome["separable"] for outcome in outcomes])
    if happened.all() or not happened.any():
        return float("nan")
    return max(0.0, midpoint(np.array([outcome["noise"] for outcome in outcomes]), happened))


def interval(border: Callable[[Outcomes], float], outcomes: Outcomes) -> str:
    """Return a border with its 90 % interval over runs that are drawn with replacement within each p, as text."""
    rng = np.random.default_rng(0)
    by_noise: dict[float, list[dict[str, Any]]] = {}
    for outcome in outcomes:
        by_noise.setdefault(outcome["noise"], []).append(outcome)
    found = []
    for _ in range(RESAMPLES):
        drawn = [own[place] for own in by_noise.values() for place in rng.integers(len(own), size=len(own))]
        found.append(border(drawn))
    defined = np.array(found)[np.isfinite(found)]
    value = border(outcomes)
    if not np.isfinite(value) or len(defined) < 0.95 * RESAMPLES:
        return "–"
    low, high = np.quantile(defined, [0.05, 0.95])
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


def page(outcomes: Outcomes, integrals: dict[tuple[int, float], str], *, short: bool) -> str:
    """Return the results as Markdown."""
    seeds = len({outcome["seed"] for outcome in outcomes})
    lines = [
        "# The phase transition on digits",
        "",
        "Made by `python examples/digits_transition.py`, where the runs are described.",
        *(["", "**A check with short runs: these numbers mean nothing.**"] if short else []),
        "",
        f"LeNet, {seeds} seeds of each p. Separable: all pairs of real classes are, in the logits of 50 of each class",
        "at the last step; – where no border lies among the runs. 90 % intervals are over resampled seeds.",
        "",
        "| K | (K−1)/K | p at which validation accuracy is at chance | p at which half of the runs are separable |",
        "|---|---|---|---|",
    ]
    classes = sorted({outcome["n_classes"] for outcome in outcomes})
    for n_classes in classes:
        own = [outcome for outcome in outcomes if outcome["n_classes"] == n_classes]
        up_to_chance = [outcome for outcome in own if outcome["noise"] <= chance_level(n_classes) + 1e-9]
        lines.append(
            f"| {n_classes} | {chance_level(n_classes):.2f} | {interval(accuracy_at_chance, own)} | "
            f"{interval(half_separable, up_to_chance)} |"
        )
    lines += [
        "",
        "Means over seeds at the last step; ∫γ is Â − B̂ of the paper's I model, by the labels given.",
        "",
        "| K | p | separable runs | separable pairs | linear accuracy | validation accuracy | 1/K | ∫γ |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (n_classes, noise), gamma in integrals.items():
        own = [outcome for outcome in outcomes if (outcome["n_classes"], outcome["noise"]) == (n_classes, noise)]
        mean = {
            name: float(np.mean([outcome[name] for outcome in own]))
            for name in ("separable_pairs", "linear_accuracy", "validation_accuracy")
        }
        lines.append(
            f"| {n_classes} | {noise:.3f} | {sum(outcome['separable'] for outcome in own)} of {len(own)} | "
            f"{mean['separable_pairs']:.2f} | {mean['linear_accuracy']:.2f} | {mean['validation_accuracy']:.2f} | "
            f"{1 / n_classes:.2f} | {gamma} |"
        )
    return "\n".join([*lines, "", "![Validation accuracy against p](digits_transition.png)"]) + "\n"


def draw(outcomes: Outcomes) -> Figure:
    """Draw validation accuracy over what guessing gives, against p, for each K."""
    figure = Figure(figsize=(6.5, 4.0), layout="constrained")
    axes = figure.subplots()
    for n_classes, colour in zip(sorted({outcome["n_classes"] for outcome in outcomes}), COLOURS, strict=False):
        own = [outcome for outcome in outcomes if outcome["n_classes"] == n_classes]
        noise = np.array([outcome["noise"] for outcome in own])
        excess = np.array([outcome["validation_accuracy"] - 1.0 / n_classes for outcome in own])
        places = np.unique(noise)
        axes.plot(noise, excess, ".", color=colour, alpha=0.5)
        axes.plot(places, [excess[noise == place].mean() for place in places], color=colour, label=f"K = {n_classes}")
        axes.axvline(chance_level(n_classes), color=colour, linestyle=":", linewidth=1.0)
    axes.axhline(0.0, color="0.5", linewidth=0.8)
    axes.set(xlabel="share p of the labels that are wrong", ylabel="validation accuracy − 1/K")
    axes.set_title("digits; dotted: (K−1)/K, where the label given says nothing", fontsize="medium")
    axes.legend(frameon=False)
    return figure


def main() -> None:
    """Carry out what is missing, and write table and figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--classes", type=int, nargs="+", default=CLASSES, help="numbers K of digits")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="runs of each p")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time")
    parser.add_argument("--work", type=Path, default=HERE / "work" / "digits_transition")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--short", action="store_true", help="see that it works; the numbers mean nothing")
    arguments = parser.parse_args()
    if arguments.seeds < 1 or arguments.jobs < 1 or not all(2 <= number <= 10 for number in arguments.classes):
        parser.error("--seeds and --jobs are at least 1, and --classes are numbers from 2 to 10")
    classes = (2, 3) if arguments.short else tuple(arguments.classes)
    shares = (0.0, 1.0) if arguments.short else SHARES
    groups = [
        [Run(n_classes, share, seed, arguments.short) for seed in range(2 if arguments.short else arguments.seeds)]
        for n_classes in classes
        for share in shares
    ]
    arguments.work.mkdir(parents=True, exist_ok=True)
    outcomes = carry_out_all(carry_out, [run for group in groups for run in group], arguments.work, arguments.jobs)
    integrals = {(group[0].n_classes, group[0].noise): integral_of_gamma(group, arguments.work) for group in groups}
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "digits_transition.md").write_text(page(outcomes, integrals, short=arguments.short))
    draw(outcomes).savefig(arguments.results / "digits_transition.png", dpi=110)
    print(f"results: {arguments.results / 'digits_transition.md'}")


if __name__ == "__main__":
    main()
