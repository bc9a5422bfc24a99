"""Elasticity is measured rightly where it is known, and measuring it leaves no trace in the training."""

import copy
import random
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from data_tools import ElasticityMeasurement, InputError
from data_tools.drift_measures import mean_drift
from data_tools.one_step import draw_batches
from data_tools.probe import Probe
from data_tools.saved_training import SavedTraining
from data_tools.tangent import tangent_step

TARGETS = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2])
LABELS = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 0, 2])  # what they are, where two have a wrong target
N_CLASSES = 3
ADAMS = (torch.optim.Adam, torch.optim.AdamW)


def inputs(n=TARGETS.size, width=5, seed=1):
    return torch.randn(n, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def network(*layers):
    torch.manual_seed(0)
    return nn.Sequential(*layers).double()


def linear_network():
    return network(nn.Linear(5, N_CLASSES))


def smooth_network():
    return network(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, N_CLASSES))


def awkward_network():
    layers = nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(0.4), nn.Linear(8, N_CLASSES)
    return network(*layers)


def all_samples(labels=LABELS, batch_size=5):
    return Probe(inputs(), labels, TARGETS, batch_size)


class KnownLinear:
    """What a step of gradient descent does to logits W x + b, exactly."""

    def __init__(self, model, lr):
        x = inputs()
        self.gram = (x @ x.T + 1).numpy()
        self.residuals = np.eye(N_CLASSES)[TARGETS] - torch.softmax(model(x), dim=1).detach().numpy()
        self.lr = lr

    def change(self, stepped_on):
        """Change of the logits of all samples after a step on the mean loss of some."""
        chosen = np.asarray(stepped_on)
        return self.lr * self.gram[:, chosen] @ self.residuals[chosen] / chosen.size


def means(values, classes):
    return np.stack([values[classes == class_].mean(axis=0) for class_ in range(N_CLASSES)])


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("group", ["labels", "given_labels"])
def test_a_linear_network_stepped_on_once_at_each_sample(group):
    model = linear_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    # As many repeats as the smallest class has samples would leave some out; with 60, each is stepped on equally often.
    measurement = ElasticityMeasurement(optimizer, (inputs(), TARGETS), 1, repeats=60, labels=LABELS)
    snapshot = measurement.measure(model, all_samples(), ["0"], logits="0")
    measured = snapshot.layers["0"][group]
    classes = {"labels": LABELS, "given_labels": TARGETS}[group]
    known = KnownLinear(model, 0.1)

    def expected(samples):
        return means(known.change(samples), classes)

    from_class = np.stack([expected(np.flatnonzero(class_ == TARGETS)) for class_ in range(N_CLASSES)])
    assert measured.onestep.shape == (3, 60, 3, 3)
    close(measured.onestep.mean(axis=1), from_class)
    shares = measurement.settings(all_samples()).shares
    np.testing.assert_allclose(shares, [4 / 12, 3 / 12, 5 / 12])
    close(mean_drift(measured.onestep, shares)[0], expected(range(12)))
    close(measured.tangent, expected(range(12)))
    impact = means(known.residuals, classes)
    close(measured.impact, impact)
    for stepped in range(N_CLASSES):
        change = expected(np.flatnonzero(classes == stepped))
        close(measured.kernel[:, stepped], change @ impact[stepped] / np.sum(impact[stepped] ** 2))


def test_a_linear_network_stepped_on_in_batches():
    model = linear_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    measurement = ElasticityMeasurement(optimizer, (inputs(), TARGETS), 4, repeats=7, labels=LABELS, seed=5)
    measured = measurement.measure(model, all_samples(), ["0"], logits="0", step=30).layers["0"]["labels"]
    rng = np.random.default_rng([5, 30])
    rng.integers(2**32)  # the seed of PyTorch's generators
    [batches] = draw_batches(rng, TARGETS, 4, 7, N_CLASSES)
    known = KnownLinear(model, 0.1)
    assert measured.onestep.shape == (1, 7, 3, 3)
    close(measured.onestep[0], [means(known.change(batch), LABELS) for batch in batches])
    close(measured.tangent, means(known.change(range(12)), LABELS))


def test_similarity_of_a_linear_network():
    model = linear_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    measurement = ElasticityMeasurement(optimizer, (inputs(), TARGETS), 1, repeats=1, labels=LABELS)
    layer = measurement.measure(model, all_samples(), ["0"]).layers["0"]
    gram = KnownLinear(model, 0.1).gram
    ratio = np.abs(gram) / np.diag(gram)  # |x·x′ + 1| / (|x|² + 1), stepping on the second
    pairs = ~np.eye(12, dtype=bool)
    for group, classes in (("labels", LABELS), ("given_labels", TARGETS)):
        same = classes[:, None] == classes
        within, across = layer[group].similarity
        # The largest class, by label, has more samples than the five of a class that are looked at by default.
        assert within == pytest.approx(ratio[pairs & same].mean())
        assert across == pytest.approx(ratio[~same].mean())


def test_similarity_is_left_out_or_undefined():
    model = linear_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-30)
    measure = partial(ElasticityMeasurement, optimizer, (inputs(), TARGETS), 1, repeats=1, tangent=False)
    assert measure(similarity_per_class=0).measure(model, all_samples(), ["0"]).layers["0"]["labels"].similarity is None
    assert np.isnan(measure().measure(model, all_samples(), ["0"]).layers["0"]["labels"].similarity).all()


def test_one_step_tends_to_the_tangent_at_first_order():
    rates = 0.1 * 0.5 ** np.arange(5)
    misses = []
    for lr in rates:
        model = smooth_network()
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        measurement = ElasticityMeasurement(optimizer, (inputs(), TARGETS), 12, repeats=1, labels=LABELS)
        snapshot = measurement.measure(model, all_samples(), ["0", "1", "2"], logits="2", classifier_layer="1")
        drifts = [snapshot.layers[layer]["labels"] for layer in ("1", "2")]
        misses.append([np.linalg.norm(d.onestep[0, 0] - d.tangent) / np.linalg.norm(d.tangent) for d in drifts])
        assert snapshot.lr == lr
    order = np.polyfit(np.log(rates), np.log(misses), 1)[0]
    np.testing.assert_allclose(order, 1, atol=0.1)
    assert np.max(misses[-1]) < 0.05


def test_impacts_of_the_layer_that_feeds_the_classifier():
    model = smooth_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    measurement = ElasticityMeasurement(optimizer, (inputs(), TARGETS), 4, repeats=2, labels=LABELS)
    measure = partial(measurement.measure, model, all_samples())
    layers = measure(["0", "1", "2"], logits="2", classifier_layer="1").layers
    np.testing.assert_allclose(
        layers["1"]["labels"].impact, layers["2"]["labels"].impact @ model[2].weight.detach().numpy()
    )
    assert layers["0"]["labels"].impact is None
    assert layers["0"]["labels"].kernel is None
    assert layers["0"]["labels"].tangent.shape == (3, 8)
    assert layers["1"]["labels"].kernel.shape == (3, 3)
    inputs_of_last = measure(["1", "2:input", "2"]).layers
    np.testing.assert_array_equal(inputs_of_last["2:input"]["labels"].onestep, layers["1"]["labels"].onestep)
    np.testing.assert_allclose(inputs_of_last["2:input"]["labels"].tangent, layers["1"]["labels"].tangent)
    assert inputs_of_last["2"]["labels"].impact is None


def test_a_real_step_with_momentum_takes_its_velocity_and_the_tangent_takes_what_is_to_come():
    model, momentum, lr = linear_network(), 0.9, 0.1
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    first, second = np.array([0, 5, 9]), np.arange(12)
    velocity = KnownLinear(model, lr).change(first)  # the change of logits that the velocity is worth
    cross_entropy(model(inputs()[first]), torch.as_tensor(TARGETS[first])).backward()
    optimizer.step()
    measurement = ElasticityMeasurement(optimizer, (inputs(), TARGETS), 12, repeats=1, labels=LABELS)
    measured = measurement.measure(model, all_samples(), ["0"]).layers["0"]["labels"]
    gradient = KnownLinear(model, lr).change(second)
    close(measured.onestep[0, 0], means(momentum * velocity + gradient, LABELS))
    close(measured.tangent, means(gradient / (1 - momentum), LABELS))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.8},
        {"momentum": 0.8, "nesterov": True},
        {"momentum": 0.8, "dampening": 0.3},
        {"momentum": 0.8, "maximize": True},
        {"momentum": 0.8, "nesterov": True, "maximize": True},
    ],
)
def test_the_tangent_step_of_sgd_is_all_that_a_gradient_will_ever_do(options):
    weight = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], lr=0.1, **options)
    gradient, nothing = torch.tensor([3.0, 0.5], dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    expected = tangent_step(optimizer, {"w": weight}, {"w": gradient})["w"]
    before = weight.detach().clone()
    for pull in (nothing, gradient, *[nothing] * 200):
        weight.grad = pull
        optimizer.step()
    torch.testing.assert_close(weight.detach() - before, expected)


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize(
    ("kind", "option"),
    [
        (torch.optim.SGD, {}),
        (torch.optim.SGD, {"maximize": True}),
        *((kind, option) for kind in ADAMS for option in ({}, {"maximize": True}, {"amsgrad": True})),
    ],
)
def test_the_tangent_step_without_memory_of_gradients_is_the_real_step(kind, decay, option):
    weight = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    settings = {} if kind is torch.optim.SGD else {"betas": (0.0, 0.9)}
    optimizer = kind([weight], lr=0.1, weight_decay=decay, **settings, **option)
    gradient = torch.tensor([3.0, 0.5], dtype=torch.float64)
    for _ in range(3):
        weight.grad = gradient.clone()
        if decay and kind is torch.optim.Adam:  # keep what is squared constant, so that its average is
            weight.grad = gradient - decay * weight.detach() * (-1 if option.get("maximize") else 1)
        before = weight.detach().clone()
        optimizer.step()
    moved = weight.detach() - before
    with torch.no_grad():
        weight.copy_(before)
    torch.testing.assert_close(tangent_step(optimizer, {"w": weight}, {"w": weight.grad})["w"], moved)
    assert not tangent_step(optimizer, {"w": weight}, {"w": None})["w"].any()
    if decay:
        without = tangent_step(optimizer, {"w": weight}, {"w": weight.grad}, weight_decay=False)["w"]
        assert not torch.equal(without, moved)


def test_adam_has_no_tangent_before_its_first_step():
    model = linear_network()
    optimizer = torch.optim.Adam(model.parameters())
    measurement = ElasticityMeasurement(optimizer, (inputs(), TARGETS), 4, repeats=2, labels=LABELS)
    measured = measurement.measure(model, all_samples(), ["0"], logits="0").layers["0"]["labels"]
    assert np.isnan(measured.tangent).all()
    assert np.isnan(measured.kernel).all()
    assert np.isfinite(measured.onestep).all()
    cross_entropy(model(inputs()), torch.as_tensor(TARGETS)).backward()
    optimizer.step()
    measured = measurement.measure(model, all_samples(), ["0"], logits="0").layers["0"]["labels"]
    assert np.isfinite(measured.tangent).all()
    assert np.isfinite(measured.kernel).all()


def test_weight_decay_moves_features_but_is_no_elasticity():
    kernels, drifts = [], []
    for decay in (0.0, 0.5):
        model = linear_network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=decay)
        measurement = ElasticityMeasurement(optimizer, (inputs(), TARGETS), 12, repeats=1, labels=LABELS)
        measured = measurement.measure(model, all_samples(), ["0"], logits="0").layers["0"]["labels"]
        close(measured.tangent, measured.onestep[0, 0])
        kernels.append(measured.kernel)
        drifts.append(measured.tangent)
    np.testing.assert_array_equal(*kernels)
    assert not np.allclose(*drifts)


def test_each_group_of_parameters_has_its_own_rate_and_frozen_ones_stay():
    model = smooth_network()
    model[0].bias.requires_grad_(False)
    groups = [{"params": [*model[0].parameters()], "lr": 0.003}, {"params": [*model[2].parameters()]}]
    optimizer = torch.optim.SGD(groups, lr=0.001)
    measurement = ElasticityMeasurement(optimizer, (inputs(), TARGETS), 12, repeats=1, labels=LABELS)
    measured = measurement.measure(model, all_samples(), ["2"]).layers["2"]["labels"]
    np.testing.assert_allclose(measured.onestep[0, 0], measured.tangent, rtol=0.05, atol=1e-6)


OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, lr=0.1),
    "momentum": partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    "adam": partial(torch.optim.Adam, lr=0.01),
    "adamw": partial(torch.optim.AdamW, lr=torch.tensor(0.01), amsgrad=True, foreach=False),
    "rmsprop": partial(torch.optim.RMSprop, lr=0.01),
}


def set_seeds():
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)


def state_of_training(model, optimizer):
    return copy.deepcopy(
        {
            "weights": model.state_dict(),
            "gradients": [p.grad for p in model.parameters()],
            "modes": [m.training for m in model.modules()],
            "optimizer": optimizer.state_dict(),
            "attributes": sorted(optimizer.__dict__),
            "random": (torch.get_rng_state(), random.getstate(), np.random.get_state()),  # noqa: NPY002
        }
    )


def identical(first, second):
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, np.ndarray):
        return np.array_equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(identical(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(identical(a, b) for a, b in zip(first, second, strict=True))
    return first == second


@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_everything_is_put_back_bit_by_bit(name, started):
    model = awkward_network()
    model[1].eval()
    optimizer = OPTIMIZERS[name](model.parameters())
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    set_seeds()
    if started:
        cross_entropy(model(inputs()), torch.as_tensor(TARGETS)).backward()
        optimizer.step()
        scheduler.step()
        model[4].weight.grad = None
    before = state_of_training(model, optimizer)
    kept = [optimizer.state, optimizer.param_groups, *(p.grad for p in model.parameters())]
    measurement = ElasticityMeasurement(
        optimizer,
        (inputs(), TARGETS),
        4,
        repeats=3,
        labels=LABELS,
        tangent=name != "rmsprop",
        augment=lambda x: x * np.random.normal(1, 0.1) + random.gauss(0, 0.1),  # noqa: NPY002
    )
    first = measurement.measure(model, all_samples(), ["0", "4"], logits="4", step=7)
    after = state_of_training(model, optimizer)
    for part in before:
        assert identical(before[part], after[part]), part
    now = [optimizer.state, optimizer.param_groups, *(p.grad for p in model.parameters())]
    assert all(a is b for a, b in zip(kept, now, strict=True))
    set_seeds()
    torch.rand(5)
    again = measurement.measure(model, all_samples(), ["0", "4"], logits="4", step=7)
    other = measurement.measure(model, all_samples(), ["0", "4"], logits="4", step=8)
    onestep = [snapshot.layers["4"]["labels"].onestep for snapshot in (first, again, other)]
    np.testing.assert_array_equal(onestep[0], onestep[1])
    assert not np.array_equal(onestep[0], onestep[2])
    assert onestep[0].std(axis=1).min() > 0


def test_everything_is_put_back_after_a_failure():
    model = awkward_network()
    optimizer = torch.optim.Adam(model.parameters())
    calls = []

    def failing(outputs, targets):
        calls.append(model.training)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return cross_entropy(outputs, targets)

    before = state_of_training(model, optimizer)
    measurement = ElasticityMeasurement(optimizer, (inputs(), TARGETS), 4, labels=LABELS, loss=failing)
    with pytest.raises(KeyboardInterrupt):
        measurement.measure(model, all_samples(), ["4"])
    assert identical(before, state_of_training(model, optimizer))
    assert calls == [True] * 3


def test_what_a_step_changes_is_changed_inside_and_put_back_outside():
    model = awkward_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    weight, mean = model[0].weight.detach().clone(), model[1].running_mean.clone()
    model.eval()
    with SavedTraining(model, optimizer, seed=0) as training:
        assert model.training
        training.step(cross_entropy(model(inputs()), torch.as_tensor(TARGETS)))
        assert not torch.equal(model[0].weight, weight)
        assert not torch.equal(model[1].running_mean, mean)
        assert optimizer.state
        model[1].running_mean = torch.ones(8)
        training.reset()
        assert torch.equal(model[0].weight, weight)
        assert torch.equal(model[1].running_mean, mean)
        assert not optimizer.state
        assert model[0].weight.grad is None
    assert not model.training


def test_measured_steps_are_those_of_the_training():
    """With batch normalisation and dropout, a measured step does what the same step would have done."""
    model = awkward_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    measurement = ElasticityMeasurement(optimizer, (inputs(), TARGETS), 12, repeats=1, labels=LABELS)
    measured = measurement.measure(model, all_samples(), ["4"]).layers["4"]["labels"].onestep[0, 0]
    rng = np.random.default_rng([0, 0])
    seed = int(rng.integers(2**32))
    [[batch]] = draw_batches(rng, TARGETS, 12, 1, N_CLASSES)

    def logits():
        model.eval()
        with torch.no_grad():
            result = means(model(inputs()).numpy(), LABELS)
        model.train()
        return result

    before = logits()
    torch.manual_seed(seed)
    cross_entropy(model(inputs()[batch]), torch.as_tensor(TARGETS[batch])).backward()
    optimizer.step()
    np.testing.assert_allclose(logits() - before, measured, atol=1e-12)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_epochs_are_gone_through_without_repetition(batch_size):
    drawn = draw_batches(np.random.default_rng(0), TARGETS, batch_size, 4, N_CLASSES)
    if batch_size == 1:
        assert [np.unique(TARGETS[np.concatenate(stratum)]).tolist() for stratum in drawn] == [[0], [1], [2]]
        assert sorted(np.concatenate(drawn[0]).tolist()) == [0, 1, 2, 3]
    else:
        assert sorted(np.concatenate(drawn[0]).tolist()) == list(range(12))
        assert [batch.size for batch in drawn[0]] == [3] * 4


class NeedsClosure(torch.optim.SGD):
    def step(self, closure):
        return super().step(closure)


class FullyShardedDataParallel(nn.Module):
    pass


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"repeats": 0}, "repeats is 0; it must be at least 1"),
        ({"similarity_per_class": -1}, "similarity_per_class is -1"),
        ({"batch_size": 0}, "batch_size is 0; choose from 1 to the 12 training samples"),
        ({"batch_size": 13}, "batch_size is 13"),
        ({"data": (inputs(), TARGETS[:-1])}, r"inputs of float64 \(12, 5\), 11 targets and 11 labels"),
        ({"data": (inputs(), TARGETS + 0.5)}, "more than whole numbers"),
        ({"labels": LABELS[:3]}, "12 targets and 3 labels"),
        (
            {"optimizer": torch.optim.RMSprop},
            r"tangent drift of RMSprop is not known, only .* SGD, Adam, AdamW;.*False",
        ),
        ({"optimizer": torch.optim.LBFGS}, "LBFGS steps by evaluating the loss several times"),
        ({"optimizer": NeedsClosure}, "NeedsClosure steps by evaluating the loss several times"),
    ],
)
def test_settings_that_cannot_be(changes, message):
    kind = changes.pop("optimizer", torch.optim.SGD)
    settings = {"data": (inputs(), TARGETS), "batch_size": 4, **changes}
    with pytest.raises(InputError, match=message):
        ElasticityMeasurement(kind(linear_network().parameters(), lr=0.1), **settings)


def test_networks_that_cannot_be_measured():
    model = linear_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    make = partial(ElasticityMeasurement, optimizer, (inputs(), TARGETS), 4)
    with pytest.raises(InputError, match="no parameter of the model to train"):
        make(labels=LABELS).measure(linear_network(), all_samples(), ["0"])
    with pytest.raises(InputError, match="sharded over processes"):
        make(labels=LABELS).measure(FullyShardedDataParallel(), all_samples(), ["0"])
    with pytest.raises(InputError, match="no layer '1'"):
        make(labels=LABELS).measure(model, all_samples(), ["1"])
    with pytest.raises(InputError, match="layer '1' is to be measured but not recorded; choose from 0"):
        make(labels=LABELS, layers=["1"]).measure(model, all_samples(), ["0"])
    with pytest.raises(InputError, match=r"given_labels differ .* ElasticityMeasurement\(…, labels=…\)"):
        make().measure(model, all_samples(), ["0"])
    with pytest.raises(InputError, match="loss of an ElasticityMeasurement is not a single number"):
        make(labels=LABELS, loss=partial(cross_entropy, reduction="none")).measure(model, all_samples(), ["0"])
    with pytest.raises(InputError, match="go from 0 to 2, but the probe has classes 0 … 1"):
        ElasticityMeasurement(optimizer, (inputs(), TARGETS), 4).measure(
            model, Probe(inputs(4), [0, 0, 1, 1], None, 4), ["0"]
        )
    with pytest.raises(InputError, match="targets of the training data: class 2 has no sample"):
        ElasticityMeasurement(optimizer, (inputs(4), [0, 0, 1, 1]), 4).measure(
            model, Probe(inputs(), LABELS, None, 4), ["0"]
        )


def test_what_cannot_be_differentiated_forwards_is_named():
    class Backwards(torch.autograd.Function):
        @staticmethod
        def forward(x):
            return x.clone()

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, grad):
            return grad

    class Custom(nn.Module):
        def forward(self, x):
            return Backwards.apply(x)

    model = network(nn.Linear(5, N_CLASSES), Custom())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    make = partial(ElasticityMeasurement, optimizer, (inputs(), TARGETS), 4, repeats=2, labels=LABELS)
    with pytest.raises(InputError, match=r"cannot be differentiated in forward mode .*tangent=False"):
        make().measure(model, all_samples(), ["1"])
    measured = make(tangent=False).measure(model, all_samples(), ["1"], logits="1").layers["1"]["labels"]
    assert (measured.tangent, measured.kernel) == (None, None)
    assert measured.impact.shape == (3, 3)
