"""Evaluate chosen layers of a network on a fixed set of samples."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from torch import Tensor, nn

from data_tools.errors import InputError
from data_tools.layers import read_features, watched
from data_tools.network_inputs import (
    NetworkInputs,
    as_network_inputs,
    call_network,
    map_inputs,
    select,
    shapes_of,
    tensors_of,
    update_digest,
)
from data_tools.recording_schema import as_integer_labels
from data_tools.training_state import device_of, undisturbed

_BATCH_SIZE = 256


@dataclass(frozen=True, init=False)
class Probe:
    """Samples whose features are recorded, always in the same batches.

    Parameters
    ----------
    inputs
        As the network takes them, samples first: a tensor; several in a tuple or list, given to it in this order; or
        several by name, given to it as keywords.
    labels
        What each sample is, 0 … K − 1, (n,).
    given_labels
        What it is trained as, (n,), if not `labels`.
    batch_size
        Samples evaluated at once.
    indices
        Where in its data set each sample comes from, if known.

    Raises
    ------
    InputError
        If inputs and labels do not go together.

    See Also
    --------
    Probe.from_dataset : Draw the samples.
    """

    inputs: NetworkInputs
    labels: Int[np.ndarray, " sample"]
    given_labels: Int[np.ndarray, " sample"]
    batch_size: int
    indices: Int[np.ndarray, " sample"] | None

    def __init__(
        self,
        inputs: Any,
        labels: Any,
        given_labels: Any = None,
        batch_size: int = _BATCH_SIZE,
        *,
        indices: ArrayLike | None = None,
    ) -> None:
        own_inputs = as_network_inputs(inputs, "the probe's inputs")
        own_labels = as_integer_labels(_to_numpy(labels), "the probe's labels")
        given = own_labels if given_labels is None else as_integer_labels(_to_numpy(given_labels), "given_labels")
        if len(tensors_of(own_inputs)[0]) != own_labels.size:
            raise InputError(
                f"the probe has inputs of {shapes_of(own_inputs)} but {own_labels.size} labels; give one per sample"
            )
        if batch_size < 1:
            raise InputError(f"probe_batch_size is {batch_size}; it must be at least 1")
        origin = None if indices is None else as_integer_labels(indices, "the probe's indices")
        if origin is not None and origin.size != own_labels.size:
            raise InputError(f"the probe has {origin.size} indices for {own_labels.size} samples; give one per sample")
        fields = {
            "inputs": own_inputs,
            "labels": own_labels,
            "given_labels": given,
            "batch_size": batch_size,
            "indices": origin,
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, probe: "Probe | tuple[Any, Any]", given_labels: Any = None, batch_size: int | None = None) -> "Probe":
        """Return a probe given as one, or as inputs and labels; what is given beside it counts.

        Raises
        ------
        InputError
            If it is neither, or inputs and labels do not go together.
        """
        if isinstance(probe, Probe):
            return cls(
                probe.inputs,
                probe.labels,
                probe.given_labels if given_labels is None else given_labels,
                probe.batch_size if batch_size is None else batch_size,
                indices=probe.indices,
            )
        if not isinstance(probe, tuple | list) or len(probe) != 2:
            raise InputError(
                f"the probe is a {type(probe).__name__}, expected inputs and labels; give probe=(inputs, labels), or a "
                "Probe"
            )
        return cls(*probe, given_labels, _BATCH_SIZE if batch_size is None else batch_size)

    @classmethod
    def from_dataset(
        cls,
        dataset: Any,
        per_class: int = 100,
        seed: int = 0,
        *,
        collate: Callable[[list[Any]], Any] | None = None,
        batch_size: int = _BATCH_SIZE,
    ) -> "Probe":
        """Draw as many samples of each class from a data set, which keep its order.

        The samples are looked at once, as the data set gives them then; random numbers that it draws do not disturb
        the training. Which they are is kept with the recording.

        Parameters
        ----------
        dataset
            Anything with a length and numbered samples: ``(x, y)``, with several inputs ``(x1, x2, …, y)``, or
            dictionaries whose entry ``labels`` or ``label`` is the class and whose others go to the network by name.
        per_class
            Samples of each class.
        seed
            Decides which; PyTorch's global random generator is left alone.
        collate
            Makes one sample of a list of them, as for a `torch.utils.data.DataLoader`, such as a collator that pads
            sequences. By default they are stacked.
        batch_size
            Samples evaluated at once.

        Raises
        ------
        InputError
            If classes, which are named, have fewer samples, or the samples are of another kind.
        """
        from data_tools.probe_sampling import draw_probe

        inputs, labels, indices = draw_probe(dataset, per_class, seed, collate)
        return cls(inputs, labels, batch_size=batch_size, indices=indices)

    def batch(self, samples: slice, device: torch.device) -> NetworkInputs:
        """Return a copy of the inputs of some samples on a device; the network's first layer may work in place."""
        return map_inputs(lambda tensor: tensor.to(device, copy=True), select(self.inputs, samples))

    def batches(self, device: torch.device) -> Iterator[tuple[NetworkInputs, int]]:
        """Yield copies of the inputs in batches, on a device, with the number of samples in each."""
        for start in range(0, self.labels.size, self.batch_size):
            samples = slice(start, start + self.batch_size)
            yield self.batch(samples, device), self.labels[samples].size

    def subset(self, chosen: Int[np.ndarray, " chosen"]) -> "Probe":
        """Return the probe of some of the samples, by their numbers."""
        return Probe(
            select(self.inputs, torch.as_tensor(chosen)),
            self.labels[chosen],
            self.given_labels[chosen],
            self.batch_size,
            indices=None if self.indices is None else self.indices[chosen],
        )

    def digest(self) -> str:
        """Return the SHA-256 of inputs and labels, by which equal probes are recognised."""
        digest = hashlib.sha256()
        update_digest(digest, self.inputs)
        for array in (self.labels, self.given_labels):
            digest.update(array.tobytes())
        return digest.hexdigest()

    def describe(self) -> dict[str, object]:
        """Return what is kept with a recording: hash, batch size and, where known, indices in the data set."""
        described: dict[str, object] = {"probe_sha256": self.digest(), "probe_batch_size": self.batch_size}
        return described if self.indices is None else {**described, "probe_indices": self.indices.tolist()}


@dataclass(frozen=True)
class ProbeResult:
    """Features of the probe at one moment.

    Attributes
    ----------
    features
        For each layer, (n, p) on the CPU.
    classifier_input
        Input of the watched module, (n, p), where it is a plain matrix.
    """

    features: dict[str, Float[np.ndarray, "sample _"]]
    classifier_input: Float[np.ndarray, "sample _"] | None


def evaluate_probe(
    model: nn.Module, probe: Probe, layers: Sequence[str], classifier: nn.Module | None = None
) -> ProbeResult:
    """Evaluate the network on the probe and return what its layers give.

    Hooks exist during the call only, and copy what they see at once, since later layers may overwrite it in place.

    Parameters
    ----------
    model
        The eager module; it is left as it was, see `data_tools.training_state.undisturbed`.
    probe
        The samples.
    layers
        Names as for `data_tools.layers.find_layers`.
    classifier
        A module whose input is to be returned too.

    Returns
    -------
    ProbeResult
        What `data_tools.layers.read_features` makes of them, (n, p).

    Raises
    ------
    InputError
        If the network does not take the probe, or a layer does not run exactly once per batch, or does not give a
        tensor with samples first.
    """
    device = device_of(model)
    collected: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    classifier_inputs: list[Tensor] = []

    def keep_input(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor) and inputs[0].ndim == 2:
            classifier_inputs.append(inputs[0].detach().clone())

    handle = None if classifier is None else classifier.register_forward_pre_hook(keep_input)
    try:
        with undisturbed(model):
            for batch, n_batch in probe.batches(device):
                for layer, value in _features(model, layers, batch, n_batch).items():
                    collected[layer].append(value.cpu())
    finally:
        if handle is not None:
            handle.remove()
    features = {layer: torch.cat(values).numpy() for layer, values in collected.items()}
    return ProbeResult(features, _join(classifier_inputs) if classifier_inputs else None)


def _features(model: nn.Module, layers: Sequence[str], batch: NetworkInputs, n_batch: int) -> dict[str, Tensor]:
    seen: dict[str, list[Tensor]] = {layer: [] for layer in layers}

    def keep(layer: str, value: Any) -> None:
        seen[layer].append(read_features(layer, value, n_batch, batch).detach().clone())

    with watched(model, layers, keep):
        _call(model, batch)
    for layer, values in seen.items():
        if len(values) != 1:
            hint = "" if values else ", not by .forward(), which tells nobody"
            raise InputError(
                f"layer {layer} ran {len(values)} times in one pass of the network, expected once; record a layer that "
                f"is called exactly once, as a module{hint}"
            )
    return {layer: values[0] for layer, values in seen.items()}


def _call(model: nn.Module, batch: NetworkInputs) -> None:
    given = shapes_of(batch)
    try:
        call_network(model, batch)
    except InputError:
        raise
    except Exception as error:
        weight = next(model.parameters(), None)
        kind = "" if weight is None else f", its weights are {str(weight.dtype).removeprefix('torch.')}"
        reason = " ".join(str(error).split())
        raise InputError(
            f"the network cannot be evaluated on a batch of the probe, {given}{kind} ({type(error).__name__}: {reason}"
            "); give the inputs as the network takes them"
        ) from error


def _join(values: list[Tensor]) -> Float[np.ndarray, "sample _"]:
    joined = torch.cat([value.cpu() for value in values])
    return (joined.float() if joined.dtype in (torch.float16, torch.bfloat16) else joined).numpy()


def _to_numpy(values: Any) -> Any:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else values
