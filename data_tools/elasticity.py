"""Measure elasticity directly on a live network: the truth that rates inferred from a recording are held against.

Three things are measured, each worth having:

- **One-step drift**: how the class means of the probe's features change in one real step of the optimizer, on average
  over mini-batches; this is what the drift of the LE-SDE claims. The step is made in training mode with the user's
  loss, momentum and all, and taken back. A moving average of batch normalisation that changes in a step is part of it.
- **Tangent drift**: the same linearised, from the mean gradient of the training loss and a derivative of the features
  in evaluation mode along it. It is cheap, and equal to the first while steps are small. With momentum m it is the
  effect lr/(1 − m) that a gradient has in the long run, whereas one real step takes lr of its own gradient and the
  velocity that earlier ones have left, so the two differ.
- **Kernel elasticity**: E_kl = ⟨change of class k per step taken on class l, h_l⟩ / |h_l|², linearised, with h_l the
  class-mean impact: r_l, the mean of onehot(given label) − softmax(logits), on logits, and Wᵀ r_l on the layer that
  feeds a linear classifier W. Its mean diagonal minus mean off-diagonal is the separation rate γ_D of the drift only if
  E is homogeneous, see `data_tools.drift_measures`.

Beside them stands the relative similarity of He and Su (2020), see `data_tools.drift_measures.relative_similarity`.

References
----------
J. Zhang, H. Wang, W. J. Su, Imitating deep learning dynamics via locally elastic stochastic differential equations,
NeurIPS 2021, arXiv:2110.05960. H. He, W. J. Su, The local elasticity of neural networks, ICLR 2020.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from data_tools.drift_measures import class_means, kernel_elasticity, mean_residuals, relative_similarity
from data_tools.elasticity_records import DriftMeasurement, ElasticitySettings, ElasticitySnapshot
from data_tools.errors import InputError
from data_tools.layers import find_layers
from data_tools.one_step import draw_batches, onestep_changes, single_sample_moves
from data_tools.probe import Probe, evaluate_probe
from data_tools.recording_schema import check_labels
from data_tools.saved_training import SavedTraining, optimized_parameters
from data_tools.tangent import check_tangent_step, feature_derivatives, tangent_step
from data_tools.training_batches import TrainingBatches
from data_tools.training_state import unwrap

_Groupings: TypeAlias = Mapping[str, Int[np.ndarray, " sample"]]
_ByLayer: TypeAlias = Mapping[str, Float[np.ndarray, "*shape"]]


@dataclass(frozen=True)
class ElasticityMeasurement:
    """How elasticity is measured; all it needs to know of the training.

    Give it to a `data_tools.FeatureRecorder`, or call `measure`.

    Attributes
    ----------
    optimizer
        The one that trains the network; any that steps without a closure. Hooks on its steps run in measured ones too.
    data
        Inputs and targets of the training samples, samples first; inputs of any kind that a `data_tools.Probe` takes.
    batch_size
        Samples in a step of the training. If it is 1, steps are stratified by the class stepped on.
    repeats
        Steps measured each time, of each class if the batch size is 1. If they are as many as the samples of a class,
        each is stepped on once.
    labels
        What the training samples are, where that is not what they are trained as. Needed for the kernel elasticity
        where the probe's given labels differ from its labels.
    loss
        Of outputs and targets, the mean over the samples.
    augment
        What is done to the inputs of a batch before each step.
    layers
        Measure these of the recorded layers only; by default all.
    tangent
        Measure tangent drift and kernel elasticity; PyTorch's SGD, Adam and AdamW only. They are not a number before
        the first step of Adam, which does not know its scale yet.
    tangent_samples
        Training samples, at most, whose mean gradient they are computed from.
    similarity_per_class
        Probe samples of each class between which the relative similarity is measured; 0 for none.
    seed
        Decides what is drawn.

    Raises
    ------
    InputError
        If a setting is out of its range, data and targets do not go together, or the optimizer needs a closure.
    """

    optimizer: torch.optim.Optimizer
    data: tuple[Any, Any]
    batch_size: int
    _: KW_ONLY
    repeats: int = 20
    labels: Any = None
    loss: Callable[[Any, Tensor], Tensor] = cross_entropy
    augment: Callable[[Any], Any] | None = None
    layers: Sequence[str] | None = None
    tangent: bool = True
    tangent_samples: int = 2048
    similarity_per_class: int = 5
    seed: int = 0
    _batches: TrainingBatches = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name, least in (("repeats", 1), ("tangent_samples", 1), ("similarity_per_class", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        batches = TrainingBatches.make(self.data, self.labels, self.batch_size, self.loss, self.augment)
        closure = inspect.signature(type(self.optimizer).step).parameters.get("closure")
        if closure is not None and closure.default is inspect.Parameter.empty:
            raise InputError(
                f"{type(self.optimizer).__name__} steps by evaluating the loss several times, which cannot be "
                "measured; use an optimizer that needs no closure"
            )
        if self.tangent:
            check_tangent_step(self.optimizer)
        object.__setattr__(self, "_batches", batches)

    def check(self, model: nn.Module, probe: Probe, layers: Sequence[str]) -> list[str]:
        """Check that this can be measured on a network; return the layers to measure.

        Raises
        ------
        InputError
            If the optimizer does not train this network, a layer is not recorded, or labels do not go together.
        """
        module = unwrap(model)
        optimized_parameters(module, self.optimizer)
        find_layers(module, layers)
        chosen = list(layers if self.layers is None else self.layers)
        for layer in chosen:
            if layer not in layers:
                raise InputError(f"layer {layer!r} is to be measured but not recorded; choose from {', '.join(layers)}")
        self._count_classes(probe, None)
        differ = not np.array_equal(probe.labels, probe.given_labels)
        if self.tangent and differ and self.labels is None:
            raise InputError(
                "the probe's given_labels differ from its labels, so the kernel elasticity needs both of the training "
                "samples; give ElasticityMeasurement(…, labels=…), or tangent=False"
            )
        return chosen

    def settings(self, probe: Probe, n_outputs: int | None = None) -> ElasticitySettings:
        """Return what is the same for all measurements; `n_outputs` is the width of the logits, where known."""
        shares = np.ones(1)
        if self.batch_size == 1:
            shares = (
                np.bincount(self._batches.targets, minlength=self._count_classes(probe, n_outputs))
                / self._batches.targets.size
            )
        momentum = self.optimizer.param_groups[0].get("momentum")
        return ElasticitySettings(
            shares,
            self.repeats,
            self.batch_size,
            type(self.optimizer).__name__,
            None if momentum is None else float(momentum),
        )

    def measure(
        self,
        model: nn.Module,
        probe: Probe,
        layers: Sequence[str],
        *,
        logits: str | None = None,
        classifier_layer: str | None = None,
        step: int = 0,
    ) -> ElasticitySnapshot:
        """Measure elasticity now; the training goes on bit by bit as if nothing had happened.

        Parameters
        ----------
        model
            The network, see `data_tools.training_state.unwrap`.
        probe
            Samples whose features are looked at.
        layers
            Layers to measure, unless `layers` of the settings say less.
        logits
            The layer that gives the logits; without it there are no impacts and no kernel elasticity.
        classifier_layer
            The layer that feeds the linear layer `logits`, if one does: it has impacts too. Others have none.
        step
            Optimizer steps done; decides, with the seed, which samples are drawn.

        Raises
        ------
        InputError
            As `check`; or the loss is not a single number, or the network cannot be differentiated in forward mode.
        """
        module = unwrap(model)
        chosen = self.check(module, probe, layers)
        needed = chosen if logits is None or logits in chosen else [*chosen, logits]
        features = evaluate_probe(module, probe, needed).features
        n_classes = self._count_classes(probe, None if logits is None else features[logits].shape[1])
        groupings: _Groupings = {"labels": probe.labels}
        if not np.array_equal(probe.labels, probe.given_labels):
            groupings = {**groupings, "given_labels": probe.given_labels}
        rng = np.random.default_rng([self.seed, step])
        with SavedTraining(module, self.optimizer, int(rng.integers(2**32))) as training:
            before = {layer: features[layer] for layer in chosen}
            onestep = self._onestep(training, probe, before, groupings, n_classes, rng)
            impacts = _impacts(module, probe, features, chosen, groupings, logits, classifier_layer)
            tangent: dict[str, _ByLayer] = {}
            kernel: dict[str, _ByLayer] = {}
            if self.tangent:
                tangent, kernel = self._tangent(training, probe, chosen, groupings, impacts, n_classes, rng)
            similarity = self._similarity(training, probe, chosen, groupings)
        measured = {
            layer: {
                group: DriftMeasurement(
                    onestep[group][layer],
                    tangent.get(group, {}).get(layer),
                    impacts[group].get(layer),
                    kernel.get(group, {}).get(layer),
                    similarity.get(group, {}).get(layer),
                )
                for group in groupings
            }
            for layer in chosen
        }
        return ElasticitySnapshot(step, float(self.optimizer.param_groups[0]["lr"]), measured)

    def _onestep(
        self,
        training: SavedTraining,
        probe: Probe,
        before: dict[str, Float[np.ndarray, "sample _"]],
        groupings: _Groupings,
        n_classes: int,
        rng: np.random.Generator,
    ) -> dict[str, _ByLayer]:
        drawn = draw_batches(rng, self._batches.targets, self.batch_size, self.repeats, n_classes)
        losses = [partial(self._batches.loss_of, training.model, batch) for batches in drawn for batch in batches]
        summary = partial(_stacked_means, groupings=groupings, n_classes=n_classes)
        changes = onestep_changes(training, probe, losses, before, summary)
        shape = (len(drawn), self.repeats, len(groupings), n_classes, -1)
        return {
            group: {layer: values.reshape(shape)[:, :, number] for layer, values in changes.items()}
            for number, group in enumerate(groupings)
        }

    def _tangent(
        self,
        training: SavedTraining,
        probe: Probe,
        layers: Sequence[str],
        groupings: _Groupings,
        impacts: Mapping[str, _ByLayer],
        n_classes: int,
        rng: np.random.Generator,
    ) -> tuple[dict[str, _ByLayer], dict[str, _ByLayer]]:
        def change(samples: Int[np.ndarray, " chosen"], *, decay: bool) -> dict[str, _ByLayer]:
            gradients = self._batches.mean_gradient(training, samples)
            direction = tangent_step(training.optimizer, training.parameters, gradients, weight_decay=decay)
            moved = feature_derivatives(training.model, probe, layers, direction)
            return {
                group: {layer: class_means(values, classes, n_classes) for layer, values in moved.items()}
                for group, classes in groupings.items()
            }

        def draw(samples: Int[np.ndarray, " train"], most: int) -> Int[np.ndarray, " chosen"]:
            return rng.permutation(samples)[:most]

        tangent = change(draw(np.arange(self._batches.targets.size), self.tangent_samples), decay=True)
        kernel: dict[str, _ByLayer] = {}
        stepped_on = {"labels": self._batches.labels, "given_labels": self._batches.targets}
        for group in groupings:
            with_impact = [layer for layer in layers if layer in impacts[group]]
            if not with_impact:
                continue
            most = -(-self.tangent_samples // n_classes)
            changes = [
                change(draw(np.flatnonzero(stepped_on[group] == class_), most), decay=False)[group]
                for class_ in range(n_classes)
            ]
            kernel[group] = {
                layer: kernel_elasticity(np.stack([moved[layer] for moved in changes]), impacts[group][layer])
                for layer in with_impact
            }
        return tangent, kernel

    def _similarity(
        self, training: SavedTraining, probe: Probe, layers: Sequence[str], groupings: _Groupings
    ) -> dict[str, _ByLayer]:
        if not self.similarity_per_class:
            return {}
        rng = np.random.default_rng(self.seed)  # the same samples at every step
        chosen = np.concatenate(
            [
                rng.permutation(np.flatnonzero(probe.labels == class_))[: self.similarity_per_class]
                for class_ in range(int(probe.labels.max()) + 1)
            ]
        )
        moves = single_sample_moves(training, probe.subset(chosen), layers, self.loss)
        return {
            group: {
                layer: relative_similarity(values, classes[chosen], least) for layer, (values, least) in moves.items()
            }
            for group, classes in groupings.items()
        }

    def _count_classes(self, probe: Probe, n_outputs: int | None) -> int:
        n_classes = check_labels(probe.labels, probe.given_labels, "the probe's ", n_outputs)
        self._batches.check_classes(n_classes)
        return n_classes


def _impacts(
    model: nn.Module,
    probe: Probe,
    features: _ByLayer,
    layers: Sequence[str],
    groupings: _Groupings,
    logits: str | None,
    classifier_layer: str | None,
) -> dict[str, _ByLayer]:
    impacts: dict[str, _ByLayer] = {}
    for group, classes in groupings.items():
        found: dict[str, Float[np.ndarray, "class_ feature"]] = {}
        if logits is not None:
            residuals = mean_residuals(features[logits], probe.given_labels, classes)
            found[logits] = residuals
            if classifier_layer is not None:
                linear = model.get_submodule(logits)
                found[classifier_layer] = residuals @ linear.weight.detach().cpu().double().numpy()
        impacts[group] = {layer: found[layer] for layer in layers if layer in found}
    return impacts


def _stacked_means(
    change: Float[np.ndarray, "sample feature"], groupings: _Groupings, n_classes: int
) -> Float[np.ndarray, "row feature"]:
    return np.concatenate([class_means(change, classes, n_classes) for classes in groupings.values()])
