"""Record features of a fixed set of samples from within any training loop."""

import os
import platform
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import h5py
import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy.special import logsumexp
from torch import nn

from data_tools.elasticity import ElasticityMeasurement
from data_tools.elasticity_records import ElasticityLayout, ElasticitySnapshot
from data_tools.errors import InputError
from data_tools.layers import find_layers
from data_tools.new_file import refuse_existing
from data_tools.probe import Probe, ProbeResult, evaluate_probe
from data_tools.recording_layout import LayerLayout, RecordingLayout
from data_tools.recording_schema import check_class_frequencies, check_labels
from data_tools.recording_writer import RecordingWriter
from data_tools.training_state import undisturbed, unwrap, uses_batch_statistics


@dataclass(frozen=True)
class _Record:
    """All that is known at one moment."""

    features: dict[str, Float[np.ndarray, "sample _"]]
    classifier: tuple[Float[np.ndarray, "class_ feature"], Float[np.ndarray, " class_"]] | None
    scalars: dict[str, float]
    time: float
    elasticity: ElasticitySnapshot | None = None


def is_recorded(step: int, every: int, burst: int) -> bool:
    """Tell whether a step is recorded: the first `burst` steps of every `every`.

    With ``every=50, burst=2`` these are 0, 1, 50, 51, 100, … Consecutive steps show how features move before the
    residuals have relaxed, which increments over long intervals cannot show.
    """
    return step % every < burst


class FeatureRecorder:
    """Record the features of a network while it trains, without changing the training.

    Use it as a context manager around the training loop and call `step` after every update of the optimizer::

        with FeatureRecorder("run.h5", model, probe=(inputs, labels), layers=["fc2", "fc3"]) as recorder:
            for x, y in loader:
                ...
                optimizer.step()
                recorder.step()

    At each record the network is evaluated on the probe in evaluation mode. Its weights, buffers and modes and the
    states of all global random generators stay bit by bit what they would be without a recorder. Every record is safe
    on disk as soon as it is taken.

    Parameters
    ----------
    path
        Recording to make.
    model
        The network; compiled and data-parallel ones are unwrapped. With several processes only that of rank 0 records.
    probe
        Inputs of n samples, and the class of each, 0 … K − 1; or a `Probe`, see there for networks that take several
        inputs. At least two samples of every class.
    layers
        Names as in ``model.named_modules()``; ``NAME:input`` records what goes into a module. Features are flattened,
        and of several tensors the first is taken. ``:first``, ``:mean`` or ``:last`` behind a name takes one vector of
        each sequence (samples, positions, features) instead, regarding an ``attention_mask``.
    every, burst
        Record the first `burst` steps of every `every`, see `is_recorded`.
    given_labels
        What the samples are trained as, if `probe` does not say so and it is not its labels.
    logits
        The layer that gives the logits. By default the last of `layers`, if it has as many features as there are
        classes.
    classifier
        If the logits come from a linear layer, its weight and bias are recorded too. ``"auto"`` finds out which of
        `layers` feeds it; a name says so, and is checked; None records neither.
    probe_batch_size
        Samples evaluated at once; by default as `probe` says, or 256.
    scalars
        Functions without arguments, called at every record for a number to keep with it, such as a validation loss.
        They may evaluate the model: it is in evaluation mode, and nothing they do to it or to random generators stays.
    time
        ``"steps"``, or a function that returns the time now, such as the cumulative learning rate.
    measure_elasticity_every, elasticity
        Measure elasticity on the live network at step 0 and after every so many steps, and how; give both or neither.
        It costs as many steps and evaluations of the probe as it repeats; the training does not notice.
    class_frequencies
        Share of each class, by the probe's labels, among the samples that training draws. Not recorded by default, and
        taken to be equal then.
    provenance
        Text and numbers to keep with the recording.
    force
        Replace an existing file.

    Raises
    ------
    InputError
        If a layer is unknown or does not run exactly once per pass, the labels cannot be right, elasticity cannot be
        measured as told, or the file exists.

    Notes
    -----
    When logits are recorded, so are the scalars ``loss``, the mean cross-entropy of the probe by given label, and
    ``accuracy``, the share of the probe classified as given.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        model: nn.Module,
        probe: Probe | tuple[Any, Any],
        layers: Sequence[str],
        every: int = 50,
        burst: int = 2,
        *,
        given_labels: Any = None,
        logits: str | None = None,
        classifier: Literal["auto"] | str | None = "auto",
        probe_batch_size: int | None = None,
        scalars: Mapping[str, Callable[[], float]] | None = None,
        time: Literal["steps"] | Callable[[], float] = "steps",
        measure_elasticity_every: int | None = None,
        elasticity: ElasticityMeasurement | None = None,
        class_frequencies: ArrayLike | None = None,
        provenance: Mapping[str, object] | None = None,
        force: bool = False,
    ) -> None:
        if burst < 1 or every < burst:
            raise InputError(f"every={every} and burst={burst}: a burst has at least one step and fits into `every`")
        module = unwrap(model)
        find_layers(module, layers)
        self._model: nn.Module | None = module
        self._layers = list(layers)
        self._probe = Probe.of(probe, given_labels, probe_batch_size)
        self._n_classes = check_labels(self._probe.labels, self._probe.given_labels, "the probe's ")
        for role, name in (("logits", logits), ("classifier", None if classifier == "auto" else classifier)):
            if name is not None and name not in self._layers:
                raise InputError(f"{role}={name!r} is not among the recorded layers {', '.join(self._layers)}; add it")
        if isinstance(time, str) and time != "steps":
            raise InputError(f"time={time!r} is neither 'steps' nor a function; give one of them")
        self._path, self._force = Path(path), force
        self._every, self._burst = every, burst
        self._logits, self._classifier, self._records_classifier = logits, classifier, False
        if (elasticity is None) != (measure_elasticity_every is None):
            raise InputError("give both measure_elasticity_every and elasticity, or neither")
        if measure_elasticity_every is not None and measure_elasticity_every < 1:
            raise InputError(f"measure_elasticity_every is {measure_elasticity_every}; it must be at least 1")
        if elasticity is not None:
            elasticity.check(module, self._probe, self._layers)
        self._elasticity, self._measure_every = elasticity, measure_elasticity_every
        self._measuring = False
        self._functions = dict(scalars or {})
        self._time, self._class_frequencies = time, class_frequencies
        if class_frequencies is not None:
            check_class_frequencies(class_frequencies, self._n_classes, "class_frequencies")
        self._provenance = {**self._describe(module), **(provenance or {})}
        self._active = not _is_secondary_process()
        self._writer: RecordingWriter | None = None
        self._first: _Record | None = None
        self._step_scalars: frozenset[str] = frozenset()
        self.n_steps = 0
        if self._active:
            refuse_existing(self._path, force)
        if uses_batch_statistics(module):
            warnings.warn(
                "a normalisation layer uses the statistics of the batch in evaluation mode too, so features depend on "
                "the order of the probe and on probe_batch_size",
                stacklevel=2,
            )

    def __enter__(self) -> Self:
        """Take the record of step 0; the first call of `step` writes it, as it tells which scalars there are."""
        if self._active and self._model is not None:
            self._first = self._take_first(self._model)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._first is not None and kind is None:
                self._writer = self._start(self._first, {})
        finally:
            self._first = self._model = self._elasticity = (
                None  # a recorder that is done must not keep a model in memory
            )
            if self._writer is not None:
                self._writer.close()
                self._writer = None

    def step(self, **scalars: float) -> None:
        """Count one update of the optimizer, and record if it is due.

        Parameters
        ----------
        **scalars
            Numbers to keep with the record, such as the loss of the batch; the same names at every call. At step 0,
            before the first update, they are stored as not a number. ``lr``, the learning rate of the update just made,
            lets a fit count time in cumulative learning rate.

        Raises
        ------
        InputError
            If names differ from the first call, or the recorder was not entered with ``with``, or the disk is full.
        """
        if not self._active or self._measuring:  # a hook on the optimizer may call it in measured steps
            return
        if self._first is not None:
            self._writer, self._first = self._start(self._first, scalars), None
        if self._writer is None or self._model is None:
            raise InputError(
                f"{self._path}: step() outside the `with` block; write `with FeatureRecorder(…) as recorder:`"
            )
        self.n_steps += 1
        if self._step_scalars != scalars.keys():
            raise InputError(
                f"{self._path}: step {self.n_steps} gives the scalars {sorted(scalars)}, but the first step gave "
                f"{sorted(self._step_scalars)}; give the same at every step"
            )
        if is_recorded(self.n_steps, self._every, self._burst):
            self._append(self._writer, self._take(self._model), scalars)
        if self._elasticity is not None and self._measure_every and self.n_steps % self._measure_every == 0:
            self._writer.append_elasticity(self._measure(self._model, self._elasticity))

    def _start(self, first: _Record, scalars: Mapping[str, float]) -> RecordingWriter:
        """Make the file, now that all names are known, and write the record of step 0."""
        twice = first.scalars.keys() & scalars.keys()
        if twice:
            raise InputError(f"{self._path}: the scalar {min(twice)!r} is recorded already; give yours another name")
        self._step_scalars = frozenset(scalars)
        elasticity = None
        if first.elasticity is not None and self._elasticity is not None:
            n_outputs = None if self._logits is None else first.features[self._logits].shape[1]
            settings = self._elasticity.settings(self._probe, n_outputs)
            elasticity = ElasticityLayout.of(settings, first.elasticity)
        layout = RecordingLayout(
            self._probe.labels,
            self._probe.given_labels,
            {name: LayerLayout(array.shape[1], array.dtype) for name, array in first.features.items()},
            logits=self._logits,
            classifier_width=None if first.classifier is None else first.classifier[0].shape[1],
            classifier_layer=None if first.classifier is None else self._classifier,
            scalars=(*first.scalars, *scalars),
            elasticity=elasticity,
            class_frequencies=self._class_frequencies,
        )
        writer = RecordingWriter(self._path, layout, provenance=self._provenance, force=self._force)
        self._append(writer, first, dict.fromkeys(scalars, float("nan")))
        if first.elasticity is not None:
            writer.append_elasticity(first.elasticity)
        return writer

    def _append(self, writer: RecordingWriter, record: _Record, scalars: Mapping[str, float]) -> None:
        numbers = record.scalars | {name: float(value) for name, value in scalars.items()}
        writer.append(self.n_steps, record.features, time=record.time, classifier=record.classifier, scalars=numbers)

    def _take_first(self, model: nn.Module) -> _Record:
        """Take the record of step 0, and settle which layer holds the logits and which feeds the classifier."""
        candidate = self._logits or self._layers[-1]
        linear = _linear_layer(model, candidate)
        result = evaluate_probe(model, self._probe, self._layers, linear)
        if self._logits is None and result.features[candidate].shape[1] == self._n_classes:
            self._logits = candidate
        if self._logits is not None:
            check_labels(
                self._probe.labels, self._probe.given_labels, "the probe's ", result.features[self._logits].shape[1]
            )
        x = result.classifier_input
        has_classifier = self._logits is not None and linear is not None and x is not None
        feeding = [name for name, array in result.features.items() if x is not None and np.array_equal(array, x)]
        if self._classifier == "auto":
            self._records_classifier, self._classifier = has_classifier, feeding[0] if feeding else None
        elif self._classifier is not None:
            if not has_classifier:
                raise InputError(
                    f"classifier={self._classifier!r} needs logits that are the output of a Linear layer; name that "
                    "layer as logits, or give classifier=None"
                )
            if self._classifier not in feeding:
                raise InputError(
                    f"classifier={self._classifier!r} is not what goes into {candidate!r}; record "
                    f"{candidate + ':input'!r} and name it instead"
                )
            self._records_classifier = True
        record = self._complete(model, result)
        return (
            record if self._elasticity is None else replace(record, elasticity=self._measure(model, self._elasticity))
        )

    def _take(self, model: nn.Module) -> _Record:
        return self._complete(model, evaluate_probe(model, self._probe, self._layers))

    def _measure(self, model: nn.Module, measurement: ElasticityMeasurement) -> ElasticitySnapshot:
        feeding = self._classifier if self._records_classifier else None
        self._measuring = True
        try:
            return measurement.measure(
                model, self._probe, self._layers, logits=self._logits, classifier_layer=feeding, step=self.n_steps
            )
        finally:
            self._measuring = False

    def _complete(self, model: nn.Module, result: ProbeResult) -> _Record:
        """Add to the features what else belongs to a record."""
        scalars: dict[str, float] = {}
        if self._logits is not None:
            scalars |= loss_and_accuracy(result.features[self._logits], self._probe.given_labels)
        with undisturbed(model):
            scalars |= {name: float(function()) for name, function in self._functions.items()}
            time = float(self.n_steps) if isinstance(self._time, str) else float(self._time())
        linear = _linear_layer(model, self._logits) if self._records_classifier and self._logits else None
        return _Record(result.features, None if linear is None else weight_and_bias(linear), scalars, time)

    def _describe(self, model: nn.Module) -> dict[str, object]:
        return {
            "torch": torch.__version__,
            "numpy": np.__version__,
            "h5py": h5py.__version__,
            "python": platform.python_version(),
            "model_class": type(model).__qualname__,
            "n_parameters": sum(parameter.numel() for parameter in model.parameters()),
            "layers": self._layers,
            "every": self._every,
            "burst": self._burst,
            "measure_elasticity_every": self._measure_every,
            **self._probe.describe(),
        }


def loss_and_accuracy(
    logits: Float[np.ndarray, "sample class_"], labels: Int[np.ndarray, " sample"]
) -> dict[str, float]:
    """Return the mean cross-entropy in nats as ``loss`` and the share of right answers as ``accuracy``."""
    logits = logits.astype(np.float64)
    of_label = logits[np.arange(labels.size), labels]
    return {
        "loss": float(np.mean(logsumexp(logits, axis=1) - of_label)),
        "accuracy": float(np.mean(logits.argmax(axis=1) == labels)),
    }


def weight_and_bias(
    linear: nn.Linear,
) -> tuple[Float[np.ndarray, "class_ feature"], Float[np.ndarray, " class_"]]:
    """Copy weight and bias of a linear layer; a missing bias is 0."""
    weight = _as_numpy(linear.weight)
    return weight, np.zeros(len(weight), weight.dtype) if linear.bias is None else _as_numpy(linear.bias)


def _as_numpy(tensor: torch.Tensor) -> Float[np.ndarray, "*shape"]:
    tensor = tensor.detach().cpu()
    return (tensor if tensor.dtype == torch.float64 else tensor.float()).numpy().copy()


def _linear_layer(model: nn.Module, layer: str) -> nn.Linear | None:
    module = dict(model.named_modules()).get(layer)
    return module if isinstance(module, nn.Linear) else None


def _is_secondary_process() -> bool:
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_rank() > 0
