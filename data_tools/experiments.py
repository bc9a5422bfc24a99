"""Train a network by the protocol of the LE-SDE paper and record it."""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from data_tools.architectures import DEFAULT_LAYERS, ArchitectureName, build_architecture
from data_tools.datasets import DatasetName, LabelledImages, corrupt_labels, load_dataset
from data_tools.elasticity import ElasticityMeasurement
from data_tools.errors import InputError
from data_tools.recorder import FeatureRecorder
from data_tools.schedules import AdaptiveSchedule, EverySteps, LogarithmicSchedule, Schedule

ScheduleName: TypeAlias = Literal["every", "logarithmic", "adaptive"]

_MOST_VALIDATION_IMAGES = 500


@dataclass(frozen=True)
class ExperimentConfig:
    """All that decides what a run computes; two runs with equal configurations give equal recordings.

    Attributes
    ----------
    dataset, architecture
        See `data_tools.datasets.load_dataset` and `data_tools.architectures.build_architecture`.
    label_noise
        Share of the training samples of each class that are relabelled.
    steps, batch_size, lr, momentum
        Plain stochastic gradient descent on cross-entropy, in shuffled epochs.
    schedule, every, burst
        When records are taken (`data_tools.schedules`): the first `burst` of every `every` steps; with ``logarithmic``
        bursts evenly spaced in the logarithm of the step; with ``adaptive`` when class-mean residuals have moved, no
        less than `every` steps apart.
    per_decade
        Of a logarithmic schedule, bursts while steps grow tenfold.
    target, most, max_bytes
        Of an adaptive one, the movement from burst to burst to aim at, the most steps between bursts, and the largest
        file.
    time_budget
        Most time that recording may take, as a share of training's; the steps recorded then depend on the machine.
    stored_dtype
        Type in which features are stored; by default that of weights and images.
    measure_elasticity_every
        Measure elasticity directly each time so many steps are done; by default never.
    elasticity_repeats
        Steps tried each time, see `data_tools.elasticity.ElasticityMeasurement`.
    seed
        Decides data, corruption, initial weights and the order of the samples, each by a stream of its own.
    train_per_class, probe_per_class
        Samples of each class to train on, and how many of these are recorded.
    validation_per_class
        Clean samples of each class, apart from those trained on; at most 500 in all are used.
    n_classes
        Use the first classes of the data set only; by default all.
    dtype
        Precision of weights and images.
    folder
        Where CIFAR-10 is.

    Raises
    ------
    InputError
        If a number is out of its range.
    """

    dataset: DatasetName = "geomnist"
    architecture: ArchitectureName = "lenet"
    label_noise: float = 0.0
    steps: int = 10_000
    schedule: ScheduleName = "every"
    every: int = 50
    burst: int = 2
    per_decade: float = LogarithmicSchedule.per_decade
    target: float = AdaptiveSchedule.target
    most: int = AdaptiveSchedule.most
    max_bytes: int | None = None
    time_budget: float | None = None
    stored_dtype: Literal["float16", "float32", "float64"] | None = None
    batch_size: int = 1
    lr: float = 0.005
    momentum: float = 0.0
    measure_elasticity_every: int | None = None
    elasticity_repeats: int = 10
    seed: int = 0
    train_per_class: int = 500
    probe_per_class: int = 100
    validation_per_class: int = 100
    n_classes: int | None = None
    dtype: Literal["float32", "float64"] = "float32"
    folder: str | None = None

    def __post_init__(self) -> None:
        positive = ["steps", "batch_size", "train_per_class", "validation_per_class", "elasticity_repeats"]
        if self.measure_elasticity_every is not None:
            positive.append("measure_elasticity_every")
        for name in positive:
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 2 <= self.probe_per_class <= self.train_per_class:
            raise InputError(
                f"probe_per_class is {self.probe_per_class}; the probe is part of the training set, so choose from 2 "
                f"to train_per_class = {self.train_per_class}"
            )
        if not self.lr > 0:
            raise InputError(f"lr is {self.lr}; it must be positive")
        if not 0 <= self.momentum < 1:
            raise InputError(f"momentum is {self.momentum}; it must be from 0 to below 1")
        if not 0 <= self.label_noise <= 1:
            raise InputError(f"label_noise is {self.label_noise}; it is a share from 0 to 1")
        if self.dtype not in ("float32", "float64"):
            raise InputError(f"dtype is {self.dtype!r}; choose float32 or float64")
        self.build_schedule()  # whose bounds are checked there

    def build_schedule(self) -> Schedule:
        """Return the schedule of the recorder.

        Raises
        ------
        InputError
            If it is unknown, or its numbers make none.
        """
        if self.schedule == "every":
            return EverySteps(self.every, self.burst)
        if self.schedule == "logarithmic":
            return LogarithmicSchedule(self.per_decade, self.burst)
        if self.schedule == "adaptive":
            if not 1 <= self.burst <= self.every <= self.most:
                raise InputError(
                    f"burst={self.burst}, every={self.every} and most={self.most}: bursts of an adaptive schedule are "
                    "from `every` to `most` steps apart, and fit into that"
                )
            return AdaptiveSchedule(self.target, self.every, self.most, self.burst, max_bytes=self.max_bytes)
        raise InputError(f"schedule is {self.schedule!r}; choose one of {', '.join(get_args(ScheduleName))}")


def run_experiment(
    config: ExperimentConfig,
    out: str | os.PathLike[str],
    *,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Train by `config` and record the network's layers before and after its last weight matrix.

    Parameters
    ----------
    config
        The run.
    out
        Recording to make. If training is interrupted, it holds all records up to then.
    force
        Replace an existing file.
    progress
        Called now and then with the steps done and the steps in all.

    Returns
    -------
    pathlib.Path
        `out`. Besides the scalars of the recorder it has ``validation_loss`` and ``validation_accuracy`` on clean
        samples, evaluated once per burst.

    Raises
    ------
    InputError
        If the data are not there, the file exists, or training diverges; what was recorded until then remains.
    """
    path = Path(out)
    dtype = {"float32": torch.float32, "float64": torch.float64}[config.dtype]
    data = load_dataset(
        config.dataset,
        config.train_per_class,
        config.seed,
        test_per_class=config.validation_per_class,
        n_classes=config.n_classes,
        folder=config.folder,
    )
    given = corrupt_labels(data.train_labels, config.label_noise, data.n_classes, config.seed)
    probe = _first_of_each_class(data.train_labels, data.n_classes, config.probe_per_class)
    model = build_architecture(config.architecture, data.train_images.shape[1:], data.n_classes, config.seed).to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=config.lr, momentum=config.momentum)
    images = torch.as_tensor(data.train_images, dtype=dtype)
    targets = torch.as_tensor(given)
    validation = _Validation(model, data, dtype, config.every)
    elasticity = None
    if config.measure_elasticity_every is not None:
        elasticity = ElasticityMeasurement(
            optimizer,
            (images, targets),
            config.batch_size,
            repeats=config.elasticity_repeats,
            labels=data.train_labels,
            seed=config.seed,
        )
    with _one_thread():
        recorder = FeatureRecorder(
            path,
            model,
            probe=(images[probe], data.train_labels[probe]),
            layers=DEFAULT_LAYERS[config.architecture],
            schedule=config.build_schedule(),
            time_budget=config.time_budget,
            dtype=config.stored_dtype,
            planned_steps=config.steps,
            given_labels=given[probe],
            scalars={"validation_loss": validation.loss, "validation_accuracy": validation.accuracy},
            measure_elasticity_every=config.measure_elasticity_every,
            elasticity=elasticity,
            class_frequencies=np.bincount(data.train_labels, minlength=data.n_classes) / data.train_labels.size,
            provenance={**asdict(config), "optimizer": "SGD", "elasticity_repeats": elasticity and elasticity.repeats},
            on_error="raise",
            force=force,
        )
        with recorder:
            batches = _shuffled_batches(len(images), config.batch_size, config.seed)
            for step, batch in zip(range(1, config.steps + 1), batches, strict=False):
                optimizer.zero_grad()
                loss = cross_entropy(model(images[batch]), targets[batch])
                if not math.isfinite(loss.item()):
                    raise InputError(f"{path}: training diverged at step {step}; lower lr, now {config.lr}")
                loss.backward()
                optimizer.step()
                validation.step = step
                recorder.step()
                if progress is not None and (step % config.every == 0 or step == config.steps):
                    progress(step, config.steps)
    return path


class _Validation:
    """Loss and accuracy on clean samples, evaluated at the first record of each burst and repeated at the others.

    Where bursts run into one another they are evaluated every `every` steps. `step` is that of the training.
    """

    def __init__(self, model: nn.Module, data: LabelledImages, dtype: torch.dtype, every: int) -> None:
        chosen = _first_of_each_class(data.test_labels, data.n_classes, _MOST_VALIDATION_IMAGES // data.n_classes)
        self._model, self._every = model, every
        self._images = torch.as_tensor(data.test_images[chosen], dtype=dtype)
        self._labels = torch.as_tensor(data.test_labels[chosen])
        self._accuracy = math.nan
        self._loss = math.nan
        self._recorded, self._evaluated = -math.inf, -math.inf
        self.step = 0

    def loss(self) -> float:
        """Return the mean cross-entropy in nats."""
        if self.step - self._recorded > 1 or self.step - self._evaluated >= self._every:
            logits: Tensor = self._model(self._images)
            self._loss = cross_entropy(logits, self._labels).item()
            self._accuracy = (logits.argmax(dim=1) == self._labels).double().mean().item()
            self._evaluated = self.step
        self._recorded = self.step
        return self._loss

    def accuracy(self) -> float:
        """Return the share of right answers, from the evaluation that `loss` made."""
        return self._accuracy


def _first_of_each_class(
    labels: Int[np.ndarray, " sample"], n_classes: int, per_class: int
) -> Int[np.ndarray, " chosen"]:
    return np.concatenate([np.flatnonzero(labels == class_)[:per_class] for class_ in range(n_classes)])


def _shuffled_batches(n_samples: int, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Yield batches of indices for ever, every sample once per epoch; the last batch of an epoch may be smaller."""
    rng = np.random.default_rng([seed, n_samples])
    while True:
        yield from torch.as_tensor(rng.permutation(n_samples)).split(batch_size)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: networks this small lose more by sharing work than they gain, and repeat exactly."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
