"""What happens to a recording when its process is killed, its disk fills up, or it is forked."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from data_tools import InputError, Recording, RecordingWriter, recover
from data_tools.recording_layout import LayerLayout, RecordingLayout

FEW, MANY = 8, 200
LABELS = np.repeat([0, 1], 50)
LAYOUT = RecordingLayout(LABELS, LABELS, {"h": LayerLayout(64), "fc": LayerLayout(2)}, logits="fc", scalars=("loss",))

RECORD = """
import os, sys
import numpy as np
from data_tools import RecordingWriter
from data_tools.recording_layout import LayerLayout, RecordingLayout

labels = np.repeat([0, 1], 50)
layout = RecordingLayout(labels, labels, {"h": LayerLayout(64), "fc": LayerLayout(2)}, logits="fc", scalars=("loss",))

def record(writer, step):
    features = {"h": np.full((100, 64), step), "fc": np.full((100, 2), step)}
    writer.append(step, features, scalars={"loss": step})
"""

# Forks one recording process for every line of its input, and kills it after so many seconds.
KILL_AGAIN_AND_AGAIN = (
    RECORD
    + """
import signal, time
for line in sys.stdin:
    path, seconds = line.split()
    progress, report = os.pipe()
    child = os.fork()
    if child == 0:
        writer = RecordingWriter(path, layout)
        os.write(report, b".")
        for step in range(10**6):
            record(writer, step)
            os.write(report, b".")
        os._exit(0)
    os.close(report)
    time.sleep(float(seconds))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    done = 0
    while piece := os.read(progress, 65536):
        done += len(piece)
    os.close(progress)
    print(done, flush=True)
"""
)


def environment(**changes):
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **changes}


def run(code, *arguments, **changes):
    return subprocess.run(
        [sys.executable, "-c", RECORD + code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=environment(**changes),
    )


def record(writer, step):
    features = {"h": np.full((100, 64), step), "fc": np.full((100, 2), step)}
    writer.append(step, features, scalars={"loss": step})


def check_records(path, n_records):
    """Check that a file holds so many records, or one more, and that each is right; return how many there are."""
    with Recording(path) as recording:
        assert recording.n_records in (n_records, n_records + 1)  # a commit need not have been reported
        count = np.arange(recording.n_records)
        np.testing.assert_array_equal(recording.steps, count)
        np.testing.assert_array_equal(recording.scalars["loss"], count)
        for layer in recording.layers:
            values = recording.features(layer)[:]
            np.testing.assert_array_equal(values, np.broadcast_to(count[:, None, None], values.shape))
        return recording.n_records


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.h5"


@pytest.mark.parametrize("n_kills", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
def test_processes_killed_at_random_moments_lose_no_flushed_record(tmp_path, n_kills):
    rng = random.Random(n_kills)  # noqa: S311
    command = [sys.executable, "-c", KILL_AGAIN_AND_AGAIN]
    written = []
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    ) as killer:
        for number in range(n_kills):
            path = tmp_path / f"{number}.h5"
            killer.stdin.write(f"{path} {rng.uniform(0.002, 0.25):.6f}\n")
            killer.stdin.flush()
            reported = int(killer.stdout.readline())
            if not path.exists():
                assert reported == 0
                continue
            n_records = reported - 1  # the first report is that the file is there
            if n_records <= 0:
                with (
                    pytest.raises(InputError, match="holds no records") if n_records == 0 else pytest.raises(InputError)
                ):
                    check_records(path, 0)
                continue
            kept = check_records(path, n_records)
            with Recording(path) as recording:
                assert recording.writer == "died"
            found = recover(path, tmp_path / "saved.h5", force=True)
            assert found.n_kept == kept
            assert found.n_lost <= 1
            assert check_records(tmp_path / "saved.h5", kept) == kept
            written.append(kept)
        killer.stdin.close()
    assert len(written) > n_kills / 3
    assert len(set(written)) > n_kills / 10  # the moments differ


FILL = """
import resource
{before}
writer = RecordingWriter(sys.argv[1], layout)
step = 0
try:
    while True:
        record(writer, step)
        step += 1
except Exception as error:
    print(type(error).__name__, step, error)
try:
    record(writer, step)
except Exception as error:
    print(type(error).__name__)
writer.close()
"""


def check_filled(result, path):
    """The process was told, went on, and left without a crash; what it had written can be read and saved."""
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    first, second = result.stdout.splitlines()
    kind, n_records, message = first.split(maxsplit=2)
    assert (kind, second) == ("InputError", "InputError")
    assert int(n_records) > 5
    assert "safe" in message
    assert check_records(path, int(n_records)) == int(n_records)
    return int(n_records)


def test_the_largest_size_of_files_is_known_in_advance(path):
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (18 * 2**20, 18 * 2**20))"
    result = run(FILL.format(before=limit), path)
    check_filled(result, path)
    assert "writing failed" not in result.stdout  # it was not tried


@pytest.fixture
def small_disk(tmp_path):
    """Return a folder on a disk of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small disk can be mounted by root only")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


# As on a network disk with a quota: free space says nothing, and none can be reserved.
NO_WARNING = """
import errno, shutil, types
shutil.disk_usage = lambda folder: types.SimpleNamespace(free=2**40)

def cannot_reserve(*_):
    raise OSError(errno.EOPNOTSUPP, "not supported")

os.posix_fallocate = cannot_reserve
"""


def test_a_disk_that_fills_up_unforeseen_harms_neither_file_nor_process(small_disk, tmp_path):
    result = run(FILL.format(before=NO_WARNING), small_disk / "run.h5")
    n_records = check_filled(result, small_disk / "run.h5")
    assert "writing failed after" in result.stdout
    with Recording(small_disk / "run.h5") as recording:
        assert recording.writer == "died"
    assert recover(small_disk / "run.h5", tmp_path / "saved.h5").n_kept == n_records
    with pytest.raises(InputError, match="the disk has no room for"):
        recover(small_disk / "run.h5", small_disk / "saved.h5")
    code = "from data_tools import recover; recover(sys.argv[1], sys.argv[2])"  # a crash would come when it leaves
    result = run(NO_WARNING + code, small_disk / "run.h5", small_disk / "saved.h5")
    assert result.returncode == 1
    assert "cannot be written" in result.stderr
    assert [entry.name for entry in small_disk.iterdir()] == ["run.h5"]


def test_a_full_disk_is_foreseen(small_disk):
    with RecordingWriter(small_disk / "run.h5", LAYOUT) as writer, pytest.raises(InputError, match="the disk is full"):
        record(writer, 0)


def test_a_second_recorder_is_refused_in_another_process_too(path):
    with RecordingWriter(path, LAYOUT) as writer:
        record(writer, 0)
        result = run("RecordingWriter(sys.argv[1], layout)", path)
        assert "exists already" in result.stderr
        record(writer, 1)
    assert check_records(path, 2) == 2


@pytest.mark.parametrize("locking", ["FALSE", "TRUE", "BEST_EFFORT"])
def test_locking_settings_of_hdf5_change_nothing(path, locking):
    code = """
from data_tools import InputError, Recording
with RecordingWriter(sys.argv[1], layout) as writer:
    for step in range(5):
        record(writer, step)
        with Recording(sys.argv[1]) as recording:
            assert (recording.n_records, recording.writer) == (step + 1, "writing")
    try:
        RecordingWriter(sys.argv[1], layout)
    except InputError:
        print("refused")
"""
    result = run(code, path, HDF5_USE_FILE_LOCKING=locking)
    assert (result.returncode, result.stdout) == (0, "refused\n"), result.stderr
    assert check_records(path, 5) == 5


def test_readers_see_whole_records_only_while_another_process_writes(path):
    code = """
writer = RecordingWriter(sys.argv[1], layout)
print(flush=True)
for step in range(10**6):
    record(writer, step)
"""
    with subprocess.Popen(
        [sys.executable, "-c", RECORD + code, str(path)], stdout=subprocess.PIPE, env=environment()
    ) as writer:
        try:
            writer.stdout.readline()
            seen = []
            while len(seen) < 30:
                try:
                    with Recording(path) as recording:
                        assert recording.writer == "writing"
                        for layer in recording.layers:
                            values = recording.features(layer)[-1]
                            np.testing.assert_array_equal(values, recording.steps[-1])
                        seen.append(recording.n_records)
                except InputError as error:
                    if "holds no records" not in str(error):
                        raise
        finally:
            writer.kill()
    assert seen == sorted(seen)
    assert seen[-1] > seen[0]


def test_a_forked_process_cannot_write_and_does_no_harm_by_leaving(path):
    """Leaving runs what HDF5 does at the end: it would mark the file as finished under its parent's hands."""
    code = """
from data_tools import InputError, Recording
writer = RecordingWriter(sys.argv[1], layout)
record(writer, 0)
child = os.fork()
if child == 0:
    try:
        record(writer, 1)
    except InputError as error:
        print("child", error, flush=True)
    writer.close()
    sys.exit()
_, status = os.waitpid(child, 0)
assert status == 0
with Recording(sys.argv[1]) as recording:
    assert (recording.n_records, recording.writer) == (1, "writing")
record(writer, 1)
writer.close()
"""
    result = run(code, path)
    assert result.returncode == 0, result.stderr
    assert "was opened by another process" in result.stdout
    assert check_records(path, 2) == 2


def test_a_forked_process_that_outlives_the_writer_does_not_pass_for_it(path):
    code = """
import signal, time
writer = RecordingWriter(sys.argv[1], layout)
record(writer, 0)
if os.fork() == 0:
    os.close(1), os.close(2)
    time.sleep(60)
    os._exit(0)
time.sleep(0.2)
print(os.getpgid(0), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    process = subprocess.run(
        [sys.executable, "-c", RECORD + code, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,
        env=environment(),
        start_new_session=True,
    )
    try:
        with Recording(path) as recording:
            assert (recording.n_records, recording.writer) == (1, "died")
    finally:
        os.killpg(int(process.stdout), signal.SIGKILL)


@pytest.mark.parametrize("how", ["interrupt", "exception"])
def test_a_loop_that_ends_early_leaves_a_finished_recording(path, how):
    code = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell runs the suite in the background
with RecordingWriter(sys.argv[1], layout) as writer:
    for step in range(10**6):
        record(writer, step)
        print(step, flush=True)
        if sys.argv[2] == "exception" and step == 9:
            raise ZeroDivisionError
"""
    reported, complaint = path.with_name("reported.txt"), path.with_name("complaint.txt")
    with (
        reported.open("w") as out,
        complaint.open("w") as err,
        subprocess.Popen(
            [sys.executable, "-c", RECORD + code, str(path), how], stdout=out, stderr=err, env=environment()
        ) as process,
    ):
        while len(reported.read_text().split()) < 10 and process.poll() is None:
            time.sleep(0.01)
        for _ in range(6):
            if how == "interrupt":  # again if it came where Python cannot raise, as in a callback of HDF5
                process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
                break
        process.kill()  # if it goes on all the same
    assert ("KeyboardInterrupt" if how == "interrupt" else "ZeroDivisionError") in complaint.read_text()
    check_records(path, len(reported.read_text().split()))
    with Recording(path) as recording:
        assert recording.writer == "finished"
        assert "closed" in recording.provenance


def test_a_writer_that_could_not_write_says_so_from_then_on(path, monkeypatch):
    with RecordingWriter(path, LAYOUT) as writer:
        record(writer, 0)
        with monkeypatch.context() as patch:
            patch.setattr(type(writer._committed), "__setitem__", failing)
            with pytest.raises(InputError, match=r"writing failed after 1 records, which are safe \(no space left\)"):
                record(writer, 1)
        with pytest.raises(InputError, match="is closed, and holds 1 records"):
            record(writer, 1)
    assert check_records(path, 1) == 1


def failing(*_):
    raise OSError("no space left")
