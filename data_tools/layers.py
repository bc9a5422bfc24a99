"""Layers of a network: their names, and what is read off them while it runs."""

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from data_tools.errors import InputError
from data_tools.network_inputs import NetworkInputs

_REDUCTIONS = ("first", "mean", "last")


@dataclass(frozen=True)
class LayerName:
    """What a name such as ``encoder.0:input:mean`` stands for.

    Attributes
    ----------
    module
        As in ``model.named_modules()``.
    is_input
        What goes into the module is meant, not what comes out.
    reduction
        Which vector of a sequence is taken: ``first``, ``mean`` or ``last``; empty for all.
    """

    module: str
    is_input: bool
    reduction: str

    @classmethod
    def parse(cls, name: str) -> "LayerName":
        """Take a name apart.

        Raises
        ------
        InputError
            If what follows a colon is none of the known words.
        """
        module, *words = name.split(":")
        is_input = words[:1] == ["input"]
        rest = words[is_input:]
        if len(rest) > 1 or (rest and rest[0] not in _REDUCTIONS):
            raise InputError(
                f"layer {name!r}: after the name of a module may stand ':input', then ':first', ':mean' or ':last'; "
                f"{':'.join(rest)!r} is none of these"
            )
        return cls(module, is_input, rest[0] if rest else "")


def find_layers(model: nn.Module, layers: Sequence[str]) -> dict[str, nn.Module]:
    """Find layers by name.

    Parameters
    ----------
    model
        The eager module.
    layers
        Names as in ``model.named_modules()``; ``NAME:input`` stands for what goes into that module instead of what
        comes out, for networks that apply their activations as functions. ``:first``, ``:mean`` and ``:last`` behind
        either take one vector of a sequence, see `read_features`.

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
        name = LayerName.parse(layer).module
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


@contextmanager
def watched(model: nn.Module, layers: Sequence[str], see: Callable[[str, Any], None]) -> Iterator[None]:
    """Call a function with name and value of each of some layers whenever one runs.

    What goes into a module is seen before it runs, what comes out after, so that a module that works in place shows
    both. Hooks exist within the context only.
    """
    handles = []

    def watch(layer: str, module: nn.Module) -> None:
        def see_input(_module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            see(layer, arguments[0] if arguments else keywords)

        def see_output(_module: nn.Module, _arguments: tuple[Any, ...], output: Any) -> None:
            see(layer, output)

        if LayerName.parse(layer).is_input:
            handles.append(module.register_forward_pre_hook(see_input, with_kwargs=True))
        else:
            handles.append(module.register_forward_hook(see_output))

    try:
        for layer, module in find_layers(model, layers).items():
            watch(layer, module)
        yield
    finally:
        for handle in handles:
            handle.remove()


def read_features(
    layer: str, value: Any, n_batch: int, inputs: NetworkInputs | None = None
) -> Float[Tensor, "sample feature"]:
    """Turn what a layer gives into one row of features for each sample.

    Parameters
    ----------
    layer
        Its name. A sequence, (samples, positions, features), becomes its first or last vector or the mean over
        positions if the name ends on ``:first``, ``:last`` or ``:mean``. Where the network is given an
        ``attention_mask``, positions outside it do not count.
    value
        A tensor with samples first; of several tensors, in a tuple or by name, the first one.
    n_batch
        Number of samples.
    inputs
        What the network was given.

    Returns
    -------
    Tensor
        All other axes flattened in order, where none is reduced; half precision becomes float32.

    Raises
    ------
    InputError
        If there is no tensor, samples do not come first, or it is no sequence but to be reduced as one, or one with
        padding that is not to be reduced: what is computed at padded positions means nothing.
    """
    tensor = _first_tensor(layer, value)
    if tensor.dtype in (torch.float16, torch.bfloat16):
        tensor = tensor.float()
    if tensor.ndim == 0 or len(tensor) != n_batch:
        raise InputError(
            f"layer {layer} gives shape {tuple(tensor.shape)} for a batch of {n_batch} samples, expected samples "
            "first; record another layer"
        )
    reduction = LayerName.parse(layer).reduction
    mask = _attention_mask(inputs, tensor)
    if not reduction:
        if mask is not None and tensor.ndim == 3 and not bool(mask.all()):
            raise InputError(
                f"layer {layer} gives a vector at each of {tensor.shape[1]} positions, some of which are padding; take "
                f"one with {layer + ':first'!r}, {layer + ':last'!r} or {layer + ':mean'!r}"
            )
        return tensor.reshape(n_batch, -1)
    if tensor.ndim != 3:
        raise InputError(
            f"layer {layer} gives shape {tuple(tensor.shape)}, expected (samples, positions, features) for "
            f"':{reduction}'; leave that out"
        )
    if mask is None:
        mask = torch.ones(tensor.shape[:2], dtype=torch.bool, device=tensor.device)
    return _reduce(tensor, mask, reduction)


def _first_tensor(layer: str, value: Any) -> Tensor:
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else [value]
    for item in items:
        if isinstance(item, Tensor):
            return item
    raise InputError(f"layer {layer} gives a {type(value).__name__}, expected a tensor; record another layer")


def _attention_mask(inputs: NetworkInputs | None, tensor: Tensor) -> Int[Tensor, "sample position"] | None:
    mask = inputs.get("attention_mask") if isinstance(inputs, dict) else None
    return None if mask is None or mask.shape != tensor.shape[:2] else mask.to(tensor.device) != 0


def _reduce(
    tensor: Float[Tensor, "sample position feature"], mask: Int[Tensor, "sample position"], reduction: str
) -> Float[Tensor, "sample feature"]:
    if reduction == "mean":
        weights = mask.to(tensor.dtype).unsqueeze(-1)
        return torch.where(weights > 0, tensor, 0).sum(1) / weights.sum(1)
    counts = mask.to(torch.int64)
    ranks = counts if reduction == "first" else counts * torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return tensor[torch.arange(len(tensor), device=tensor.device), ranks.argmax(dim=1)]
