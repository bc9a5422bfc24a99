"""A thread writes all it is given, in order, and its errors reach whoever trains; a full disk does no harm."""

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from data_tools import InputError, Recording, RecordingWriter
from data_tools.background_writer import BackgroundWriter
from data_tools.recording_layout import LayerLayout, RecordingLayout

LABELS = np.array([0, 0, 1, 1])
LAYOUT = RecordingLayout(LABELS, LABELS, {"h": LayerLayout(5)})

PREPARE = """
import os, resource, sys
import numpy as np
from data_tools import RecordingWriter
from data_tools.background_writer import BackgroundWriter
from data_tools.recording_layout import LayerLayout, RecordingLayout

labels = np.repeat([0, 1], 50)
writer = RecordingWriter(sys.argv[1], RecordingLayout(labels, labels, {"h": LayerLayout(640)}))

def append_all(writer, n):
    for step in range(n):
        writer.append(step, {"h": np.full((100, 640), step, np.float32)})
        print(step, flush=True)
"""


def features_at(step):
    return {"h": np.full((4, 5), step, np.float32)}


def run(code, path):
    return subprocess.run([sys.executable, "-c", PREPARE + code, path], capture_output=True, text=True, check=False)


class Gate:
    """Stands for a slow disk: nothing is written until the gate opens."""

    def __init__(self, writer):
        self._writer = writer
        self.path = writer.path
        self.opened = threading.Event()
        self.n_begun = 0

    def append(self, step, features):
        self.n_begun += 1
        self.opened.wait()
        self._writer.append(step, features)

    def close(self):
        self._writer.close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.h5"


def test_everything_is_written_in_order(path):
    writer = BackgroundWriter(RecordingWriter(path, LAYOUT))
    for step in range(50):
        writer.append(step, features_at(step))
    writer.close()
    writer.close()
    writer.flush()
    with Recording(path) as recording:
        np.testing.assert_array_equal(recording.steps, np.arange(50))
        np.testing.assert_array_equal(recording.features("h")[:, 0, 0], np.arange(50))
        assert "closed" in recording.provenance
    with pytest.raises(InputError, match="is closed"):
        writer.append(50, features_at(50))


def test_after_a_flush_all_is_safe(path):
    writer = BackgroundWriter(RecordingWriter(path, LAYOUT))
    for step in range(1, 8):
        writer.append(step, features_at(step))
        writer.flush()
        with Recording(path) as recording:
            assert recording.steps[-1] == step
    writer.close()


def test_a_slow_disk_does_not_hold_up_until_the_queue_is_full_and_nothing_is_dropped(path):
    gate = Gate(RecordingWriter(path, LAYOUT))
    writer = BackgroundWriter(gate, queue_length=3)
    writer.append(0, features_at(0))
    while gate.n_begun == 0:
        time.sleep(1e-3)
    for step in (1, 2, 3):
        writer.append(step, features_at(step))
    fifth = threading.Thread(target=writer.append, args=(4, features_at(4)), daemon=True)
    fifth.start()
    fifth.join(0.2)
    assert fifth.is_alive()  # waits for room
    gate.opened.set()
    fifth.join()
    writer.close()
    with Recording(path) as recording:
        np.testing.assert_array_equal(recording.steps, np.arange(5))


def test_errors_of_the_thread_are_raised_and_what_was_written_stays(path):
    writer = BackgroundWriter(RecordingWriter(path, LAYOUT))
    writer.append(0, features_at(0))
    writer.append(0, features_at(1))
    with pytest.raises(InputError, match="record 1 is at step 0 after step 0"):
        writer.flush()
    with pytest.raises(InputError, match="record 1 is at step 0"):
        writer.append(2, features_at(2))
    with pytest.raises(InputError, match="record 1 is at step 0"):
        writer.close()
    with Recording(path) as recording:
        np.testing.assert_array_equal(recording.steps, [0])
        assert "closed" in recording.provenance


def test_a_forked_process_may_not_write(path, monkeypatch):
    writer = BackgroundWriter(RecordingWriter(path, LAYOUT))
    writer.append(0, features_at(0))
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: -1)
        with pytest.raises(InputError, match="opened by another process"):
            writer.append(1, features_at(1))
        writer.close()
    writer.append(1, features_at(1))  # the file is still open where it was opened
    writer.close()
    with Recording(path) as recording:
        assert recording.n_records == 2


def test_children_forked_while_it_writes_do_no_harm(path):
    code = """
writer = BackgroundWriter(writer)
for step in range(60):
    writer.append(step, {"h": np.full((100, 640), step, np.float32)})
    if step % 6 == 0 and os.fork() == 0:
        sys.exit()  # as a process ends that knows nothing of the file: HDF5 closes what it finds open
while True:
    try:
        os.wait()
    except ChildProcessError:
        break
writer.close()
"""
    result = run(code, path)
    assert (result.returncode, result.stderr) == (0, "")
    with Recording(path) as recording:
        np.testing.assert_array_equal(recording.features("h")[:, 0, 0], np.arange(60))


def test_a_writer_that_nobody_closes_is_finished_at_exit(path):
    result = run("append_all(BackgroundWriter(writer), 20)", path)
    assert (result.returncode, result.stderr) == (0, "")
    with Recording(path) as recording:
        np.testing.assert_array_equal(recording.steps, np.arange(20))
        assert "closed" in recording.provenance


def test_a_killed_process_loses_at_most_what_waited(path):
    result = run("append_all(BackgroundWriter(writer), 40)\nos.kill(os.getpid(), 9)", path)
    assert result.returncode == -9
    with Recording(path) as recording:
        # Four may wait, and one is being written.
        assert 35 <= recording.n_records <= 40
        np.testing.assert_array_equal(recording.features("h")[:, 0, 0], np.arange(recording.n_records))


@pytest.mark.parametrize("wrapped", ["writer", "BackgroundWriter(writer)"])
def test_a_file_that_may_not_grow_crashes_nothing(path, wrapped):
    code = f"""
resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, resource.RLIM_INFINITY))
writer = {wrapped}
for _ in range(2):
    try:
        append_all(writer, 100)
    except ValueError as error:
        print("told:", error)
try:
    writer.close()
except ValueError as error:
    print("told:", error)
print("training went on")
"""
    result = run(code, path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "cannot grow (File too large); what was recorded is safe" in result.stdout
    assert result.stdout.endswith("training went on\n")
    with Recording(path) as recording:
        assert 5 <= recording.n_records <= 20
        np.testing.assert_array_equal(recording.features("h")[:, 0, 0], np.arange(recording.n_records))
    assert path.stat().st_size < 5_000_000


def test_room_that_was_reserved_is_given_back(path):
    with RecordingWriter(path, LAYOUT) as writer:
        writer.append(0, features_at(0))
        assert path.stat().st_size > 2**20
    assert path.stat().st_size < 2**16
    with Recording(path) as recording:
        np.testing.assert_array_equal(recording.features("h")[0], features_at(0)["h"])
