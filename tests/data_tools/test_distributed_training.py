"""Of several processes the first one records, and none waits for another because of it."""

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional

from data_tools import FeatureRecorder, InputError, Recording

pytestmark = pytest.mark.skipif(not distributed.is_gloo_available(), reason="PyTorch is built without Gloo")

LABELS = np.repeat([0, 1, 2], 4)
N_STEPS = 64


def inputs(seed=0):
    return torch.randn(LABELS.size, 6, generator=torch.Generator().manual_seed(seed))


def build():
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(0.3), nn.Linear(8, 3))


def train(rank, path):
    """Train on batches of this process' own; return all that training leaves behind."""
    model = build()
    network = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    torch.manual_seed(10 + rank)
    recorder = FeatureRecorder(path, network, (inputs(1), LABELS), ["0", "4"], every=7) if path else None
    if recorder is not None:
        recorder.__enter__()
    x, y = inputs(), torch.as_tensor(LABELS)
    for _ in range(N_STEPS):
        chosen = torch.randperm(len(x))[:6]
        optimizer.zero_grad()
        functional.cross_entropy(network(x[chosen]), y[chosen]).backward()
        optimizer.step()
        if recorder is not None:
            recorder.step()
    if recorder is not None:
        recorder.__exit__(None, None, None)
    state = {**model.state_dict(), "random": torch.get_rng_state()}
    for number, values in optimizer.state_dict()["state"].items():
        state |= {f"{name} {number}": value for name, value in values.items()}
    return state


def process(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        alone = folder / "alone.h5" if rank == 0 else None  # would hang if the first waited for the second
        states = [train(rank, path) for path in (None, folder / "run.h5", alone)]
        torch.save(states, folder / f"states{rank}.pt")
        sharded = fully_shard(build(), mesh=init_device_mesh("cpu", (2,)))
        with pytest.raises(InputError, match=r"sharded over processes .* use DistributedDataParallel"):
            FeatureRecorder(folder / "sharded.h5", sharded, (inputs(1), LABELS), ["0"])
    finally:
        distributed.destroy_process_group()


def test_of_two_processes_the_first_records_and_both_train_as_without(tmp_path):
    multiprocessing.spawn(process, (tmp_path,), nprocs=2)
    states = [torch.load(tmp_path / f"states{rank}.pt", weights_only=True) for rank in range(2)]
    for plain, *others in states:
        for recorded in others:
            assert plain.keys() == recorded.keys()
            for name, value in plain.items():
                assert torch.equal(value, recorded[name]), name
    (first, recorded, _), (second, *_) = states
    assert torch.equal(first["0.weight"], second["0.weight"])
    assert not torch.equal(first["random"], second["random"])
    model = build()
    model.load_state_dict({name: recorded[name] for name in model.state_dict()})
    model.eval()
    for name in ("run.h5", "alone.h5"):
        with Recording(tmp_path / name) as recording, torch.no_grad():
            np.testing.assert_array_equal(recording.steps, [step for step in range(N_STEPS + 1) if step % 7 < 2])
            np.testing.assert_allclose(recording.features("4")[-1], model(inputs(1)), atol=1e-6)
    assert {file.name for file in tmp_path.glob("*.h5")} == {"run.h5", "alone.h5"}
