"""Reduced recordings made while a network trains: beside a whole recording of the same run."""

import warnings

import numpy as np
import pytest
import torch
from test_reduction import assert_same
from torch import nn

from data_tools import FeatureRecorder
from data_tools.errors import InputError
from data_tools.recording import Recording
from data_tools.schedules import AdaptiveSchedule
from lesde_infer.reduction import Reduction
from lesde_infer.statistics import compute_statistics

PROBE = 60


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def probe():
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(PROBE) % 3
    inputs = torch.randn(PROBE, 5, generator=generator) + nn.functional.one_hot(labels, 5)
    given = torch.where(
        torch.rand(PROBE, generator=generator) < 0.2, torch.randint(3, (PROBE,), generator=generator), labels
    )
    return inputs, labels, given


def train(recorders, model, n_steps=30, spoil_at=None, momentum=0.0):
    inputs, _, given = probe()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)
    for step in range(n_steps):
        chosen = torch.arange(8 * step, 8 * step + 8) % PROBE
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[chosen]), given[chosen]).backward()
        optimizer.step()
        if step == spoil_at:
            with torch.no_grad():
                model[0].weight[0, 0] = float("nan")
        for recorder in recorders:
            recorder.step()


def recorder(path, model, **options):
    inputs, labels, given = probe()
    defaults = {"layers": ["2", "3"], "given_labels": given, "every": 3, "burst": 2}
    return FeatureRecorder(path, model, (inputs, labels), **{**defaults, **options})


def test_statistics_are_those_of_a_whole_recording_of_the_same_run(tmp_path):
    model = network()
    frequencies = [0.5, 0.25, 0.25]
    with (
        recorder(tmp_path / "whole.h5", model, class_frequencies=frequencies) as whole,
        recorder(
            tmp_path / "reduced.h5", model, class_frequencies=frequencies, reduce=Reduction(keep_per_class=4)
        ) as reduced,
    ):
        train([whole, reduced], model)
    with Recording(tmp_path / "whole.h5") as one, Recording(tmp_path / "reduced.h5") as other:
        assert other.n_samples == 12
        assert len(other.probe_labels("labels")) == PROBE
        np.testing.assert_array_equal(other.steps, one.steps)
        for name in ("loss", "accuracy"):  # of all samples
            np.testing.assert_array_equal(other.scalars[name], one.scalars[name])
        for layer, impacts in (("2", "IR"), ("3", "ILR")):
            for impact in impacts:
                for group in ("labels", "given_labels"):
                    expected = compute_statistics(one, layer, impact, group=group)
                    assert_same(compute_statistics(other, layer, impact, group=group), expected)


def test_training_goes_on_as_without(tmp_path):
    states = []
    for reduction in (None, Reduction(keep_per_class=2)):
        model = network()
        torch.manual_seed(5)
        with recorder(tmp_path / f"{len(states)}.h5", model, reduce=reduction) as running:
            train([running], model)
        states.append([*model.state_dict().values(), torch.get_rng_state()])
    for one, other in zip(*states, strict=True):
        assert torch.equal(one, other)


def test_features_that_are_not_finite_end_the_recording_and_not_the_training(tmp_path):
    model = network()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with recorder(tmp_path / "run.h5", model, every=1, burst=1, reduce=Reduction(keep_per_class=2)) as running:
            train([running], model, spoil_at=10)
    told = [
        str(warning.message)
        for warning in caught
        if "not a number" in str(warning.message) or "missing" in str(warning.message)
    ]
    assert len(told) == 1
    assert "step 11" in told[0]
    with Recording(tmp_path / "run.h5") as recording:
        assert recording.steps.tolist() == list(range(11))
        assert np.isfinite(compute_statistics(recording, "3", "R").contrast.increment_square).all()


def test_a_recording_is_as_small_as_promised(tmp_path):
    """Of 60 samples 6 are kept: at 11 features 264 bytes a record instead of 2640, and a few hundred of statistics."""
    model = network()
    reduction = Reduction(layers=["3"], impacts=["R"], groups=["labels"], keep_per_class=2)
    with recorder(tmp_path / "run.h5", model, reduce=reduction) as running:
        train([running], model)
    with Recording(tmp_path / "run.h5") as recording:
        case = recording.reduced("3", "R", "labels")
        arrays = [case.class_means, case.impact, case.mean_impact, case.mean_square, case.moved_along, case.products]
        assert sum(np.prod(array.shape[1:]) * array.dtype.itemsize for array in arrays) < 1500


def test_an_adaptive_schedule_goes_by_the_samples_kept(tmp_path):
    model = network()
    schedule = AdaptiveSchedule(burst=2)
    with recorder(
        tmp_path / "run.h5", model, every=None, burst=None, schedule=schedule, planned_steps=30,
        reduce=Reduction(keep_per_class=4),
    ) as running:  # fmt: skip
        train([running], model)
    with Recording(tmp_path / "run.h5") as recording:
        assert recording.n_records > 3
        compute_statistics(recording, "3", "R")


def test_a_type_to_store_features_in_is_refused(tmp_path):
    with pytest.raises(InputError, match="reduce does not go with dtype"):
        recorder(tmp_path / "run.h5", network(), reduce=Reduction(), dtype="float16")


@pytest.mark.parametrize(
    ("reduction", "message"),
    [
        (Reduction(layers=["4"]), "layer '4' is not recorded"),
        (Reduction(layers=["2"], impacts=["L"]), "impact L needs logits"),
    ],
)
def test_what_cannot_be_reduced_is_told_before_training(tmp_path, reduction, message):
    with pytest.raises(InputError, match=message), recorder(tmp_path / "run.h5", network(), reduce=reduction):
        raise AssertionError("training started")
    assert not (tmp_path / "run.h5").exists()
