"""Probes of any kind of input reach the network as it takes them, and its layers are read as their names say."""

import random
from collections import UserDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from data_tools import FeatureRecorder, InputError, Probe, Recording
from data_tools.probe import evaluate_probe

LABELS = np.repeat([0, 1, 2], 4)


def numbers(*shape, seed=0):
    return torch.randn(LABELS.size, *shape, generator=torch.Generator().manual_seed(seed))


class Sum(nn.Module):
    """Take two inputs, of which the second may be missing, and weigh their sum."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(5, 3)

    def forward(self, left, right=None):
        return self.head(left if right is None else left + 2 * right)


class Outputs(nn.Module):
    """Give what it is told to, made of the input."""

    def __init__(self, make):
        super().__init__()
        self.inner = Inner(make)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        self.inner(values=x)
        return {"logits": self.head(x)}


class Inner(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, values):
        return self.make(values)


@pytest.mark.parametrize(
    "inputs", [(numbers(5), numbers(5, seed=1)), {"right": numbers(5, seed=1), "left": numbers(5)}]
)
def test_several_inputs(tmp_path, inputs):
    model = Sum()
    with FeatureRecorder(tmp_path / "run.h5", model, (inputs, LABELS), ["head:input", "head"], probe_batch_size=5):
        pass
    expected = numbers(5) + 2 * numbers(5, seed=1)
    with Recording(tmp_path / "run.h5") as recording:
        np.testing.assert_array_equal(recording.features("head:input")[0], expected)
        assert recording.classifier.layer == "head:input"


def test_mappings_of_other_kinds_and_arrays():
    probe = Probe(UserDict(left=numbers(5).numpy()), list(LABELS))
    np.testing.assert_array_equal(evaluate_probe(Sum(), probe, ["head:input"]).features["head:input"], numbers(5))


def test_a_probe_keeps_its_own_inputs():
    x = numbers(5)
    probe = Probe({"left": x}, LABELS)
    x.zero_()
    assert torch.equal(probe.inputs["left"], numbers(5))


def test_digests_tell_inputs_and_names_apart():
    x, y = numbers(5), numbers(5, seed=1)
    kinds = [x, (x, y), (y, x), {"a": x, "b": y}, {"a": y, "b": x}, {"a": x, "c": y}]
    digests = [Probe(inputs, LABELS).digest() for inputs in kinds]
    assert len(set(digests)) == len(kinds)
    assert Probe({"b": y, "a": x}, LABELS).digest() == digests[3]
    # Of a single tensor it is what it was in earlier versions.
    assert Probe(torch.zeros(4, 1), [0, 0, 1, 1]).digest().startswith("5368069d34fb7529")


def test_what_a_recorder_is_told_counts_more_than_the_probe(tmp_path):
    probe = Probe(numbers(5), LABELS, np.roll(LABELS, 1), batch_size=7)
    for name, options, given, size in (
        ("a", {}, np.roll(LABELS, 1), 7),
        ("b", {"given_labels": LABELS, "probe_batch_size": 3}, LABELS, 3),
    ):
        with FeatureRecorder(tmp_path / name, Sum(), probe, ["head"], **options):
            pass
        with Recording(tmp_path / name) as recording:
            np.testing.assert_array_equal(recording.given_labels, given)
            assert recording.provenance["probe_batch_size"] == size


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        ((numbers(5), numbers(5)[:-1]), LABELS, r"float32 \(12, 5\), float32 \(11, 5\), expected as many samples"),
        ({"a": numbers(5)}, LABELS[:-1], r"inputs of a float32 \(12, 5\) but 11 labels"),
        ({}, LABELS, "hold no tensor"),
        ({"a": "text"}, LABELS, "'a', of type str make no tensor"),
        (3.0, LABELS, "the single number 3"),
        (numbers(5), LABELS + 0.5, "more than whole numbers"),
        (numbers(5), LABELS[:, None], "one label per sample"),
    ],
)
def test_probes_that_cannot_be(inputs, labels, message):
    with pytest.raises(InputError, match=message):
        Probe(inputs, labels)


@pytest.mark.parametrize("probe", [(numbers(5),), {"left": numbers(5)}, (numbers(5), numbers(5), LABELS), None])
def test_what_is_no_probe_is_refused(tmp_path, probe):
    with pytest.raises(InputError, match=r"expected inputs and labels; give probe=\(inputs, labels\), or a Probe"):
        FeatureRecorder(tmp_path / "run.h5", Sum(), probe, ["head"])


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda x: (x + 1, x), lambda x: x + 1),
        (lambda x: [None, x + 2], lambda x: x + 2),
        (lambda x: {"loss": None, "hidden": x + 3}, lambda x: x + 3),
        (lambda x: x.reshape(-1, 5, 1), lambda x: x),
    ],
)
def test_of_several_tensors_the_first_is_recorded(make, expected):
    x = numbers(5)
    result = evaluate_probe(Outputs(make), Probe(x, LABELS), ["inner", "inner:input"])
    np.testing.assert_array_equal(result.features["inner"], expected(x))
    np.testing.assert_array_equal(result.features["inner:input"], x)  # though given as a keyword


def test_layers_that_give_no_tensor_are_refused():
    with pytest.raises(InputError, match="layer inner gives a tuple, expected a tensor; record another layer"):
        evaluate_probe(Outputs(lambda _x: (1, 2)), Probe(numbers(5), LABELS), ["inner"])


def test_what_goes_into_a_layer_that_works_in_place_is_what_went_in():
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(inplace=True))
    features = evaluate_probe(model, Probe(numbers(5), LABELS), ["0", "1:input", "1"]).features
    np.testing.assert_array_equal(features["1:input"], features["0"])
    np.testing.assert_array_equal(features["1"], np.maximum(features["0"], 0))
    assert features["0"].min() < 0


def test_recurrent_layers():
    torch.manual_seed(0)
    model = nn.Sequential(nn.LSTM(2, 4, batch_first=True))
    x = numbers(6, 2)
    layers = ["0", "0:first", "0:mean", "0:last", "0:input:last"]
    features = evaluate_probe(model, Probe(x, LABELS, batch_size=5), layers).features
    with torch.no_grad():
        sequence = model(x)[0].numpy()
    expected = [sequence.reshape(12, 24), sequence[:, 0], sequence.mean(1), sequence[:, -1], x[:, -1]]
    for layer, value in zip(layers, expected, strict=True):
        np.testing.assert_allclose(features[layer], value, atol=1e-6, err_msg=layer)


class Masked(nn.Module):
    """Pass vectors on; its mask is only looked at by whoever reads it."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Identity()

    def forward(self, vectors, attention_mask):
        del attention_mask
        return self.inner(vectors)


@pytest.mark.parametrize(("side", "first", "last"), [("right", 0, 2), ("left", 3, 5)])
def test_padding_on_either_side_does_not_count(side, first, last):
    x = numbers(6, 2)
    x[0, 0 if side == "left" else 5] = torch.nan  # at a padded position
    mask = torch.ones(12, 6, dtype=torch.long)
    mask[:, 3:] = 0
    if side == "left":
        mask = mask.flip(1)
    layers = ["inner:first", "inner:mean", "inner:last"]
    probe = Probe({"vectors": x, "attention_mask": mask}, LABELS)
    features = evaluate_probe(Masked(), probe, layers).features
    for layer, expected in zip(layers, [x[:, first], x[:, first : last + 1].mean(1), x[:, last]], strict=True):
        np.testing.assert_allclose(features[layer], expected, atol=1e-6, err_msg=layer)
    with pytest.raises(InputError, match="some of which are padding; take one with 'inner:first'"):
        evaluate_probe(Masked(), probe, ["inner"])


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("0:mean", r"gives shape \(12, 3\), expected \(samples, positions, features\) for ':mean'; leave that out"),
        ("0:middle", "':middle'|'middle' is none of these"),
        ("0:mean:input", "'mean:input' is none of these"),
        ("0:input:first:last", "'first:last' is none of these"),
        ("1:first", "no layer '1'; "),
    ],
)
def test_names_of_layers_that_mean_nothing(layer, message):
    with pytest.raises(InputError, match=message):
        evaluate_probe(nn.Sequential(nn.Linear(5, 3)), Probe(numbers(5), LABELS), [layer])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_stored_as_float32(tmp_path, dtype):
    model = Sum().to(dtype)
    with FeatureRecorder(tmp_path / "run.h5", model, (numbers(5).to(dtype), LABELS), ["head:input", "head"]):
        pass
    with Recording(tmp_path / "run.h5") as recording, torch.no_grad():
        assert recording.features("head").dtype == np.float32
        np.testing.assert_array_equal(recording.features("head")[0], model(numbers(5).to(dtype)).float())
        assert recording.classifier.layer == "head:input"


class CallsForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head.forward(x)


@pytest.mark.parametrize(
    ("model", "inputs", "message"),
    [
        (Sum(), numbers(4), r"batch of the probe, float32 \(12, 4\), its weights are float32 \(RuntimeError: mat1 and"),
        (Sum(), numbers(5).half(), r"float16 \(12, 5\), its weights are float32 \(RuntimeError"),
        (Sum().bfloat16(), numbers(5), r"float32 \(12, 5\), its weights are bfloat16 \(RuntimeError"),
        (Sum(), {"up": numbers(5)}, r"up float32 \(12, 5\).*TypeError: .*unexpected keyword argument 'up'"),
        (Sum(), (numbers(5),) * 3, "TypeError: .*positional arguments"),
        (CallsForward(), numbers(5), r"layer head ran 0 times .*, as a module, not by .forward\(\)"),
    ],
)
def test_networks_that_do_not_take_the_probe(model, inputs, message):
    with pytest.raises(InputError, match=message):
        evaluate_probe(model, Probe(inputs, LABELS), ["head"])
    assert not model.head._forward_hooks
    assert model.training


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.repeat([0, 1, 2, 3], 3), r"labels holds 3 at sample 9, outside 0 … 2"),
        (np.repeat([0, 1], 6), "class 2 has no sample"),
        (np.repeat([0, 2], 6), "class 1 has no sample"),
        (np.repeat([-1, 1], 6), "holds -1 at sample 0"),
    ],
)
def test_labels_that_do_not_fit_the_logits(tmp_path, labels, message):
    with (
        pytest.raises(InputError, match=message),
        FeatureRecorder(tmp_path / "run.h5", Sum(), (numbers(5), labels), ["head"], logits="head"),
    ):
        pass
    assert not (tmp_path / "run.h5").exists()


def test_models_without_weights_are_refused(tmp_path):
    for model in (nn.Sequential(nn.LazyLinear(3)), nn.Sequential(nn.Linear(5, 3, device="meta"))):
        with pytest.raises(InputError, match=r"parameter 0.weight has no values yet"):
            FeatureRecorder(tmp_path / "run.h5", model, (numbers(5), LABELS), ["0"])


class Noisy(Dataset):
    """Samples that draw from every global random generator, as augmented ones do."""

    def __init__(self, kind, n=30):
        self.kind, self.n = kind, n

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        random.random()  # noqa: S311
        np.random.rand()  # noqa: NPY002
        torch.rand(1)
        x = torch.full((5,), float(index))
        label = (index * 7) % 3
        return {
            "pair": (x, label),
            "tensor": (x, torch.tensor(label)),
            "array": (x.numpy(), np.int64(label)),
            "two": (x, 2 * x, label),
            "named": {"left": x, "label": label},
            "named, lists": {"left": x.tolist(), "right": x.tolist(), "labels": [label]},
        }[self.kind]


@pytest.mark.parametrize("kind", ["pair", "tensor", "array", "two", "named", "named, lists"])
def test_a_probe_is_drawn_from_a_data_set(kind):
    probe = Probe.from_dataset(Noisy(kind), per_class=4, seed=2)
    np.testing.assert_array_equal(np.bincount(probe.labels), [4, 4, 4])
    assert np.all(np.diff(probe.indices) > 0)
    np.testing.assert_array_equal(probe.labels, probe.indices * 7 % 3)
    features = evaluate_probe(Sum(), probe, ["head:input"]).features["head:input"]
    factor = {"two": 5, "named, lists": 3}.get(kind, 1)
    np.testing.assert_allclose(features, np.repeat(probe.indices[:, None], 5, 1) * factor)


def test_drawing_a_probe_is_repeatable_and_disturbs_nothing():
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    drawn = [Probe.from_dataset(Noisy("pair"), per_class=3, seed=seed).indices.tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    after = torch.rand(1).item(), random.random(), np.random.rand()  # noqa: NPY002, S311
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    assert after == (torch.rand(1).item(), random.random(), np.random.rand())  # noqa: NPY002, S311


def test_indices_and_hash_are_kept_with_the_recording(tmp_path):
    probe = Probe.from_dataset(Noisy("pair", 9000), per_class=2900)
    with FeatureRecorder(tmp_path / "run.h5", Sum(), probe, ["head"]):
        pass
    with Recording(tmp_path / "run.h5") as recording:
        kept = [int(number) for number in recording.provenance["probe_indices"].split(", ")]
        np.testing.assert_array_equal(kept, probe.indices)
        assert recording.provenance["probe_sha256"] == probe.digest()


def test_known_labels_spare_a_look_at_every_sample():
    class Known(Noisy):
        def __init__(self):
            super().__init__("pair")
            self.targets, self.seen = [index * 7 % 3 for index in range(30)], []

        def __getitem__(self, index):
            self.seen.append(index)
            return super().__getitem__(index)

    data = Known()
    probe = Probe.from_dataset(data, per_class=4)
    assert data.seen == probe.indices.tolist()
    data.targets = data.targets[::-1]
    with pytest.raises(InputError, match=r"sample \d+ of the data set is now of class \d, but was of \d"):
        Probe.from_dataset(data, per_class=4)


def test_samples_can_be_collated():
    class Ragged(Dataset):
        def __len__(self):
            return 12

        def __getitem__(self, index):
            return {"left": torch.ones(index % 5 + 1), "label": index % 2}

    def pad(samples):
        left = [nn.functional.pad(sample["left"], (0, 5 - len(sample["left"]))) for sample in samples]
        return {"left": torch.stack(left), "labels": torch.tensor([sample["label"] for sample in samples])}

    with pytest.raises(InputError, match=r"entry 'left': of different shapes, \(1,\) and \(5,\); give collate="):
        Probe.from_dataset(Ragged(), per_class=5)
    probe = Probe.from_dataset(Ragged(), per_class=5, collate=pad)
    assert probe.inputs["left"].shape == (10, 5)
    with pytest.raises(InputError, match="other labels than the samples"):
        Probe.from_dataset(Ragged(), per_class=5, collate=lambda samples: pad(samples[::-1]))


class Stream(IterableDataset):
    def __iter__(self):
        return iter(())


@pytest.mark.parametrize(
    ("dataset", "per_class", "message"),
    [
        (
            Noisy("pair"),
            11,
            "of 11 samples per class, class 0 has 10, class 1 has 10, class 2 has 10; give per_class=10",
        ),
        (TensorDataset(numbers(5), torch.tensor([0, 0, 0, 2, 2, 2] * 2)), 2, "class 1 has 0; number the classes"),
        (TensorDataset(numbers(5), torch.tensor([0] * 8 + [1] * 4)), 5, "class 1 has 4; give per_class=4"),
        (TensorDataset(numbers(5), numbers()), 2, "sample 0 of the data set: the label is tensor.*whole number"),
        (TensorDataset(numbers(5), -torch.ones(12)), 2, "expected a whole number from 0"),
        (TensorDataset(numbers(5)), 2, "a tuple instead of inputs and a label"),
        ([{"x": 1}], 2, "has the entries x, expected one called 'labels' or 'label'"),
        ([({"text"}, 0), ({"text"}, 0)], 2, "a set makes no tensor"),
        ([], 2, "the data set is empty"),
        (Noisy("pair"), 1, "per_class is 1"),
        (DataLoader(Noisy("pair")), 2, "a DataLoader has no numbered samples.*give its .dataset"),
        (Stream(), 2, "a Stream has no numbered samples"),
    ],
)
def test_data_sets_that_no_probe_can_be_drawn_from(dataset, per_class, message):
    with pytest.raises(InputError, match=message):
        Probe.from_dataset(dataset, per_class)
