"""Geometry of a recorded layer: agreement with the single measures, the command, and what is refused."""

import json

import numpy as np
import pytest

import lesde_infer as li
from data_tools import InputError, write_recording
from lesde_infer.cli import main
from lesde_infer.collapse import nc1, nc3
from lesde_infer.margins import separation
from lesde_infer.observed import observe
from lesde_infer.separability import held_out_linear_accuracy

K, PER_CLASS = 3, 8
LABELS = np.repeat(np.arange(K), PER_CLASS)
STEPS = np.array([0, 10, 30])


@pytest.fixture
def run(tmp_path):
    """A run of a hidden layer and its logits, which separate as it goes; one sample is missing at the end."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(3, len(LABELS), 5)) + np.array([0.5, 2.0, 8.0])[:, None, None] * np.eye(K, 5)[LABELS]
    weight, bias = rng.normal(size=(3, K, 5)) + np.eye(K, 5), np.zeros((3, K))
    logits = np.einsum("tnp,tkp->tnk", hidden, weight)
    hidden[2, 0] = logits[2, 0] = np.nan
    path = write_recording(
        tmp_path / "run.h5",
        STEPS,
        LABELS,
        {"hidden": hidden, "logits": logits},
        logits="logits",
        classifier=(weight, bias, "hidden"),
        given_labels=np.roll(LABELS, 1),
    )
    return path, hidden, logits, weight


def test_it_is_what_the_single_measures_give(run):
    path, hidden, logits, weight = run
    found = li.geometry(path, layer="hidden", n_permutations=10)
    features, labels = hidden[2, 1:], LABELS[1:]
    assert (found.step, found.n_samples, found.n_features, found.n_classes) == (30, 23, 5, 3)
    expected = observe(features, labels, metrics=tuple(found.metrics), logits=logits[2, 1:], classifier=weight[2])
    assert found.metrics == pytest.approx(expected)
    assert set(found.metrics) >= {"nc1", "nc3", "nc4", "network_accuracy", "linear_separability"}
    assert not found.undefined
    assert found.variants["nc1_papyan"] == pytest.approx(nc1(features, labels, "papyan"))
    assert found.variants["nc3_squared"] == pytest.approx(nc3(features, labels, weight[2]) ** 2)
    assert found.held_out_accuracy == held_out_linear_accuracy(features, labels)
    assert found.separation == separation(features, labels, n_permutations=10)
    assert found.effective_rank == 2
    assert found.layers.layers == ("hidden", "logits")


def test_earlier_records_and_other_groupings(run):
    path, hidden, _, _ = run
    found = li.geometry(path, layer="hidden", at=29, group="given_labels", n_permutations=5)
    assert found.step == 10
    assert found.n_samples == 24
    expected = observe(hidden[1], np.roll(LABELS, 1), metrics=["nc1"])["nc1"]
    assert found.metrics["nc1"] == pytest.approx(expected)


def test_weights_by_samples_change_unbalanced_variants_alone(run):
    path = run[0]
    alike, by_size = (li.geometry(path, weights=weights, n_permutations=5) for weights in ("class", "sample"))
    assert alike.metrics == by_size.metrics
    assert alike.variants["nc1_papyan"] != by_size.variants["nc1_papyan"]


def test_what_is_not_defined_says_why(tmp_path):
    """One feature for three classes: class means span one direction of two, and there is no classifier."""
    features = np.random.default_rng(0).normal(size=(2, len(LABELS), 1)) + LABELS[:, None]
    path = write_recording(tmp_path / "flat.h5", [0, 1], LABELS, {"one": features})
    found = li.geometry(path, layer="one", n_permutations=5).to_json()
    assert found["metrics"]["nc1"] is None
    assert "collinear" in found["undefined"]["nc1"]
    assert "record it" in found["undefined"]["nc3"]
    assert "nc3" not in found["metrics"]
    assert found["condition"] is None
    assert found["effective_rank"] == 1
    assert found["layers"] is None
    json.dumps(found, allow_nan=False)


def test_the_command_prints_it_and_writes_it(run, tmp_path, capsys):
    path = run[0]
    out = tmp_path / "geometry.json"
    assert main(["geometry", str(path), "--layer", "hidden", "--order", "hidden, logits", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "separable pairs          3 of 3" in printed
    assert "law of data separation" in printed
    assert json.loads(out.read_text())["separation"]["one_classifier"] is True


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--at", "-1"], "--at"),
        (["--layer", "conv"], "conv"),
        (["--order", "hidden,nowhere"], "layer 'nowhere' is not among hidden, logits"),
        (["--order", "hidden,hidden"], "layer 'hidden' is named 2 times"),
        (["--permutations", "0"], "--permutations"),
    ],
)
def test_bad_input_is_one_line(run, capsys, arguments, message):
    assert main(["geometry", str(run[0]), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_records_that_cannot_be_measured_are_refused(tmp_path):
    features = np.random.default_rng(0).normal(size=(2, 5, 2))
    features[1, 4] = np.nan
    lone = write_recording(tmp_path / "lone.h5", [5, 6], [0, 0, 0, 1, 1], {"out": features})
    with pytest.raises(InputError, match="class 1 has 1 sample at step 6"):
        li.geometry(lone, layer="out")
    with pytest.raises(InputError, match="no record at or before step 3; records are of steps 5 to 6"):
        li.geometry(lone, layer="out", at=3)
