"""Record what Lightning trains: add a callback to the trainer.

Needs the package ``lightning``, which the extra of this name installs.
"""

import os
from collections.abc import Sequence
from typing import Any

import torch

from data_tools.errors import InputError
from data_tools.probe import Probe
from data_tools.trainer_recorder import TrainerRecorder

try:
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.callbacks import Callback
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"this callback is for Lightning, of which {error.name} is not installed; pip install 'lesde-infer[lightning]'",
        name=error.name,
    ) from error


class ElasticityCallback(Callback):
    """Record the features of a network that a Lightning trainer trains, without changing the training.

    Give it to the trainer::

        callback = ElasticityCallback("run.h5", probe=(inputs, labels), layers=["network.fc2", "network.fc3"])
        Trainer(callbacks=[callback], max_epochs=10).fit(module, loader)

    Steps are updates of the optimizer: accumulated batches count once, several updates in one ``training_step`` each;
    updates that mixed precision skips, and validation, do not count. The learning rate of each update is recorded as
    the scalar ``lr``, that of the first group of parameters if there are several. Where training goes on from a
    checkpoint the recording starts at its step. With several processes only that of rank 0 records.

    Parameters
    ----------
    path, probe, layers
        As for `data_tools.FeatureRecorder`. Layers have the names they have in the module, such as ``network.fc3``.
    optimizer
        Number of the optimizer whose updates are counted, where there are several.
    module
        Name of the part of the module to record, if it is not the module's own ``forward`` that the probe goes
        through; layers have the names they have in it.
    **options
        Other arguments of `data_tools.FeatureRecorder`, such as `every` and `burst`. `elasticity` may be a function of
        the optimizer, since Lightning makes that itself.

    Raises
    ------
    TypeError
        If the recorder has no such argument.
    InputError
        When training starts, as `data_tools.FeatureRecorder`; or if it is not clear which optimizer counts.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        probe: Probe | tuple[Any, Any],
        layers: Sequence[str],
        *,
        optimizer: int | None = None,
        module: str | None = None,
        **options: Any,
    ) -> None:
        self._recording = TrainerRecorder(path, probe, layers, options)
        self._number, self._part = optimizer, module
        self._hook: torch.utils.hooks.RemovableHandle | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the record before the first update, after the validation that Lightning starts with as a check."""
        optimizer = self._choose(trainer.optimizers)
        if trainer.global_step and len(trainer.optimizers) > 1:
            raise InputError(
                f"training goes on after {trainer.global_step} updates of {len(trainer.optimizers)} optimizers, so it "
                "is not known how many were of the one that counts; record training from its start"
            )
        self._recording.start(self._find_part(pl_module), optimizer, trainer.global_step)
        self._hook = optimizer.register_step_post_hook(self._count)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the recording."""
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the recording; what was recorded remains."""
        self._stop(exception)

    def _count(self, optimizer: torch.optim.Optimizer, _arguments: Any, _keywords: Any) -> None:
        self._recording.step(float(optimizer.param_groups[0]["lr"]))

    def _stop(self, error: BaseException | None = None) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        self._recording.stop(error)

    def _choose(self, optimizers: Sequence[torch.optim.Optimizer]) -> torch.optim.Optimizer:
        if self._number is None and len(optimizers) != 1:
            raise InputError(
                f"the module has {len(optimizers)} optimizers, and steps are updates of one; give "
                "ElasticityCallback(…, optimizer=0) to count those of the first"
                if optimizers
                else "the module has no optimizer, whose updates would be counted; return one in configure_optimizers"
            )
        number = self._number or 0
        if not 0 <= number < len(optimizers):
            raise InputError(f"optimizer={number}, but the module has {len(optimizers)}; number them from 0")
        return optimizers[number]

    def _find_part(self, pl_module: LightningModule) -> torch.nn.Module:
        if self._part is None:
            return pl_module
        parts = dict(pl_module.named_modules())
        if self._part not in parts:
            raise InputError(f"the module has no part {self._part!r}; its parts are {', '.join(filter(None, parts))}")
        return parts[self._part]
