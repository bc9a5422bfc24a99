"""Look at a network during training and leave no trace: modes, buffers and random numbers are put back."""

import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import nn

from data_tools.errors import InputError


def unwrap(model: nn.Module) -> nn.Module:
    """Return the eager, undistributed module inside what `torch.compile` and data-parallel training wrap around it.

    Raises
    ------
    InputError
        If its parameters are sharded over processes, so that no single process can evaluate it, or there are none yet.
    """
    _refuse_without_weights(model)
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod
        else:
            return model


def _refuse_without_weights(model: nn.Module) -> None:
    sharded = any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules())
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter) or parameter.is_meta:
            raise InputError(f"the model's parameter {name} has no values yet; load them, or call the model once")
        # PyTorch's distributed tensors (FSDP2, tensor parallel), and what DeepSpeed leaves of a parameter it shards.
        sharded |= hasattr(parameter, "device_mesh") or hasattr(parameter, "ds_id")
    if sharded:
        raise InputError(
            "a model sharded over processes (FSDP, DeepSpeed, tensor parallel) cannot be recorded, as no process can "
            "evaluate it alone; use DistributedDataParallel"
        )


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Put the states of the random generators of Python, NumPy and PyTorch back afterwards."""
    python_state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002 - the legacy global generator is what augmentations use
    cuda_devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=list(cuda_devices)):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002


@contextmanager
def eager_in_full_precision(model: nn.Module) -> Iterator[None]:
    """Compute without automatic mixed precision and without compilation."""
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(device_of(model).type, enabled=False))
        if "torch._dynamo" in sys.modules:  # else nothing can have been compiled, and importing it takes seconds
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluate a network in the midst of its training.

    Inside, the network is in evaluation mode, without gradients, automatic mixed precision or compilation. Afterwards
    the mode of every submodule, all buffers, and the states of the random generators of Python, NumPy and PyTorch are
    what they were, so training continues bit by bit as if nothing had happened.

    Parameters
    ----------
    model
        The eager module, see `unwrap`.
    """
    modes = {module: module.training for module in model.modules()}
    buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
    with random_states_kept(), torch.no_grad(), eager_in_full_precision(model):
        try:
            model.eval()
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode
            for name, buffer in model.named_buffers():
                # Copying marks a buffer as changed, which autograd may mind, so only where it is needed.
                if name in buffers and not torch.equal(buffer, buffers[name]):
                    buffer.copy_(buffers[name])


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's first parameter or buffer; the CPU if it has none."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def uses_batch_statistics(model: nn.Module) -> bool:
    """Tell whether some normalisation layer depends on the composition of the batch even in evaluation mode."""
    return any(
        isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is None for module in model.modules()
    )
