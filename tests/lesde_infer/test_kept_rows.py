"""Statistics from the cache: the same numbers, of the file as it is now, whatever became of the cache."""

import logging
import multiprocessing
import os
import resource
import shutil

import h5py
import numpy as np
import pytest
from core_helpers import assert_equal, keep_all_rows, make_run, write_first

from data_tools.errors import InputError
from data_tools.recording import Recording
from data_tools.recording_layout import LayerLayout, RecordingLayout
from data_tools.recording_writer import RecordingWriter
from lesde_infer import kept_rows, recording_identity, statistics
from lesde_infer.cache_folder import UNFINISHED, cache_folder, drop_oldest
from lesde_infer.cli import main
from lesde_infer.snapshots import SnapshotReader

WHOLE = 24


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A cache folder of one's own, for recordings of any size, whose files need not have rested."""
    keep_all_rows(tmp_path / "cache", monkeypatch)
    return cache_folder("statistics")


@pytest.fixture
def records_read(monkeypatch):
    """The records that are read, in order."""
    found, read = [], SnapshotReader.read
    monkeypatch.setattr(SnapshotReader, "read", lambda self, record: (found.append(record), read(self, record))[1])
    return found


def record(path, n_records, seed=0, missing=False):
    """Write a run of so many records; the first ones are the same whatever the number."""
    run = make_run(3, 5, WHOLE, seed=seed)
    features = run.features.copy()
    if missing:
        features[4, 2], features[7], features[9, run.labels == 1] = np.nan, np.nan, np.nan
    return write_first(path, run, n_records, features)


def grow(path, n_records):
    """Add the records that a run of so many has more, in place."""
    whole = record(path.with_suffix(".whole"), n_records)
    with h5py.File(whole) as source, h5py.File(path, "r+") as target:
        names = []
        source.visititems(lambda name, node: names.append(name) if isinstance(node, h5py.Dataset) else None)
        for name in names:
            if source[name].maxshape[:1] == (None,):
                target[name].resize(len(source[name]), axis=0)
                target[name][:] = source[name][:]
        target["committed"][()] = source["committed"][()]


def collapse(path, layer="hidden", impact="I", **options):
    with Recording(path) as recording:
        return statistics.compute_statistics(recording, layer, impact, **options)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize(("layer", "impact"), [("hidden", "I"), ("hidden", "R"), ("out", "R"), ("out", "L")])
def test_numbers_are_the_same(tmp_path, records_read, layer, impact, missing):
    path = record(tmp_path / "run.h5", WHOLE, missing=missing)
    expected = collapse(path, layer, impact, cache=False)
    assert_equal(collapse(path, layer, impact), expected)
    records_read.clear()
    assert_equal(collapse(path, layer, impact), expected)
    assert records_read == []


def test_one_cache_serves_all_units_of_time_and_prefixes(tmp_path, records_read):
    path = record(tmp_path / "run.h5", WHOLE)
    collapse(path)
    with Recording(path) as recording:
        until = int(recording.steps[9])
    expected = [collapse(path, time="steps", cache=False), collapse(path, until=until, cache=False)]
    records_read.clear()
    assert_equal(collapse(path, time="steps"), expected[0])
    assert_equal(collapse(path, until=until), expected[1])
    assert records_read == []
    collapse(path, "hidden", "R")
    collapse(path, frequencies=[0.5, 0.3, 0.2])
    assert len(records_read) == 2 * WHOLE  # other cases have files of their own


def test_grown_recording_costs_its_new_records(tmp_path, records_read):
    path = record(tmp_path / "run.h5", 15)
    collapse(path)
    grow(path, 20)
    expected = collapse(path, cache=False)
    records_read.clear()
    assert_equal(collapse(path), expected)
    assert records_read == list(range(14, 20))
    records_read.clear()
    assert_equal(collapse(path), expected)
    assert records_read == []


def test_prefix_first_and_the_rest_later(tmp_path, records_read):
    path = record(tmp_path / "run.h5", WHOLE)
    with Recording(path) as recording:
        until = int(recording.steps[9])
    collapse(path, until=until)
    records_read.clear()
    assert_equal(collapse(path), collapse(path, cache=False))
    assert records_read[: WHOLE - 9] == list(range(9, WHOLE))


def change(path, record_changed):
    """Change one number in place, and set the time of the last change back."""
    before = path.stat()
    with h5py.File(path, "r+") as file:
        file["features/hidden"][record_changed, 3, 1] += 0.5
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


def test_changed_recording_of_equal_size_and_time_is_taken_anew(tmp_path):
    path = record(tmp_path / "run.h5", WHOLE)
    before = collapse(path)
    change(path, 11)
    found = collapse(path)
    assert_equal(found, collapse(path, cache=False))
    assert not np.array_equal(found.contrast.increment_square, before.contrast.increment_square)


def test_another_recording_at_the_same_path_is_taken_anew(tmp_path):
    path = record(tmp_path / "run.h5", WHOLE)
    collapse(path)
    record(path, WHOLE, seed=1)
    assert_equal(collapse(path), collapse(path, cache=False))


def test_recording_changed_where_it_ends_and_then_grown_is_taken_anew(tmp_path, records_read):
    """As one that is resumed from an earlier step."""
    path = record(tmp_path / "run.h5", 15)
    collapse(path)
    grow(path, 20)
    change(path, 14)
    records_read.clear()
    found = collapse(path)
    assert records_read == list(range(20))
    assert_equal(found, collapse(path, cache=False))


def test_recording_that_changed_a_moment_ago_is_not_trusted(tmp_path, monkeypatch, records_read):
    monkeypatch.setattr(recording_identity, "SETTLED", 60.0)
    path = record(tmp_path / "run.h5", WHOLE)
    collapse(path)
    records_read.clear()
    collapse(path)
    assert records_read == list(range(WHOLE))


@pytest.mark.parametrize("damage", ["empty", "cut", "header", "row", "rubbish"])
def test_damaged_cache_is_replaced(tmp_path, folder, records_read, damage):
    path = record(tmp_path / "run.h5", WHOLE)
    expected = collapse(path)
    (kept,) = folder.glob("*.rows")
    data = bytearray(kept.read_bytes())
    if damage == "row":
        data[len(data) // 2] ^= 1
    elif damage == "header":
        data[40] ^= 1
    changed = {"empty": b"", "cut": data[: len(data) // 2], "rubbish": os.urandom(5_000)}.get(damage, bytes(data))
    kept.write_bytes(changed)
    records_read.clear()
    assert_equal(collapse(path), expected)
    assert len(records_read) > 0
    records_read.clear()
    assert_equal(collapse(path), expected)
    assert records_read == []


def _fill(path, queue):
    found = collapse(path)
    queue.put(found.contrast.increment_square)


def test_processes_fill_one_cache(tmp_path, folder):
    path = record(tmp_path / "run.h5", WHOLE)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_fill, args=(path, queue)) for _ in range(3)]
    for process in processes:
        process.start()
    found = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    expected = collapse(path, cache=False)
    for own in found:
        np.testing.assert_array_equal(own, expected.contrast.increment_square)
    assert_equal(collapse(path), expected)
    assert [kept.suffix for kept in folder.iterdir()] == [".rows"]


def test_full_disk_costs_a_warning(tmp_path, folder, caplog):
    path = record(tmp_path / "run.h5", WHOLE)
    expected = collapse(path, cache=False)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, hard))
    try:
        with caplog.at_level(logging.WARNING):
            assert_equal(collapse(path), expected)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(caplog.records) == 1
    assert "not kept" in caplog.text
    assert list(folder.iterdir()) == []


def test_folder_that_cannot_be_made_costs_a_warning(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    path = record(tmp_path / "run.h5", WHOLE)
    with caplog.at_level(logging.WARNING):
        assert_equal(collapse(path), collapse(path, cache=False))
    assert len(caplog.records) == 1


def test_nothing_is_kept_where_it_is_not_wanted(tmp_path, folder, monkeypatch):
    path = record(tmp_path / "run.h5", WHOLE)
    collapse(path, cache=False)
    monkeypatch.setenv(kept_rows.SWITCH, "1")
    collapse(path)
    monkeypatch.delenv(kept_rows.SWITCH)
    monkeypatch.setattr(kept_rows, "WORTHWHILE", 10**6)
    collapse(path)
    assert not folder.exists()


def test_filtered_impacts_are_not_kept(tmp_path, folder):
    rng = np.random.default_rng(0)
    labels, path = np.arange(12) % 3, tmp_path / "run.h5"
    layout = RecordingLayout(labels, labels, {"hidden": LayerLayout(3)})
    with RecordingWriter(path, layout, provenance={"momentum": 0.9}) as writer:
        for step in range(12):
            writer.append(step, {"hidden": rng.normal(size=(12, 3))})
    assert collapse(path).drive == "filtered"
    assert not folder.exists()


def test_run_that_ends_in_an_error_leaves_nothing(tmp_path, folder):
    path = record(tmp_path / "run.h5", WHOLE)
    with h5py.File(path, "r+") as file:
        file["features/hidden"][20, 3, 1] = np.inf
    with pytest.raises(Exception, match="infinite"):
        collapse(path)
    assert list(folder.iterdir()) == []


def test_files_used_longest_ago_go_first(tmp_path):
    for age in range(5):
        file = tmp_path / f"{age}.rows"
        file.write_bytes(bytes(100))
        os.utime(file, (1e9 - age, 1e9 - age))
    left_behind, fresh = tmp_path / f"old{UNFINISHED}", tmp_path / f"new{UNFINISHED}"
    left_behind.write_bytes(b"")
    os.utime(left_behind, (1e9, 1e9))
    fresh.write_bytes(b"")
    drop_oldest(tmp_path, 250)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["0.rows", "1.rows", fresh.name]


def test_copy_of_a_recording_is_another(tmp_path, records_read):
    path = record(tmp_path / "run.h5", WHOLE)
    collapse(path)
    copy = tmp_path / "copy.h5"
    shutil.copy(path, copy)
    os.replace(copy, path)
    records_read.clear()
    collapse(path)
    assert len(records_read) == WHOLE


@pytest.mark.parametrize("command", ["fit", "forecast", "compare"])
@pytest.mark.parametrize("wanted", [True, False])
def test_commands_pass_the_choice_on(tmp_path, monkeypatch, command, wanted):
    paths = [record(tmp_path / f"{name}.h5", WHOLE) for name in "ab"]
    asked = []

    def refuse(*_, cache=None, **others):
        asked.append(cache)
        raise InputError("that will do")

    monkeypatch.setattr("lesde_infer.inference.compute_statistics", refuse)
    monkeypatch.setattr("lesde_infer.fleet.fit_many", refuse)
    arguments = {"fit": [str(paths[0])], "forecast": [str(paths[0]), "--at", "0.5"]}
    arguments["compare"] = [f"{path.stem}={path}" for path in paths]
    assert main([command, *arguments[command], *([] if wanted else ["--no-cache"])]) == 2
    assert asked == [wanted]
