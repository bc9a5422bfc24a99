"""Record what Lightning trains by adding a callback.

A small network learns handwritten digits (0, 1 and 2, from scikit-learn). The import and the lines marked ``# lesde``
are all that recording adds; the weights come out bit by bit the same without.

    python examples/own_lightning.py [--epochs 20] [--out-dir own-lightning-results] [--force]
"""

import argparse
from pathlib import Path

import lightning
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from data_tools import Probe, Recording
from data_tools.drift_measures import class_means
from data_tools.lightning import ElasticityCallback


class Digits(lightning.LightningModule):
    """A network of one hidden layer, trained by stochastic gradient descent."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        return self.network(x)

    def training_step(self, batch: list[torch.Tensor], _batch_index: int) -> torch.Tensor:
        """Return the loss of a batch."""
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.SGD(self.parameters(), lr=0.05)


def train(path: Path, epochs: int, *, force: bool) -> None:
    """Train, and record the logits of 60 samples of each digit."""
    lightning.seed_everything(0, verbose=False)
    pixels, digits = load_digits(n_class=3, return_X_y=True)
    data = TensorDataset(torch.tensor(pixels, dtype=torch.float32) / 16, torch.tensor(digits))
    probe = Probe.from_dataset(data, per_class=60)  # lesde
    recorder = ElasticityCallback(path, probe, layers=["network.2"], every=20, force=force)  # lesde
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[recorder],  # lesde
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Digits(), DataLoader(data, batch_size=8, shuffle=True))


def report(path: Path) -> None:
    """Say how far the classes' mean logits have moved apart, and what to do next."""
    with Recording(path) as recording:
        for record in np.linspace(0, recording.n_records - 1, 5).astype(int):
            logits = recording.features("network.2")[record]
            means = class_means(logits, recording.labels, recording.n_classes)
            spread = np.linalg.norm(means - means.mean(axis=0), axis=1).mean()
            step, accuracy = recording.steps[record], recording.scalars["accuracy"][record]
            print(f"step {step:>5}: class means {spread:5.2f} from their centre, accuracy {accuracy:.2f}")
    print(f"next: lesde fit {path} --layer network.2")


def main() -> None:
    """Train, and say what was recorded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--epochs", type=int, default=20, help="passes through the data, 2 at least")
    parser.add_argument("--out-dir", type=Path, default=Path("own-lightning-results"), help="folder for what is made")
    parser.add_argument("--force", action="store_true", help="replace what an earlier run made")
    arguments = parser.parse_args()
    if arguments.epochs < 2:
        parser.error(f"--epochs is {arguments.epochs}; give 2 or more")
    arguments.out_dir.mkdir(parents=True, exist_ok=True)
    recording = arguments.out_dir / "run.h5"
    train(recording, arguments.epochs, force=arguments.force)
    report(recording)


if __name__ == "__main__":
    main()
