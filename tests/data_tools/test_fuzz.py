"""Whatever is done to a file, opening it ends in its data or in one clear line: no other error, hang or other file."""

import json
import os
import random
import select
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hostile_files import MARKER, change_bytes, change_contents, changed_datasets, payload, write_originals

WORKER = Path(__file__).with_name("open_hostile_files.py")
LONGEST = 30  # seconds for one file, on a machine that is busy
SAMPLE, MANY = 300, 12_000


class Opener:
    """A process that opens files; it is replaced when one takes it down."""

    def __init__(self) -> None:
        self._process = self._start()

    @staticmethod
    def _start():
        return subprocess.Popen(
            [sys.executable, str(WORKER), str(MARKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(WORKER.parents[2]), os.environ.get("PYTHONPATH", "")]),
            },
        )

    def open(self, path):
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], LONGEST)
        line = self._process.stdout.readline() if ready else ""
        if line:
            return json.loads(line)
        self._process.kill()
        code = self._process.wait()
        self.close()
        self._process = self._start()
        return {"path": str(path), "kind": "hung" if not ready else "died", "message": f"exit code {code}"}

    def close(self):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    return write_originals(tmp_path_factory.mktemp("originals"))


@pytest.fixture(scope="module")
def opener():
    process = Opener()
    yield process
    process.close()


def fuzz(originals, opener, folder, seeds):
    """Change an original by every seed, and return what came of each, with a note on what was expected."""
    contents = {name: path.read_bytes() for name, path in originals.items()}
    places = {name: payload(path) for name, path in originals.items()}
    expected = {name: opener.open(path)["digests"] for name, path in originals.items()}
    outcomes, wrong = Counter(), []
    for seed in seeds:
        rng = random.Random(seed)  # noqa: S311
        name = rng.choice(list(originals))
        path = folder / f"{seed}.h5"
        by_bytes = name == "unfinished" or rng.random() < 0.6
        if by_bytes:
            changed = change_bytes(contents[name], rng)
            path.write_bytes(changed)
        else:
            shutil.copyfile(originals[name], path)
            change_contents(path, rng, originals[name].parent)
        found = opener.open(path)
        kind = found["kind"]
        if kind == "read" and by_bytes and name != "old":  # older files guard nothing by checksums
            allowed = changed_datasets(contents[name], changed, places[name])
            differing = {
                where
                for where in expected[name].keys() | found["digests"].keys()
                if expected[name].get(where) != found["digests"].get(where)
            }
            if differing <= allowed:
                kind = "read, payload changed" if differing else "read identically"
            else:
                kind = f"read wrongly: {sorted(differing - allowed)}"
        outcomes[kind] += 1
        if kind not in {"refused", "read", "read identically", "read, payload changed"}:
            wrong.append((seed, name, kind, found.get("message", "")))
        path.unlink()
    return outcomes, wrong


def test_a_sample_of_hostile_files(originals, opener, tmp_path):
    outcomes, wrong = fuzz(originals, opener, tmp_path, range(SAMPLE))
    assert wrong == []
    assert outcomes["refused"] > SAMPLE / 5  # the changes do harm
    assert outcomes["read identically"] > SAMPLE / 20  # and not all of them


@pytest.mark.slow
def test_many_hostile_files(originals, opener, tmp_path):
    outcomes, wrong = fuzz(originals, opener, tmp_path, range(SAMPLE, SAMPLE + MANY))
    print(dict(outcomes))
    assert wrong == []


def test_originals_are_read_as_they_are(originals, opener):
    for path in originals.values():
        assert opener.open(path)["kind"] == "read"
