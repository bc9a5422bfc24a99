"""A recording made from checkpoints is the one that a recorder would have made; other checkpoints are refused."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from data_tools import FeatureRecorder, InputError, Recording, replay
from data_tools.checkpoints import find_checkpoints, load_checkpoint, step_from_name

LABELS = np.repeat([0, 1, 2], 4)
GIVEN = np.roll(LABELS, 1)
LAYERS = ["4:input", "1", "3", "4"]
STEPS = (0, 1, 3, 4, 6)


def inputs():
    return torch.randn(12, 6, generator=torch.Generator().manual_seed(0))


def network():
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.ReLU(inplace=True), nn.Linear(8, 3))


def seeded_network():
    torch.manual_seed(1)
    return network()


def train(folder, recorder_path, save):
    """Train with a recorder, and save a checkpoint at every record."""
    model = seeded_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    folder.mkdir()
    with FeatureRecorder(
        recorder_path,
        model,
        probe=(inputs(), LABELS),
        layers=LAYERS,
        every=3,
        given_labels=GIVEN,
        probe_batch_size=5,
        scalars={"norm": lambda: model[0].weight.norm().item()},
    ) as recorder:
        save(model, folder, 0)
        for step in range(1, 7):
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs()), torch.as_tensor(GIVEN)).backward()
            optimizer.step()
            recorder.step()
            if step in STEPS:
                save(model, folder, step)


def replayed(folder, out, **options):
    return replay(
        folder,
        network,
        out,
        (inputs(), LABELS),
        LAYERS,
        **{
            "given_labels": GIVEN,
            "probe_batch_size": 5,
            "scalars": {"norm": lambda model: model[0].weight.norm().item()},
            **options,
        },
    )


def wrapped(state, before):
    return {before + name: value for name, value in state.items()}


def save_plain(model, folder, step):
    torch.save(model.state_dict(), folder / f"weights_step={step}.pt")


def save_nested(model, folder, step):
    """As Lightning does, for a compiled network in data-parallel training; the name tells the epoch only."""
    state = wrapped(model.state_dict(), "net._orig_mod.module.") | {"metric.total": torch.zeros(3)}
    content = {"state_dict": state, "global_step": step, "epoch": step // 3}
    torch.save(content, folder / f"n{step}-epoch={step // 3}.ckpt")


def save_named(model, folder, step):
    torch.save({"weights": wrapped(model.state_dict(), "module."), "done": torch.tensor(step)}, folder / f"{step}.bin")


def save_safely(model, folder, step):
    """As the Transformers do: a folder for each checkpoint, with other files beside."""
    from safetensors.torch import save_file

    inner = folder / f"checkpoint-{step}"
    inner.mkdir()
    save_file(model.state_dict(), inner / "model.safetensors")
    torch.save({"lr": 0.1}, inner / "optimizer.pt")


@pytest.mark.parametrize(
    ("save", "options"),
    [
        (save_plain, {}),
        (save_nested, {"prefix": "net."}),
        (save_named, {"state_key": "weights", "step_key": "done"}),
        (save_named, {"state_key": "weights", "step_of": r"(\d+)\.bin$"}),
        (save_named, {"state_key": "weights", "step_of": lambda path: int(path.stem)}),
        (save_safely, {}),
    ],
)
def test_replay_is_bit_for_bit_what_a_recorder_takes(tmp_path, save, options):
    if save is save_safely:
        pytest.importorskip("safetensors")
    train(tmp_path / "saved", tmp_path / "run.h5", save)
    done = []

    with (
        Recording(
            replayed(tmp_path / "saved", tmp_path / "again.h5", progress=lambda *now: done.append(now), **options)
        ) as again,
        Recording(tmp_path / "run.h5") as run,
    ):
        np.testing.assert_array_equal(again.steps, STEPS)
        np.testing.assert_array_equal(run.steps, STEPS)
        np.testing.assert_array_equal(again.time, run.time)
        np.testing.assert_array_equal(again.given_labels, run.given_labels)
        assert (again.layers, again.logits, again.classifier.layer) == (run.layers, run.logits, run.classifier.layer)
        for layer in LAYERS:
            assert again.features(layer).dtype == run.features(layer).dtype
            np.testing.assert_array_equal(again.features(layer)[:], run.features(layer)[:])
        np.testing.assert_array_equal(again.classifier.weight[:], run.classifier.weight[:])
        np.testing.assert_array_equal(again.classifier.bias[:], run.classifier.bias[:])
        assert again.scalars.keys() == run.scalars.keys() == {"loss", "accuracy", "norm"}
        for name, values in run.scalars.items():
            np.testing.assert_array_equal(again.scalars[name], values)
        for name in ("probe_sha256", "model_class", "n_parameters", "probe_batch_size", "layers"):
            assert again.provenance[name] == run.provenance[name]
        assert again.provenance["replayed_from"] == "5 checkpoints"
        assert again.writer == "finished"
    assert done == [(count, 5) for count in range(1, 6)]


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "saved"
    folder.mkdir()
    for step in (10, 20):
        save_plain(seeded_network(), folder, step)
    return folder


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run.h5"


def state(**changes):
    changed = {**seeded_network().state_dict(), **changes}
    return {name: value for name, value in changed.items() if value is not None}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (state(**{"0.bias": None, "4.weight": None}), "it lacks 0.bias, 4.weight; build the network"),
        (state(extra=torch.zeros(1)), "it has extra; build the network"),
        (wrapped(state(), "backbone."), r"lacks 0.weight, 0.bias, .* and 4 more and has backbone.0.weight"),
        (state(**{"0.bias": torch.zeros(3)}), r"0.bias has shape \(3,\), but \(8,\) in the network"),
        (
            state(**{"0.bias": torch.zeros(8).double()}),
            "0.bias is torch.float64, which the network's torch.float32 would",
        ),
        ({**state(), "module.0.bias": torch.zeros(8)}, "holds '0.bias' twice|has module"),
        ({"optimizer": {}, "epoch": 3}, "no weights by themselves or under state_dict, .*; it holds optimizer, epoch"),
        ([torch.zeros(3)], "no weights .*; it holds a list"),
        ({}, "no weights"),
    ],
)
def test_checkpoints_that_do_not_fit_are_named(saved, out, content, message):
    torch.save(content, saved / "weights_step=30.pt")
    with pytest.raises(InputError, match=message) as caught:
        replayed(saved, out)
    assert "weights_step=30.pt" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [entry.name for entry in out.parent.iterdir()] == ["saved"]


class Harmful:
    def __reduce__(self):
        return (Path.touch, (Path("harm"),))


def test_checkpoints_run_no_code(saved, out, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    torch.save({**state(), "harm": Harmful()}, saved / "weights_step=30.pt")
    with pytest.raises(InputError, match="holds more than weights and plain values, and loading that may run any code"):
        replayed(saved, out)
    (saved / "weights_step=30.pt").write_bytes(pickle.dumps(Harmful(), protocol=2))
    with pytest.raises(InputError, match=r"weights_step=30\.pt: (holds more|not a readable)"):
        replayed(saved, out)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 cut short"])
def test_files_that_are_no_checkpoints(saved, out, content):
    (saved / "weights_step=30.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"weights_step=30\.pt: (not a readable checkpoint|holds more than)") as caught:
        replayed(saved, out)
    assert "\n" not in str(caught.value)


def test_safetensors_that_are_none(tmp_path):
    pytest.importorskip("safetensors")
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"\xff" * 20)
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_checkpoint(path)


def test_safetensors_are_asked_for_only_where_needed(tmp_path, saved, out, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    replayed(saved, out)
    with pytest.raises(InputError, match="needs safetensors, which is not installed; pip install safetensors"):
        load_checkpoint(tmp_path / "x.safetensors")


def test_weights_that_are_shared_need_be_there_once(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(torch.relu(self.first(x)))

    torch.save({"first.weight": torch.eye(3) * 2}, tmp_path / "1.pt")
    probe = (torch.ones(6, 3), [0, 0, 1, 1, 2, 2])
    with Recording(replay(tmp_path, Tied, tmp_path / "run.h5", probe, ["second"])) as recording:
        np.testing.assert_array_equal(recording.features("second")[0], np.full((6, 3), 4.0))


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("epoch=3-step=1500.ckpt", 1500),
        ("model_step_000200.pt", 200),
        ("Iter-7.pth", 7),
        ("ckpt-12.pt", 12),
        ("12.pt", 12),
        ("checkpoint-500/model.safetensors", 500),
        ("resnet18/last.ckpt", 18),
        ("epoch_3.pt", None),
        ("run/last.ckpt", None),
        ("v1.5.pt", None),
        ("step5/epoch=3.pt", None),
    ],
)
def test_steps_in_names(name, step):
    assert step_from_name(Path("runs") / name) == step


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_of": "epoch=(.*)"}, "does not match step_of"),
        ({"step_of": "step="}, "no regular expression"),
        ({"step_of": "step=(("}, "no regular expression"),
        ({"step_of": lambda path: -1}, "step_of gives -1"),
        ({"step_of": lambda path: "10"}, "step_of gives '10'"),
        ({"step_of": lambda path: 10}, r"step=10\.pt and .*step=20\.pt are both of step 10"),
        ({"step_key": "steps"}, "neither its name nor a value called steps in it tells the step"),
        ({"state_key": "ema"}, "no weights under 'ema'"),
        ({"prefix": "net."}, "lacks 0.weight"),
        ({"logits": "fc"}, "logits='fc' is not among the recorded layers"),
        ({"class_frequencies": [0.5, 0.5]}, "2 numbers for 3 classes"),
        ({"given_labels": GIVEN[:3]}, "given_labels"),
    ],
)
def test_options_that_cannot_be_right(saved, out, options, message):
    with pytest.raises(InputError, match=message):
        replayed(saved, out, **options)
    assert not out.exists()


def test_what_is_no_network_and_layers_that_are_not_there(saved, out):
    with pytest.raises(InputError, match="build_model returns a dict, expected"):
        replay(saved, dict, out, (inputs(), LABELS), LAYERS)
    with pytest.raises(InputError, match="the model has no layer 'fc'"):
        replay(saved, network, out, (inputs(), LABELS), ["fc"])


def test_places_without_checkpoints(tmp_path, saved):
    with pytest.raises(InputError, match="no such folder"):
        find_checkpoints(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no checkpoint \(\.bin, \.ckpt"):
        find_checkpoints(tmp_path / "empty")
    with pytest.raises(InputError, match="list is empty"):
        find_checkpoints([])
    with pytest.raises(InputError, match=r"nothing\.pt: no such file"):
        find_checkpoints([saved / "nothing.pt"])
    assert len(find_checkpoints(saved / "weights_step=10.pt")) == 1


def test_existing_recordings_are_kept_unless_forced(saved, out):
    out.write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        replayed(saved, out)
    assert out.read_text() == "mine"
    replayed(saved, out, force=True)
    assert Recording(out).n_records == 2
