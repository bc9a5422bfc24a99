"""Record what the Trainer of Hugging Face transformers trains: add a callback to it.

Needs the package ``transformers``, which the extra of this name installs.
"""

import os
from collections.abc import Sequence
from typing import Any

from torch import nn

from data_tools.probe import Probe
from data_tools.trainer_recorder import TrainerRecorder

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"this callback is for transformers, of which {error.name} is not installed; pip install "
        "'lesde-infer[transformers]'",
        name=error.name,
    ) from error


class ElasticityCallback(TrainerCallback):
    """Record the features of a network that a Trainer trains, without changing the training.

    Give it to the trainer::

        probe = Probe.from_dataset(dataset, per_class=100, collate=collator)
        callback = ElasticityCallback("run.h5", probe, layers=["bert.encoder.layer.1:first", "classifier"])
        Trainer(model, arguments, train_dataset=dataset, data_collator=collator, callbacks=[callback]).train()

    Steps are the trainer's update steps, ``state.global_step``: accumulated batches count once. The learning rate of
    each update is recorded as the scalar ``lr``, that of the first group of parameters if there are several. Where
    training goes on from a checkpoint the recording starts at its step. With several processes only that of rank 0
    records.

    Parameters
    ----------
    path, probe, layers
        As for `data_tools.FeatureRecorder`.
    **options
        Its other arguments, such as `every` and `burst`. `elasticity` may be a function of the optimizer, since the
        trainer makes that itself.

    Raises
    ------
    TypeError
        If the recorder has no such argument.
    InputError
        When training starts, as `data_tools.FeatureRecorder`.
    """

    def __init__(
        self, path: str | os.PathLike[str], probe: Probe | tuple[Any, Any], layers: Sequence[str], **options: Any
    ) -> None:
        self._recording = TrainerRecorder(path, probe, layers, options)
        self._lr = float("nan")

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take the record before the first update."""
        model: nn.Module = kwargs["model"]
        optimizer = kwargs["optimizer"]
        self._recording.start(model, getattr(optimizer, "optimizer", optimizer), state.global_step)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note the learning rate, which the scheduler changes before the step has ended."""
        self._lr = float(kwargs["optimizer"].param_groups[0]["lr"])

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Count the update."""
        self._recording.step(self._lr)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the recording."""
        self._recording.stop()
