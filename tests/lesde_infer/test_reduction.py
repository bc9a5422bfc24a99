"""Reduced recordings: what they hold gives the statistics and the posterior of the whole recording."""

import json
import re
from dataclasses import fields, is_dataclass

import h5py
import numpy as np
import pytest
from core_helpers import make_run

from data_tools.errors import InputError
from data_tools.recording import Recording
from data_tools.recording_writer import write_recording
from lesde_infer.class_means import read_class_means
from lesde_infer.cli.application import main
from lesde_infer.fitted_run import check_same_run
from lesde_infer.inference import fit
from lesde_infer.predictive import check
from lesde_infer.reduction import Reduction, kept_samples, reduce_recording
from lesde_infer.statistics import compute_statistics


def run_of(n=60, *, seed=0, same=False):
    """Three classes of ten samples, hidden features of width 4 and their logits, and a classifier."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1, 2], 10)
    given = labels if same else np.where(rng.random(30) < 0.3, rng.integers(3, size=30), labels)
    growth = np.linspace(1.0, 2.0, n)[:, None, None]
    noise = (
        0.02 * rng.normal(size=(n, 30, 4)).cumsum(axis=0) + 0.05 * rng.normal(size=(n, 3, 4)).cumsum(axis=0)[:, labels]
    )
    hidden = growth * rng.normal(size=(3, 4))[labels] + rng.normal(size=(30, 4)) + noise
    weight, bias = rng.normal(size=(3, 4)) * np.ones((n, 1, 1)), np.zeros((n, 3))
    return labels, given, hidden, weight, bias


def written(path, n=60, *, seed=0, same=False, **options):
    labels, given, hidden, weight, bias = run_of(n, seed=seed, same=same)
    layers = {"fc1": hidden, "fc2": hidden @ weight[0].T}
    return write_recording(
        path, 50 * np.arange(n), labels, layers, logits="fc2", given_labels=given,
        classifier=(weight, bias, "fc1"), scalars={"loss": np.linspace(1.0, 0.1, n)}, **options,
    )  # fmt: skip


def assert_same(found, expected, where="statistics"):
    if is_dataclass(expected):
        for part in fields(expected):
            assert_same(getattr(found, part.name), getattr(expected, part.name), f"{where}.{part.name}")
    elif expected is None or isinstance(expected, str):
        assert found == expected, where
    elif isinstance(expected, tuple | list):
        assert len(found) == len(expected)
        for pair in zip(found, expected, strict=True):
            assert_same(*pair, where)
    else:
        rtol = 1e-6 if where.endswith("gamma_sampling_error") else 1e-12
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-300, err_msg=where)


@pytest.mark.parametrize("layer", ["fc1", "fc2"])
@pytest.mark.parametrize("impact", ["I", "L", "R"])
@pytest.mark.parametrize("group", ["labels", "given_labels"])
def test_statistics_are_those_of_the_whole_recording(tmp_path, layer, impact, group):
    whole = written(tmp_path / "run.h5", class_frequencies=[0.5, 0.3, 0.2])
    reduced = reduce_recording(whole, tmp_path / "reduced.h5", Reduction(keep_per_class=3))
    with Recording(whole) as one, Recording(reduced) as other:
        if (layer, impact) == ("fc1", "L"):
            with pytest.raises(InputError, match="holds fc1 I-given_labels, fc1 I-labels, fc1 R-"):
                compute_statistics(other, layer, impact, group=group)
            return
        for options in ({}, {"until": 1500}, {"time": "steps"}):
            expected = compute_statistics(one, layer, impact, group=group, **options)
            assert_same(compute_statistics(other, layer, impact, group=group, **options), expected)


def test_it_is_a_recording_of_the_samples_it_keeps(tmp_path):
    whole = written(tmp_path / "run.h5")
    with (
        Recording(reduce_recording(whole, tmp_path / "a.h5", Reduction(keep_per_class=3))) as reduced,
        Recording(whole) as one,
    ):
        kept = kept_samples(one.labels, 3, 0)
        assert reduced.is_reduced
        assert not one.is_reduced
        np.testing.assert_array_equal(reduced.labels, one.labels[kept])
        np.testing.assert_array_equal(np.bincount(reduced.labels), [3, 3, 3])
        np.testing.assert_array_equal(reduced.features("fc1")[7], one.features("fc1")[7][kept])
        np.testing.assert_array_equal(reduced.probe_labels("given_labels"), one.given_labels)
        np.testing.assert_array_equal(reduced.scalars["loss"], one.scalars["loss"])
        np.testing.assert_array_equal(reduced.classifier.weight[3], one.classifier.weight[3])
        assert reduced.provenance["reduced_from_samples"] == 30


def test_one_grouping_does_for_both_where_they_are_the_same(tmp_path):
    whole = written(tmp_path / "run.h5", same=True)
    with (
        Recording(reduce_recording(whole, tmp_path / "a.h5", Reduction(impacts=["R"]))) as reduced,
        Recording(whole) as one,
    ):
        for group in ("labels", "given_labels"):
            expected = compute_statistics(one, "fc2", "R", group=group)
            assert_same(compute_statistics(reduced, "fc2", "R", group=group), expected)


@pytest.mark.slow
@pytest.mark.xdist_group("reduction")
def test_posteriors_are_the_same_and_checks_are_of_the_samples_kept(tmp_path):
    whole = written(tmp_path / "run.h5", n=30)
    reduced = reduce_recording(whole, tmp_path / "a.h5", Reduction(layers=["fc2"], impacts=["R"], groups=["labels"]))
    options = {"curve": "constant", "n_draws": 60, "n_chains": 2, "seed": 3, "allow_unconverged": True}
    first, second = fit(whole, **options), fit(reduced, **options)
    one, other = first.posterior.to_dataset(), second.posterior.to_dataset()
    for name in one:
        np.testing.assert_allclose(other[name], one[name], rtol=1e-6, atol=1e-12, err_msg=name)
    result = check(second, reduced, n_draws=20, n_times=2)
    assert np.isfinite(result.observed["nc1"]).all()
    with Recording(whole) as recording:
        check_same_run(second, recording, recording.labels)  # a fit of the one is of the other
    with Recording(reduced) as recording:
        check_same_run(first, recording, recording.labels)
    another = reduce_recording(written(tmp_path / "b.h5", n=30, seed=1), tmp_path / "c.h5")
    with Recording(another) as recording, pytest.raises(InputError, match=r"move otherwise|were fitted"):
        check_same_run(first, recording, recording.labels)


def test_what_a_reduced_recording_cannot_give_is_refused(tmp_path):
    whole = written(tmp_path / "run.h5")
    reduced = reduce_recording(whole, tmp_path / "a.h5", Reduction(layers=["fc2"], impacts=["R"], groups=["labels"]))
    with Recording(reduced) as recording:
        for options, message in (
            ({"impact": "I"}, "holds fc2 R-labels, not layer 'fc2' under I-labels"),
            ({"impact": "R", "group": "given_labels"}, "not layer 'fc2' under R-given_labels"),
            ({"impact": "R", "frequencies": [0.5, 0.3, 0.2]}, "weighted by the frequencies recorded"),
        ):
            with pytest.raises(InputError, match=message):
                compute_statistics(recording, "fc2", **options)
    with pytest.raises(InputError, match="is reduced already"):
        reduce_recording(reduced, tmp_path / "b.h5")
    assert not (tmp_path / "b.h5").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep_per_class": 1}, "keep at least 2"),
        ({"layers": ["fc3"]}, "layer 'fc3' is not recorded"),
        ({"impacts": ["X"]}, "impact 'X' is unknown"),
        ({"groups": ["classes"]}, "group 'classes' is unknown"),
        ({"layers": ["fc1"], "impacts": ["L"]}, "impact L needs logits"),
    ],
)
def test_careless_arguments_are_named_and_nothing_is_left(tmp_path, options, message):
    whole = written(tmp_path / "run.h5", n=5)
    with pytest.raises(InputError, match=message):
        reduce_recording(whole, tmp_path / "a.h5", Reduction(**options))
    assert [path.name for path in tmp_path.iterdir()] == ["run.h5"]


def test_missing_samples_are_refused(tmp_path):
    labels, given, hidden, _, _ = run_of(6)
    hidden[3, 4] = np.nan
    whole = write_recording(tmp_path / "run.h5", np.arange(6), labels, {"fc1": hidden}, given_labels=given)
    with pytest.raises(InputError, match="samples are missing at step 3"):
        reduce_recording(whole, tmp_path / "a.h5")


@pytest.mark.parametrize("damage", ["products", "n_axes", "class_means", "labels", "not finite"])
def test_damage_is_named(tmp_path, damage):
    whole = written(tmp_path / "run.h5", n=6)
    reduced = reduce_recording(whole, tmp_path / "a.h5", Reduction(layers=["fc2"], impacts=["R"], groups=["labels"]))
    with h5py.File(reduced, "r+") as file:
        node = file["reduced/fc2/R-labels"]
        if damage == "n_axes":
            node.attrs["n_axes"] = 7
        elif damage == "labels":
            del file["reduced/labels"]
        elif damage == "not finite":
            node["class_means"][2] = np.nan
        else:
            del node[damage]
    with pytest.raises(InputError, match=str(reduced)), Recording(reduced) as recording:
        compute_statistics(recording, "fc2", "R")


def test_missing_runs_of_other_helpers_reduce_too(tmp_path):
    """Classes of unequal sizes, in random order, at unequal intervals."""
    with (
        make_run(3, 4, n_records=12, seed=4).write(tmp_path / "run.h5") as one,
        Recording(reduce_recording(one.path, tmp_path / "a.h5", Reduction(keep_per_class=2))) as reduced,
    ):
        assert_same(compute_statistics(reduced, "hidden", "R"), compute_statistics(one, "hidden", "R"))


def test_class_means_are_those_of_all_samples(tmp_path):
    whole = written(tmp_path / "run.h5")
    reduced = reduce_recording(whole, tmp_path / "a.h5", Reduction(impacts=["I"], keep_per_class=2))
    for group in ("labels", "given_labels"):
        one, other = (read_class_means(path, "fc2", group, until=1000) for path in (whole, reduced))
        np.testing.assert_allclose(other.runs, one.runs, rtol=1e-12)
        assert other.resolution == one.resolution


def test_on_the_command_line(tmp_path, capsys):
    whole, out = written(tmp_path / "run.h5", n=8), tmp_path / "small.h5"
    arguments = ["reduce", str(whole), "--out", str(out), "--layer", "fc2", "--impact", "R", "--keep", "2"]
    assert main([*arguments, "--json", "-"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["bytes"] == out.stat().st_size
    assert main(arguments) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["inspect", str(out), "--json", "-"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert (described["n_samples"], described["reduced_from_samples"]) == (6, 30)
    assert main(["inspect", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "fits are of all 30 samples" in shown
    assert re.search(r"holds fc2 +R by given_labels, R by labels\n", shown)
    assert described["reduced"]["problem"] is None
    assert described["reduced"]["restarted_intervals"] == []
    assert main(["recover", str(out), "--out", str(tmp_path / "copy.h5"), "--copy"]) == 0
    with Recording(tmp_path / "copy.h5") as copy, Recording(whole) as one:
        assert_same(compute_statistics(copy, "fc2", "R"), compute_statistics(one, "fc2", "R"))
