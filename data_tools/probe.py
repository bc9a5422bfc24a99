"""Evaluate chosen layers of a network on a fixed set of samples."""

import difflib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from data_tools.errors import InputError
from data_tools.recording_schema import as_integer_labels
from data_tools.training_state import device_of, undisturbed

_INPUT = ":input"


@dataclass(frozen=True)
class Probe:
    """Samples whose features are recorded, always in the same batches.

    Attributes
    ----------
    inputs
        Samples first, as the network takes them.
    labels
        What each sample is, (n,).
    given_labels
        What it is trained as, (n,).
    batch_size
        Samples evaluated at once.
    """

    inputs: Tensor
    labels: Int[np.ndarray, " sample"]
    given_labels: Int[np.ndarray, " sample"]
    batch_size: int

    @classmethod
    def make(cls, inputs: Any, labels: Any, given_labels: Any, batch_size: int) -> "Probe":
        """Check and copy what a user gives as probe.

        Raises
        ------
        InputError
            If inputs and labels do not go together.
        """
        inputs = torch.as_tensor(inputs).detach().clone()
        labels = as_integer_labels(_to_numpy(labels), "the probe's labels")
        given = labels if given_labels is None else as_integer_labels(_to_numpy(given_labels), "given_labels")
        if inputs.ndim == 0 or len(inputs) != labels.size:
            raise InputError(
                f"the probe has inputs of shape {tuple(inputs.shape)} but {labels.size} labels; give one per sample"
            )
        if batch_size < 1:
            raise InputError(f"probe_batch_size is {batch_size}; it must be at least 1")
        return cls(inputs, labels, given, batch_size)

    def digest(self) -> str:
        """Return the SHA-256 of inputs and labels, by which equal probes are recognised."""
        digest = hashlib.sha256()
        arrays = [self.inputs.cpu().reshape(-1).view(torch.uint8).numpy(), self.labels, self.given_labels]
        for array in arrays:
            digest.update(array.tobytes())
        return digest.hexdigest()


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


def find_layers(model: nn.Module, layers: Sequence[str]) -> dict[str, nn.Module]:
    """Find layers by name.

    Parameters
    ----------
    model
        The eager module.
    layers
        Names as in ``model.named_modules()``; ``NAME:input`` stands for what goes into that module instead of what
        comes out, for networks that apply their activations as functions.

    Returns
    -------
    dict
        The module of each layer.

    Raises
    ------
    InputError
        If a name is unknown, with the closest known ones, or repeated, or there is none.
    """
    if isinstance(layers, str):
        raise InputError(f"layers is the text {layers!r}; give a list of names: [{layers!r}]")
    modules = {name: module for name, module in model.named_modules() if name}
    found: dict[str, nn.Module] = {}
    for layer in layers:
        name = layer.removesuffix(_INPUT)
        if name not in modules:
            close = difflib.get_close_matches(name, modules, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(close)}? " if close else ""
            raise InputError(f"the model has no layer {name!r}; {hint}its layers are {', '.join(modules)}")
        if layer in found:
            raise InputError(f"layer {layer!r} is named twice; name it once")
        found[layer] = modules[name]
    if not found:
        raise InputError(f"no layer to record; name at least one of {', '.join(modules)}")
    return found


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
        Names as for `find_layers`.
    classifier
        A module whose input is to be returned too.

    Returns
    -------
    ProbeResult
        Features flattened to (n, p); types that NumPy lacks become float32.

    Raises
    ------
    InputError
        If a layer does not run exactly once per batch, or does not give one tensor with samples first.
    """
    modules = find_layers(model, layers)
    device = device_of(model)
    collected: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    classifier_inputs: list[Any] = []
    handles = []

    def watch(layer: str, module: nn.Module) -> None:
        def keep(_module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            value = inputs[0] if layer.endswith(_INPUT) and inputs else output
            collected[layer].append(_checked(value, layer, n_batch))

        handles.append(module.register_forward_hook(keep))

    def keep_input(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor) and inputs[0].ndim == 2:
            classifier_inputs.append(inputs[0].detach().clone())

    with undisturbed(model):
        try:
            if classifier is not None:
                handles.append(classifier.register_forward_pre_hook(keep_input))
            for layer, module in modules.items():
                watch(layer, module)
            for done, start in enumerate(range(0, probe.labels.size, probe.batch_size), start=1):
                # Cloned, as the network's first layer may work in place.
                batch = probe.inputs[start : start + probe.batch_size].to(device, copy=True)
                n_batch = len(batch)
                model(batch)
                for layer, values in collected.items():
                    if len(values) != done:
                        times = len(values) - done + 1
                        raise InputError(
                            f"layer {layer} ran {times} times in one pass of the network, expected once; "
                            "record a layer that is called exactly once, as a module"
                        )
        finally:
            for handle in handles:
                handle.remove()
    features = {layer: _join(values) for layer, values in collected.items()}
    return ProbeResult(features, _join(classifier_inputs) if classifier_inputs else None)


def _checked(value: Any, layer: str, n_batch: int) -> Tensor:
    if not isinstance(value, Tensor):
        raise InputError(f"layer {layer} gives a {type(value).__name__}, expected one tensor; record another layer")
    if value.ndim == 0 or len(value) != n_batch:
        raise InputError(
            f"layer {layer} gives shape {tuple(value.shape)} for a batch of {n_batch} samples, expected samples first; "
            "record another layer"
        )
    return value.detach().clone().reshape(n_batch, -1)


def _join(values: list[Tensor]) -> Float[np.ndarray, "sample _"]:
    joined = torch.cat([value.cpu() for value in values])
    return (joined.float() if joined.dtype == torch.bfloat16 else joined).numpy()


def _to_numpy(values: Any) -> Any:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else values
