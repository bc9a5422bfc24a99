"""What goes into a network: one tensor, several, or several by name, samples first in each."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from data_tools.errors import InputError

NetworkInputs: TypeAlias = Tensor | tuple[Tensor, ...] | dict[str, Tensor]
"""Given to the network as ``model(x)``, ``model(*x)`` or ``model(**x)``."""


def as_network_inputs(inputs: Any, what: str, *, copy: bool = True) -> NetworkInputs:
    """Check inputs given as an array, a tuple or list of tensors, or a mapping from names to tensors; copy them or not.

    Lists of anything but tensors are one array.

    Raises
    ------
    InputError
        If something among them is no array, or has no samples, or they are of different numbers of samples.
    """
    checked: NetworkInputs
    if isinstance(inputs, Mapping):
        checked = {str(name): _as_tensor(value, f"{what}, {name!r},", copy) for name, value in inputs.items()}
    elif isinstance(inputs, tuple | list) and inputs and all(isinstance(value, Tensor) for value in inputs):
        checked = tuple(_as_tensor(value, f"{what}, number {number},", copy) for number, value in enumerate(inputs))
    else:
        checked = _as_tensor(inputs, what, copy)
    sizes = {len(tensor) for tensor in tensors_of(checked)}
    if not sizes:
        raise InputError(f"{what} hold no tensor; give some")
    if len(sizes) > 1:
        raise InputError(
            f"{what} are of {shapes_of(checked)}, expected as many samples in each; give tensors with samples first"
        )
    return checked


def _as_tensor(values: Any, what: str, copy: bool) -> Tensor:
    try:
        tensor = torch.as_tensor(values).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{what} of type {type(values).__name__} make no tensor ({error}); give a tensor") from error
    if tensor.ndim == 0:
        raise InputError(f"{what} are the single number {tensor.item()}; give a tensor with samples first")
    return tensor.clone() if copy else tensor


def tensors_of(inputs: NetworkInputs) -> Sequence[Tensor]:
    """Return the tensors among inputs."""
    if isinstance(inputs, Tensor):
        return (inputs,)
    return tuple(inputs.values()) if isinstance(inputs, dict) else inputs


def map_inputs(function: Callable[[Tensor], Tensor], inputs: NetworkInputs) -> NetworkInputs:
    """Apply a function to every tensor among inputs."""
    if isinstance(inputs, Tensor):
        return function(inputs)
    if isinstance(inputs, dict):
        return {name: function(tensor) for name, tensor in inputs.items()}
    return tuple(function(tensor) for tensor in inputs)


def select(inputs: NetworkInputs, samples: slice | Int[Tensor, " chosen"]) -> NetworkInputs:
    """Return the inputs of some samples."""
    return map_inputs(lambda tensor: tensor[samples], inputs)


def call_network(model: nn.Module, inputs: NetworkInputs) -> Any:
    """Call a network, with keywords where inputs have names."""
    arguments, keywords = as_arguments(inputs)
    return model(*arguments, **keywords)


def as_arguments(inputs: NetworkInputs) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Return inputs as positional and keyword arguments."""
    if isinstance(inputs, dict):
        return (), inputs
    return (inputs,) if isinstance(inputs, Tensor) else inputs, {}


def shapes_of(inputs: NetworkInputs) -> str:
    """Describe types and shapes for messages, such as ``float32 (12, 1, 28, 28)``."""
    named = inputs.items() if isinstance(inputs, dict) else [("", tensor) for tensor in tensors_of(inputs)]
    return ", ".join(
        f"{name} {str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}".strip() for name, tensor in named
    )


def update_digest(digest: "hashlib._Hash", inputs: NetworkInputs) -> None:
    """Add the bytes of inputs to a digest, with their names where they have any, in the order of these."""
    named = sorted(inputs.items()) if isinstance(inputs, dict) else [("", tensor) for tensor in tensors_of(inputs)]
    for name, tensor in named:
        digest.update(name.encode())
        digest.update(_bytes_of(tensor))


def _bytes_of(tensor: Tensor) -> bytes:
    flat: np.ndarray[Any, Any] = tensor.cpu().reshape(-1).view(torch.uint8).numpy()
    return flat.tobytes()
