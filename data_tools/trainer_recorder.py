"""A recorder that a trainer opens when training starts, and closes when it ends."""

import inspect
import os
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from data_tools.elasticity import ElasticityMeasurement
from data_tools.probe import Probe
from data_tools.recorder import FeatureRecorder


class TrainerRecorder:
    """Arguments of a `FeatureRecorder` until there is a network, then the recorder itself.

    Parameters
    ----------
    path, probe, layers
        As for `FeatureRecorder`.
    options
        Its other arguments. ``elasticity`` may also be a function of the optimizer that gives an
        `ElasticityMeasurement`, since trainers make optimizers themselves.

    Raises
    ------
    TypeError
        If the recorder has no such argument.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        probe: Probe | tuple[Any, Any],
        layers: Sequence[str],
        options: Mapping[str, Any],
    ) -> None:
        inspect.signature(FeatureRecorder).bind(path, None, probe, layers, **options)
        self._path, self._probe, self._layers, self._options = path, Probe.of(probe), layers, dict(options)
        self._recorder: FeatureRecorder | None = None

    @property
    def n_steps(self) -> int:
        """Updates counted so far; 0 before training."""
        return 0 if self._recorder is None else self._recorder.n_steps

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer | None, n_steps: int) -> None:
        """Take the first record, after as many updates as have been made already.

        Raises
        ------
        InputError
            As `FeatureRecorder`.
        """
        self.stop()
        options = dict(self._options)
        elasticity = options.get("elasticity")
        if callable(elasticity) and not isinstance(elasticity, ElasticityMeasurement):
            options["elasticity"] = elasticity(optimizer)
        if options.get("resume"):
            options.setdefault("resume_at", n_steps)
        recorder = FeatureRecorder(self._path, model, self._probe, self._layers, **options)
        recorder.n_steps = n_steps
        self._recorder = recorder.__enter__()
        # Some trainers do not tell when training breaks off; the file is closed when they are forgotten at the latest.
        self._finalizer = weakref.finalize(self, recorder.__exit__, None, None, None)

    def step(self, lr: float) -> None:
        """Count one update of the optimizer, made with this learning rate."""
        if self._recorder is not None:
            self._recorder.step(lr=lr)

    def stop(self, error: BaseException | None = None) -> None:
        """Close the recording, if there is one."""
        if self._recorder is not None and self._finalizer.detach() is not None:
            self._recorder.__exit__(None if error is None else type(error), error, None)
