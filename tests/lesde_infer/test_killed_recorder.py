"""A training that is killed while it is recorded, whole or reduced: every flushed record is there, and right."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_reduction import assert_same

from data_tools.recording import Recording
from lesde_infer.statistics import compute_statistics

FEW, MANY = 2, 100

TRAIN = """
import sys
import torch
from torch import nn
from data_tools import FeatureRecorder
from lesde_infer.reduction import Reduction

path, kind, n_steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
torch.manual_seed(0)
torch.set_num_threads(1)
model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
labels = torch.arange(60) % 3
inputs = torch.randn(60, 5) + nn.functional.one_hot(labels, 5)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
reduction = Reduction(layers=["2"], impacts=["R"], groups=["labels"], keep_per_class=4) if kind == "reduced" else None
with FeatureRecorder(path, model, (inputs, labels), ["2"], every=1, burst=1, reduce=reduction) as recorder:
    for step in range(n_steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        recorder.step()
        if step % 5 == 4:
            recorder.flush()
            print(step + 2, flush=True)  # records so far, that of step 0 included
"""


def start(path, kind, n_steps):
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths}
    command = [sys.executable, "-c", TRAIN, str(path), kind, str(n_steps)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.xdist_group("killed")
@pytest.mark.parametrize("kind", ["whole", "reduced"])
@pytest.mark.parametrize("n_kills", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
def test_flushed_records_survive(tmp_path, kind, n_kills):
    reference = tmp_path / "reference.h5"
    with start(reference, "whole", 300) as whole:
        whole.communicate()
    assert whole.returncode == 0
    rng = random.Random(n_kills)  # noqa: S311
    for number in range(n_kills):
        path = tmp_path / f"{number}.h5"
        with start(path, kind, 10**6) as running:
            flushed = int(running.stdout.readline())
            time.sleep(rng.uniform(0.0, 0.3))
            running.kill()
            flushed = max([flushed, *(int(line) for line in running.stdout.read().split())])
        with Recording(path) as recording, Recording(reference) as expected:
            assert recording.writer == "died"
            assert recording.n_records >= flushed
            until = min(recording.n_records, expected.n_records) - 1
            found = compute_statistics(recording, "2", "R", until=until)
            assert_same(found, compute_statistics(expected, "2", "R", until=until))
            kept = recording.n_samples
            assert kept == (12 if kind == "reduced" else 60)
            assert np.isfinite(recording.features("2")[recording.n_records - 1]).all()
        path.unlink()
