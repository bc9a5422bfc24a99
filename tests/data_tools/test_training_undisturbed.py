"""Training with a recorder is bit by bit training without one, whatever is trained and however."""

import random
import shutil
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from data_tools import FeatureRecorder, Probe, Recording
from data_tools.architectures import build_architecture

LABELS = np.repeat([0, 1, 2], 6)
SIDE = 8


def images(seed=0):
    return torch.randn(LABELS.size, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def words(seed=0):
    return torch.randint(0, 11, (LABELS.size, 5), generator=torch.Generator().manual_seed(seed))


class Transformer(nn.Module):
    """Words, attention over them, dropout; the words' vectors are also those of the classes if they are tied."""

    def __init__(self, tied=False):
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 11 if tied else 3, bias=not tied)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, x):
        return self.head(self.encoder(self.embedding(x))[:, 0])


class Checkpointed(nn.Module):
    """Blocks whose activations are computed again on the way back."""

    def __init__(self, reentrant):
        super().__init__()
        self.start, self.block = nn.Linear(SIDE**2, 6), nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.2), nn.Tanh())
        self.head, self.reentrant = nn.Linear(6, 3), reentrant

    def forward(self, x):
        return self.head(checkpoint(self.block, self.start(x.flatten(1)), use_reentrant=self.reentrant))


def convolutions():
    """Batch normalisation, dropout, and activations in place behind the recorded layers."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Dropout(0.4),
        nn.Linear(4 * (SIDE - 2) ** 2, 5),
        nn.ReLU(inplace=True),
        nn.Linear(5, 3),
    )


def lenet():
    return build_architecture("lenet", (1, SIDE, SIDE), 3, seed=0)


SGD = {"lr": 0.05, "momentum": 0.9}
CASES = {
    "lenet": (lenet, images, ["fc2", "fc3"]),
    "convolutions": (convolutions, images, ["0", "4", "5", "7"]),
    "transformer": (Transformer, words, ["encoder.layers.0.linear2:mean", "encoder:first", "head"]),
    "tied weights": (lambda: Transformer(tied=True), words, ["embedding", "encoder:last", "head"]),
    "checkpointed": (lambda: Checkpointed(reentrant=False), images, ["block.0", "head"]),
    "checkpointed, reentrant": (lambda: Checkpointed(reentrant=True), images, ["block.0", "head"]),
    "bfloat16": (lambda: convolutions().bfloat16(), lambda seed=0: images(seed).bfloat16(), ["4", "7"]),
}


def train(case, path, *, n_steps=60, wrap=lambda model: model, context=nullcontext, adam=False):
    """Train, recording if there is a path; return all that training leaves behind."""
    build, inputs, layers = CASES[case]
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    model = build()
    network = wrap(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01) if adam else torch.optim.SGD(model.parameters(), **SGD)
    x, y = inputs(), torch.as_tensor(LABELS)
    recorder = (
        None
        if path is None
        else FeatureRecorder(path, network, Probe(inputs(1), LABELS), layers, every=7, burst=3, probe_batch_size=4)
    )
    with recorder or nullcontext():
        for _ in range(n_steps):
            chosen = torch.randperm(len(x))[:6]
            batch = x[chosen]
            if batch.is_floating_point():
                batch = batch * np.random.normal(1, 0.1) + random.gauss(0, 0.1)  # noqa: NPY002
            optimizer.zero_grad()
            with context():
                loss = functional.cross_entropy(network(batch).float(), y[chosen])
            loss.backward()
            optimizer.step()
            if recorder is not None:
                recorder.step(batch_loss=loss.item())
    state = dict(model.state_dict())
    state |= {f"gradient of {name}": parameter.grad for name, parameter in model.named_parameters()}
    for number, values in optimizer.state_dict()["state"].items():
        state |= {f"{name} {number}": value for name, value in values.items() if value is not None}
    state["random"] = torch.get_rng_state()
    modes = [module.training for module in model.modules()]
    return state, (modes, random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002


def assert_identical(case, path, **options):
    (state, others), (recorded, recorded_others) = train(case, None, **options), train(case, path, **options)
    assert state.keys() == recorded.keys()
    for name, value in state.items():
        assert torch.equal(value, recorded[name]), name
    assert others == recorded_others
    with Recording(path) as recording:
        assert recording.n_records > 8
        for layer in recording.layers:
            assert recording.features(layer).dtype == np.float32
            assert np.all(np.isfinite(recording.features(layer)[:]))
            # Of 60 steps, every record of a burst differs from the one before: it was the living network.
            assert np.all(np.abs(np.diff(recording.features(layer)[:], axis=0)).max(axis=(1, 2)) > 0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.h5"


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")  # so says reentrant checkpointing
@pytest.mark.parametrize("adam", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_training_is_bit_identical(path, case, adam):
    assert_identical(case, path, adam=adam)


@pytest.mark.parametrize("case", ["convolutions", "transformer"])
def test_training_with_automatic_mixed_precision_is_bit_identical(path, case):
    assert_identical(case, path, context=lambda: torch.autocast("cpu", dtype=torch.bfloat16))


def test_training_with_one_process_of_data_parallelism_is_bit_identical(path):
    assert_identical("convolutions", path, wrap=nn.DataParallel)


def test_compiled_training_is_bit_identical(path):
    def compile_anew(model):
        torch.compiler.reset()
        return torch.compile(model, backend="aot_eager")

    assert_identical("convolutions", path, n_steps=30, wrap=compile_anew)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # on the import of PyTorch's compiler
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_training_compiled_to_machine_code_is_bit_identical(path):
    def compile_anew(model):
        torch.compiler.reset()
        return torch.compile(model)

    assert_identical("convolutions", path, n_steps=30, wrap=compile_anew)
