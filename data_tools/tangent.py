"""How features move for infinitely small optimizer steps: derivatives along the direction of a step."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, jvp

from data_tools.errors import InputError
from data_tools.layers import read_features, watched
from data_tools.network_inputs import NetworkInputs, as_arguments
from data_tools.probe import Probe
from data_tools.training_state import device_of, undisturbed


def check_tangent_step(optimizer: torch.optim.Optimizer) -> None:
    """Refuse optimizers whose step `tangent_step` does not know.

    Raises
    ------
    InputError
        Unless it is exactly SGD, Adam or AdamW of PyTorch.
    """
    if type(optimizer) not in _EFFECTIVE_STEPS:
        known = ", ".join(kind.__name__ for kind in _EFFECTIVE_STEPS)
        raise InputError(
            f"the tangent drift of {type(optimizer).__name__} is not known, only that of {known}; measure one-step "
            "drifts alone with ElasticityMeasurement(…, tangent=False)"
        )


def tangent_step(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    gradients: Mapping[str, Tensor | None],
    *,
    weight_decay: bool = True,
) -> dict[str, Tensor]:
    """Return the change of each parameter that one step will in the long run have caused, to first order.

    SGD: −lr (1 − dampening)/(1 − momentum) (g + λw), since a gradient is applied again by later steps until the
    momentum has forgotten it; with Nesterov's momentum the sum is the same. Adam: −lr g / (√v̂ + ε) with the present
    v̂, its average of squared gradients corrected for the start, where λw is added to g; AdamW: with −lr λw apart. Its
    average of gradients forgets as much as it remembers.

    Parameters
    ----------
    optimizer
        SGD, Adam or AdamW.
    parameters
        What it changes, by name.
    gradients
        Gradient g of the mean loss for each; None where it does not depend on the parameter, which then stays.
    weight_decay
        Include weight decay λ.

    Returns
    -------
    dict
        For each name a tensor like the parameter; not a number before the first step of Adam, which has no v̂ yet.
    """
    names = {id(parameter): name for name, parameter in parameters.items()}
    effective_step = _EFFECTIVE_STEPS[type(optimizer)]
    steps: dict[str, Tensor] = {}
    with torch.no_grad():
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                name = names.get(id(parameter))
                if name is None:
                    continue
                gradient = gradients[name]
                if gradient is None:
                    steps[name] = torch.zeros_like(parameter)
                    continue
                decay = group["weight_decay"] if weight_decay else 0
                signed = -gradient if group["maximize"] else gradient
                steps[name] = effective_step(group, optimizer.state.get(parameter, {}), parameter, signed, decay)
    return steps


def _sgd_step(group: Mapping[str, Any], _state: Any, weight: Tensor, gradient: Tensor, decay: float) -> Tensor:
    memory = (1 - group["dampening"]) / (1 - group["momentum"]) if group["momentum"] else 1.0
    return -group["lr"] * memory * (gradient + decay * weight)


def _adam_step(
    group: Mapping[str, Any], state: Mapping[str, Any], weight: Tensor, gradient: Tensor, decay: float
) -> Tensor:
    if "exp_avg_sq" not in state:
        return torch.full_like(weight, float("nan"))
    square = state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"]
    correction = 1 - group["betas"][1] ** float(state["step"])
    scale = (square / correction).sqrt() + group["eps"]
    if group["decoupled_weight_decay"]:
        return -group["lr"] * (gradient / scale + decay * weight)
    return -group["lr"] * (gradient + decay * weight) / scale


_EFFECTIVE_STEPS: dict[type[torch.optim.Optimizer], Callable[..., Tensor]] = {
    torch.optim.SGD: _sgd_step,
    torch.optim.Adam: _adam_step,
    torch.optim.AdamW: _adam_step,
}


def feature_derivatives(
    model: nn.Module, probe: Probe, layers: Sequence[str], direction: Mapping[str, Tensor]
) -> dict[str, Float[np.ndarray, "sample _"]]:
    """Return the derivative of the probe's features along a direction in the space of weights.

    The network is in evaluation mode, as where features are recorded.

    Parameters
    ----------
    model
        The eager module; it is left as it was.
    probe
        Samples to evaluate, in its batches.
    layers
        Names as for `data_tools.layers.find_layers`.
    direction
        A tensor like the parameter for each name in ``model.named_parameters()`` that moves.

    Returns
    -------
    dict
        For each layer (n, p) in double precision.

    Raises
    ------
    InputError
        If PyTorch cannot differentiate an operation of the network in forward mode.
    """
    named = dict(model.named_parameters())
    weights = {name: named[name].detach() for name in direction}
    device = device_of(model)
    derivatives: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    with undisturbed(model), warnings.catch_warnings():
        # PyTorch compiles some derivatives in a way that it itself calls deprecated when the first is asked for.
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.script", category=DeprecationWarning)
        for batch, n_batch in probe.batches(device):
            try:
                _, moved = jvp(_layer_function(model, layers, batch, n_batch), (weights,), (dict(direction),))
            except RuntimeError as error:  # NotImplementedError is one
                raise InputError(
                    f"the network cannot be differentiated in forward mode ({' '.join(str(error).split())}); measure "
                    "one-step drifts alone with ElasticityMeasurement(…, tangent=False)"
                ) from error
            for layer, value in moved.items():
                derivatives[layer].append(value.cpu().double())
    return {layer: torch.cat(values).numpy() for layer, values in derivatives.items()}


def _layer_function(
    model: nn.Module, layers: Sequence[str], batch: NetworkInputs, n_batch: int
) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    arguments, keywords = as_arguments(batch)

    def features(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        seen: dict[str, Tensor] = {}

        def keep(layer: str, value: Any) -> None:
            seen[layer] = read_features(layer, value, n_batch, batch).clone()  # later layers may work in place

        with watched(model, layers, keep):
            functional_call(model, weights, arguments, keywords)
        return seen

    return features
