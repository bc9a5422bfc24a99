"""Fits on a cluster: the same numbers, workers that die, schedulers that do not answer."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import pytest
from core_helpers import assert_equal, make_run

import lesde_infer as li
from data_tools.errors import InputError
from data_tools.recording import Recording
from data_tools.recording_layout import LayerLayout, RecordingLayout
from data_tools.recording_writer import RecordingWriter
from lesde_infer import distributed as own
from lesde_infer.cli import main
from lesde_infer.distributed import connected, fit_on_cluster, fit_remotely, on_cluster
from lesde_infer.fleet import fit_many
from lesde_infer.fleet_run import FleetRun
from lesde_infer.row_ranges import measure_range
from lesde_infer.statistics import compute_statistics

dask = pytest.importorskip("dask", reason="the extra 'distributed' is not installed")
LocalCluster = pytest.importorskip("distributed").LocalCluster

pytestmark = [
    pytest.mark.xdist_group("cluster"),
    pytest.mark.filterwarnings(
        "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
    ),  # Dask's own
]
QUICK = {"curve": "constant", "impact": "I", "layer": "hidden", "within": "isotropic", "n_draws": 100}


@contextmanager
def cluster_of(n_workers, allowed_failures):
    """Start a cluster of processes of one thread, of which a task may take so many down before it is given up."""
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": allowed_failures}),
        LocalCluster(n_workers=n_workers, threads_per_worker=1, processes=True, dashboard_address=":0") as found,
    ):
        yield found


@pytest.fixture(scope="module")
def cluster():
    with cluster_of(2, allowed_failures=1) as found:
        yield found


@pytest.fixture(scope="module")
def client(cluster):
    with connected(cluster.scheduler_address, timeout=60) as found:
        yield found


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run.h5"
    make_run(3, 3, n_records=30, seed=1).write(path).close()
    return path


@pytest.mark.slow
def test_a_worker_gives_the_numbers_that_this_machine_gives(cluster, recording, tmp_path):
    torn = tmp_path / "torn.h5"
    torn.write_bytes(recording.read_bytes()[:2_000])
    there = fit_many(
        [recording, torn], tmp_path / "there", scheduler=cluster.scheduler_address, allow_unconverged=True, **QUICK
    )
    assert [run.status for run in there.runs] == ["fitted", "refused"]
    assert there.runs[0].fit == tmp_path / "there" / "run.nc"
    here = li.fit(recording, allow_unconverged=True, **QUICK)
    np.testing.assert_array_equal(li.load(tmp_path / "there" / "run.nc").posterior["gamma"], here.posterior["gamma"])
    again = fit_many([recording], tmp_path / "there", scheduler=cluster.scheduler_address, **QUICK)
    assert again.runs[0].status == "kept"


def die_once(path, settings):
    """End the worker the first time; the mark it leaves tells the next."""
    mark = Path(settings["mark"])
    if path.stem == "b" and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return FleetRun(path, "fitted", path, 0.0, "", {}), path.stem.encode()


def die_always(path, settings):
    if path.stem == "b":
        os.kill(os.getpid(), signal.SIGKILL)
    return FleetRun(path, "fitted", path, 0.0, "", {}), path.stem.encode()


def jobs(folder):
    return [(folder / f"{name}.h5", folder / f"{name}.nc") for name in "abcd"]


def test_a_worker_that_is_killed_changes_nothing(client, tmp_path, monkeypatch):
    monkeypatch.setattr(own, "fit_remotely", die_once)
    runs = list(fit_on_cluster(client, jobs(tmp_path), {"mark": str(tmp_path / "mark")}, force=False))
    assert {run.recording.stem: run.status for run in runs} == dict.fromkeys("abcd", "fitted")
    assert {path.stem: path.read_text() for path in tmp_path.glob("*.nc")} == {name: name for name in "abcd"}


@pytest.mark.slow
def test_a_run_that_kills_its_workers_is_given_up_and_the_rest_is_done(tmp_path, monkeypatch):
    """It may kill two workers, and two more when it is tried by itself: one is left, should none be started again."""
    monkeypatch.setattr(own, "fit_remotely", die_always)
    with (
        cluster_of(5, allowed_failures=1) as many,
        connected(many.scheduler_address, timeout=60) as client,
    ):
        runs = {run.recording.stem: run for run in fit_on_cluster(client, jobs(tmp_path), {}, force=False)}
    assert runs["b"].status == "failed"
    assert "died, each in turn" in runs["b"].message
    assert all(runs[name].status == "fitted" for name in "acd")
    assert not (tmp_path / "b.nc").exists()


def test_a_cluster_whose_workers_leave_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(own, "fit_remotely", die_always)
    monkeypatch.setattr(own, "ALONE_FOR", 2.0)
    with (
        cluster_of(1, allowed_failures=3) as leaving,
        connected(leaving.scheduler_address, timeout=60) as client,
    ):
        leaving.scale(0)
        runs = list(fit_on_cluster(client, jobs(tmp_path)[:1], {}, force=False))
    assert [run.status for run in runs] == ["failed"]
    assert "had no worker" in runs[0].message


ASKING = """
import sys, time
from pathlib import Path
from lesde_infer import distributed as own
from lesde_infer.fleet_run import FleetRun

def slowly(path, settings):
    time.sleep(0.3)
    return FleetRun(path, "fitted", path, 0.0, "", {}), path.stem.encode() * 100_000

own.fit_remotely = slowly
jobs = [(Path(sys.argv[2]) / f"{name}.h5", Path(sys.argv[2]) / f"{name}.nc") for name in "abcdefgh"]
with own.connected(sys.argv[1], timeout=60) as client:
    for run in own.fit_on_cluster(client, [job for job in jobs if not job[1].exists()], {}, force=False):
        print(run.recording.stem, flush=True)
"""


def test_who_asked_is_killed_and_asks_again(client, tmp_path):
    """The cluster forgets what it was asked, fits that came are whole, and those that did not are made."""
    command = [sys.executable, "-c", ASKING, client.scheduler.address, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as asking:
        first = asking.stdout.readline().strip()
        asking.send_signal(signal.SIGKILL)
    came = {path.stem: path.read_text() for path in tmp_path.glob("*.nc")}
    assert first in came
    assert len(came) < 8
    deadline = monotonic() + 60
    while (
        left := client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))
    ) and monotonic() < deadline:
        sleep(0.1)
    assert left == 0
    again = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=120)
    assert sorted(again.stdout.split()) == sorted(set("abcdefgh") - set(came))
    assert {path.stem: path.read_text() for path in tmp_path.glob("*.nc")} == {
        name: name * 100_000 for name in "abcdefgh"
    }


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A recording that is cut into two ranges: 100 MB."""
    path, rng = tmp_path_factory.mktemp("large") / "run.h5", np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 100)
    features = rng.normal(size=(400, 128))
    with RecordingWriter(path, RecordingLayout(labels, labels, {"hidden": LayerLayout(128)})) as writer:
        for step in range(490):
            features += 0.01 * (features[::100][labels] + rng.normal(size=features.shape))
            writer.append(step, {"hidden": features.astype(np.float32)})
    return path


def collapse(path, **options):
    with Recording(path) as recording:
        return compute_statistics(recording, "hidden", "I", cache=False, **options)


def measure_and_die_once(chosen):
    """End the worker when it is first asked for the second range."""
    mark = chosen.path.with_suffix(".mark")
    if chosen.start > 0 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return measure_range(chosen)


@pytest.mark.parametrize("measure", [own.measure_remotely, measure_and_die_once])
def test_statistics_of_a_large_recording_are_those_of_one_pass(client, large, monkeypatch, measure):
    monkeypatch.setattr(own, "measure_remotely", measure)
    assert_equal(collapse(large, elsewhere=on_cluster(client)), collapse(large))
    assert large.with_suffix(".mark").exists() == (measure is measure_and_die_once)


def test_workers_that_fit_have_statistics_taken_by_all(client, large):
    """As a fit does: by a task on a worker, which leaves its thread to those it waits for."""
    found = client.submit(collapse, large, elsewhere=own._from_worker, pure=False).result()
    assert_equal(found, collapse(large))


def test_what_a_worker_cannot_measure_is_told_with_its_name(client, large, tmp_path):
    path = tmp_path / "gone.h5"
    path.write_bytes(large.read_bytes())
    with Recording(path) as recording:
        path.unlink()
        with pytest.raises(InputError, match=r"gone\.h5.*on worker tcp://"):
            compute_statistics(recording, "hidden", "I", cache=False, elsewhere=on_cluster(client))


def die(chosen):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_range_that_kills_its_workers_is_told(large, monkeypatch):
    monkeypatch.setattr(own, "measure_remotely", die)
    with (
        cluster_of(1, allowed_failures=0) as dying,
        connected(dying.scheduler_address, timeout=60) as client,
        pytest.raises(InputError, match=r"run\.h5: the workers that read it died"),
    ):
        collapse(large, elsewhere=on_cluster(client))


def test_workers_that_leave_while_ranges_wait_are_told(large, monkeypatch):
    monkeypatch.setattr(own, "ALONE_FOR", 2.0)
    with (
        cluster_of(1, allowed_failures=3) as leaving,
        connected(leaving.scheduler_address, timeout=60) as client,
    ):
        leaving.scale(0)
        deadline = monotonic() + 60
        while client.scheduler_info(n_workers=-1)["workers"] and monotonic() < deadline:
            sleep(0.1)
        with pytest.raises(InputError, match=r"run\.h5: the scheduler had no worker"):
            collapse(large, elsewhere=on_cluster(client))


@pytest.mark.slow
def test_one_large_recording_on_the_command_line(cluster, large, tmp_path, capsys):
    options = ["--impact", "I", "--curve", "constant", "--within", "isotropic", "--parts", "rates", "--no-cache"]
    found = []
    for number, more in enumerate(([], ["--scheduler", cluster.scheduler_address])):
        out = tmp_path / f"{number}.nc"
        assert main(["fit", str(large), *options, *more, "--allow-unconverged", "--out", str(out)]) == 0
        found.append(li.load(out).posterior["gamma"])
    np.testing.assert_array_equal(found[1], found[0])
    assert main(["fit", str(large), *options, "--scheduler", "tcp://127.0.0.1:1"]) == 2
    assert "no Dask scheduler answers" in capsys.readouterr().err


def test_a_file_that_a_worker_does_not_see_is_named(tmp_path):
    run, content = fit_remotely(tmp_path / "elsewhere.h5", {})
    assert content is None
    assert run.status == "refused"
    assert str(tmp_path / "elsewhere.h5") in run.message


def test_a_scheduler_that_does_not_answer_is_given_up_soon():
    with pytest.raises(InputError, match="no Dask scheduler answers within 1 s"), connected("tcp://127.0.0.1:1", 1.0):
        pass


@pytest.mark.parametrize(
    "address", ["", "localhost", "localhost:8786", "tcp://localhost", "tcp://localhost:port", "foo://localhost:1"]
)
def test_what_is_no_address_is_told(address):
    with pytest.raises(InputError, match="not an address of a scheduler"), connected(address):
        pass


def test_a_scheduler_without_workers_is_refused():
    with (
        LocalCluster(n_workers=0, dashboard_address=":0") as empty,
        pytest.raises(InputError, match="has no workers"),
        connected(empty.scheduler_address, timeout=2.0),
    ):
        pass


def test_other_versions_on_a_worker_are_refused(cluster, monkeypatch):
    monkeypatch.setattr("lesde_infer.distributed.version", lambda _: "0.0.0-other")
    with (
        pytest.raises(InputError, match=r"has lesde-infer .*, but here is 0.0.0-other"),
        connected(cluster.scheduler_address, timeout=60),
    ):
        pass


def test_one_recording_needs_no_workers(recording, capsys):
    assert main(["fit", str(recording), "--workers", "2"]) == 2
    assert "--workers is for many recordings" in capsys.readouterr().err
