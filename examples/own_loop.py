"""Record your own training loop in three lines, then ask whether the network is locally elastic.

A small network learns handwritten digits (0, 1 and 2, from scikit-learn) by plain stochastic gradient descent. The
import and the lines marked ``# lesde`` are all that recording adds; the weights come out bit by bit the same without.

    python examples/own_loop.py [--steps 3000] [--out-dir own-loop-results] [--force]
"""

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

import lesde_infer as li
from data_tools import FeatureRecorder


def train(path: Path, steps: int, *, force: bool) -> None:
    """Train, and record the logits of 300 samples that are not trained on."""
    torch.manual_seed(0)
    pixels, digits = load_digits(n_class=3, return_X_y=True)
    inputs, labels = torch.tensor(pixels, dtype=torch.float32) / 16, torch.tensor(digits)
    order = torch.randperm(len(labels))
    probe, training = order[:300], order[300:]
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    seen = (inputs[probe], labels[probe])
    with FeatureRecorder(path, model, probe=seen, layers=["2"], every=steps // 100, force=force) as recorder:  # lesde
        for _ in range(steps):
            batch = training[torch.randint(len(training), (8,))]
            loss = nn.functional.cross_entropy(model(inputs[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recorder.step()  # lesde


def main() -> None:
    """Train, fit, check, and write a report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=3000, help="optimizer steps, 100 at least")
    parser.add_argument("--out-dir", type=Path, default=Path("own-loop-results"), help="folder for what is made")
    parser.add_argument("--curve", choices=["gp", "power", "constant"], default="gp", help="how rates change in time")
    parser.add_argument("--force", action="store_true", help="replace what an earlier run made")
    arguments = parser.parse_args()
    if arguments.steps < 100:
        parser.error(f"--steps is {arguments.steps}; give 100 or more")
    arguments.out_dir.mkdir(parents=True, exist_ok=True)
    recording = arguments.out_dir / "run.h5"
    train(recording, arguments.steps, force=arguments.force)

    fit = li.fit(recording, impact="R", curve=arguments.curve, seed=0)
    check = li.check(fit, recording)
    print(fit.verdict().sentence)
    table = fit.summary().to_dataframe()
    late = [table.filter(like=f"{name}[", axis=0).index[-1] for name in ("gamma", "beta", "kappa")]
    print(table.loc[[*late, "tail_index"]].to_string(float_format="{:.3g}".format))
    entry = li.ReportEntry("digits 0 to 2, my own loop", fit, check)
    page = li.write_report(
        arguments.out_dir / "report.html", [entry], title="My own training loop", force=arguments.force
    )
    print(f"report: {page}")


if __name__ == "__main__":
    main()
