"""The training samples, their loss, and the mean gradient of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from data_tools.errors import InputError
from data_tools.network_inputs import (
    NetworkInputs,
    as_network_inputs,
    call_network,
    map_inputs,
    select,
    shapes_of,
    tensors_of,
)
from data_tools.recording_schema import as_integer_labels
from data_tools.saved_training import SavedTraining
from data_tools.training_state import device_of

_LARGEST_BATCH = 256  # samples whose gradient is computed at once where the batch size of training does not matter


@dataclass(frozen=True)
class TrainingBatches:
    """Training samples, and how the loss of a batch of them is computed.

    Attributes
    ----------
    inputs
        As the network takes them, samples first, see `data_tools.probe.Probe`.
    targets, labels
        What each is trained as, and what it is, (N,).
    batch_size
        Of the training.
    loss
        Of outputs and targets, the mean over the samples.
    augment
        What is done to the inputs of a batch.
    """

    inputs: NetworkInputs
    targets: Int[np.ndarray, " train"]
    labels: Int[np.ndarray, " train"]
    batch_size: int
    loss: Callable[[Any, Tensor], Tensor]
    augment: Callable[[Any], Any] | None = None

    @classmethod
    def make(
        cls,
        data: tuple[Any, Any],
        labels: Any,
        batch_size: int,
        loss: Callable[[Any, Tensor], Tensor],
        augment: Callable[[Any], Any] | None,
    ) -> "TrainingBatches":
        """Check what a user gives as training data.

        Raises
        ------
        InputError
            If inputs, targets and labels do not go together, or are fewer than a batch.
        """
        inputs = as_network_inputs(data[0], "the inputs of the training data", copy=False)
        targets = _integers(data[1], "the targets of the training data")
        kinds = targets if labels is None else _integers(labels, "labels of the training data")
        if not len(tensors_of(inputs)[0]) == targets.size == kinds.size:
            raise InputError(
                f"the training data have inputs of {shapes_of(inputs)}, {targets.size} targets and "
                f"{kinds.size} labels; give one per sample"
            )
        if not 1 <= batch_size <= targets.size:
            raise InputError(f"batch_size is {batch_size}; choose from 1 to the {targets.size} training samples")
        return cls(inputs, targets, kinds, batch_size, loss, augment)

    def check_classes(self, n_classes: int) -> None:
        """Check that targets and labels have a sample of every class 0 … K − 1, and of no other.

        Raises
        ------
        InputError
            Naming the class.
        """
        for what, values in (("targets", self.targets), ("labels", self.labels)):
            if values.min() < 0 or values.max() >= n_classes:
                raise InputError(
                    f"{what} of the training data go from {values.min()} to {values.max()}, but the probe has classes "
                    f"0 … {n_classes - 1}; number both alike"
                )
            missing = np.flatnonzero(np.bincount(values, minlength=n_classes) == 0)
            if missing.size:
                raise InputError(f"{what} of the training data: class {missing[0]} has no sample; give some of each")

    def loss_of(self, model: nn.Module, batch: Int[np.ndarray, " batch"]) -> Tensor:
        """Return the loss of the samples with these indices.

        Raises
        ------
        InputError
            If it is not a single number.
        """
        device = device_of(model)
        inputs = map_inputs(lambda tensor: tensor.to(device), select(self.inputs, torch.as_tensor(batch)))
        targets = torch.as_tensor(self.targets[batch]).to(device)
        loss = self.loss(call_network(model, inputs if self.augment is None else self.augment(inputs)), targets)
        if not isinstance(loss, Tensor) or loss.ndim:
            raise InputError(
                "the loss of an ElasticityMeasurement is not a single number; return the mean of the batch"
            )
        return loss

    def mean_gradient(self, training: SavedTraining, samples: Int[np.ndarray, " chosen"]) -> dict[str, Tensor | None]:
        """Return the gradient of the mean loss over samples by parameter, from batches like those of the training.

        None stands for parameters that the loss does not depend on.
        """
        size = self.batch_size if self.batch_size > 1 else _LARGEST_BATCH
        mean: dict[str, Tensor | None] = dict.fromkeys(training.parameters)
        training.reset()
        for batch in np.array_split(samples, -(-samples.size // size)):
            for name, gradient in training.gradient(self.loss_of(training.model, batch)).items():
                if gradient is not None:
                    part, so_far = gradient * (batch.size / samples.size), mean[name]
                    mean[name] = part if so_far is None else so_far + part
        training.reset()
        return mean


def _integers(values: Any, what: str) -> Int[np.ndarray, " train"]:
    return as_integer_labels(values.detach().cpu().numpy() if isinstance(values, Tensor) else values, what)
