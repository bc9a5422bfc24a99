"""Rows taken range by range are those of one pass, to the last bit, wherever they are taken."""

import pickle
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pytest
from core_helpers import assert_equal, keep_all_rows, make_run, write_first

import lesde_infer as li
from data_tools.errors import InputError
from data_tools.recording import Recording
from lesde_infer import kept_rows, row_ranges
from lesde_infer.row_ranges import measure_range
from lesde_infer.snapshots import SnapshotReader
from lesde_infer.statistics import compute_statistics

N_RECORDS = 24


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    """Recordings of any size are cut, into ranges of few records, and a cache folder is one's own."""
    keep_all_rows(tmp_path / "cache", monkeypatch)
    monkeypatch.setattr(row_ranges, "BYTES", 1)
    monkeypatch.setattr(row_ranges, "FEWEST", 5)


def record(path, *, missing=False, seed=0, n_records=N_RECORDS, provenance=None):
    run = make_run(3, 5, N_RECORDS, seed=seed)
    features = run.features.copy()
    if missing:  # at the seams of ranges as well
        features[3, 2], features[5], features[9, run.labels == 1], features[10, 4] = (np.nan,) * 4
    return write_first(path, run, n_records, features, provenance=provenance)


class Here:
    """Measures ranges one after the other, as another process would, and keeps note of them."""

    def __init__(self):
        self.ranges = []

    def __call__(self, ranges):
        for one in ranges:
            self.ranges.append(one)
            yield pickle.loads(pickle.dumps(measure_range(pickle.loads(pickle.dumps(one)))))  # noqa: S301


def collapse(path, layer="hidden", impact="I", **options):
    with Recording(path) as recording:
        return compute_statistics(recording, layer, impact, **options)


CASES = [("hidden", "I"), ("hidden", "R"), ("out", "R"), ("out", "L")]


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize(("layer", "impact"), CASES)
@pytest.mark.parametrize("fewest", [2, 5, 23, 100])
def test_statistics_are_those_of_one_pass(tmp_path, monkeypatch, layer, impact, missing, fewest):
    monkeypatch.setattr(row_ranges, "FEWEST", fewest)
    path, elsewhere = record(tmp_path / "run.h5", missing=missing), Here()
    choices = {"group": "given_labels", "frequencies": [0.5, 0.3, 0.2], "cache": False}
    found = collapse(path, layer, impact, elsewhere=elsewhere, **choices)
    assert_equal(found, collapse(path, layer, impact, **choices))
    assert len(elsewhere.ranges) == -(-N_RECORDS // fewest)


def test_only_records_that_are_used_are_measured_and_only_what_is_asked_is_sent(tmp_path):
    path, elsewhere = record(tmp_path / "run.h5"), Here()
    with Recording(path) as recording:
        until = int(recording.steps[17])
    assert_equal(
        collapse(path, until=until, elsewhere=elsewhere, cache=False), collapse(path, until=until, cache=False)
    )
    assert [(one.start, one.stop) for one in elsewhere.ranges] == [(0, 5), (5, 10), (10, 15), (15, 18)]
    assert [record for one in elsewhere.ranges for record in one.wanted] == [16, 17]


def test_a_range_reads_its_records_and_the_two_before(tmp_path, monkeypatch):
    path, read, found, elsewhere = record(tmp_path / "run.h5"), SnapshotReader.read, [], Here()
    monkeypatch.setattr(SnapshotReader, "read", lambda self, number: (found.append(number), read(self, number))[1])
    collapse(path, elsewhere=elsewhere, cache=False)
    assert found == [*range(5), *range(3, 10), *range(8, 15), *range(13, 20), *range(18, 24)]


def test_what_is_kept_is_not_measured_again(tmp_path):
    elsewhere, path = Here(), record(tmp_path / "run.h5")
    with Recording(path) as recording:
        until = int(recording.steps[12])
    collapse(path, until=until, elsewhere=elsewhere)
    elsewhere.ranges.clear()
    expected = collapse(path, cache=False)
    assert_equal(collapse(path, elsewhere=elsewhere), expected)
    assert elsewhere.ranges[0].start == 13
    elsewhere.ranges.clear()
    assert_equal(collapse(path, elsewhere=elsewhere), expected)
    assert elsewhere.ranges == []


def test_small_recordings_and_filtered_impacts_are_taken_in_one_pass(tmp_path, monkeypatch):
    def never(ranges):
        raise AssertionError(ranges)

    momentum = record(tmp_path / "momentum.h5", provenance={"optimizer": "SGD", "momentum": 0.9})
    assert collapse(momentum, drive="filtered", elsewhere=never).drive == "filtered"
    monkeypatch.setattr(kept_rows, "WORTHWHILE", 10**9)
    collapse(record(tmp_path / "run.h5"), elsewhere=never)


def test_another_recording_under_the_same_path_is_refused(tmp_path):
    path, elsewhere = record(tmp_path / "run.h5"), Here()
    collapse(path, elsewhere=elsewhere, cache=False)
    record(path, n_records=20)
    for one in elsewhere.ranges:
        with pytest.raises(InputError, match="another recording where its statistics are taken"):
            measure_range(one)
    with pytest.raises(InputError, match=r"elsewhere\.h5"):
        measure_range(replace(one, path=tmp_path / "elsewhere.h5"))


@pytest.mark.slow
def test_a_fit_by_processes_gives_the_draws_of_one_by_itself(tmp_path):
    path = record(tmp_path / "run.h5")
    options = {"layer": "hidden", "impact": "I", "curve": "constant", "within": "isotropic", "cache": False}
    options |= {"n_draws": 50, "n_chains": 2, "seed": 3, "allow_unconverged": True}
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        found = li.fit(path, elsewhere=lambda ranges: pool.map(measure_range, ranges), **options)
    np.testing.assert_array_equal(found.posterior["gamma"], li.fit(path, **options).posterior["gamma"])
