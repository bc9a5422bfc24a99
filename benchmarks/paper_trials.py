"""Ask why tail indices differ from the paper's where labels say little: trials averaged, or the samples logged.

The paper trains LeNet a hundred times on one data set and logs, at every step, the logits of the sample that is being
trained on; class means of a step are those of the trials that hit the class. `make paper` averages five runs, each with
data of its own, and records a probe. Here a hundred networks are trained side by side on one data set, each with
initial weights and an order of samples of its own, and both are kept: logits of the samples trained on at every step
(before the step), and class means of a probe of 50 samples of each given label. The index of α under impact L
(`lesde_infer.moment_ratios`) then follows from

- **probe, 5**: the probe's means over five trials, as in `make paper` (median and spread over disjoint fives),
- **probe, all**: the probe's means over all trials,
- **trained on**: means of the samples trained on, over all trials, as in the paper,
- **trained on, their formula**: the same with the projections of the published code, which are written out for K = 3
  and leave the spread of the third class out (`lesde_infer.moments`),

with 90 % intervals over resampled trials.

    python benchmarks/paper_trials.py [--noise 0.8 0.67 0] [--trials 100] [--steps 10000] [--json FILE]

A hundred trials of 10,000 steps take some ten minutes on one core.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from rich.progress import track
from torch import Tensor
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.nn.functional import cross_entropy

from data_tools.architectures import build_architecture
from data_tools.datasets import corrupt_labels, load_dataset
from lesde_infer.moment_ratios import integrals, tail_index

LR, PER_CLASS, PROBE, EVERY, N_CLASSES = 0.005, 500, 50, 500, 3
N_RESAMPLES, FIVE = 200, 5
ROUNDING = float(np.finfo(np.float32).eps)


class Trials:
    """Networks that are trained side by side, batch size 1, by plain stochastic gradient descent."""

    def __init__(self, noise: float, n_trials: int, seed: int) -> None:
        data = load_dataset("geomnist", PER_CLASS, seed, test_per_class=1)
        self.images = torch.from_numpy(data.train_images)
        self.given = torch.from_numpy(corrupt_labels(data.train_labels, noise, N_CLASSES, seed))
        networks = [
            build_architecture("lenet", (1, 32, 32), N_CLASSES, 1_000 * seed + trial) for trial in range(n_trials)
        ]
        self.network = networks[0]
        weights, _ = stack_module_state(networks)  # type: ignore[arg-type]  # a list of modules
        self.weights = {name: value.detach() for name, value in weights.items()}
        rng = np.random.default_rng([seed, n_trials])
        self.orders = [self._endless(np.random.default_rng(stream)) for stream in rng.integers(2**63, size=n_trials)]
        self.probe = torch.cat([torch.nonzero(self.given == label)[:PROBE, 0] for label in range(N_CLASSES)])
        self.gradient = vmap(grad_and_value(self._loss, has_aux=True))

    def _endless(self, rng: np.random.Generator) -> Any:
        while True:
            yield from rng.permutation(len(self.images))

    def _logits(self, weights: dict[str, Tensor], images: Tensor) -> Tensor:
        return functional_call(self.network, weights, (images,))

    def _loss(self, weights: dict[str, Tensor], image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        logits = self._logits(weights, image[None])
        return cross_entropy(logits, label[None]), logits[0]

    def step(self) -> tuple[Float[np.ndarray, "trial logit"], Int[np.ndarray, " trial"]]:
        """Train each network on its next sample; return that sample's logits before, and its label."""
        chosen = torch.tensor([int(next(order)) for order in self.orders])
        gradients, (_, logits) = self.gradient(self.weights, self.images[chosen], self.given[chosen])
        self.weights = {name: value - LR * gradients[name] for name, value in self.weights.items()}
        return logits.numpy(), self.given[chosen].numpy()

    def probe_means(self) -> Float[np.ndarray, "trial class_ logit"]:
        """Return the class means of the probe, by the labels given."""
        images = self.images[self.probe]
        with torch.no_grad():
            rows = [
                self._logits({name: value[trial] for name, value in self.weights.items()}, images)
                for trial in range(len(self.orders))
            ]
        return torch.stack(rows).reshape(len(rows), N_CLASSES, PROBE, N_CLASSES).mean(dim=2).double().numpy()


def means_trained_on(
    logits: Float[np.ndarray, "step trial logit"], labels: Int[np.ndarray, "step trial"], trials: Int[np.ndarray, " t"]
) -> Float[np.ndarray, "step class_ logit"]:
    """Return class means over the trials that hit the class; where none did, the mean of the step before."""
    chosen, one_hot = logits[:, trials], labels[:, trials, None] == np.arange(N_CLASSES)
    counts = one_hot.sum(axis=1)
    means = np.einsum("stk,stl->skl", one_hot, chosen) / np.maximum(counts, 1)[:, :, None]
    for step, class_ in np.argwhere(counts == 0):
        means[step, class_] = means[max(step - 1, 0), class_]
    return means


def index_of_alpha(means: Float[np.ndarray, "record class_ logit"], steps: Int[np.ndarray, " record"]) -> float:
    """Return the tail index of α under impact L."""
    return tail_index(integrals(means, "L", ROUNDING).A, steps).value


def index_by_their_formula(means: Float[np.ndarray, "record class_ logit"], steps: Int[np.ndarray, " record"]) -> float:
    """Return the tail index of α with the projections of the published code."""
    flat = means.reshape(len(means), -1)
    off_diagonal = flat.sum(axis=1) - flat[:, [0, 4, 8]].sum(axis=1)
    along = (flat[:, [0, 4]].sum(axis=1) - flat[:, [6, 7]].sum(axis=1) - off_diagonal) / 2.0
    rest = flat - np.outer(along / 2.0, (np.eye(N_CLASSES) - 1.0 / N_CLASSES).ravel())
    spread = rest @ np.array([2.0, -1.0, -1.0, -1.0, 2.0, -1.0, 0.0, 0.0, 0.0]) / 3.0
    grown = [N_CLASSES * np.log(np.abs(part / part[0])) for part in (along, spread)]
    return tail_index((grown[0] + (N_CLASSES - 1) * grown[1]) / N_CLASSES, steps).value


def resampled(n_trials: int, seed: int) -> list[Int[np.ndarray, " trial"]]:
    """Return trials drawn with replacement, many times."""
    rng = np.random.default_rng(seed)
    return [rng.integers(n_trials, size=n_trials) for _ in range(N_RESAMPLES)]


def carry_out(noise: float, n_trials: int, n_steps: int, seed: int) -> dict[str, Any]:
    """Train, and return the tail index by the three ways of averaging, with 5 % and 95 % quantiles."""
    trials = Trials(noise, n_trials, seed)
    logits = np.empty((n_steps, n_trials, N_CLASSES), dtype=np.float32)
    labels = np.empty((n_steps, n_trials), dtype=np.int64)
    probes, recorded = [trials.probe_means()], [0]
    for step in track(range(n_steps), description=f"p = {noise:.2f}"):
        logits[step], labels[step] = trials.step()
        if (step + 1) % EVERY == 0:
            probes.append(trials.probe_means())
            recorded.append(step + 1)
    probe, records, steps = np.stack(probes, axis=1), np.array(recorded), np.arange(n_steps)
    fives = [index_of_alpha(probe[first : first + FIVE].mean(axis=0), records) for first in range(0, n_trials, FIVE)]
    draws = resampled(n_trials, seed)
    by_probe = [index_of_alpha(probe[drawn].mean(axis=0), records) for drawn in draws]
    of_draws = [means_trained_on(logits, labels, drawn) for drawn in draws]
    by_sample = [index_of_alpha(means, steps) for means in of_draws]
    by_formula = [index_by_their_formula(means, steps) for means in of_draws]
    of_all = means_trained_on(logits, labels, np.arange(n_trials))
    return {
        "probe, 5": [float(np.nanmedian(fives)), *np.nanquantile(fives, [0.05, 0.95]).tolist()],
        "probe, all": [index_of_alpha(probe.mean(axis=0), records), *np.nanquantile(by_probe, [0.05, 0.95]).tolist()],
        "trained on": [
            index_of_alpha(of_all, steps),
            *np.nanquantile(by_sample, [0.05, 0.95]).tolist(),
        ],
        "trained on, their formula": [
            index_by_their_formula(of_all, steps),
            *np.nanquantile(by_formula, [0.05, 0.95]).tolist(),
        ],
        "size of contrasts at the start": {
            name: float(np.linalg.norm(means - means.mean(axis=0)))
            for name, means in (
                ("probe, 5", probe[:FIVE, 0].mean(axis=0)),
                ("probe, all", probe[:, 0].mean(axis=0)),
                ("trained on", of_all[0]),
            )
        },
    }


def main() -> None:
    """Carry out the shares of wrong labels asked for, and print one JSON object for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--noise", type=float, nargs="+", default=[0.8, 2 / 3, 0.0])
    parser.add_argument("--trials", type=int, default=100, help="a multiple of 5")
    parser.add_argument("--steps", type=int, default=10_000, help=f"a multiple of {EVERY}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.trials < FIVE or arguments.trials % FIVE or arguments.steps < EVERY or arguments.steps % EVERY:
        parser.error(f"--trials is a multiple of {FIVE}, and --steps one of {EVERY}")
    results = {}
    for noise in arguments.noise:
        results[f"{noise:.2f}"] = carry_out(noise, arguments.trials, arguments.steps, arguments.seed)
        print(json.dumps({f"{noise:.2f}": results[f"{noise:.2f}"]}), flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
