"""A recorder sees what the network computes, and training cannot tell that it was there."""

import gc
import random
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from data_tools import FeatureRecorder, InputError, Recording
from data_tools.record_taking import loss_and_accuracy

LABELS = np.repeat([0, 1, 2], 4)


def images(seed=0, n=LABELS.size):
    return torch.randn(n, 1, 6, 6, generator=torch.Generator().manual_seed(seed))


def awkward_network():
    """Batch normalisation, dropout, and activations that overwrite what the recorded layer before them gave."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Dropout(0.4),
        nn.Linear(64, 5),
        nn.ReLU(inplace=True),
        nn.Linear(5, 3),
    )


def train(model, n_steps, recorder=None):
    """Train with augmentation that draws from every global random generator."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x, y = images(), torch.as_tensor(LABELS)
    for _ in range(n_steps):
        chosen = torch.randperm(len(x))[:6]
        batch = x[chosen] * np.random.normal(1, 0.1) + random.gauss(0, 0.1)  # noqa: NPY002
        optimizer.zero_grad()
        functional.cross_entropy(model(batch), y[chosen]).backward()
        optimizer.step()
        if recorder is not None:
            recorder.step()


def set_seeds():
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.h5"


def make(path, model, layers=("5", "6", "7"), **options):
    return FeatureRecorder(path, model, **{"probe": (images(), LABELS), "layers": list(layers), "every": 3, **options})


def test_training_is_bit_identical_with_and_without_a_recorder(path):
    outcomes = []
    for recorded in (False, True):
        model = awkward_network()
        model[1].eval()  # a frozen normalisation layer has to stay frozen
        set_seeds()
        if recorded:
            with make(path, model, layers=["0", "4", "5", "7"], probe_batch_size=5) as recorder:
                train(model, 10, recorder)
        else:
            train(model, 10)
        modes = [module.training for module in model.modules()]
        draws = (torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random())  # noqa: NPY002, S311
        outcomes.append((model.state_dict(), modes, draws))
    (weights, modes, draws), (weights_recorded, modes_recorded, draws_recorded) = outcomes
    assert weights.keys() == weights_recorded.keys()
    for name, value in weights.items():
        assert torch.equal(value, weights_recorded[name]), name
    assert modes == modes_recorded
    assert False in modes
    assert draws == draws_recorded


def test_training_is_bit_identical_with_moving_batch_statistics(path):
    states = []
    for recorded in (False, True):
        model = awkward_network()
        set_seeds()
        if recorded:
            with make(path, model) as recorder:
                train(model, 7, recorder)
        else:
            train(model, 7)
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert states[0]["1.num_batches_tracked"] == 7


def test_features_are_what_the_network_gives_in_evaluation_mode(path):
    model = awkward_network()
    with make(path, model, probe_batch_size=5) as recorder:
        train(model, 6, recorder)
    model.eval()
    with torch.no_grad():
        before = model[:6](images()).clone()
        logits = model(images())
    with Recording(path) as recording:
        np.testing.assert_array_equal(recording.steps, [0, 1, 3, 4, 6])
        assert recording.logits == "7"
        # Batches of another size may round otherwise.
        np.testing.assert_allclose(recording.features("5")[-1], before, atol=1e-6)
        assert before.min() < 0  # the ReLU behind works in place, and would have made these 0
        np.testing.assert_array_equal(recording.features("6")[:], np.maximum(recording.features("5")[:], 0))
        np.testing.assert_allclose(recording.features("7")[-1], logits, atol=1e-6)
        loss = functional.cross_entropy(logits, torch.as_tensor(LABELS)).item()
        assert recording.scalars["loss"][-1] == pytest.approx(loss, rel=1e-5)
        assert recording.provenance["model_class"] == "Sequential"
        assert recording.provenance["every"] == 3


def test_classifier_reproduces_the_logits_from_the_layer_that_feeds_it(path):
    model = awkward_network()
    with make(path, model) as recorder:
        train(model, 4, recorder)
    with Recording(path) as recording:
        assert recording.classifier.layer == "6"
        for record in range(recording.n_records):
            weight, bias = recording.classifier.weight[record], recording.classifier.bias[record]
            logits = recording.features("6")[record] @ weight.T + bias
            np.testing.assert_allclose(recording.features("7")[record], logits, atol=1e-5)


def test_what_goes_into_a_layer_can_be_recorded(path):
    with make(path, awkward_network(), layers=["7:input", "6", "7"]):
        pass
    with Recording(path) as recording:
        np.testing.assert_array_equal(recording.features("7:input")[:], recording.features("6")[:])
        assert recording.classifier.layer == "7:input"


@pytest.mark.parametrize(
    ("options", "layer", "has_classifier"),
    [
        ({"classifier": None}, None, False),
        ({"classifier": "6"}, "6", True),
        ({"layers": ["5", "7"]}, None, True),
        ({"layers": ["7", "5"], "logits": "7"}, None, True),
    ],
)
def test_choice_of_the_classifier(path, options, layer, has_classifier):
    with make(path, awkward_network(), **options):
        pass
    with Recording(path) as recording:
        assert recording.logits == "7"
        assert (recording.classifier is not None) == has_classifier
        assert not has_classifier or recording.classifier.layer == layer


def test_hidden_layers_alone_have_no_logits(path):
    with make(path, awkward_network(), layers=["5"]):
        pass
    with Recording(path) as recording:
        assert recording.logits is None
        assert recording.classifier is None
        assert recording.scalars == {}


def test_no_hooks_remain(path):
    model = awkward_network()

    def hooks():
        return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())

    with make(path, model) as recorder:
        assert hooks() == 0
        train(model, 3, recorder)
        assert hooks() == 0


def test_double_precision_is_kept(path):
    model = awkward_network().double()
    with make(path, model, probe=(images().double(), LABELS)):
        pass
    with Recording(path) as recording:
        assert recording.features("7").dtype == np.float64
        assert recording.classifier.weight.dtype == np.float64


def test_bfloat16_is_stored_as_float32(path):
    model = awkward_network().bfloat16()
    with make(path, model, probe=(images().bfloat16(), LABELS)):
        pass
    with Recording(path) as recording:
        assert recording.features("7").dtype == np.float32


def test_automatic_mixed_precision_is_off_during_a_probe(path):
    model = awkward_network()
    with torch.autocast("cpu", dtype=torch.bfloat16), make(path, model):
        assert torch.is_autocast_enabled("cpu")
    model.eval()
    with Recording(path) as recording, torch.no_grad():
        np.testing.assert_allclose(recording.features("7")[0], model(images()), atol=1e-6)


def test_data_parallel_models_are_unwrapped(path):
    with make(path, nn.DataParallel(awkward_network())):
        pass
    with Recording(path) as recording:
        assert recording.layers == ["5", "6", "7"]


@pytest.mark.parametrize("in_place", [False, True])
def test_compiled_models_are_recorded_eagerly(path, in_place):
    model = awkward_network()
    compiled = model if in_place else torch.compile(model, backend="eager")
    if in_place:
        model.compile(backend="eager")
    with make(path, compiled) as recorder:
        train(compiled, 3, recorder)
    with Recording(path) as recording:
        np.testing.assert_array_equal(recording.steps, [0, 1, 3])
        assert recording.classifier.layer == "6"


def test_sharded_models_are_refused(path):
    class FullyShardedDataParallel(nn.Module):
        pass

    with pytest.raises(InputError, match="sharded over processes"):
        make(path, FullyShardedDataParallel())


def test_only_the_first_process_records(path, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    model = awkward_network()
    with make(path, model) as recorder:
        train(model, 2, recorder)
    assert not path.exists()


def test_scalars_of_step_and_of_functions(path):
    times = iter([0, 0.25, 0.75, 1])
    with make(path, awkward_network(), scalars={"answer": lambda: 42}, time=lambda: next(times)) as recorder:
        for step in range(1, 5):
            recorder.step(batch_loss=float(step))
    with Recording(path) as recording:
        np.testing.assert_array_equal(recording.scalars["batch_loss"], [np.nan, 1, 3, 4])
        np.testing.assert_array_equal(recording.scalars["answer"], [42] * 4)
        np.testing.assert_array_equal(recording.time, [0, 0.25, 0.75, 1])


def test_functions_leave_no_trace(path):
    model = awkward_network()
    set_seeds()
    modes = []

    def evaluate():
        modes.append(model.training)
        return torch.rand(1).item()

    with make(path, model, scalars={"x": evaluate}) as recorder:
        recorder.step()
    assert modes == [False, False]
    drawn = torch.rand(1).item()
    set_seeds()
    assert drawn == torch.rand(1).item()


def test_scalars_must_stay_the_same(path):
    with make(path, awkward_network()) as recorder:
        recorder.step(lr=1.0)
        with pytest.raises(InputError, match=r"step 2 gives the scalars \['rate'\], but the first step gave \['lr'\]"):
            recorder.step(rate=1.0)


def test_computed_scalars_may_not_be_given(path):
    with make(path, awkward_network()) as recorder, pytest.raises(InputError, match="'loss' is recorded already"):
        recorder.step(loss=1.0)


def test_corrupted_labels_are_recorded_and_used_for_the_loss(path):
    given = np.roll(LABELS, 1)
    with make(path, awkward_network(), given_labels=given):
        pass
    with Recording(path) as recording:
        np.testing.assert_array_equal(recording.given_labels, given)
        np.testing.assert_array_equal(recording.labels, LABELS)
        logits = torch.as_tensor(recording.features("7")[0])
        loss = functional.cross_entropy(logits, torch.as_tensor(given)).item()
        assert recording.scalars["loss"][0] == pytest.approx(loss, rel=1e-5)


def test_loss_and_accuracy_of_known_logits():
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]])) + 300
    result = loss_and_accuracy(logits, np.array([1, 1]))
    assert result["loss"] == pytest.approx(-(np.log(0.25) + np.log(0.8)) / 2)
    assert result["accuracy"] == 0.5


class Calling(nn.Module):
    """Run one layer as often as told."""

    def __init__(self, times):
        super().__init__()
        self.times = times
        self.inner = nn.Linear(36, 36)
        self.last = nn.Linear(36, 3)

    def forward(self, x):
        x = x.flatten(1)
        for _ in range(self.times):
            x = self.inner(x)
        return self.last(x)


class Reshaping(nn.Module):
    def __init__(self, give):
        super().__init__()
        self.inner = nn.Flatten(0)
        self.last = nn.Linear(36, 3)
        self.give = give

    def forward(self, x):
        if self.give == "merged":
            self.inner(x)
        return self.last(x.flatten(1))


@pytest.mark.parametrize("times", [0, 2])
def test_layers_that_do_not_run_exactly_once_are_refused(path, times):
    model = Calling(times)
    with pytest.raises(InputError, match=f"layer inner ran {times} times in one pass"), make(path, model, ["inner"]):
        pass
    assert not model.inner._forward_hooks
    assert not path.exists()


def test_layers_without_samples_first_are_refused(path):
    with (
        pytest.raises(InputError, match=r"layer inner gives shape \(432,\) for a batch of 12"),
        make(path, Reshaping("merged"), ["inner"]),
    ):
        pass


def test_misspelt_layers_are_corrected(path):
    model = nn.Sequential()
    model.add_module("features", nn.Flatten())
    model.add_module("classifier", nn.Linear(36, 3))
    with pytest.raises(InputError, match=r"no layer 'clasifier'; did you mean classifier\? .* features, classifier"):
        make(path, model, ["clasifier"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 1}, "every=1 and burst=2"),
        ({"burst": 0}, "burst=0"),
        ({"layers": []}, "no layer to record"),
        ({"layers": ["7", "7"]}, "named twice"),
        ({"logits": "0"}, "logits='0' is not among the recorded layers"),
        ({"classifier": "0"}, "classifier='0' is not among the recorded layers"),
        ({"time": "epochs"}, "neither 'steps' nor a function"),
        ({"probe": (images(), LABELS[:-1])}, "11 labels; give one per sample"),
        ({"probe": (images(), np.zeros(12, int))}, "one class only"),
        ({"probe_batch_size": 0}, "must be at least 1"),
    ],
)
def test_settings_that_cannot_be(path, options, message):
    with pytest.raises(InputError, match=message):
        make(path, awkward_network(), **options)


def test_one_name_instead_of_a_list_is_refused(path):
    with pytest.raises(InputError, match=r"give a list of names: \['fc'\]"):
        FeatureRecorder(path, awkward_network(), probe=(images(), LABELS), layers="fc")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classifier": "5"}, "classifier='5' is not what goes into '7'; record '7:input'"),
        ({"layers": ["5", "6"], "classifier": "5"}, "needs logits that are the output of a Linear layer"),
    ],
)
def test_a_wrong_classifier_is_noticed(path, options, message):
    with pytest.raises(InputError, match=message), make(path, awkward_network(), **options):
        pass


def test_existing_files_are_refused_before_training(path):
    path.write_text("precious")
    with pytest.raises(InputError, match="exists already"):
        make(path, awkward_network())
    assert path.read_text() == "precious"


def test_batch_statistics_in_evaluation_mode_are_warned_of(path):
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(36, track_running_stats=False), nn.Linear(36, 3))
    with pytest.warns(UserWarning, match="statistics of the batch in evaluation mode"):
        make(path, model, ["2"])


def test_step_outside_the_context_is_refused(path):
    recorder = make(path, awkward_network())
    with pytest.raises(InputError, match="outside the `with` block"):
        recorder.step()


def test_a_finished_recorder_does_not_keep_the_model_in_memory(path):
    model = awkward_network()
    watched = weakref.ref(model)
    with make(path, model) as recorder:
        recorder.step()
    del model
    gc.collect()
    assert watched() is None
    with pytest.raises(InputError, match="outside the `with` block"):
        recorder.step()


def test_records_before_an_interruption_remain(path):
    model = awkward_network()

    def interrupted():
        with make(path, model) as recorder:
            train(model, 4, recorder)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with Recording(path) as recording:
        np.testing.assert_array_equal(recording.steps, [0, 1, 3, 4])


def test_equal_probes_have_equal_digests(tmp_path):
    digests = []
    for number, seed in enumerate((0, 0, 1)):
        path = tmp_path / f"{number}.h5"
        with make(path, awkward_network(), probe=(images(seed), LABELS)):
            pass
        with Recording(path) as recording:
            digests.append(recording.provenance["probe_sha256"])
    assert digests[0] == digests[1] != digests[2]
