"""Try optimizer steps out and take them back, so that training goes on as if they had not been made."""

import copy
import random
from collections import defaultdict
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from data_tools.errors import InputError
from data_tools.training_state import eager_in_full_precision, random_states_kept


class SavedTraining:
    """All that a step of the optimizer changes, kept aside while steps are tried.

    Inside the context the network is in training mode: submodules keep the modes they have, so that frozen ones stay
    frozen, unless the network as a whole is in evaluation mode. Steps are computed with gradients, eagerly and in full
    precision. Afterwards everything is bit by bit what it was: weights, buffers, modes, gradients, the state and the
    settings of the optimizer, and the states of the random generators of Python, NumPy and PyTorch. State that the
    network or the optimizer keep elsewhere, such as counters in plain attributes of a module, is not looked after.

    Parameters
    ----------
    model
        The eager module, see `data_tools.training_state.unwrap`.
    optimizer
        The optimizer of its parameters.
    seed
        Seeds the random generators inside, from 0 to below 2³², so that dropout and augmentation repeat.

    Attributes
    ----------
    parameters : dict of str to torch.nn.Parameter
        What the optimizer changes, by name in the model.

    Raises
    ------
    InputError
        If the optimizer has none of the model's parameters.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
        self.model, self.optimizer, self._seed = model, optimizer, seed
        self._all_parameters = list(
            {
                id(p): p for p in (*model.parameters(), *(p for g in optimizer.param_groups for p in g["params"]))
            }.values()
        )
        self.parameters = optimized_parameters(model, optimizer)

    def __enter__(self) -> Self:
        model = self.model
        self._modes = {module: module.training for module in model.modules()}
        self._weights = [parameter.detach().clone() for parameter in self._all_parameters]
        self._gradients = [parameter.grad for parameter in self._all_parameters]
        self._buffers = [
            (module, name, buffer, buffer.detach().clone())
            for module in model.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        # Copies are worked on, and what training itself uses is never touched.
        self._attributes = dict(self.optimizer.__dict__)
        with ExitStack() as stack:
            stack.enter_context(random_states_kept())
            stack.enter_context(torch.enable_grad())
            stack.enter_context(eager_in_full_precision(model))
            stack.callback(self._restore)
            random.seed(self._seed)
            np.random.seed(self._seed)  # noqa: NPY002 - the legacy global generator is what augmentations use
            torch.default_generator.manual_seed(self._seed)
            if torch.cuda.is_initialized():  # otherwise seeding would take effect when CUDA starts, in the training
                torch.cuda.manual_seed_all(self._seed)
            self.reset()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def reset(self) -> None:
        """Go back to where training is, in training mode and without gradients; random generators go on."""
        self._put_back()
        if not self.model.training:
            self.model.train()
        for parameter in self._all_parameters:
            parameter.grad = None
        state = {key: copy.deepcopy(values) for key, values in self._attributes["state"].items()}
        self.optimizer.state = defaultdict(dict, state)
        self.optimizer.param_groups = [
            {name: value if name == "params" else copy.deepcopy(value) for name, value in group.items()}
            for group in self._attributes["param_groups"]
        ]

    def gradient(self, loss: Tensor) -> dict[str, Tensor | None]:
        """Return the gradient of a loss by parameter, None for parameters that it does not depend on.

        Unlike ``backward`` it sets off no hook that data-parallel training has on gradients.
        """
        gradients = torch.autograd.grad(loss, list(self.parameters.values()), allow_unused=True)
        return dict(zip(self.parameters, gradients, strict=True))

    def step(self, loss: Tensor) -> None:
        """Make one step of the optimizer down the gradient of a loss."""
        for name, gradient in self.gradient(loss).items():
            self.parameters[name].grad = gradient
        self.optimizer.step()

    def _put_back(self) -> None:
        for module, mode in self._modes.items():
            module.training = mode
        with torch.no_grad():
            for parameter, weight in zip(self._all_parameters, self._weights, strict=True):
                parameter.copy_(weight)
            for module, name, buffer, value in self._buffers:
                module._buffers[name] = buffer
                if not torch.equal(buffer, value):
                    buffer.copy_(value)

    def _restore(self) -> None:
        self._put_back()
        for parameter, gradient in zip(self._all_parameters, self._gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.__dict__.clear()
        self.optimizer.__dict__.update(self._attributes)


def optimized_parameters(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, nn.Parameter]:
    """Return the parameters of a model that an optimizer changes, by name.

    Raises
    ------
    InputError
        If there are none.
    """
    optimized = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    found: dict[str, Any] = {
        name: parameter
        for name, parameter in model.named_parameters()
        if id(parameter) in optimized and parameter.requires_grad
    }
    if not found:
        raise InputError(
            f"the optimizer {type(optimizer).__name__} has no parameter of the model to train; "
            "give the one that trains this model"
        )
    return found
