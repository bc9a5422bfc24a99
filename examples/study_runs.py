"""Runs of the study of architectures: what is trained, how it is recorded, and a control without elasticity."""

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ARCHITECTURES = ("linear", "mlp", "cnn", "cnn_batchnorm", "lenet", "residual", "transformer")
CONTROL = "random-labels"
DATASETS = ("digits", "geomnist", "mnist5k")
LEARNING_RATE, BATCH, STEPS, TRAIN_PER_CLASS, PER_CLASS = 0.05, 32, 3_000, 100, 50
TARGET, LEAST, MOST, MOST_RECORDS = 0.1, 10, 60, 150
INPUTS, N_CLASSES = (1, 8, 8), 10  # of the control


@dataclass(frozen=True)
class Run:
    """A training.

    Attributes
    ----------
    dataset : str
        Of `data_tools.datasets`; ``isotropic`` for the control.
    architecture : str
        Of `data_tools.architectures`.
    seed : int
        Decides data, initial weights and the order of samples.
    quick : bool
        A run of the check that all of it works.
    """

    dataset: str
    architecture: str
    seed: int
    quick: bool = False

    @property
    def name(self) -> str:
        """What its files are called."""
        return f"{'quick-' if self.quick else ''}{self.dataset}-{self.architecture}-seed{self.seed}"

    @property
    def steps(self) -> int:
        """How long it is trained."""
        return 200 if self.quick else STEPS

    @property
    def is_control(self) -> bool:
        """Whether labels are drawn at random."""
        return self.dataset == "isotropic"


def control(seed: int, *, quick: bool = False) -> Run:
    """Return a run in which there is no elasticity to find.

    A perceptron is trained on isotropic Gaussian inputs whose labels are drawn independently of them. The probe's
    inputs and labels are drawn in the same way and never trained on: given the network's path its samples are
    exchangeable, so that none moves its own class more than the others (but by which samples it happens to hold).
    """
    return Run("isotropic", "mlp", seed, quick)


def record_run(run: Run, folder: Path) -> Path:
    """Train and record, unless that was done; return the recording.

    Beside it a second file, whose name ends in ``-layers.h5``, holds what comes out of every part of the network at the
    start and at the end.
    """
    import torch
    from torch.nn.functional import cross_entropy

    from data_tools import FeatureRecorder
    from data_tools.architectures import DEFAULT_LAYERS, build_architecture
    from data_tools.schedules import AdaptiveSchedule

    target, layers_target = folder / f"{run.name}.h5", folder / f"{run.name}-layers.h5"
    if target.exists() and layers_target.exists():
        return target
    inputs, labels, probe_inputs, probe_labels = samples(run)
    n_classes = int(labels.max()) + 1
    model = build_architecture(run.architecture, inputs.shape[1:], n_classes, run.seed)  # type: ignore[arg-type]
    images, targets = torch.as_tensor(inputs), torch.as_tensor(labels)
    probe = (torch.as_tensor(probe_inputs), torch.as_tensor(probe_labels))
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    order = np.random.default_rng([run.seed, len(labels)])
    parts = [name for name, _ in model.named_children() if name != "flatten"]
    schedule = AdaptiveSchedule(TARGET, LEAST, MOST, 2, max_records=40 if run.quick else MOST_RECORDS)
    unfinished, unfinished_layers = folder / f"unfinished-{run.name}.h5", folder / f"unfinished-{run.name}-layers.h5"
    torch.set_num_threads(1)
    kept = {"planned_steps": run.steps, "force": True, "on_error": "raise"}
    told = {"architecture": run.architecture, "dataset": run.dataset, "seed": run.seed}
    with (
        FeatureRecorder(
            unfinished,
            model,
            probe,
            DEFAULT_LAYERS[run.architecture],
            schedule=schedule,
            provenance=told,
            **kept,
        ) as recorder,
        FeatureRecorder(
            unfinished_layers, model, probe, parts, every=run.steps, burst=1, provenance=told, **kept
        ) as ends,
    ):
        batches = np.empty(0, dtype=np.int64)
        for _ in range(run.steps):
            if len(batches) < BATCH:
                batches = np.concatenate([batches, order.permutation(len(labels))])
            batch, batches = torch.as_tensor(batches[:BATCH]), batches[BATCH:]
            optimizer.zero_grad()
            cross_entropy(model(images[batch]), targets[batch]).backward()
            optimizer.step()
            recorder.step(lr=LEARNING_RATE)
            ends.step()
    unfinished_layers.rename(layers_target)
    unfinished.rename(target)
    return target


def samples(run: Run) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return inputs and labels to train on, and those of the probe: half of them, or in the control others."""
    from data_tools.datasets import load_dataset

    per_class = 10 if run.quick else PER_CLASS
    if run.is_control:
        rng = np.random.default_rng([zlib.crc32(run.dataset.encode()), run.seed])
        n_train, n_probe = N_CLASSES * TRAIN_PER_CLASS, N_CLASSES * per_class
        inputs = rng.normal(size=(n_train + n_probe, *INPUTS)).astype(np.float32)
        labels = np.concatenate([rng.permutation(np.arange(count) % N_CLASSES) for count in (n_train, n_probe)])
        return inputs[:n_train], labels[:n_train], inputs[n_train:], labels[n_train:]
    data = load_dataset(
        run.dataset,  # type: ignore[arg-type]
        TRAIN_PER_CLASS,
        run.seed,
        test_per_class=1,
        n_classes=3 if run.quick and not run.is_control else None,
    )
    chosen = np.concatenate(
        [np.flatnonzero(data.train_labels == class_)[:per_class] for class_ in range(data.n_classes)]
    )
    return data.train_images, data.train_labels, data.train_images[chosen], data.train_labels[chosen]
