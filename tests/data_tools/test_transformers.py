"""What the Trainer of Hugging Face trains is recorded update by update, and trains as it would unrecorded."""

import random

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from data_tools import ElasticityMeasurement, FeatureRecorder, InputError, Probe, Recording
from data_tools.transformers import ElasticityCallback

pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator is found")

CLASSES, LONGEST = 3, 7
LAYERS = ["bert.encoder.layer.0:mean", "bert.encoder.layer.1:first", "classifier:input", "classifier"]


class Sentences(torch.utils.data.Dataset):
    """Sentences of different lengths, in which one word tells the class."""

    def __init__(self, n=36, seed=0):
        rng = np.random.default_rng(seed)
        self.samples = []
        for number in range(n):
            words = rng.integers(4, 20, rng.integers(3, LONGEST + 1))
            words[rng.integers(len(words))] = 20 + number % CLASSES
            self.samples.append({"input_ids": words.tolist(), "labels": number % CLASSES})

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]


def pad(samples):
    """Pad sentences to one length, as a collator of a tokenizer does."""
    lengths = [len(sample["input_ids"]) for sample in samples]
    return {
        "input_ids": torch.tensor([s["input_ids"] + [0] * (LONGEST - len(s["input_ids"])) for s in samples]),
        "attention_mask": (torch.arange(LONGEST) < torch.tensor(lengths)[:, None]).long(),
        "labels": torch.tensor([sample["labels"] for sample in samples]),
    }


def bert(**options):
    """Return a small BERT with dropout; nothing is downloaded."""
    torch.manual_seed(5)
    config = BertConfig(
        vocab_size=23,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=LONGEST,
        num_labels=CLASSES,
        **options,
    )
    return BertForSequenceClassification(config)


def probe():
    return Probe.from_dataset(Sentences(seed=1), per_class=5, collate=pad)


def train(folder, callbacks, model=None, resume=None, steps=12, **options):
    """Train with batches of 4; nine batches are an epoch."""
    arguments = TrainingArguments(
        output_dir=str(folder / "out"),
        per_device_train_batch_size=4,
        max_steps=steps,
        learning_rate=0.01,
        lr_scheduler_type="linear",
        disable_tqdm=True,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        use_cpu=True,
        seed=3,
        **options,
    )
    model = model or bert()
    trainer = Trainer(model, arguments, train_dataset=Sentences(), data_collator=pad, callbacks=callbacks)
    trainer.train(resume_from_checkpoint=resume)
    return trainer, model


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.h5"


def make(path, **options):
    return ElasticityCallback(path, probe(), options.pop("layers", LAYERS), **{"every": 5, **options})


@pytest.mark.parametrize(
    ("steps", "options"), [(60, {}), (12, {"bf16": True}), (12, {"activation_checkpointing": True})]
)
def test_training_is_bit_identical_with_and_without_the_callback(tmp_path, path, steps, options):
    outcomes = []
    for callbacks in ([], [make(path, probe_batch_size=4)]):
        trainer, model = train(tmp_path, callbacks, steps=steps, **options)
        state = {**model.state_dict(), "random": torch.get_rng_state()}
        for number, values in trainer.optimizer.state_dict()["state"].items():
            state |= {f"{name} {number}": value for name, value in values.items()}
        outcomes.append((state, random.random(), np.random.rand()))  # noqa: NPY002, S311
    (state, *draws), (recorded, *recorded_draws) = outcomes
    assert state.keys() == recorded.keys()
    for name, value in state.items():
        assert torch.equal(value, recorded[name]), name
    assert draws == recorded_draws
    with Recording(path) as recording:
        assert recording.steps[-1] == steps - steps % 5 + (steps % 5 > 0)


@pytest.mark.parametrize("accumulated", [1, 3])
def test_steps_are_updates(tmp_path, path, accumulated):
    trainer, model = train(tmp_path, [make(path, burst=5)], gradient_accumulation_steps=accumulated)
    assert trainer.state.global_step == 12
    model.eval()
    chosen = probe()
    with Recording(path) as recording, torch.no_grad():
        np.testing.assert_array_equal(recording.steps, np.arange(13))
        np.testing.assert_allclose(recording.scalars["lr"][1:], 0.01 * (1 - np.arange(12) / 12), rtol=1e-6)
        np.testing.assert_allclose(recording.features("classifier")[-1], model(**chosen.inputs).logits, atol=1e-6)
        assert recording.classifier.layer == "classifier:input"
        moved = np.abs(np.diff(recording.features("classifier")[:], axis=0)).max(axis=(1, 2))
        assert np.all(moved > 0)


def test_vectors_of_sequences_do_not_depend_on_padding(path):
    model, chosen = bert(), probe()
    layers = [f"bert.encoder.layer.1:{which}" for which in ("first", "mean", "last")]
    with FeatureRecorder(path, model, chosen, layers):
        pass
    model.eval()
    with Recording(path) as recording, torch.no_grad():
        for row, (words, mask) in enumerate(
            zip(chosen.inputs["input_ids"], chosen.inputs["attention_mask"], strict=True)
        ):
            alone = model.bert(words[mask == 1][None]).last_hidden_state[0]
            expected = {"first": alone[0], "mean": alone.mean(0), "last": alone[-1]}
            for layer in layers:
                np.testing.assert_allclose(
                    recording.features(layer)[0][row], expected[layer.split(":")[1]], atol=1e-5, err_msg=layer
                )
    assert len(set(chosen.inputs["attention_mask"].sum(1).tolist())) > 2


def test_padded_sequences_are_not_recorded_as_a_whole(path):
    with (
        pytest.raises(InputError, match=r"at each of 7 positions, some of which are padding; .*'bert.encoder:first'"),
        FeatureRecorder(path, bert(), probe(), ["bert.encoder"]),
    ):
        pass


def test_names_that_the_network_does_not_take_are_refused(path):
    inputs = {"words": torch.ones(4, 5, dtype=torch.long)}
    with (
        pytest.raises(
            InputError, match=r"on a batch of the probe, words int64 \(4, 5\), its weights are float32 \(.*input_ids"
        ),
        FeatureRecorder(path, bert(), (inputs, [0, 0, 1, 1]), ["classifier"]),
    ):
        pass


def test_training_that_goes_on_is_recorded_from_its_step(tmp_path, path):
    class Saving(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_save = state.global_step == 6

    train(tmp_path, [Saving()])
    train(tmp_path, [make(path, burst=5)], resume=str(tmp_path / "out" / "checkpoint-6"))
    with Recording(path) as recording:
        np.testing.assert_array_equal(recording.steps, np.arange(6, 13))


def test_what_was_recorded_before_an_error_remains(tmp_path, path):
    class Failing(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 6:
                raise RuntimeError("out of luck")

    callback = make(path)
    with pytest.raises(RuntimeError, match="out of luck"):
        train(tmp_path, [callback, Failing()])
    del callback
    with Recording(path) as recording:
        np.testing.assert_array_equal(recording.steps, [0, 1, 5, 6])


def test_elasticity_is_measured_with_the_optimizer_that_the_trainer_makes(tmp_path, path):
    data = pad(Sentences().samples)
    targets = data.pop("labels")

    def measurement(optimizer):
        return ElasticityMeasurement(
            optimizer,
            (data, targets),
            batch_size=4,
            repeats=2,
            loss=lambda output, labels: functional.cross_entropy(output.logits, labels),
            similarity_per_class=2,
            layers=["bert.encoder.layer.1:first", "classifier:input", "classifier"],
        )

    # Attention fused into one operation has no derivative in forward mode.
    model = bert(attn_implementation="eager")
    train(tmp_path, [make(path, elasticity=measurement, measure_elasticity_every=6)], model)
    with Recording(path) as recording:
        for layer, width in (("bert.encoder.layer.1:first", 8), ("classifier", CLASSES)):
            measured = recording.elasticity(layer)
            np.testing.assert_array_equal(measured.steps, [0, 6, 12])
            assert measured.tangent.shape == (3, CLASSES, width)
            assert np.all(np.isfinite(measured.onestep[:]))
            assert np.all(np.isfinite(measured.tangent[1:]))
            assert np.abs(measured.onestep[1]).max() > 0
