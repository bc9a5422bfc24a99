"""How features move in real optimizer steps: each is made on the live network, looked at, and taken back."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from data_tools.network_inputs import call_network
from data_tools.probe import Probe, evaluate_probe
from data_tools.saved_training import SavedTraining
from data_tools.training_state import device_of

_LOST_IN_ROUNDING = 100  # machine epsilons of the norm of a sample's features


def draw_batches(
    rng: np.random.Generator, targets: Int[np.ndarray, " train"], batch_size: int, repeats: int, n_classes: int
) -> list[list[Int[np.ndarray, " batch"]]]:
    """Draw mini-batches as shuffled epochs do, stratified by class if the batch size is 1.

    Within an epoch nothing is drawn twice, so with as many repeats as samples every sample is drawn once.

    Parameters
    ----------
    rng
        Where random numbers come from.
    targets
        What each training sample is trained as.
    batch_size, repeats
        Samples in a batch, and batches in a stratum.
    n_classes
        K; every class has a sample.

    Returns
    -------
    list
        For each of F strata, R batches of indices: F = K if `batch_size` is 1, else 1.
    """
    strata = [np.flatnonzero(targets == class_) for class_ in range(n_classes)]
    if batch_size > 1:
        strata = [np.arange(targets.size)]
    drawn = []
    for samples in strata:
        n_epochs = -(-repeats * batch_size // samples.size)
        order = np.concatenate([rng.permutation(samples) for _ in range(n_epochs)])
        drawn.append(list(order[: repeats * batch_size].reshape(repeats, batch_size)))
    return drawn


def onestep_changes(
    training: SavedTraining,
    probe: Probe,
    losses: Iterable[Callable[[], Tensor]],
    before: dict[str, Float[np.ndarray, "sample _"]],
    summary: Callable[[Float[np.ndarray, "sample _"]], Float[np.ndarray, "row _"]],
) -> dict[str, Float[np.ndarray, "trial row _"]]:
    """Make one real step down each of several losses, always from the same state.

    Parameters
    ----------
    training
        Where to start from.
    probe
        Samples whose features are looked at.
    losses
        Each computes the loss of a mini-batch.
    before
        Features of each layer at the start, (n, p).
    summary
        What to keep of the change of the features, such as class means.

    Returns
    -------
    dict
        For each layer, what `summary` makes of the change in each trial, stacked.
    """
    changes: dict[str, list[Float[np.ndarray, "row _"]]] = {layer: [] for layer in before}
    for loss in losses:
        training.reset()
        training.step(loss())
        features = evaluate_probe(training.model, probe, list(before)).features
        for layer, start in before.items():
            changes[layer].append(summary(features[layer].astype(np.float64) - start))
    training.reset()
    return {layer: np.stack(values) for layer, values in changes.items()}


def single_sample_moves(
    training: SavedTraining, samples: Probe, layers: Sequence[str], loss: Callable[[Tensor, Tensor], Tensor]
) -> dict[str, tuple[Float[np.ndarray, "stepped observed"], Float[np.ndarray, " sample"]]]:
    """Return how far a step of plain gradient descent at each sample moves every sample.

    The network is in evaluation mode, and each parameter moves by its learning rate times the gradient at that sample.

    Parameters
    ----------
    training
        Where to start from.
    samples
        Samples to step on and to look at.
    layers
        Layers to look at.
    loss
        Of the outputs and what they should be.

    Returns
    -------
    dict
        For each layer |f(x_j, w⁺) − f(x_j, w)| after a step at x_i, (m, m), and the distance at which a move is lost in
        rounding, (m,).
    """
    model, device = training.model, device_of(training.model)
    rates = {id(p): group["lr"] for group in training.optimizer.param_groups for p in group["params"]}
    targets = torch.as_tensor(samples.given_labels)
    training.reset()
    before = evaluate_probe(model, samples, layers).features
    moves: dict[str, list[Float[np.ndarray, " observed"]]] = {layer: [] for layer in layers}
    for index in range(samples.labels.size):
        training.reset()
        model.eval()
        outputs = call_network(model, samples.batch(slice(index, index + 1), device))
        gradients = training.gradient(loss(outputs, targets[index : index + 1].to(device)))
        with torch.no_grad():
            for name, gradient in gradients.items():
                parameter = training.parameters[name]
                if gradient is not None:
                    parameter -= rates[id(parameter)] * gradient
        after = evaluate_probe(model, samples, layers).features
        for layer, start in before.items():
            moves[layer].append(np.linalg.norm(after[layer].astype(np.float64) - start, axis=1))
    training.reset()
    return {
        layer: (
            np.stack(values),
            _LOST_IN_ROUNDING
            * np.finfo(before[layer].dtype).eps
            * np.linalg.norm(before[layer].astype(np.float64), axis=1),
        )
        for layer, values in moves.items()
    }
