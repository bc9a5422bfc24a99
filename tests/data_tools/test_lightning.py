"""What Lightning trains is recorded update by update, and trains as it would unrecorded."""

import random

import lightning.pytorch as lightning
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from data_tools import ElasticityMeasurement, InputError, Probe, Recording
from data_tools.lightning import ElasticityCallback

pytestmark = [
    pytest.mark.filterwarnings("ignore:GPU available but not used"),
    pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings(r"ignore:The '\w+' does not have many workers"),
    pytest.mark.filterwarnings(r"ignore:The number of training batches \(\d+\) is smaller than the logging interval"),
]

LABELS = np.repeat([0, 1, 2], 8)


def inputs(seed=0):
    return torch.randn(LABELS.size, 6, generator=torch.Generator().manual_seed(seed))


class Module(lightning.LightningModule):
    """Batch normalisation, dropout, a learning rate that falls at every update, and validation."""

    def __init__(self, n_optimizers=1, updates_per_batch=0):
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(True), nn.Dropout(0.3), nn.Linear(8, 3)
        )
        self.other = nn.Linear(6, 3)
        self.n_optimizers, self.updates_per_batch = n_optimizers, updates_per_batch
        self.automatic_optimization = n_optimizers == 1 and not updates_per_batch
        self.rates = []

    def forward(self, x):
        return self.network(x)

    def training_step(self, batch, _number):
        if self.automatic_optimization:
            return functional.cross_entropy(self(batch[0]), batch[1])
        optimizers = self.optimizers()
        networks = {0: self.network, 1: self.other}
        for number, optimizer in enumerate(optimizers if isinstance(optimizers, list) else [optimizers]):
            for _ in range(self.updates_per_batch - number):  # the second optimizer makes one update fewer
                optimizer.zero_grad()
                self.manual_backward(functional.cross_entropy(networks[number](batch[0]), batch[1]))
                optimizer.step()
        return None

    def validation_step(self, batch, _number):
        self.log("validation", functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        optimizers = [
            torch.optim.SGD(part.parameters(), lr=0.1, momentum=0.9)
            for part in (self.network, self.other)[: self.n_optimizers]
        ]
        if not self.automatic_optimization:
            return optimizers
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizers[0], 0.9)
        return {"optimizer": optimizers[0], "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def fit(folder, callbacks, module=None, epochs=3, checkpoint=None, **options):
    """Train with batches of 4, six of them an epoch, and validation."""
    lightning.seed_everything(1, verbose=False)
    module = module or Module()
    data = TensorDataset(inputs(), torch.as_tensor(LABELS))
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=callbacks,
        **options,
    )
    trainer.fit(module, DataLoader(data, 4, shuffle=True), DataLoader(data, 12), ckpt_path=checkpoint)
    return trainer, module


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.h5"


def make(path, layers=("network.0", "network.4"), **options):
    return ElasticityCallback(path, (inputs(1), LABELS), list(layers), **{"every": 4, **options})


def state_of(trainer, module):
    state = {**module.state_dict(), "random": torch.get_rng_state()}
    for number, values in trainer.optimizers[0].state_dict()["state"].items():
        state |= {f"{name} {number}": value for name, value in values.items()}
    return state, random.random(), np.random.rand()  # noqa: NPY002, S311


@pytest.mark.parametrize("accumulated", [1, 3])
def test_training_is_bit_identical_with_and_without_the_callback(tmp_path, path, accumulated):
    outcomes = [
        state_of(*fit(tmp_path, callbacks, epochs=10, accumulate_grad_batches=accumulated))
        for callbacks in ([], [make(path, probe_batch_size=5)])
    ]
    (state, *draws), (recorded, *recorded_draws) = outcomes
    assert state.keys() == recorded.keys()
    for name, value in state.items():
        assert torch.equal(value, recorded[name]), name
    assert draws == recorded_draws


@pytest.mark.parametrize(("accumulated", "updates"), [(1, 18), (2, 9), (4, 6)])
def test_steps_are_updates(tmp_path, path, accumulated, updates):
    trainer, module = fit(tmp_path, [make(path, burst=4)], accumulate_grad_batches=accumulated)
    assert trainer.global_step == updates
    module.eval()
    with Recording(path) as recording, torch.no_grad():
        np.testing.assert_array_equal(recording.steps, np.arange(updates + 1))
        np.testing.assert_allclose(recording.scalars["lr"][1:], 0.1 * 0.9 ** np.arange(updates), rtol=1e-6)
        np.testing.assert_allclose(recording.features("network.4")[-1], module(inputs(1)), atol=1e-6)
        assert recording.classifier is not None
        moved = np.abs(np.diff(recording.features("network.4")[:], axis=0)).max(axis=(1, 2))
        assert np.all(moved > 0)  # a record between updates would repeat the one before


def test_validation_before_training_is_no_step(tmp_path, path):
    fit(tmp_path, [make(path)], epochs=1, num_sanity_val_steps=2)
    with Recording(path) as recording:
        assert recording.steps[-1] == 5


@pytest.mark.parametrize(("number", "updates"), [(0, 12), (1, 6)])
def test_updates_of_the_chosen_optimizer_count(tmp_path, path, number, updates):
    fit(tmp_path, [make(path, burst=4, optimizer=number)], Module(2, updates_per_batch=2), epochs=1)
    with Recording(path) as recording:
        np.testing.assert_array_equal(recording.steps, np.arange(updates + 1))


def test_several_updates_in_a_step_of_training_count_each(tmp_path, path):
    trainer, _ = fit(tmp_path, [make(path, burst=4)], Module(updates_per_batch=3), epochs=1)
    with Recording(path) as recording:
        np.testing.assert_array_equal(recording.steps, np.arange(trainer.global_step + 1))
        assert trainer.global_step == 18


@pytest.mark.parametrize(
    ("options", "n_optimizers", "message"),
    [
        ({}, 2, r"the module has 2 optimizers, .* give ElasticityCallback\(…, optimizer=0\)"),
        ({"optimizer": 2}, 2, "optimizer=2, but the module has 2; number them from 0"),
        ({"module": "net"}, 1, "no part 'net'; its parts are network, "),
        ({"layers": ["network.5"]}, 1, "no layer 'network.5'; did you mean"),
    ],
)
def test_what_cannot_be_recorded_is_refused_before_training(tmp_path, path, options, n_optimizers, message):
    module = Module(n_optimizers, updates_per_batch=n_optimizers - 1)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(InputError, match=message):
        fit(tmp_path, [make(path, **options)], module)
    assert not path.exists()
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_unknown_arguments_are_refused_at_once(path):
    with pytest.raises(TypeError, match="evry"):
        make(path, evry=3)


def test_a_part_of_the_module_can_be_recorded(tmp_path, path):
    fit(tmp_path, [make(path, ["0", "4"], module="network")], epochs=1)
    with Recording(path) as recording:
        assert recording.layers == ["0", "4"]
        assert recording.logits == "4"


def test_what_was_recorded_before_an_error_remains_and_no_hook_does(tmp_path, path):
    class Failing(Module):
        def training_step(self, batch, number):
            if self.global_step == 5:
                raise RuntimeError("out of luck")
            return super().training_step(batch, number)

    module = Failing()
    with pytest.raises(RuntimeError, match="out of luck"):
        fit(tmp_path, [make(path)], module)
    with Recording(path) as recording:
        np.testing.assert_array_equal(recording.steps, [0, 1, 4, 5])
    assert not any(module.trainer.optimizers[0]._optimizer_step_post_hooks.values())


def test_training_that_goes_on_is_recorded_from_its_step(tmp_path, path):
    trainer, _ = fit(tmp_path, [], epochs=1)
    checkpoint = tmp_path / "after.ckpt"
    trainer.save_checkpoint(checkpoint)
    fit(tmp_path, [make(path, burst=4)], epochs=2, checkpoint=checkpoint)
    with Recording(path) as recording:
        np.testing.assert_array_equal(recording.steps, np.arange(6, 13))
        np.testing.assert_array_equal(recording.time, np.arange(6, 13))
        np.testing.assert_allclose(recording.scalars["lr"][1:], 0.1 * 0.9 ** np.arange(6, 12), rtol=1e-6)


def test_elasticity_is_measured_with_the_optimizer_that_lightning_makes(tmp_path, path):
    def measurement(optimizer):
        return ElasticityMeasurement(optimizer, (inputs(), LABELS), batch_size=4, repeats=2, similarity_per_class=0)

    fit(tmp_path, [make(path, elasticity=measurement, measure_elasticity_every=3)], epochs=1)
    with Recording(path) as recording:
        np.testing.assert_array_equal(recording.elasticity("network.4").steps, [0, 3, 6])
        np.testing.assert_array_equal(recording.steps, [0, 1, 4, 5])  # measured steps are not counted


def test_a_probe_drawn_from_the_data_set(tmp_path, path):
    probe = Probe.from_dataset(TensorDataset(inputs(), torch.as_tensor(LABELS)), per_class=3, seed=1)
    fit(tmp_path, [ElasticityCallback(path, probe, ["network.4"], every=4)], epochs=1)
    with Recording(path) as recording:
        chosen = [int(number) for number in recording.provenance["probe_indices"].split(", ")]
        np.testing.assert_array_equal(LABELS[chosen], recording.labels)
        np.testing.assert_array_equal(np.bincount(recording.labels), [3, 3, 3])
